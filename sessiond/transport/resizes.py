"""The sizes of a terminal that no session controls, as they change.

What listens is a program of its own (``agent.terminal.sigwinch``), one for each terminal: it leads
a session, which we cannot, and says that something has changed. Here is who starts it, asks the
terminal for its size, and sees to its end.
"""

import asyncio
import contextlib
import fcntl
import functools
import importlib.util
import logging
import os
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sessiond.errors import SessiondError
from sessiond.transport.aside import run_aside
from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

START: Final = 10.0  # seconds; it takes some hundredths
GRACE: Final = 2.0  # seconds for its end
PACE: Final = 0.25
"""Seconds from one size to the next: a window that is dragged has a hundred in that time."""

_PROGRAM: Final = Path(__file__).parents[2] / "agent" / "terminal" / "sigwinch.py"
# Debian's, which is libseccomp's own; PyPI's, which has the same interface.
_BINDINGS: Final = ("seccomp", "pyseccomp")
_DRIVERS: Final = Path("/proc/tty/drivers")  # proc(5)
_WINSIZE: Final = struct.Struct("=4H")  # ioctl_tty(2): rows, columns, and both in pixels
_READ: Final = 1 << 16  # bytes: a whole pipe
_REASONS: Final = {  # by the program's exit status
    0: "its listener does not begin",  # and ends when it is not waited for any more
    3: "it is another session's terminal",
}


@dataclass(frozen=True, slots=True)
class WindowSize:
    """Of a terminal; 0 is what nobody has said."""

    columns: int
    rows: int
    x_pixels: int
    y_pixels: int

    @classmethod
    def of(cls, *untrusted_numbers: int) -> Self:
        """Return one of four numbers. Raises ValueError for what no kernel has."""
        if any(number not in range(1 << 16) for number in untrusted_numbers):
            raise ValueError("no size of a terminal")
        return cls(*untrusted_numbers)

    def described(self) -> dict[str, int]:
        """Return it as the host channel has it."""
        return {
            "columns": self.columns,
            "rows": self.rows,
            "x-pixels": self.x_pixels,
            "y-pixels": self.y_pixels,
        }


@functools.cache
def listener_command() -> Sequence[str]:
    """Return the program that listens, to be given to ``listening``.

    Where there is no binding of libseccomp's, that is said in the log, once.
    """
    specs = (importlib.util.find_spec(name) for name in _BINDINGS)
    origins = (spec.origin for spec in specs if spec and spec.origin)
    binding = next(origins, "")
    if not binding:
        names = " or ".join(_BINDINGS)
        log.warning("what listens to resizes has no seccomp filter: no Python package %s", names)
    folder, name = os.path.split(binding)
    without_suffix = os.path.join(folder, name.partition(".")[0])
    return (sys.executable, "-I", "-S", "-B", str(_PROGRAM), without_suffix)


class Resizes:
    """Each size of a terminal that is another than the one before; ``size`` is the newest.

    An asynchronous iterator for one reader, which leaves out what it was too slow for, but never
    the last one, and gives no more than one in PACE. It ends with the program that listens, so when
    the terminal goes, too.
    """

    def __init__(self, place: OwnedFd, pipe: OwnedFd, size: WindowSize) -> None:
        self._place = place
        self._pipe = pipe
        self.size = size
        self._not_before = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WindowSize:
        loop = asyncio.get_running_loop()
        # What comes meanwhile waits in the pipe, as one.
        await asyncio.sleep(self._not_before - loop.time())
        while await _hear(self._pipe):
            try:
                size = _size_at(self._place)
            except OSError:  # it has just gone
                break
            if size != self.size:
                self.size = size
                self._not_before = loop.time() + PACE
                return size
        raise StopAsyncIteration


@contextlib.asynccontextmanager
async def listening(path: str, command: Sequence[str]) -> AsyncIterator[Resizes]:
    """Listen to the terminal at ``path`` with the program that ``command`` is.

    A pty's slave is not kept open, so that its master hears of everybody else's end. At the end
    the program has ended and is no zombie. Raises SessiondError for what is no terminal, for one
    that is a session's, and where the program cannot be had.
    """
    child = await _start(path, command)
    try:
        if not await _is_ready(child):
            status = await _end(child)
            reason = _REASONS.get(status, f"its listener has ended with exit status {status}")
            raise SessiondError(f"{path}: {reason}")
        try:
            size = _size_at(child.place)
        except OSError as error:
            raise SessiondError(f"{path}: {error.strerror}") from None
        yield Resizes(child.place, child.pipe, size)
    finally:
        await _end(child)
        child.place.close()


@dataclass(frozen=True, slots=True)
class _Child:
    """One that runs: the terminal's place, the pipe's end that is ours, and the process."""

    place: OwnedFd
    pipe: OwnedFd
    process: "subprocess.Popen[bytes]"
    pidfd: OwnedFd


async def _start(path: str, command: Sequence[str]) -> _Child:
    # A terminal may take its time to open, and lie in a file system that is dead.
    starting = run_aside(functools.partial(_spawn, path, command))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_discard)
        raise
    except ValueError:
        raise SessiondError(f"{path!r} is no path") from None
    except OSError as error:
        raise SessiondError(f"{path}: {error.strerror}") from None


def _spawn(path: str, command: Sequence[str]) -> _Child:
    with contextlib.ExitStack() as on_error:
        place = on_error.enter_context(OwnedFd(os.open(path, os.O_PATH | os.O_CLOEXEC)))
        if not _is_terminal(os.fstat(place.fileno())):
            raise SessiondError(f"{path} is no terminal")
        with _opened(place) as tty:
            ours, its = map(OwnedFd, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            on_error.enter_context(ours)
            with its:
                process = on_error.enter_context(_popen(command, tty, its.fileno()))
        on_error.callback(process.kill)
        child = _Child(place, ours, process, OwnedFd(os.pidfd_open(process.pid)))
        on_error.pop_all()
    return child


def _is_terminal(found: os.stat_result) -> bool:
    """Return whether that is a terminal, and no pty's master, by what the kernel has of each kind.

    It is not opened for that: a watchdog, a tape or a camera would act on it.
    """
    if not stat.S_ISCHR(found.st_mode):
        return False
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    for line in _DRIVERS.read_text(encoding="ascii").splitlines():
        *_, node, its_major, minors, kind = line.split()
        first, _, last = minors.partition("-")
        if major == int(its_major) and int(first) <= minor <= int(last or first):
            return node != "/dev/ptmx" and kind != "pty:master"
    return False


def _popen(command: Sequence[str], tty: int, pipe: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*command, str(tty), str(pipe)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(tty, pipe),
        cwd="/",
        env={},
    )


def _discard(starting: "asyncio.Future[_Child]") -> None:
    if not starting.cancelled() and not starting.exception():
        child = starting.result()
        child.pipe.close()
        child.process.kill()
        child.process.wait()


@contextlib.contextmanager
def _opened(place: OwnedFd) -> Iterator[int]:
    """Open the terminal for a moment: by its place, which is this one's even if the name is not."""
    link = f"/proc/self/fd/{place.fileno()}"
    with OwnedFd(os.open(link, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)) as tty:
        yield tty.fileno()


def _size_at(place: OwnedFd) -> WindowSize:
    """Return the size of the terminal there. Raises OSError."""
    with _opened(place) as tty:
        answer = fcntl.ioctl(tty, termios.TIOCGWINSZ, bytes(_WINSIZE.size))
    rows, columns, x_pixels, y_pixels = _WINSIZE.unpack(answer)
    return WindowSize(columns, rows, x_pixels, y_pixels)


async def _hear(pipe: OwnedFd) -> bytes:
    """Return all that was written, b"" at the end."""
    while True:
        try:
            return os.read(pipe.fileno(), _READ)
        except BlockingIOError:
            await _readable(pipe)


async def _readable(fd: OwnedFd) -> None:
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(fd.fileno(), is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(fd.fileno())


async def _is_ready(child: _Child) -> bool:
    try:
        async with asyncio.timeout(START):
            return bool(await _hear(child.pipe))
    except TimeoutError:
        return False


async def _end(child: _Child) -> int:
    """Let it end, and return its exit status; a second call only returns it."""
    if child.process.returncode is None:
        child.pipe.close()  # which is its sign
        try:
            async with asyncio.timeout(GRACE):
                await _readable(child.pidfd)
        except TimeoutError:
            log.warning("a listener to resizes, pid %d, does not end, and is killed",
                        child.process.pid)  # fmt: skip
        finally:
            child.process.kill()  # one that has ended is still there to be waited for
            child.process.wait()
            child.pidfd.close()
    return child.process.returncode
