"""The processes of a run: an X server, a load on it, the host's side of a port.

Each is a context manager that ends what it started. What is measured about them belongs to
`tests.bench.stage`.
"""

import contextlib
import json
import mmap
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
BUILD: Final = HERE / "build"
RECORD_FRAMES: Final = 4096  # load.c
LINE_LIMIT: Final = 16 << 20  # a tally of some thousand frames is far below it
# Wherever it is started, and whatever else this Python has installed: the tree's own agent.
AGENT: Final = ("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent")


class BenchError(Exception):
    """Something did not run; the text says what."""


def build() -> None:
    """Compile the C programs of the benchmark. Raises BenchError."""
    try:
        subprocess.run(["make", "-s", "-C", HERE], check=True)
    except subprocess.CalledProcessError as error:
        raise BenchError("the programs of the benchmark do not compile") from error


class Child:
    """A process that talks in lines; leaving the context ends it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        keep_fd: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.name = Path(argv[0]).name
        self._log = log
        setpriv = shutil.which("setpriv")  # it dies with us, however we end
        prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*prefix, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                pass_fds=() if keep_fd is None else (keep_fd,),
            )
        self.pid = self._process.pid
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def send_line(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def wait_line(self, timeout: float = 20) -> str:
        """Read the next line of its standard output; raises BenchError when none comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise BenchError(f"{self.name} said nothing for {timeout:g} s{self.said()}")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk or len(self._pending) > LINE_LIMIT:
                    raise BenchError(f"{self.name} ended or babbles{self.said()}")
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def check_alive(self) -> None:
        """Raise BenchError when it has ended."""
        status = self._process.poll()
        if status is not None:
            raise BenchError(f"{self.name} ended with {status}{self.said()}")

    def said(self) -> str:
        """Quote the end of its standard error, to follow a message."""
        tail = self._log.read_text(errors="replace").strip().splitlines()[-12:]
        return "; it said:\n  " + "\n  ".join(tail) if tail else ""


class Peer(Child):
    """The host's side of the port, `tests.bench.peer`: a Unix socket, or a pty.

    With SHOWS_ALL it names all codecs, not MJPEG alone.
    """

    def __init__(
        self, port: Path, *, log: Path, is_pty: bool = False, shows_all: bool = False
    ) -> None:
        argv = [sys.executable, "-m", "tests.bench.peer", str(port)]
        argv += ["--pty"] * is_pty + ["--all-codecs"] * shows_all
        super().__init__(argv, log=log)
        self.name = "peer"
        self.wait_line()

    def ask(self, command: str, timeout: float = 20) -> dict[str, Any]:
        """Send a command, return its answer."""
        self.send_line(command)
        answer: dict[str, Any] = json.loads(self.wait_line(timeout))
        if "error" in answer:
            raise BenchError(f"peer: {answer['error']}")
        return answer


class Load(Child):
    """The load program, with its count of frames; SHARE (0 to 1) is for the mode 'part'."""

    def __init__(
        self, mode: str, display: str, fps: float, directory: Path, *, share: float = 1.0
    ) -> None:
        record = directory / f"record-{mode}-{fps:g}"
        record.unlink(missing_ok=True)
        argv = [str(BUILD / "load"), mode, "--display", display, "--fps", str(fps)]
        argv += ["--share", str(share)]
        super().__init__([*argv, "--record", str(record)], log=directory / "load.log")
        self.wait_line(60)
        with record.open("rb") as file:
            self._record = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def drawn(self) -> int:
        """How many frames it has drawn."""
        (count,) = struct.unpack_from("<Q", self._record)
        return int(count)

    def times(self, first: int, last: int) -> list[tuple[int, int]]:
        """When the frames from `first` to `last` were asked for and drawn, in nanoseconds."""
        wanted = range(max(first, last - RECORD_FRAMES + 1), last + 1)
        offsets = (8 + 16 * (k % RECORD_FRAMES) for k in wanted)
        return [struct.unpack_from("<QQ", self._record, offset) for offset in offsets]


@contextlib.contextmanager
def x_server(width: int, height: int, log: Path) -> Iterator[tuple[Child, str]]:
    """Start a private Xvfb of that size; gives it and its display."""
    read_fd, write_fd = os.pipe()
    argv = ["Xvfb", "-displayfd", str(write_fd), "-screen", "0", f"{width}x{height}x24"]
    with (
        os.fdopen(read_fd) as said,
        Child([*argv, "-nolisten", "tcp", "-noreset"], log=log, keep_fd=write_fd) as server,
    ):
        os.close(write_fd)
        number = said.readline().strip()
        if not number:
            raise BenchError("Xvfb did not start")
        yield server, f":{number}"
