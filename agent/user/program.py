"""A program of the daemon's: what it is asked to be, its start, and its end.

It has the caller's own descriptors, so that no byte of its streams comes through here. Or it has a
terminal, of which the caller gets the master, and no byte comes through here either.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.qrexec.identity import is_own
from agent.qrexec.service import Executable, Places, look_up, variables
from agent.qrexec.service_config import load
from agent.qrexec.starter import ForkServer
from agent.terminal.begin import Terminal, begin, login_shell, open_terminal
from agent.terminal.popen import popen, start_errors
from agent.user.running import GRACE, KILLED, OnExit, Running
from sessiond.errors import CommandError, SessiondError, StartError
from sessiond.model import TerminalSize
from sessiond.transport.fds import OwnedFd
from sessiond.transport.passing import Passed
from sessiond.transport.terminal import MOST, set_window_size
from sessiond.transport.terminal_passing import send_master
from sessiond.wire.exec_command import PROBLEM, REFUSED, ServiceCall

if TYPE_CHECKING:
    import subprocess

STREAMS: Final = 3  # descriptors: stdin, stdout and stderr

_OF_SESSION: Final = {  # what of a session goes into the environment, and under which name
    "id": b"XDG_SESSION_ID",
    "type": b"XDG_SESSION_TYPE",
    "display": b"DISPLAY",
}
_AGENT_PID: Final = b"QREXEC_AGENT_PID"


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, checked. A ``service`` is instead of the words; no ``cwd`` is the home.

    ``terminal`` is the size of the one that it gets, if it gets one; the user's login shell is
    instead of the words, too, and has one.
    """

    argv: Sequence[bytes]
    service: bytes
    session: Mapping[bytes, bytes]
    env: Mapping[bytes, bytes]
    cwd: bytes
    terminal: TerminalSize | None
    is_login_shell: bool


def read_request(arguments: Mapping[str, Any]) -> Request:
    """Return the request that ``run-command``'s arguments are; their types are checked already.

    Raises CommandError for what no program can be started with, and for a service with anything
    but its name: what it runs with is not its caller's to say.
    """
    session = arguments["session"]
    request = Request(
        argv=[_encode(word) for word in arguments["argv"]],
        service=_encode(arguments["service"]),
        session={
            name: _encode(session[key]) for key, name in _OF_SESSION.items() if session.get(key)
        },
        env={_encode(name): _encode(value) for name, value in arguments["env"].items()},
        cwd=_encode(arguments["cwd"]),
        terminal=read_size(arguments["terminal"]) if "terminal" in arguments else None,
        is_login_shell=arguments.get("login-shell", False),
    )
    if any(not name or b"=" in name for name in request.env):
        raise CommandError("a variable without a name, or with = in it")
    if request.service and (request.argv or request.env or request.cwd or request.terminal):
        raise CommandError(
            "a service takes no words, variables or directory of its caller's, and no terminal"
        )
    if request.is_login_shell and not request.terminal:
        raise CommandError("a login shell needs a terminal")
    if [bool(request.argv), bool(request.service), request.is_login_shell].count(True) != 1:
        raise CommandError("there is no command, or more than one")
    return request


def read_size(untrusted: Mapping[str, Any]) -> TerminalSize:
    """Return the size of a terminal that arguments tell. Raises CommandError."""
    match untrusted:
        case {"columns": int(columns), "rows": int(rows)}:
            if 1 <= columns <= MOST and 1 <= rows <= MOST:
                return TerminalSize(columns, rows)
    raise CommandError(f"a terminal has columns and rows, from 1 to {MOST} of each")


@dataclass(frozen=True, slots=True)
class Started:
    """A process that nobody has waited for, its pidfd, and its terminal's master if it has one."""

    process: "subprocess.Popen[bytes]"
    pidfd: OwnedFd
    master: OwnedFd | None


def start(
    request: Request,
    environ: Mapping[bytes, bytes],
    starter: ForkServer | None,
    streams: Passed,
) -> Started:
    """Start it with these STREAMS, which are closed here. It may block. Raises StartError.

    The fork server sees to it that it does not outlive this agent.
    """
    try:
        env = {**environ, **request.session, **request.env}
        cwd = request.cwd or _home(environ)
        if request.terminal:
            process, master = _on_terminal(request, request.terminal, env, cwd, streams)
        else:
            argv = request.argv
            if request.service:
                argv, env = _service(request.service, env)
            process, master = _popen(argv, env, cwd, streams.fds), None
    finally:
        streams.close()
    try:
        started = Started(process, OwnedFd(os.pidfd_open(process.pid)), master)
    except OSError as error:
        process.kill()
        process.wait()
        if master:
            master.close()
        raise StartError(f"cannot watch it: {error.strerror}", PROBLEM) from error
    if starter:
        starter.guard(process.pid, started.pidfd.fileno())
    return started


def _on_terminal(
    request: Request,
    size: TerminalSize,
    env: Mapping[bytes, bytes],
    cwd: bytes,
    streams: Passed,
) -> tuple["subprocess.Popen[bytes]", OwnedFd]:
    """Start it on a new terminal; return that's master, too. Raises StartError."""
    try:
        terminal = open_terminal(size)
    except OSError as error:
        raise StartError(f"cannot make it a terminal: {error.strerror}", PROBLEM) from error
    with terminal.end:
        try:
            _hand_over(terminal, streams)
            return _begin(request, terminal, env, cwd), terminal.master
        except BaseException:
            terminal.master.close()
            raise


def _hand_over(terminal: Terminal, streams: Passed) -> None:
    """Give the caller the master of a terminal, over the first of the streams.

    That comes before the program, which is not started for a caller who has gone. Raises
    StartError.
    """
    try:
        with _borrowed(streams.fds[0]) as sock:
            send_master(sock, terminal.master.fileno())
    except SessiondError as error:
        raise StartError(f"cannot hand over its terminal: {error}", PROBLEM) from error


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Have a descriptor as the socket that it is; it stays open. Raises SessiondError."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        raise SessiondError("there is no socket for it") from None
    try:
        yield sock
    finally:
        sock.detach()


def _begin(
    request: Request, terminal: Terminal, env: Mapping[bytes, bytes], cwd: bytes
) -> "subprocess.Popen[bytes]":
    if not request.is_login_shell:
        with start_errors(request.argv[0]):
            return begin(terminal, request.argv, env, cwd=cwd)
    shell = login_shell()
    with start_errors(shell.words[0]):
        return begin(terminal, shell.words, {**env, **shell.env}, file=shell.file, cwd=cwd)


def _service(
    name: bytes, environ: Mapping[bytes, bytes]
) -> tuple[Sequence[bytes], dict[bytes, bytes]]:
    """Return the words and the environment of a service. Raises StartError."""
    places = Places.of(environ)
    call = ServiceCall(name, source=b"")  # no other domain's
    config = load(call, places.config)
    if config.force_user is not None and not is_own(config.force_user):
        raise StartError("the service is another user's", REFUSED)
    service = look_up(call, config, places)
    if not isinstance(service, Executable):
        raise StartError("the service listens, and takes no descriptors", REFUSED)
    env = variables(environ, call)
    del env[_AGENT_PID]  # nobody is there who could be signalled
    return [service.path, *([service.argument] if service.argument else [])], env


def _popen(
    argv: Sequence[bytes], env: Mapping[bytes, bytes], cwd: bytes, streams: Sequence[int]
) -> "subprocess.Popen[bytes]":
    stdin, stdout, stderr = streams
    with start_errors(argv[0]):
        return popen(argv, (stdin, stdout, stderr), env, cwd)


def _home(environ: Mapping[bytes, bytes]) -> bytes:
    """Return the home, or where those are who have none (login(1))."""
    home = environ.get(b"HOME", b"")
    return home if os.access(home, os.X_OK) else b"/"


def _encode(untrusted_text: object) -> bytes:
    if not isinstance(untrusted_text, str):
        raise CommandError("a text is none")
    text = untrusted_text.encode()  # as its caller had it, whatever our own locale is
    if b"\0" in text:
        raise CommandError("a text with a NUL in it")
    return text


class Program(Running):
    """One that was started.

    It is waited for only when all is over: until then nobody else can get its pid, which its
    process group has, too.
    """

    def __init__(self, started: Started) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = started.process
        self._pidfd = started.pidfd
        self._master = started.master
        self._on_exit: OnExit | None = None
        self._has_exited = False
        self._timer: asyncio.TimerHandle | None = None  # of its being killed
        self._is_killed = False
        self.pid = started.process.pid
        self.gone = self._loop.create_future()

    def watch(self, on_exit: OnExit) -> None:
        """Have ``on_exit`` called when it has ended."""
        self._on_exit = on_exit
        self._loop.add_reader(self._pidfd.fileno(), self._exited)

    def signal(self, number: int) -> None:
        """Send its process group a signal. Raises CommandError if that has another user now.

        Of who is told that it is hung up, the terminal goes first, unless its caller still has
        that: then the kernel tells, also those whom we may not.
        """
        if number == signal.SIGHUP and self._master:
            self._close_master()
            if self._is_hung_up():
                return  # a shell that is told twice may not come to telling its jobs
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise CommandError(f"process {self.pid} is another user's now") from None

    def resize(self, size: TerminalSize) -> None:
        """Set the size of its terminal. Raises CommandError where it has none."""
        if not self._master:
            raise CommandError("it has no terminal")
        try:
            set_window_size(self._master.fileno(), size)
        except (OSError, ValueError):  # ValueError: we have closed it
            raise CommandError("its terminal is gone") from None

    def hang_up(self) -> None:
        """End the group: what is left of it after GRACE is killed, whether or not it has exited."""
        if self._timer or self.gone.done():
            return
        # A shell that has a terminal ignores SIGTERM; or ends by it, before it has told its jobs.
        last = [] if self._master else [signal.SIGTERM]
        self._signal(signal.SIGHUP, *last, signal.SIGCONT)
        self._timer = self._loop.call_later(GRACE, self._kill)

    def close(self) -> None:
        """Let it go, whatever it does."""
        if self.gone.done():
            return
        self._forget()
        self._close_master()
        if self._timer:
            self._timer.cancel()
        self.gone.set_result(None)

    def _close_master(self) -> None:
        if self._master:
            self._master.close()

    def _is_hung_up(self) -> bool:
        """Whether no terminal controls its session any more."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:  # it is another user's now, and not ours to see
            return False
        *_, tty = status.rpartition(b")")[2].split()[:5]  # proc(5)
        return tty == b"0"

    def _signal(self, *numbers: int) -> None:
        with contextlib.suppress(CommandError):
            for number in numbers:
                self.signal(number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._is_killed = True
        if self._has_exited:
            self._reap()

    def _exited(self) -> None:
        self._forget()
        self._close_master()
        self._has_exited = True
        if self._timer is None or self._is_killed:
            self._reap()

    def _reap(self) -> None:
        status = self._process.wait()  # it has exited
        self.close()
        if self._on_exit:
            self._on_exit(status if status >= 0 else KILLED - status, max(0, -status))

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):  # forgotten already
            self._loop.remove_reader(self._pidfd.fileno())
        self._pidfd.close()
