"""``guest-exec`` and ``guest-exec-status``: commands that run in the background.

Each is the leader of a session of its own, which has no terminal. Its outputs are read while it
runs and kept until somebody asks. It counts as running until it has ended and nobody has its
outputs open any more, as with qemu-ga.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final

from agent.terminal.popen import popen
from sessiond.errors import CommandError
from sessiond.transport.aside import run_aside
from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

MAX_OUTPUT: Final = 7 << 19
"""Bytes kept of each output, 3.5 MiB: both make an answer of 9.4 MiB in base64, and libvirt gives a
channel up that sends a line of over 10 MiB (qemu_agent.c)."""

MAX_RUNNING: Final = 64
MAX_FINISHED: Final = 256  # that nobody has asked for; the oldest is forgotten
MAX_KEPT: Final = 64 << 20  # bytes of the outputs of these
GRACE: Final = 2.0  # seconds between SIGTERM and SIGKILL at the agent's end

_READ_SIZE: Final = 64 << 10
_WRITE_SIZE: Final = 64 << 10
_OUTPUTS: Final = {  # qga/qapi-schema.json: GuestExecCaptureOutputMode; a bool is none or separated
    "none": frozenset[str](),
    "stdout": frozenset({"out"}),
    "stderr": frozenset({"err"}),
    "separated": frozenset({"out", "err"}),
    "merged": frozenset({"out"}),
}
_Started = tuple["subprocess.Popen[bytes]", OwnedFd]  # and its pidfd
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=\n]")


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, checked: ``env`` None is the agent's own, ``outputs`` a key of _OUTPUTS."""

    path: str
    arguments: Sequence[str]
    env: Mapping[str, str] | None
    input: bytes
    has_input: bool
    outputs: str


def read_request(arguments: Mapping[str, Any]) -> Request:
    """Return the request that ``guest-exec``'s arguments are; their types are checked already.

    Raises CommandError for what no program can be started with.
    """
    capture = arguments.get("capture-output", False)
    env = arguments.get("env")
    words = [arguments["path"], *arguments.get("arg", ()), *(env or ())]
    if any("\0" in word for word in words):
        raise CommandError("a path, an argument or a variable has a NUL in it")
    return Request(
        path=arguments["path"],
        arguments=arguments.get("arg", ()),
        env=None if env is None else _environment(env),
        input=decode(arguments.get("input-data", "")),
        has_input="input-data" in arguments,
        outputs=("separated" if capture else "none") if isinstance(capture, bool) else capture,
    )


def decode(untrusted_text: str) -> bytes:
    """Return the bytes that a text in base64 stands for. Raises CommandError."""
    if not _NOT_BASE64.search(untrusted_text):
        with contextlib.suppress(binascii.Error):  # its length
            return base64.b64decode(untrusted_text)
    raise CommandError("Base64 data contains invalid characters")


def _environment(words: Sequence[str]) -> dict[str, str]:
    pairs = (word.partition("=") for word in words)
    return {name: value for name, _, value in pairs if name}


class _Output:
    """Reads one output of a command to its end, in the background; keeps the first MAX_OUTPUT."""

    def __init__(self, stream: IO[bytes], on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._on_end = on_end
        self.data = bytearray()
        self.is_truncated = False
        os.set_blocking(stream.fileno(), False)
        self._loop.add_reader(stream, self._read)

    def close(self) -> None:
        """Read no more; a second call does nothing."""
        if not self._stream.closed:
            self._loop.remove_reader(self._stream)
            self._stream.close()

    def _read(self) -> None:
        try:
            data = os.read(self._stream.fileno(), _READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self.close()
            self._on_end()
            return
        room = MAX_OUTPUT - len(self.data)
        self.data += data[:room]
        self.is_truncated = self.is_truncated or len(data) > room


class _Input:
    """Writes what a command gets as its input, then the end; a command need not read it."""

    def __init__(self, stream: IO[bytes], data: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._rest = data
        os.set_blocking(stream.fileno(), False)
        self._loop.add_writer(stream, self._write)

    def close(self) -> None:
        """Write no more; a second call does nothing."""
        if not self._stream.closed:
            self._loop.remove_writer(self._stream)
            self._stream.close()

    def _write(self) -> None:
        try:
            sent = os.write(self._stream.fileno(), self._rest[:_WRITE_SIZE]) if self._rest else 0
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has closed its input
            self.close()
            return
        self._rest = self._rest[sent:]
        if not self._rest:
            self.close()


class _Command:
    """One command from its start until it has ended and its outputs have.

    Only then is it waited for: until then nobody else can get its pid, which its group has, too.
    """

    def __init__(
        self,
        started: _Started,
        request: Request,
        on_finished: "Callable[[_Command], None]",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        process, self._pidfd = started
        self._process = process
        self._on_finished = on_finished
        self.pid = process.pid
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd.fileno(), self._exited)
        streams = {"out": process.stdout, "err": process.stderr}
        self._outputs = {
            name: _Output(stream, self._part_over) for name, stream in streams.items() if stream
        }
        self._parts = 1 + len(self._outputs)
        self._input = _Input(process.stdin, request.input) if process.stdin else None

    @property
    def kept(self) -> int:
        """The bytes of its outputs."""
        return sum(len(output.data) for output in self._outputs.values())

    def status(self) -> dict[str, object]:
        """Return the status of one that has finished, as ``guest-exec-status`` has it."""
        code = self._process.returncode
        found: dict[str, object] = {"exited": True}
        found["signal" if code < 0 else "exitcode"] = abs(code)
        for name, output in self._outputs.items():
            if output.data:
                found[f"{name}-data"] = base64.b64encode(output.data).decode()
                found[f"{name}-truncated"] = output.is_truncated
        return found

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to its process group, while it runs."""
        if not self.finished.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):  # of another user now
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Let it go, whatever it does; a second call does nothing."""
        self._forget_pid()
        for part in (*self._outputs.values(), self._input):
            if part:
                part.close()

    def _exited(self) -> None:
        self._forget_pid()
        self._part_over()

    def _forget_pid(self) -> None:
        with contextlib.suppress(ValueError):  # forgotten already
            self._loop.remove_reader(self._pidfd.fileno())
        self._pidfd.close()

    def _part_over(self) -> None:
        self._parts -= 1
        if self._parts == 0:
            self._process.wait()  # it has ended
            self.close()
            self.finished.set_result(None)
            self._on_finished(self)


class Commands:
    """All commands of this agent, by their pids."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._starting = set[asyncio.Future[_Started]]()
        self._running = dict[int, _Command]()
        self._finished = dict[int, _Command]()
        self._is_ending = False

    def start(self, request: Request) -> "asyncio.Future[object]":
        """Start a command; the future has ``{"pid": PID}``, or a CommandError with the reason.

        Raises CommandError where too many run, and after ``end``.
        """
        if self._is_ending:
            raise CommandError("the agent is about to end")
        if len(self._starting) + len(self._running) >= MAX_RUNNING:
            raise CommandError(f"{MAX_RUNNING} commands of this user are running already")
        answer: asyncio.Future[object] = self._loop.create_future()
        starting = run_aside(partial(_popen, request))
        self._starting.add(starting)
        starting.add_done_callback(partial(self._started, request, answer))
        return answer

    def status(self, pid: int) -> dict[str, object]:
        """Return a command's status, and forget it if it has finished. Raises CommandError."""
        if pid in self._running:
            return {"exited": False}
        if pid not in self._finished:
            raise CommandError("Invalid parameter 'pid'")
        return self._finished.pop(pid).status()

    async def end(self) -> None:
        """End all that runs: tell it to, and kill what has not after GRACE seconds."""
        self._is_ending = True
        if self._starting:
            await asyncio.wait(self._starting, timeout=GRACE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            running = list(self._running.values())
            for command in running:
                command.kill(number)
            if running:
                await asyncio.wait([command.finished for command in running], timeout=GRACE)
        for command in self._running.values():  # one that has changed its user, or a dead mount
            command.kill(signal.SIGKILL)
            command.close()
        self._running.clear()

    def _started(
        self,
        request: Request,
        answer: "asyncio.Future[object]",
        starting: asyncio.Future[_Started],
    ) -> None:
        self._starting.discard(starting)
        if error := starting.exception():
            reason = getattr(error, "strerror", None) or error
            refusal = CommandError(f"cannot start {request.path!r}: {reason}")
            if not answer.done():
                answer.set_exception(refusal)
            return
        command = _Command(starting.result(), request, self._finish)
        self._running[command.pid] = command
        if self._finished.pop(command.pid, None):
            _tell_forgotten(command.pid, "another command has its pid now")
        log.info("command %d: %r", command.pid, request.path)
        if not answer.done():
            answer.set_result({"pid": command.pid})

    def _finish(self, command: _Command) -> None:
        del self._running[command.pid]
        self._finished[command.pid] = command
        kept = sum(finished.kept for finished in self._finished.values())
        while len(self._finished) > MAX_FINISHED or kept > MAX_KEPT:
            oldest = self._finished.pop(next(iter(self._finished)))
            kept -= oldest.kept
            _tell_forgotten(oldest.pid, "too much is kept that nobody has asked for")


def _popen(request: Request) -> _Started:
    wanted = _OUTPUTS[request.outputs]
    error = subprocess.PIPE if "err" in wanted else subprocess.DEVNULL
    streams = (
        subprocess.PIPE if request.has_input else subprocess.DEVNULL,
        subprocess.PIPE if "out" in wanted else subprocess.DEVNULL,
        subprocess.STDOUT if request.outputs == "merged" else error,
    )
    process = popen([request.path, *request.arguments], streams, request.env)
    try:
        return process, OwnedFd(os.pidfd_open(process.pid))
    except OSError:  # too many are open: one that cannot be watched does not run
        with process:
            process.kill()
        raise


def _tell_forgotten(pid: int, reason: str) -> None:
    log.warning("the outcome of command %d is forgotten: %s", pid, reason)
