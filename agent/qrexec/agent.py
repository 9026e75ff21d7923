"""The agent: does what a daemon asks for over the control channel, and passes calls on to it.

It serves one daemon at a time. When that has gone, the commands that it started go on, and the
next one is waited for.
"""

import logging
import select
from pathlib import Path
from typing import Final

from agent.qrexec.callers import Callers
from agent.qrexec.running import Running
from agent.qrexec.starter import Starter, reap
from agent.qrexec.watch import Watch
from sessiond.transport.duplex import Duplex, Transport
from sessiond.wire.exec import (
    CONTROL_PORT,
    Connect,
    Exec,
    Hello,
    JustExec,
    OnControl,
    Place,
    Refuse,
    Terminated,
    Trigger,
)
from sessiond.wire.exec_control import Control, ControlRole

log = logging.getLogger(__name__)

_DAEMON: Final = 0  # its domain


class Agent:
    """Everything but the commands, in one loop around poll(2)."""

    def __init__(
        self, transport: Transport, starter: Starter, socket_path: Path, watch: Watch
    ) -> None:
        self._transport = transport
        self._watch = watch
        self._running = Running(starter, self._tell_end)
        self._callers = Callers(socket_path, self._tell, self._tell_end)
        self._daemon: Duplex | None = None
        self._control = Control(ControlRole.AGENT)

    def run(self) -> None:
        """Serve one daemon after the other.

        Raises EndedError when told to end, ProtocolError for a daemon that breaks the protocol, and
        ChannelError for one that takes nothing, or if a socket cannot be made. Nothing that was
        started is left by then.
        """
        try:
            while True:
                self._daemon = self._wait_for_daemon()
                self._control = Control(ControlRole.AGENT)
                self._daemon.send(self._control.send_hello())
                while self._daemon is not None:
                    self._turn(self._daemon)
        finally:
            self._lose_daemon()
            self._running.end()

    def _wait_for_daemon(self) -> Duplex:
        with self._transport.listen(_DAEMON, CONTROL_PORT) as listener:
            log.info("waiting for a daemon")
            while not (daemon := listener.accept()):
                ready, _ = self._watch.wait(
                    {listener.fileno(): select.POLLIN, **self._running.wanted}
                )
                reap()
                self._running.attend(ready)
        return daemon

    def _turn(self, daemon: Duplex) -> None:
        """Wait until something can be done, and do it."""
        is_blocked = daemon.is_blocked
        # While the daemon takes nothing, nobody is heard who might have something for it.
        callers = {} if is_blocked else self._callers.wanted
        for_daemon = select.POLLIN | (select.POLLOUT if is_blocked else 0)
        ready, _ = self._watch.wait(
            {daemon.fileno(): for_daemon, **callers, **self._running.wanted}
        )
        reap()
        self._running.attend(ready)
        if callers:
            self._callers.attend(ready)
        if daemon.fileno() in ready:
            daemon.flush()
            self._hear(daemon)

    def _hear(self, daemon: Duplex) -> None:
        received = daemon.read()
        if received == b"":
            log.warning("the daemon has gone")
            self._lose_daemon()
            return
        for message in self._control.receive(received or b""):
            log.debug("from the daemon: %s", type(message).__name__)
            self._heed(message)

    def _heed(self, message: Hello | OnControl) -> None:
        match message:
            case Hello():
                log.info("serving a daemon that speaks version %d", self._control.version)
                self._callers.open()
            case Exec() | JustExec():
                self._running.start(message)
            case Connect():
                self._callers.connect(message)
            case Refuse():
                self._callers.refuse(message)
            case Trigger() | Terminated():
                raise AssertionError(message)  # an agent's channel yields none

    def _lose_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None
        self._callers.close()
        self._running.forget_places()

    def _tell(self, message: Trigger | Terminated) -> None:
        if self._daemon is not None:
            self._daemon.send(self._control.send(message))

    def _tell_end(self, place: Place) -> None:
        self._tell(Terminated(place))
