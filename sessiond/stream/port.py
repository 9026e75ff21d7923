"""The stream port: opened once, kept open, always read, written in whole messages.

The port is not closed while the host may be stopped in the middle of a stream: with
spice-server 0.15.1 a port that is closed then never works again, and the guest cannot see it.
So only STOP, NOTIFY_ERROR, a broken protocol or a host that hung up lead to a close.
"""

import asyncio
import logging
import os
from collections import deque
from typing import Final, Protocol

from sessiond.errors import PortBusyError, PortError, ProtocolError
from sessiond.model import Counters, Reason
from sessiond.stream.freshness import Freshness
from sessiond.stream.holder import holder_of
from sessiond.stream.keep import KeptPort
from sessiond.transport.aside import run_aside
from sessiond.transport.channel import Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.opener import PortOpener
from sessiond.transport.port import OpenPort, adopt_port
from sessiond.wire.buffer import Bytes
from sessiond.wire.device import Capabilities, NotifyError, Role, StartStop, Type, Unknown, pack
from sessiond.wire.device_state import DeviceConnection
from sessiond.wire.outbox import Outbox

log = logging.getLogger(__name__)

STALLED: Final = 1.0  # seconds without a byte taken, while one waits
RATE_SPAN: Final = 2.0  # seconds over which frames/s are counted
RATE_FRAMES: Final = 1024  # more than the host takes in that time
STEADY: Final = 10.0  # seconds after which an opening counts as a success


class PortListener(Protocol):
    """Who hears of the port."""

    def on_port(self, reason: Reason | None, text: str) -> None:
        """It is open (None), or why it is not."""

    def on_start(self, codecs: tuple[int, ...], *, quality: bool) -> None:
        """A client watches: begin a new stream."""

    def on_stop(self) -> None:
        """Nobody watches; also when the port closes."""

    def on_frame_sent(self, delay: float) -> None:
        """The frame has left; after ``delay`` seconds one more may be asked for."""

    def on_stalled(self, *, stalled: bool) -> None:
        """The host takes nothing, or takes something again."""


class HostPort:
    """Owns the port from ``open`` to ``close``."""

    def __init__(self, path: str, poller: EdgePoller, listener: PortListener) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._poller = poller
        self._listener = listener
        self._opener = PortOpener(path, poller, self._take, self._on_fault)
        self._opened_at = 0.0
        self._frames = self._bytes = 0
        self._recent = deque[float](maxlen=RATE_FRAMES)  # when the newest frames had left
        self._reset()

    def _reset(self) -> None:
        self._channel: Channel | None = None
        self._device = DeviceConnection(Role.GUEST)
        self._outbox = Outbox()
        self._freshness = Freshness()
        self._has_frame = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_stalled = False

    def open(self) -> None:
        """Open the port, now or as soon as that is possible; ``on_port`` tells."""
        self._opener.open()

    def _take(self, port: OpenPort) -> None:
        self._begin(port)
        log.info("port %s is open", self._path)
        self._listener.on_port(None, "")

    def adopt(self, kept: KeptPort) -> None:
        """Go on with a port in mid-stream, as if it had been ours all along."""
        self._opener.rest()
        self._begin(adopt_port(kept.fd, kept.path))
        for said in (Capabilities(kept.quality), StartStop(kept.codecs)):
            for _message in self._device.receive(pack(said)):
                pass  # the host said so to the daemon before us
        self._outbox.resume(kept.unsent)
        log.info("port %s was kept; %d bytes are still owed", self._path, len(kept.unsent))
        self._listener.on_port(None, "")
        if kept.codecs:
            self._listener.on_start(kept.codecs, quality=kept.quality)
        self._flush()

    def hand_over(self, codecs: tuple[int, ...]) -> KeptPort | None:
        """Return what the next daemon needs to ``adopt`` it; None if the port is not open."""
        if self._channel is None:
            return None
        self._outbox.drop_waiting()
        quality = self._device.peer.quality_indicator
        return KeptPort(
            OwnedFd(os.dup(self._channel.fileno())),
            self._path, codecs, quality, bytes(self._outbox.peek()),
        )  # fmt: skip

    def _begin(self, port: OpenPort) -> None:
        self._reset()
        self._opened_at = self._loop.time()
        self._channel = Channel(port, self._poller, self)

    def close(self) -> None:
        """Close it for good, or until ``open``."""
        self._opener.rest()
        self._calm()
        if self._channel:
            self._channel.close()
        self._channel = None

    @property
    def is_held(self) -> bool:
        """Whether it is open, or will be as soon as that is possible."""
        return self._channel is not None or self._opener.is_waiting

    def next_try(self) -> float:
        """Return the time of the next try to open it in seconds since 1970, 0 for none."""
        return self._opener.next_try()

    def counters(self) -> Counters:
        """Return what was sent so far, in all openings."""
        since = self._loop.time() - RATE_SPAN
        recent = sum(1 for left in self._recent if left >= since)
        return Counters(self._frames, self._bytes, recent / RATE_SPAN)

    def line_rate(self) -> float:
        """Return the bytes a second that the host takes, as far as can be told; 0 if it cannot."""
        return self._freshness.guess

    def put(self, kind: Type, message: Bytes) -> None:
        """Send a whole message, in place of an older one of its kind that still waits.

        What cannot be written at once is copied: ``message`` may change afterwards.
        """
        if self._channel:
            if kind is Type.FORMAT:
                self._freshness.on_stream(self._loop.time())
            self._outbox.put(kind, message)
            self._has_frame = self._has_frame or kind is Type.DATA
            self._flush()
            self._outbox.keep()

    def drop_waiting(self) -> None:
        """Forget what was not begun."""
        self._outbox.drop_waiting()
        self._settle(was_sent=False)

    # From the channel.

    def on_bytes(self, data: memoryview) -> None:
        """Hear the host."""
        try:
            for message in self._device.receive(data):
                log.debug("from the host: %s", type(message).__name__)
                self._handle(message)
        except ProtocolError as error:
            self._lose(f"the host broke the protocol: {error}")

    def on_writable(self) -> None:
        """Go on writing."""
        if self._is_stalled:
            self._is_stalled = False
            self._listener.on_stalled(stalled=False)
        self._flush()

    def on_lost(self, reason: str) -> None:
        """Open it again."""
        self._lose(reason)

    def _handle(self, message: object) -> None:
        match message:
            case Capabilities():
                self.put(Type.CAPABILITIES, self._device.send(Capabilities()))
            case StartStop(codecs=()):
                self._listener.on_stop()
            case StartStop():
                quality = self._device.peer.quality_indicator
                self._listener.on_start(message.codecs, quality=quality)
            case NotifyError():
                self._lose(f"the host refused to go on: {message.text} ({message.code})")
            case Unknown():
                log.info("skipped a message of unknown type %d from the host", message.type)

    def _flush(self) -> None:
        channel = self._channel
        while channel and (data := self._outbox.peek()):
            taken = channel.write_pieces(data, self._freshness.write_size(self._outbox.size))
            now = self._loop.time()
            if taken:
                self._calm()
                self._freshness.on_accepted(now, *taken)
                self._outbox.advance(count := sum(taken))
                self._bytes += count
            if channel.is_blocked:
                self._freshness.on_blocked(now)
                break
        else:
            self._freshness.on_drained(self._loop.time())
        self._settle()

    def _settle(self, *, was_sent: bool = True) -> None:
        is_blocked = self._channel is not None and self._channel.is_blocked
        if not is_blocked:
            self._calm()
        elif not self._is_stalled and not self._watchdog:
            self._watchdog = self._loop.call_later(STALLED, self._stall)
        if self._has_frame and not self._outbox.has_frame:
            self._has_frame = False
            if was_sent:
                self._frames += 1
                self._recent.append(self._loop.time())
            self._listener.on_frame_sent(self._freshness.delay(self._loop.time()))

    def _calm(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
            self._watchdog = None

    def _stall(self) -> None:
        self._watchdog = None
        self._is_stalled = True
        self._listener.on_stalled(stalled=True)

    def _lose(self, reason: str) -> None:
        if self._channel is None:
            return
        log.warning("port %s: %s; opening it again", self._path, reason)
        if self._loop.time() - self._opened_at > STEADY:
            self._opener.reset()
        self.close()
        was_stalled = self._is_stalled
        self._reset()
        if was_stalled:
            self._listener.on_stalled(stalled=False)
        # First that it is gone: who hears that nobody watches might open it at once.
        self._listener.on_port(Reason.HOST_REFUSED, f"The stream port was closed: {reason}.")
        self._listener.on_stop()
        self._opener.open_later()

    def _on_fault(self, error: PortError) -> None:
        log.warning("%s", error)
        is_busy = isinstance(error, PortBusyError)
        self._listener.on_port(Reason.PORT_BUSY if is_busy else Reason.PORT_MISSING, f"{error}.")
        if is_busy:
            search = run_aside(lambda: holder_of(self._path))
            search.add_done_callback(lambda done: self._name_holder(str(error), done))

    def _name_holder(self, complaint: str, search: "asyncio.Future[int]") -> None:
        if search.cancelled() or complaint != self._opener.fault:
            return
        if pid := search.result():
            log.warning("%s (process %d)", complaint, pid)
            self._listener.on_port(Reason.PORT_BUSY, f"{complaint} (process {pid}).")
