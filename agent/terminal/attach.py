"""``terminal attach``: gets the terminal that is offered, and becomes the command on it.

Where the terminal is to control a session and this process cannot lead one, as a shell's job, a
child becomes the command; this process waits for it and ends as it does.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from agent.terminal import control, handover
from agent.terminal.handover import HandoverError
from agent.terminal.stderr import Stderr
from sessiond.transport.peer import peer_of

REFUSED: Final = 126  # exit statuses, as those of env(1)
NOT_FOUND: Final = 127
_STEP: Final = 0.1  # seconds between two looks
_ANSWER: Final = 5.0  # seconds that a server has at least; it needs a millisecond
_INIT: Final = 1
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_NO_KEYS: Final = "^C, ^Z and changes of the terminal's size will not reach the command"
_OTHERS: Final = "another session has the terminal and keeps it"


def attach(name: str, words: list[str], stderr: Stderr, *, wait: float, fallback: bool) -> int:
    """Become the command on the terminal, or return the exit status of the child that did.

    With ``fallback``, and for the first process, which must not end, it is run here where there is
    no terminal within ``wait`` seconds, else HandoverError raised.
    """
    try:
        fds = get(name, wait)
    except HandoverError as error:
        if not (fallback or os.getpid() == _INIT):
            raise
        stderr.say(f"{error}; going on here")
        execute(words, stderr)
    terminal = control.first_terminal(fds)
    if terminal is None or _can_lead():
        _become(words, fds, terminal, stderr)
    return _run_child(words, fds, terminal, stderr)


def get(name: str, wait: float) -> list[int]:
    """Return the descriptors of the terminal of that name: input, output and error.

    It is tried for so many seconds, and at least once. Raises HandoverError.
    """
    deadline = time.monotonic() + wait
    while True:
        errors = []
        for address in handover.addresses(name):
            try:
                return _get_at(address, max(_ANSWER, deadline - time.monotonic()))
            except HandoverError as error:
                errors.append(error)
            except (ConnectionRefusedError, BlockingIOError):  # nobody; or too many wait there
                continue
            except OSError as error:
                errors.append(HandoverError(f"cannot connect: {error.strerror}"))
        if time.monotonic() + _STEP > deadline:
            raise errors[0] if errors else HandoverError(f"nobody offers a terminal as {name!r}")
        time.sleep(_STEP)


def _get_at(address: bytes, limit: float) -> list[int]:
    with handover.stream_socket() as sock:
        sock.connect(address)
        peer = peer_of(sock)
        if not handover.is_trusted(peer):
            text = f"the terminal that process {peer.pid} of user {peer.uid} offers is not taken"
            raise HandoverError(text)
        if not select.select([sock], [], [], limit)[0]:
            raise HandoverError(f"process {peer.pid} offers a terminal, and does not answer")
        return handover.receive(sock)


def _can_lead() -> bool:
    """Return whether this very process can lead a session that a terminal controls.

    Who leads a group, as a shell's job does, can make no session. Who leads a session could give
    its terminal up; but only the first process has to be the command itself.
    """
    if os.getpid() == _INIT or os.getpgrp() != os.getpid():
        return True
    if not control.is_leader():
        return False
    own = control.own_terminal()
    if own:
        own.close()
    return own is None


def _become(words: list[str], fds: Sequence[int], terminal: int | None, stderr: Stderr) -> NoReturn:
    if terminal is not None:
        try:
            control.lead(terminal)
        except OSError as error:
            reason = _OTHERS if isinstance(error, PermissionError) else error.strerror
            stderr.say(f"{_NO_KEYS}: {reason}")
    stderr.keep()
    for number, fd in zip(control.STDIO, fds, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    execute(words, stderr)


def execute(words: list[str], stderr: Stderr) -> NoReturn:
    """Become the command; end with env(1)'s exit status if there is none."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        stderr.say(f"cannot run {words[0]!r}: {error.strerror}")
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else REFUSED)


def _run_child(words: list[str], fds: Sequence[int], terminal: int, stderr: Stderr) -> int:
    """Return the exit status of a child that is the command."""
    # Waited for in one place, so that none is missed; what nohup(1) has ignored is not woken.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    passed_on = {it for it in _PASSED_ON if signal.getsignal(it) != signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*passed_on, signal.SIGCHLD})
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _become(words, fds, terminal, stderr)
    for fd in fds:
        os.close(fd)
    while True:
        number = signal.sigwait({*passed_on, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            with contextlib.suppress(PermissionError):  # another user's by now
                os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
