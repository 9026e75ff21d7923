"""The program that listens to a terminal's resizes, on real pseudoterminals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from agent.terminal import sigwinch
from tests.fixtures.child import ROOT
from tests.fixtures.processes import end_process, wait_process
from tests.fixtures.pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

PATIENCE: Final = 20.0  # seconds
SIZE: Final = 4096  # bytes of a small pipe
PROGRAM: Final = Path(sigwinch.__file__)
# Debian's, and PyPI's, wherever they are: the program takes a path.
PLACES: Final = {
    found.name.partition(".")[0]: str(found.with_name(found.name.partition(".")[0]))
    for folder in (*sys.path, "/usr/lib/python3/dist-packages")
    for pattern in ("seccomp.*.so", "pyseccomp.py")
    for found in Path(folder).glob(pattern)
}
BINDINGS: Final = sorted(PLACES.values())
BINDING: Final = BINDINGS[0] if BINDINGS else ""

needs_binding = pytest.mark.skipif(not BINDINGS, reason="without libseccomp's Python binding")


class Listener:
    """One that runs; HOW is as Popen has it."""

    def __init__(self, tty: int, binding: str = BINDING, **how: Any) -> None:  # noqa: ANN401
        self.pipe, its = os.pipe()
        argv = [sys.executable, "-I", "-S", "-B", str(PROGRAM), binding, str(tty), str(its)]
        for fd in (tty, its):
            os.set_inheritable(fd, True)
        self.process = subprocess.Popen(
            argv, close_fds=False, stderr=subprocess.PIPE, text=True, **how
        )
        self.end = its  # its end of the pipe, which we close by ``wait_ready``, or ``fill``
        os.set_blocking(self.pipe, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop_reading()
        self.process.kill()
        self.process.communicate()

    def wait_ready(self) -> Self:
        """Wait for the first byte, which is a line feed."""
        os.close(self.end)
        assert self.wait_bytes() == b"\n"
        return self

    def fill(self) -> bytes:
        """Fill the pipe when it is ready, and return what is in there."""
        fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, SIZE)
        assert select.select([self.pipe], [], [], PATIENCE)[0]
        rest = b"x" * (SIZE - 1)
        assert os.write(self.end, rest) == len(rest)
        os.close(self.end)
        return b"\n" + rest

    def wait_bytes(self) -> bytes:
        """Wait for some, or for the end: b""."""
        assert select.select([self.pipe], [], [], PATIENCE)[0]
        return os.read(self.pipe, SIZE)

    def heard(self) -> bytes:
        """Return what it has written when it has done all that there was to do.

        A signal wakes its process before the call that sends it returns, so who sleeps has none.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._is_asleep():
            assert time.monotonic() < deadline
        try:
            return os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return b""

    def _is_asleep(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        pending = re.findall(r"^...Pnd:\s*(\w+)", status, re.MULTILINE)
        return "\nState:\tS" in status and not any(int(mask, 16) for mask in pending)

    def wait_exit(self) -> int:
        """Wait for its end and return its exit status."""
        assert wait_process(self.process, PATIENCE)
        return self.process.wait()

    def stop_reading(self) -> None:
        """Close the pipe; a second call does nothing."""
        if self.pipe >= 0:
            os.close(self.pipe)
        self.pipe = -1


@pytest.fixture
def pty() -> Iterator[Pseudo]:
    with Pseudo() as made:
        yield made


@pytest.fixture
def listener(pty: Pseudo) -> Iterator[Listener]:
    """Return one that listens."""
    with Listener(pty.slave) as made:
        yield made.wait_ready()


@pytest.mark.parametrize("binding", ["", *BINDINGS])
def test_each_change_is_a_byte(pty: Pseudo, binding: str) -> None:
    with Listener(pty.slave, binding) as listener:
        listener.wait_ready()
        changes: list[tuple[Callable[[], None], bytes]] = [
            (lambda: pty.resize(80, 24), b"\n"),
            (lambda: pty.resize(80, 24), b""),
            (lambda: pty.resize(81, 24), b"\n"),
            (lambda: pty.resize(81, 25), b"\n"),
            (lambda: pty.resize(81, 25, 800, 600), b"\n"),
            (lambda: pty.resize(1, 1, fd=pty.slave), b"\n"),
            (lambda: pty.resize(1, 1, fd=pty.slave), b""),
        ]
        for change, told in changes:
            change()
            assert listener.heard() == told
        status = Path(f"/proc/{listener.process.pid}/status").read_text(encoding="ascii")
        assert ("\nSeccomp:\t2" in status) == bool(binding)


def test_many_at_once_are_at_least_one(pty: Pseudo, listener: Listener) -> None:
    for columns in range(200):
        pty.resize(100 + columns, 24)
    assert re.fullmatch(rb"\n{1,200}", listener.heard())


def test_it_ends_with_its_reader(listener: Listener) -> None:
    listener.stop_reading()
    assert listener.wait_exit() == 0


def test_it_ends_with_a_reader_that_goes_before_it_is_ready(pty: Pseudo) -> None:
    with Listener(pty.slave) as listener:
        os.close(listener.end)
        listener.stop_reading()
        assert listener.wait_exit() == 0


def test_it_ends_with_a_reader_that_goes_while_the_pipe_is_full(pty: Pseudo) -> None:
    with Listener(pty.slave) as listener:
        listener.fill()
        pty.resize(7, 7)
        listener.stop_reading()
        assert listener.wait_exit() == 0


def test_it_ends_when_the_master_closes(pty: Pseudo) -> None:
    # Whoever starts it leaks the master: one that kept it would keep the terminal alive.
    os.set_inheritable(pty.master, True)
    with Listener(pty.slave) as listener:
        listener.wait_ready()
        pty.close()
        assert listener.wait_bytes() == b""
        assert listener.wait_exit() == -signal.SIGHUP


def test_second_one_of_a_terminal_ends_at_once(pty: Pseudo, listener: Listener) -> None:
    with Listener(pty.slave) as second:
        os.close(second.end)
        assert second.wait_bytes() == b""
        assert second.wait_exit() == sigwinch.NOT_OURS
        assert second.process.stderr
        assert second.process.stderr.read() == "", "whoever has started it says it"
    pty.resize(7, 7)
    assert listener.heard() == b"\n"


def test_terminal_that_goes_before_is_one_line(pty: Pseudo) -> None:
    os.close(pty.master)
    pty.master = -1
    with Listener(pty.slave) as listener:
        os.close(listener.end)
        assert listener.wait_bytes() == b""
        _, said = listener.process.communicate(timeout=PATIENCE)
    assert listener.process.returncode == 1
    assert said == "the listener to resizes cannot have its terminal: Input/output error\n"


def test_another_one_may_follow(pty: Pseudo, listener: Listener) -> None:
    listener.stop_reading()
    assert listener.wait_exit() == 0
    with Listener(pty.slave) as second:
        second.wait_ready()
        pty.resize(7, 7)
        assert second.heard() == b"\n"


def test_full_pipe_does_not_stop_it(pty: Pseudo) -> None:
    with Listener(pty.slave) as listener:
        full = listener.fill()
        for columns in range(1, 100):
            pty.resize(columns, 24)
        assert listener.heard() == full
        pty.resize(100, 24)
        assert listener.heard() == b"\n"


def hostile() -> None:
    """Ignore and block every signal, as no sane parent does."""
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def test_no_handling_of_signals_is_inherited(pty: Pseudo) -> None:
    with Listener(pty.slave, preexec_fn=hostile, restore_signals=False) as listener:
        listener.wait_ready()
        pty.resize(7, 7)
        assert listener.heard() == b"\n"
        listener.process.terminate()
        assert listener.wait_exit() == -signal.SIGTERM
    with Listener(pty.slave, preexec_fn=hostile, restore_signals=False) as listener:
        listener.wait_ready()
        pty.close()
        assert listener.wait_exit() == -signal.SIGHUP


def test_what_is_typed_does_not_end_it(pty: Pseudo, listener: Listener) -> None:
    os.write(pty.master, b"\x03\x1c\x1a")  # ^C, ^\ and ^Z
    pty.resize(7, 7)
    assert listener.heard() == b"\n"


def test_stop_and_go_loses_nothing(pty: Pseudo, listener: Listener) -> None:
    for columns, told in ((1, b"\n"), (1, b""), (2, b"\n")):
        listener.process.send_signal(signal.SIGSTOP)
        os.waitpid(listener.process.pid, os.WUNTRACED)
        pty.resize(columns, 1)
        listener.process.send_signal(signal.SIGCONT)
        assert listener.heard() == told


def test_every_other_descriptor_is_closed(pty: Pseudo) -> None:
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)
    with Listener(pty.slave) as listener:
        listener.wait_ready()
        fds = Path(f"/proc/{listener.process.pid}/fd")
        kinds = sorted(fd.readlink().name.partition(":")[0] for fd in fds.iterdir())
        # stderr, ours, and the two ends of its own
        assert kinds == ["pipe"] * 4
        session = Path(f"/proc/{listener.process.pid}/stat").read_text(encoding="ascii")
        assert int(session.rpartition(")")[2].split()[3]) == listener.process.pid
    os.close(extra)


def test_master_hears_that_nobody_else_is_there(pty: Pseudo, listener: Listener) -> None:
    pty.leave()
    waiter = select.poll()
    waiter.register(pty.master, 0)
    assert waiter.poll(0) == [(pty.master, select.POLLHUP)]
    pty.resize(7, 7)
    assert listener.heard() == b"\n", "with nobody there"
    again = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
    pty.resize(8, 8)
    assert listener.heard() == b"\n", "with somebody there again"
    os.close(again)


def test_terminal_that_is_its_own_already_will_do(pty: Pseudo) -> None:
    def own() -> None:
        os.setsid()
        fcntl.ioctl(pty.slave, termios.TIOCSCTTY, 0)

    with Listener(pty.slave, preexec_fn=own) as listener:
        listener.wait_ready()
        pty.resize(7, 7)
        assert listener.heard() == b"\n"
        listener.stop_reading()
        assert listener.wait_exit() == 0


def test_binding_that_is_none_is_told_and_done_without(pty: Pseudo, tmp_path: Path) -> None:
    with Listener(pty.slave, str(tmp_path / "seccomp")) as listener:
        listener.wait_ready()
        pty.resize(7, 7)
        assert listener.heard() == b"\n"
        listener.stop_reading()
        _, said = listener.process.communicate(timeout=PATIENCE)
        assert said.count("\n") == 1
        assert "without a seccomp filter: No module named" in said


TRIES: Final = """
import errno, fcntl, json, mmap, os, select, signal, socket, sys, termios
from agent.terminal import sigwinch

folder, name = os.path.split(sys.argv[1])
sys.path.append(folder)
binding = __import__(name)
tty, pipe, other = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
null, executable = os.open("/dev/null", os.O_RDWR), mmap.PROT_READ | mmap.PROT_EXEC
file = os.open(sys.executable, os.O_RDONLY)
waiter = select.poll()
waiter.register(pipe, 0)
tries = {
    "open for writing": lambda: os.open("/dev/null", os.O_WRONLY),
    "create": lambda: os.open("/tmp/of-a-listener", os.O_CREAT | os.O_RDONLY),
    "open for reading": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list": lambda: os.listdir("/"),
    "socket": lambda: socket.socket(socket.AF_UNIX),
    "pipe": os.pipe,
    "dup": lambda: os.dup(null),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "kill another": lambda: os.kill(other, signal.SIGTERM),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "setsid": os.setsid,
    "setuid": lambda: os.setuid(0),
    "chdir": lambda: os.chdir("/"),
    "type": lambda: fcntl.ioctl(tty, termios.TIOCSTI, b"x"),
    "take a terminal": lambda: fcntl.ioctl(tty, termios.TIOCSCTTY, 0),
    "resize": lambda: fcntl.ioctl(tty, termios.TIOCSWINSZ, bytes(8)),
    "code of its own": lambda: mmap.mmap(-1, 4096, prot=executable),
    "some memory": lambda: bytearray(100_000).clear(),
    "much memory": lambda: bytearray(10_000_000).clear(),
    "a file's memory": lambda: mmap.mmap(file, 1, prot=mmap.PROT_READ),
    "set a limit": lambda: os.nice(1),
    "write": lambda: os.write(null, b"x"),
    "read": lambda: os.read(null, 1),
    "poll": lambda: waiter.poll(0),
    "handle": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    "give a terminal up": lambda: fcntl.ioctl(null, termios.TIOCNOTTY),
}
found = dict.fromkeys(tries, 0)
sigwinch.confine(binding)
for name in found:
    try:
        tries[name]()
    except OSError as error:
        found[name] = error.errno
os.write(pipe, json.dumps(found).encode())
os._exit(0)
"""
FREE: Final = {
    "some memory": 0, "much memory": 0, "write": 0, "read": 0, "poll": 0, "handle": 0,
    "give a terminal up": errno.ENOTTY,
}  # fmt: skip


@needs_binding
@pytest.mark.parametrize("binding", BINDINGS)
def test_nothing_else_may_be_done(pty: Pseudo, binding: str) -> None:
    pipe, its = os.pipe()
    other = subprocess.Popen(["sleep", "60"])
    try:
        subprocess.run(
            [sys.executable, "-c", TRIES, binding, str(pty.slave), str(its), str(other.pid)],
            pass_fds=(pty.slave, its),
            cwd=ROOT,
            check=True,
            timeout=PATIENCE,
        )
        assert other.poll() is None
    finally:
        other.kill()
        end_process(other)
    os.close(its)
    with open(pipe, "rb") as answer:
        found = json.loads(answer.read())
    assert len(found) > len(FREE)
    assert found == dict.fromkeys(found, errno.EPERM) | FREE
