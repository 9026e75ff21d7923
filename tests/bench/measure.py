"""What a process costs, read from outside, and the processes of a run.

CPU time comes from the kernel's clock of the whole process, which counts in nanoseconds and keeps
what ended threads have used.  A run is a private X server, a load on it, and either the floor
program or an agent with its peer; each is a context manager that ends what it started.  Which runs
there are, and how they are shown, belongs to `tests.bench.__main__`.
"""

import contextlib
import dataclasses
import itertools
import json
import mmap
import os
import selectors
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from PIL import Image, ImageChops, ImageStat
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = HERE / "build"
RECORD_FRAMES = 4096  # load.c
QUALITY = 80
LINE_LIMIT = 16 << 20  # a tally of some thousand frames is far below it
CPUCLOCK_SCHED = 2  # include/linux/posix-timers_types.h: the clock of user + system time


class BenchError(Exception):
    """Something did not run; the text says what."""


# ---------------------------------------------------------------- a process, from outside


def cpu_ns(pid: int) -> int:
    """User + system time of all threads of `pid`, those that ended too, in nanoseconds."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)


def family(pid: int) -> list[int]:
    """`pid` and all processes below it, as they are now."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in children.read_text().split())
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """CPU time in nanoseconds and voluntary context switches (each a wake-up) so far."""

    cpu_ns: int
    switches: int

    def __sub__(self, other: Self) -> "Usage":
        return Usage(self.cpu_ns - other.cpu_ns, self.switches - other.switches)

    @property
    def cpu_ms(self) -> float:
        """CPU time in milliseconds."""
        return self.cpu_ns / 1e6


def usage(pid: int) -> Usage:
    """Sum up what `pid` and the processes below it have used; an ended one counts nothing."""
    total, switches = 0, 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += cpu_ns(member)
            for task in Path(f"/proc/{member}/task").iterdir():
                switches += status_fields(task)["voluntary_ctxt_switches"]
    return Usage(total, switches)


def status_fields(directory: Path) -> dict[str, int]:
    """Read the numeric fields of a ``status`` file, memory in kB; see proc_pid_status(5)."""
    fields = {}
    for line in (directory / "status").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            fields[name] = int(words[0])
    return fields


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (10^6) resident: the peak of all; anonymous, file and shared memory as of now."""

    peak: float
    anonymous: float
    file: float
    shared: float


def memory(pid: int) -> Memory:
    """Sum up what `pid` and the processes below it hold."""
    names = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
    sums = [0, 0, 0, 0]
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = status_fields(Path(f"/proc/{member}"))
            sums = [value + fields.get(name, 0) for value, name in zip(sums, names, strict=True)]
    return Memory(*(value * 1024 / 1e6 for value in sums))


# ---------------------------------------------------------------- the processes of a run


class Child:
    """A process that talks in lines; leaving the context ends it."""

    def __init__(self, argv: Sequence[str], *, log: Path, keep_fd: int | None = None) -> None:
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
                cwd=ROOT,
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
    """The host's side of the port, `tests.bench.peer`."""

    def __init__(self, socket: Path, *, log: Path) -> None:
        super().__init__([sys.executable, "-m", "tests.bench.peer", str(socket)], log=log)
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
    """The load program, with its count of frames."""

    def __init__(self, mode: str, display: str, fps: float, directory: Path) -> None:
        record = directory / f"record-{mode}-{fps:g}"
        record.unlink(missing_ok=True)
        argv = [str(BUILD / "load"), mode, "--display", display, "--fps", str(fps)]
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


# ---------------------------------------------------------------- slices of a run


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """Some seconds of a load: what was drawn and delivered, and what it cost."""

    seconds: float
    drawn: int
    frames: int
    bytes: int  # of a median frame
    client_ms: float  # CPU of the floor program or the agent, a frame
    server_ms: float  # CPU of the X server, all of it
    wakeups: int

    def server_ms_on_top(self, drawing_ms: float) -> float:
        """X server CPU a frame, less what drawing alone costs (`drawing_ms` a drawn frame)."""
        return (self.server_ms - drawing_ms * self.drawn) / max(1, self.frames)


class Stage:
    """A server with a load on it, on which slices are measured."""

    def __init__(self, server: Child, display: str, load: Load, directory: Path) -> None:
        self.server = server
        self.display = display
        self.load = load
        self.directory = directory

    def alone(self, seconds: float) -> Slice:
        """Measure the load and nobody else."""
        begun, before, drawn = time.monotonic(), usage(self.server.pid), self.load.drawn()
        time.sleep(seconds)
        used, drawn = usage(self.server.pid) - before, self.load.drawn() - drawn
        return Slice(time.monotonic() - begun, drawn, 0, 0, 0.0, used.cpu_ms, 0)

    def floor(self, seconds: float, fps: float) -> tuple[Slice, dict[str, float]]:
        """Run the floor program beside the load: its slice and what it says of itself."""
        argv = [str(BUILD / "floor"), "--display", self.display, "--fps", str(fps)]
        argv += ["--seconds", str(seconds), "--quality", str(QUALITY)]
        with Child(argv, log=self.directory / "floor.log") as floor:
            floor.wait_line()
            before, drawn = usage(self.server.pid), self.load.drawn()
            said: dict[str, float] = json.loads(floor.wait_line(seconds + 20))
            used, drawn = usage(self.server.pid) - before, self.load.drawn() - drawn
        own = said["capture_mean_ms"] + said["encode_mean_ms"]
        frames, size = int(said["frames"]), int(said["bytes"])
        return Slice(said["seconds"], drawn, frames, size, own, used.cpu_ms, 0), said

    def snapshot(self) -> Image.Image:
        """Take what is on the screen."""
        path = self.directory / "screen.ppm"
        argv = [str(BUILD / "floor"), "--display", self.display, "--snapshot", str(path)]
        subprocess.run(argv, check=True, timeout=20)
        with Image.open(path) as picture:
            picture.load()
        return picture


class AgentRun:
    """An agent that streams a stage's screen to a peer."""

    def __init__(self, stage: Stage, agent: Child, peer: Peer) -> None:
        self.agent = agent
        self.peer = peer
        self._stage = stage

    def wait_first(self, timeout: float = 20) -> float:
        """Milliseconds from START to the first frame's last byte."""
        deadline = time.monotonic() + timeout
        self.peer.send_line("first")
        while True:
            try:
                milliseconds = float(json.loads(self.peer.wait_line(0.5))["ms"])
            except BenchError:
                self.agent.check_alive()
                if time.monotonic() > deadline:
                    raise BenchError(f"no frame in {timeout:g} s{self.agent.said()}") from None
                continue
            if milliseconds < 0:
                raise BenchError(f"the agent closed the port{self.agent.said()}")
            return milliseconds

    def measure(self, seconds: float) -> Slice:
        """One slice of its streaming."""
        stage = self._stage
        self.peer.ask("mark")
        begun, drawn = time.monotonic(), stage.load.drawn()
        agent, server = usage(self.agent.pid), usage(stage.server.pid)
        time.sleep(seconds)
        agent, server = usage(self.agent.pid) - agent, usage(stage.server.pid) - server
        drawn, lasted = stage.load.drawn() - drawn, time.monotonic() - begun
        tally = self.peer.ask("mark")
        self.agent.check_alive()
        if tally["closed"]:
            raise BenchError("the agent closed the port")
        if not tally["frames"]:
            raise BenchError(f"no frame in {seconds:g} s of a moving picture{self.agent.said()}")
        size = int(statistics.median(tally["sizes"]))
        each = agent.cpu_ms / tally["frames"]
        return Slice(lasted, drawn, tally["frames"], size, each, server.cpu_ms, agent.switches)

    def ages_ms(self, seconds: float) -> list[tuple[float, float]]:
        """For each frame drawn: ms from its request, and from its being drawn, to the last byte.

        The load must be slow enough that a frame arrives before the next one is drawn.
        """
        self.peer.ask("mark")
        first = self._stage.load.drawn() + 1
        time.sleep(seconds)
        last = self._stage.load.drawn() - 1
        done = self.peer.ask("mark")["done_ns"]
        ages = []
        times = self._stage.load.times(first, last + 1)
        for (asked, drawn), (following, _) in itertools.pairwise(times):
            arrivals = [at for at in done if asked < at < following]
            if arrivals:
                ages.append(((arrivals[-1] - asked) / 1e6, (arrivals[-1] - drawn) / 1e6))
        return ages

    def stopped(self, seconds: float) -> tuple[int, float]:
        """Messages and agent CPU ms in the time after STOP, the load going on."""
        self.peer.ask("stop")
        time.sleep(0.3)  # the frame in hand may still be finished
        self.peer.ask("mark")
        before = usage(self.agent.pid)
        time.sleep(seconds)
        used, tally = usage(self.agent.pid) - before, self.peer.ask("mark")
        return tally["frames"] + sum(tally["other"].values()), used.cpu_ms

    def picture_fault(self, *, is_moving: bool = True) -> str:
        """Let the load rest: does the newest frame show the screen?  Empty when it does.

        When nothing moves the peer must have kept the newest frame since the start.
        """
        if is_moving:
            self.peer.ask("keep")
            time.sleep(0.5)
        self._stage.load.signal(signal.SIGSTOP)
        try:
            time.sleep(0.5)
            path = self._stage.directory / "newest.jpeg"
            if not self.peer.ask(f"kept {path}")["bytes"]:
                return "no frame"
            return fault_of(path, self._stage.snapshot(), self._stage.directory)
        finally:
            self._stage.load.signal(signal.SIGCONT)


def fault_of(path: Path, screen: Image.Image, directory: Path) -> str:
    """How the JPEG at `path` differs from one of `screen` at the same quality; empty if not."""
    reference_path = directory / "reference.jpeg"
    screen.save(reference_path, quality=QUALITY, subsampling="4:2:0")
    with JpegImageFile(path) as sent, JpegImageFile(reference_path) as reference:
        if sent.size != reference.size:
            return f"size {sent.size}"
        if sent.quantization != reference.quantization:
            return f"not quality {QUALITY}"
        if get_sampling(sent) != get_sampling(reference):
            return "not 4:2:0"
        off, due = (distance(picture.convert("RGB"), screen) for picture in (sent, reference))
    return f"off by {off:.2f} where encoding costs {due:.2f}" if off > due * 1.05 + 0.02 else ""


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return statistics.mean(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@contextlib.contextmanager
def agent_run(
    stage: Stage, command: Sequence[str], fps: float, *, keep: bool = False
) -> Iterator[AgentRun]:
    """Start a peer and an agent on `stage`; with `keep` the peer holds the newest frame."""
    socket = stage.directory / "port"
    socket.unlink(missing_ok=True)
    log = stage.directory / "agent.log"
    log.unlink(missing_ok=True)
    argv = [*command, "stream", "--port", str(socket), "--display", stage.display]
    argv += ["--codec-option", f"framerate={fps:g}"]
    with Peer(socket, log=stage.directory / "peer.log") as peer:
        if keep:
            peer.ask("keep")
        with Child(argv, log=log) as agent:
            yield AgentRun(stage, agent, peer)
