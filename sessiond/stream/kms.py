"""The daemon's end of a KMS helper: which agent it serves, on which VT, and when that may look.

A helper is root's and the only one that has a graphics card open. It serves one agent, and ends
with its control socket, which is here: systemd starts one for each connection. Where nobody listens
and we may do ourselves what it does, as in the foreground, it is a child of ours.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sessiond
from sessiond.errors import ProtocolError, SessiondError
from sessiond.transport.aside import run_aside
from sessiond.transport.fds import OwnedFd
from sessiond.transport.peer import peer_of
from sessiond.wire.kms import (
    MAX_CONTROL,
    Failed,
    Grant,
    Ready,
    Serve,
    pack_control,
    parse_from_helper,
)

log = logging.getLogger(__name__)

NOT_READ: Final = "The picture is not read from the graphics card"
READY_WITHIN: Final = 15.0  # seconds; a start takes a tenth of one, in a busy emulated guest eight
SOCKET_UNIT: Final = "spice-sessiond-kms.socket"
_CAP_SYS_ADMIN: Final = 1 << 21  # linux/capability.h
_NOBODY_LISTENS: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED})


class HelperError(SessiondError):
    """There is no helper; the text, a clause, says why."""


class KmsHelper:
    """A helper that serves one agent, which may see nothing until ``grant``.

    ``agents_end`` is the agent's socket to it, for the agent to inherit. One of ``on_ready()`` and
    ``on_lost(text)`` is called first; ``on_lost``, which may be replaced, once at the end, with a
    clause that says why. Neither is called after ``close``.
    """

    def __init__(
        self,
        control: socket.socket,
        vt: int,
        on_ready: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Take over ``control`` and say who is served, on ``vt``. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._on_ready = on_ready
        self.on_lost = on_lost
        self.error = ""  # what it has said of its end
        self._is_ready = False
        self._is_granted = False
        agents, helpers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.agents_end = OwnedFd(agents.detach())
        with helpers:
            socket.send_fds(control, [pack_control(Serve(vt))], [helpers.fileno()])
        self._loop.add_reader(control, self._read)
        text = f"the helper does not answer within {READY_WITHIN:g} s"
        self._deadline = self._loop.call_later(READY_WITHIN, self._lose, text)

    def grant(self) -> None:
        """Let the agent see the screen."""
        self._is_granted = True
        self._say(Grant(True))

    def revoke(self) -> None:
        """Let it see nothing that it asks for from now on.

        The helper hears us before it answers the agent. Where it cannot be told, the end of the
        socket tells it.
        """
        if self._is_granted:
            self._is_granted = False
            self._say(Grant(False))

    def read_rest(self) -> None:
        """Hear what it has said already, without waiting for the loop to say so."""
        with contextlib.suppress(BlockingIOError):
            while self._control.fileno() >= 0:
                self._hear(self._receive())

    def close(self) -> None:
        """End it without another word of it; a second call does nothing."""
        self._deadline.cancel()
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
        self.agents_end.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._hear(self._receive())

    def _receive(self) -> bytes:
        """Return a packet, b"" at its end. Raises BlockingIOError."""
        # Descriptors that came along are closed by the kernel: there is no room for any.
        try:
            return self._control.recv(MAX_CONTROL + 1)
        except ConnectionResetError:
            # It had not heard us when it ended. That is told once, before what it has said.
            return self._control.recv(MAX_CONTROL + 1)

    def _hear(self, untrusted: bytes) -> None:
        if not untrusted:
            self._lose("the helper has ended")
            return
        try:
            message = parse_from_helper(untrusted)
        except ProtocolError as error:
            self._lose(f"the helper broke the rules: {error}")
            return
        log.debug("from the KMS helper: %s", type(message).__name__)
        match message:
            case Failed(text):
                self.error = text.rstrip(".") or "the helper does not say why"
                self._lose(self.error)
            case Ready() if self._is_ready:
                self._lose("the helper is ready twice")
            case Ready(card, driver):
                self._is_ready = True
                self._deadline.cancel()
                log.info("a KMS helper has %s open, which is driven by %s", card, driver)
                self._on_ready()

    def _say(self, message: Grant) -> None:
        if self._control.fileno() < 0:
            return
        log.debug("to the KMS helper: %s", message)
        try:
            self._control.send(pack_control(message))
        except OSError as error:
            self._lose(f"the helper hears nothing: {error.strerror}")

    def _lose(self, why: str) -> None:
        self.close()
        self.on_lost(why)


def open_helper(
    path: str, vt: int, on_open: Callable[[KmsHelper], None], on_failed: Callable[[str], None]
) -> None:
    """Have a helper serve an agent on ``vt``; ``path`` is where systemd listens for it.

    One of the two is called later: with a helper that has the card open and is the callee's to
    close, or with a clause that says why there is none.
    """

    def connected(future: "asyncio.Future[socket.socket | None]") -> None:
        if future.cancelled():
            return
        try:
            control = future.result() or _start_own()
        except (HelperError, OSError) as error:
            on_failed(str(error))
            return
        try:
            helper = KmsHelper(control, vt, lambda: on_open(helper), on_failed)
        except OSError as error:
            control.close()
            on_failed(f"the helper at {path} cannot be told who is served: {error.strerror}")

    run_aside(lambda: _connect(path)).add_done_callback(connected)


def _connect(path: str) -> socket.socket | None:
    """Return a connection to root's helper; None for one that we may be ourselves.

    Raises HelperError, or OSError. Never waits.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.setblocking(False)
        control.connect(path)
        uid = peer_of(control).uid
    except OSError as error:
        control.close()
        if error.errno not in _NOBODY_LISTENS:
            raise HelperError(f"the helper at {path}: {error.strerror}") from None
        if may_read_cards(os.getpid()):
            return None
        text = f"no helper listens at {path} (systemctl start {SOCKET_UNIT})"
        raise HelperError(text) from None
    if uid not in {0, os.geteuid()}:
        control.close()
        raise HelperError(f"at {path} listens uid {uid}, and not root")
    return control


def may_read_cards(pid: int) -> bool:
    """Whether a process has what a helper needs, and so can start one of its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) & _CAP_SYS_ADMIN)


def _start_own() -> socket.socket:
    """Return a connection to a helper that is our child, and ends with it. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            # The modules are where ours are, which only PATH's programs know otherwise.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sessiond.kms"],
                env={"PATH": os.defpath, "PYTHONPATH": str(Path(sessiond.__file__).parents[1])},
                cwd="/",
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    # It ends soon after the socket does.
    run_aside(process.wait).add_done_callback(lambda done: log.debug("our KMS helper: %s", done))
    ours.setblocking(False)
    return ours
