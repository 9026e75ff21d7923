"""``terminal serve``: offers its terminal, hands it over once, and keeps its pane open.

That is until the program that has it now has ended, or the pane is gone.
"""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.terminal import control, handover
from agent.terminal.handover import HandoverError
from agent.terminal.stderr import Stderr
from sessiond.transport import rights
from sessiond.transport.fds import OwnedFd
from sessiond.transport.peer import peer_of

# What a terminal's keys send to a shell's job in front, which we stay.
_KEYS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
_HANG_UP: Final = 0  # poll(2) tells it unasked
_TAKING: Final = 5.0  # seconds that a client has at most; it needs a millisecond
_NO_KEYS: Final = (
    "this terminal's session is led by another process, so ^C and ^Z will not reach the program; "
    "let this be a pane's own command, such as: tmux new-window spice-sessionctl terminal serve"
)


def serve(name: str, stderr: Stderr, *, stay: bool) -> None:
    """Hand over standard input, output and error; return when all is over.

    ``stay``: the end of the program is not, only that of the terminal. Raises HandoverError.
    """
    for fd in control.STDIO:
        _check_open(fd)
    terminal = control.first_terminal(control.STDIO)
    # Kept, to be told when the pane is gone.
    kept = None if terminal is None else OwnedFd(os.dup(terminal))
    listeners = handover.listen(name)
    stderr.say(f"this terminal is offered as {name!r}")
    try:
        client = Offer(kept, stderr).hand_over(listeners)
    finally:
        for listener in listeners:
            listener.close()
    if client is None:
        return
    for number in _KEYS:
        signal.signal(number, signal.SIG_IGN)
    for fd in control.STDIO:
        os.close(fd)
    end = select.poll()
    if kept:
        end.register(kept.fileno(), _HANG_UP)
    if client.pidfd and not stay:
        end.register(client.pidfd.fileno(), select.POLLIN)
    end.poll()


@dataclass(frozen=True, slots=True)
class Client:
    """Who has the terminal now; no ``pidfd`` is of a process whose end cannot be known."""

    pidfd: OwnedFd | None


class Offer:
    """Our terminal, None where there is none, for the first who may have it."""

    def __init__(self, terminal: OwnedFd | None, stderr: Stderr) -> None:
        self._terminal = terminal
        self._stderr = stderr
        self._told: set[tuple[str, int]] = set()  # users, and processes of trusted ones
        self._is_ours = False  # to give up
        if terminal and control.controls_us(terminal.fileno()):
            self._is_ours = control.is_leader()
            if not self._is_ours:
                stderr.say(_NO_KEYS)

    def hand_over(self, listeners: Sequence[socket.socket]) -> Client | None:
        """Return who has it; None if the terminal is gone before. It waits for as long."""
        poll = select.poll()
        by_fd = {listener.fileno(): listener for listener in listeners}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        if self._terminal:
            poll.register(self._terminal.fileno(), _HANG_UP)
        while True:
            for fd, _ in poll.poll():
                if fd not in by_fd:
                    return None
                if client := self._serve_next(by_fd[fd]):
                    return client

    def _serve_next(self, listener: socket.socket) -> Client | None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None  # it has gone
        except OSError as error:  # no descriptors left, or no memory
            raise HandoverError(f"cannot hear who wants it: {error.strerror}") from error
        with sock:
            return self._serve(sock)

    def _serve(self, sock: socket.socket) -> Client | None:
        peer = peer_of(sock)
        if not handover.is_trusted(peer):
            self._say_once("user", peer.uid, f"refused: process {peer.pid} of user {peer.uid}")
            return None
        try:
            # 0 is a process of another PID namespace.
            pidfd = OwnedFd(os.pidfd_open(peer.pid)) if peer.pid else None
            self._send(sock)
        except OSError as error:
            text = f"not handed to process {peer.pid}: {error.strerror}"
            self._say_once("process", peer.pid, text)
            return None
        return Client(pidfd)

    def _send(self, sock: socket.socket) -> None:
        """Send it to who takes it. Raises OSError, and keeps it, where it is not taken."""
        if not (self._terminal and self._is_ours):
            _send(sock)
            return
        # Before, as who receives it takes it at once.
        control.give_up(self._terminal.fileno())
        try:
            _send(sock)
        except OSError:
            control.take(self._terminal.fileno())
            raise

    def _say_once(self, kind: str, number: int, text: str) -> None:
        if (kind, number) not in self._told:
            self._told.add((kind, number))
            self._stderr.say(text)


def _send(sock: socket.socket) -> None:
    rights.send(sock, control.STDIO)
    sock.settimeout(_TAKING)
    # Who has it hangs up; who does so without, as it does not trust us, resets the connection.
    with contextlib.suppress(TimeoutError):
        sock.recv(1)


def _check_open(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        raise HandoverError("standard input, output or error is closed") from None
