"""A program of the daemon's: what it is asked to be, its start, and its end.

It has the caller's own descriptors, so that no byte of its streams comes through here.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.qrexec.identity import is_own
from agent.qrexec.service import Executable, Places, look_up, variables
from agent.qrexec.service_config import load
from agent.qrexec.starter import ForkServer
from agent.user.popen import popen
from agent.user.running import GRACE, KILLED, OnExit, Running
from sessiond.errors import CommandError, StartError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.passing import Passed
from sessiond.wire.exec_command import NOT_FOUND, PROBLEM, REFUSED, ServiceCall

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
    """What to run, checked. A ``service`` is instead of the words; no ``cwd`` is the home."""

    argv: Sequence[bytes]
    service: bytes
    session: Mapping[bytes, bytes]
    env: Mapping[bytes, bytes]
    cwd: bytes


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
    )
    if any(not name or b"=" in name for name in request.env):
        raise CommandError("a variable without a name, or with = in it")
    if request.service:
        if request.argv or request.env or request.cwd:
            raise CommandError("a service takes no words, variables or directory of its caller's")
    elif not request.argv:
        raise CommandError("there is no command")
    return request


@dataclass(frozen=True, slots=True)
class Started:
    """A process that nobody has waited for, and its pidfd."""

    process: "subprocess.Popen[bytes]"
    pidfd: OwnedFd


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
        argv = request.argv
        if request.service:
            argv, env = _service(request.service, env)
        process = _popen(argv, env, request.cwd or _home(environ), streams.fds)
    finally:
        streams.close()
    try:
        started = Started(process, OwnedFd(os.pidfd_open(process.pid)))
    except OSError as error:
        process.kill()
        process.wait()
        raise StartError(f"cannot watch it: {error.strerror}", PROBLEM) from error
    if starter:
        starter.guard(process.pid, started.pidfd.fileno())
    return started


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
    try:
        return popen(argv, (stdin, stdout, stderr), env, cwd)
    except OSError as error:
        name, reason = os.fsdecode(argv[0]), error.strerror or error
        if error.filename != argv[0]:  # the directory's, or none: it is not the program's fault
            where = f", in {os.fsdecode(error.filename)!r}" if error.filename else ""
            raise StartError(f"cannot start {name!r}{where}: {reason}", PROBLEM) from error
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else REFUSED
        raise StartError(f"cannot run {name!r}: {reason}", code) from error


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
        """Send its process group a signal. Raises CommandError if that has another user now."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise CommandError(f"process {self.pid} is another user's now") from None

    def hang_up(self) -> None:
        """End the group: what is left of it after GRACE is killed, whether or not it has exited."""
        if self._timer or self.gone.done():
            return
        self._signal(signal.SIGHUP, signal.SIGTERM, signal.SIGCONT)
        self._timer = self._loop.call_later(GRACE, self._kill)

    def close(self) -> None:
        """Let it go, whatever it does."""
        if self.gone.done():
            return
        self._forget()
        if self._timer:
            self._timer.cancel()
        self.gone.set_result(None)

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
