"""A terminal far away: ``spice-sessionctl exec --pty`` beside ``ssh -tt`` to this machine.

Both are started in turn, round by round, on a terminal of ours, as a person starts them: to the
prompt of a shell, and then key by key, of which each is echoed by the terminal at the other end.
Lines are written there as fast as they go, and read from a pipe here.  CPU is that of all between
these two ends: the caller, and daemon and user's agent, or sshd.
"""

import contextlib
import dataclasses
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.commands import sshd
from tests.bench.host import user_agent
from tests.bench.plan import Plan
from tests.bench.processes import ROOT, BenchError
from tests.bench.seat import QuietDaemon
from tests.bench.usage import cpu_ns, family
from tests.fixtures.bus import PrivateBus
from tests.fixtures.daemon import Login1Process

KEYS: Final = 200  # in each round; a line has room for 4095
PATIENCE: Final = 30.0  # seconds without a byte
LINE: Final = "The quick brown fox jumps over the lazy dog, and the lazy dog does not mind it."
SHELL: Final = "exec sh -i"
PROMPT: Final = rb"[$#] $"


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """What one way took in one round, in seconds; ``lines`` to read all that was written."""

    starts: Sequence[float]
    keys: Sequence[float]
    lines: float
    cpu: float  # for these lines

    @property
    def start(self) -> float:
        """The median."""
        return statistics.median(self.starts)

    @property
    def key(self) -> float:
        """The median."""
        return statistics.median(self.keys)


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """What all rounds say of one way: medians, but for the 99th percentile of all keys."""

    start_ms: float
    key_us: float
    key_p99_us: float
    mb_s: float
    cpu_ms: float  # for a megabyte

    @classmethod
    def of(cls, turns: Sequence[Turn], megabytes: float) -> "Way":
        """Sum up the rounds, each of so many megabytes."""
        keys = sorted(key for turn in turns for key in turn.keys)
        return cls(
            start_ms=1e3 * statistics.median(start for turn in turns for start in turn.starts),
            key_us=1e6 * statistics.median(keys),
            key_p99_us=1e6 * keys[len(keys) * 99 // 100],
            mb_s=statistics.median(megabytes / turn.lines for turn in turns),
            cpu_ms=1e3 * statistics.median(turn.cpu / megabytes for turn in turns),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ratios:
    """A way's numbers to another's of the same rounds, medians; of ``lines`` more is better."""

    start: float
    key: float
    lines: float
    cpu: float


@dataclasses.dataclass(frozen=True, slots=True)
class PtysResult:
    """All that was measured, by the names of the ways: exec, ssh."""

    ways: dict[str, Way]
    turns: dict[str, list[Turn]]

    def ratios(self, way: str) -> Ratios:
        """Compare a way with ssh, round by round."""
        rounds = list(zip(self.turns[way], self.turns["ssh"], strict=True))
        return Ratios(
            start=statistics.median(ours.start / theirs.start for ours, theirs in rounds),
            key=statistics.median(ours.key / theirs.key for ours, theirs in rounds),
            lines=statistics.median(theirs.lines / ours.lines for ours, theirs in rounds),
            cpu=statistics.median(ours.cpu / theirs.cpu for ours, theirs in rounds),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """How a script is run on a terminal of its own, and who has a part in that.

    ``command`` gives an argv; ``between`` the pids, when that runs as the process of this pid.
    """

    command: Callable[[str], Sequence[str]]
    between: Callable[[int], Sequence[int]]


def run_ptys(plan: Plan, directory: Path) -> PtysResult:
    """Everything, one after the other, on one daemon with one user's agent."""
    directory.chmod(0o711)
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(PrivateBus())
        stack.enter_context(Login1Process(bus))
        daemon = stack.enter_context(QuietDaemon(bus, directory / "no-port", plan))
        daemon.wait_line("on the bus as")
        agent = stack.enter_context(user_agent(plan, daemon.agent_socket, directory))
        daemon.wait_line("the agent of .* has connected")
        ours = [sys.executable, "-m", "sessiond.ctl", f"--bus={bus.address}", "exec", "--pty"]
        theirs = stack.enter_context(sshd(directory / "ssh"))
        means = {
            "exec": Means(
                lambda script: [*ours, "--", "sh", "-c", script],
                lambda caller: [caller, daemon.pid, agent.pid],
            ),
            "ssh": Means(lambda script: [*theirs, "-tt", script], lambda _: _ssh_family()),
        }
        found: dict[str, list[Turn]] = {name: [] for name in means}
        # The first round, when nothing is warm, is left out.
        for _ in range(1 + plan.rounds):
            for name, one in means.items():
                found[name].append(turn(one, plan))
    turns = {name: each[1:] for name, each in found.items()}
    ways = {name: Way.of(each, plan.pty_mb) for name, each in turns.items()}
    return PtysResult(ways, turns)


def turn(means: Means, plan: Plan) -> Turn:
    """Measure one way, once. Raises BenchError."""
    starts = []
    keys: list[float] = []
    for _ in range(plan.command_starts):
        begun = time.perf_counter()
        with _typing(means.command(SHELL)) as screen:
            screen.wait(PROMPT)
            starts.append(time.perf_counter() - begun)
            if not keys:
                keys += _keys(screen)
            screen.type(b"exit\r")
    return Turn(starts, keys, *_lines(means, round(plan.pty_mb * 1e6)))


def _keys(screen: "_Screen") -> Iterator[float]:
    """Yield the seconds of each key, from being typed to being seen."""
    screen.type(b"cat\r")
    screen.wait(rb"cat\r\n")
    for _ in range(KEYS):
        begun = time.perf_counter()
        screen.type(b"x")
        screen.wait(rb"^x$")
        yield time.perf_counter() - begun
    screen.type(b"\r\x04")
    screen.wait(PROMPT)


def _lines(means: Means, size: int) -> tuple[float, float]:
    """Return the seconds in which so many bytes have come, and those of CPU time."""
    count = size // (len(LINE) + 2)  # as a terminal ends them
    script = f"echo; yes '{LINE}' | head -n {count}; echo end; read _"
    # In a session of its own, as the others have it: the scheduler shares time among these.
    with subprocess.Popen(
        ["setsid", *means.command(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        output = process.stdout.fileno()
        try:
            _expect(output, b"\r\n")
            pids = means.between(process.pid)
            before = sum(map(cpu_ns, pids))
            begun = time.perf_counter()
            _pass_over(output, count * (len(LINE) + 2))
            lasted = time.perf_counter() - begun
            used = sum(map(cpu_ns, pids)) - before
            _expect(output, b"end\r\n")
            process.stdin.write(b"\n")
            _expect(output, b"\r\n")  # its echo
            while os.read(output, 1 << 16):
                pass
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BenchError(f"exit status {process.returncode}")
    return lasted, used / 1e9


def _expect(fd: int, wanted: bytes) -> None:
    """Read exactly that. Raises BenchError."""
    came = b""
    while len(came) < len(wanted):
        data = os.read(fd, len(wanted) - len(came))
        came += data
        if not data or not wanted.startswith(came):
            raise BenchError(f"not {wanted!r}, but {came!r}")


def _pass_over(fd: int, count: int) -> None:
    """Read so many bytes. Raises BenchError."""
    buffer = memoryview(bytearray(1 << 18))
    while count > 0:
        size = os.readv(fd, [buffer[:count]])
        if not size:
            raise BenchError(f"{count} bytes are missing")
        count -= size


def _ssh_family() -> list[int]:
    """Return the processes of ours that are ssh's client and server."""
    return [
        pid
        for pid in family(os.getpid())
        if Path(f"/proc/{pid}/comm").read_text().startswith("ssh")
    ]


class _Screen:
    """A terminal of ours, and what has come there since something was waited for."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self, pattern: bytes) -> None:
        while not re.search(pattern, self._shown):
            self._shown += self.read()
        self._shown = b""

    def read(self) -> bytes:
        if not select.select([self._master], [], [], PATIENCE)[0]:
            raise BenchError(f"no more than {self._shown!r}")
        try:
            return os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other end any more
            raise BenchError(f"it has ended: {self._shown!r}") from None


@contextlib.contextmanager
def _typing(argv: Sequence[str]) -> Iterator[_Screen]:
    """Run a program on a terminal, to its end, which has to be a good one."""
    master, slave = os.openpty()
    with open(master, "rb", buffering=0):
        process = subprocess.Popen(
            ["setsid", "--ctty", *argv],  # all of it one process
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
        )  # fmt: skip
        os.close(slave)
        screen = _Screen(master)
        try:
            yield screen
            with contextlib.suppress(BenchError):
                while True:
                    screen.read()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait(PATIENCE):
            raise BenchError(f"{' '.join(argv)}: exit status {process.returncode}")
