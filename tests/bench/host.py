"""The host channel: what a call costs that goes to a user's agent, beside the QEMU guest agent's.

The same guest-ping is asked of three, slice by slice in turn: of a user's agent (socket, daemon,
agent and back), of the daemon itself, and of Debian's qemu-ga.  All listen at Unix sockets, and the
client is the same; in one slice each question waits for the answer to the one before, in the next
WINDOW of them are on their way.  The agent is this user's own, so root's where root measures.
"""

import contextlib
import dataclasses
import os
import socket
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from tests.bench.plan import Plan
from tests.bench.processes import BenchError
from tests.bench.seat import QuietDaemon
from tests.bench.usage import Memory, cpu_ns, memory, wakeups
from tests.fixtures.bus import PrivateBus
from tests.fixtures.child import Child
from tests.fixtures.daemon import Login1Process
from tests.fixtures.qemu_ga import QemuGuestAgent

WINDOW: Final = 32  # on their way at once; an agent takes 64
SETTLE: Final = 2.0  # seconds until a start has left no trace
PATIENCE: Final = 10.0  # seconds for an answer
ANSWER: Final = b'{"return": {}'


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One slice."""

    seconds: float
    cpu_ns: int  # of all processes behind the socket
    calls: int
    latencies_ns: list[int]  # of each; of none while many are on their way


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """What all slices of one peer say: medians, but for the 99th percentile of all calls."""

    per_second: float
    median_us: float
    p99_us: float
    cpu_us: float  # a call, one after the other
    pipelined_per_second: float
    pipelined_cpu_us: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ratios:
    """A peer's numbers to qemu-ga's of the same rounds, medians; less is better in each."""

    latency: float
    cpu: float
    pipelined_time: float
    pipelined_cpu: float


@dataclasses.dataclass(frozen=True, slots=True)
class HostResult:
    """All that was measured; memory and wake-ups are of a user's agent that nobody asks."""

    agent: Calls  # through daemon and agent
    daemon: Calls  # its own
    qemu_ga: Calls
    agent_ratios: Ratios
    daemon_ratios: Ratios
    rest_seconds: float
    idle_agent: int  # wake-ups
    idle_daemon: int
    held: Memory


def run_host(plan: Plan, directory: Path) -> HostResult:
    """Everything, one after the other, on one daemon with one user's agent."""
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(PrivateBus())
        stack.enter_context(Login1Process(bus))
        daemon = stack.enter_context(QuietDaemon(bus, directory / "no-port", plan))
        daemon.wait_line("on the bus as")
        agent = stack.enter_context(user_agent(plan, daemon.agent_socket, directory))
        daemon.wait_line("the agent of .* has connected")
        qemu_ga = stack.enter_context(QemuGuestAgent(directory))
        idle_agent, idle_daemon = idle([agent.pid, daemon.pid], plan.rest_seconds)
        # It serves one client at a time, so one asks for both.
        ours = stack.enter_context(_Client(daemon.host_channel))
        theirs = stack.enter_context(_Client(qemu_ga.socket))
        user = ours.ask(b'{"execute": "virtagent-list-users"}').partition(b'"user": ')[2]
        name = user.partition(b",")[0]
        member = b', "x-virtagent-username": ' + name
        peers = (
            _Peer(ours, member, (daemon.pid, agent.pid)),
            _Peer(ours, b"", (daemon.pid,)),
            _Peer(theirs, b"", (qemu_ga.pid,)),
        )
        turns = _turns(peers, plan)
        held = memory(agent.pid)
    by_agent, by_daemon, by_qemu = turns
    return HostResult(
        agent=_calls(by_agent),
        daemon=_calls(by_daemon),
        qemu_ga=_calls(by_qemu),
        agent_ratios=_ratios(by_agent, by_qemu),
        daemon_ratios=_ratios(by_daemon, by_qemu),
        rest_seconds=plan.rest_seconds,
        idle_agent=idle_agent,
        idle_daemon=idle_daemon,
        held=held,
    )


class _Client:
    """A connection to what listens at PATH."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, line: bytes) -> bytes:
        """Send a request, and return the line that answers it."""
        self._socket.sendall(line + b"\n")
        answer = self._socket.recv(1 << 16)
        while not answer.endswith(b"\n"):
            answer += self._more()
        return answer

    def ping(self, line: bytes, seconds: float) -> list[int]:
        """Ask one after the other; return how long each took, in nanoseconds."""
        latencies = []
        now = time.perf_counter_ns()
        end = now + int(seconds * 1e9)
        while now < end:
            answer = self.ask(line)
            before, now = now, time.perf_counter_ns()
            latencies.append(now - before)
            if not answer.startswith(ANSWER):
                raise BenchError(f"a guest-ping was answered with {answer!r}")
        return latencies

    def stream(self, line: bytes, seconds: float) -> int:
        """Keep WINDOW of them on their way; return how many were answered."""
        asked, answers = WINDOW, bytearray()
        self._socket.sendall((line + b"\n") * WINDOW)
        end = time.perf_counter() + seconds
        answered = 0
        while answered < asked:
            data = self._more()
            answers += data
            count = data.count(b"\n")
            answered += count
            if time.perf_counter() < end:
                self._socket.sendall((line + b"\n") * count)
                asked += count
        if answers.count(ANSWER) != asked:
            raise BenchError(f"of {asked} guest-pings some failed: {bytes(answers[-200:])!r}")
        return asked

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise BenchError("a peer of the host channel's client has hung up")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class _Peer:
    """Who is asked: by MEMBER of the request; PIDS work for the answer."""

    client: _Client
    member: bytes
    pids: tuple[int, ...]

    def turn(self, seconds: float, *, is_pipelined: bool) -> Turn:
        """Ask for so long. With ids: then nobody has to keep an order."""
        line = b'{"execute": "guest-ping", "id": 1' + self.member + b"}"
        before, begun = self._cpu_ns(), time.perf_counter()
        latencies = [] if is_pipelined else self.client.ping(line, seconds)
        calls = self.client.stream(line, seconds) if is_pipelined else len(latencies)
        lasted = time.perf_counter() - begun
        return Turn(lasted, self._cpu_ns() - before, calls, latencies)

    def _cpu_ns(self) -> int:
        return sum(map(cpu_ns, self.pids))


_Turns = list[tuple[Turn, Turn]]
"""One peer's rounds: one call after the other, and many on their way."""


def _turns(peers: Sequence[_Peer], plan: Plan) -> list[_Turns]:
    """Return each peer's: all in turn, one after the other, then all in turn at once."""
    found: list[_Turns] = [[] for _ in peers]
    for _ in range(1 + plan.call_rounds):
        each = [[peer.turn(plan.call_seconds, is_pipelined=is_pipelined) for peer in peers]
                for is_pipelined in (False, True)]  # fmt: skip
        for turns, one, many in zip(found, *each, strict=True):
            turns.append((one, many))
    return [turns[1:] for turns in found]  # in the first round nothing was warm


def _calls(turns: _Turns) -> Calls:
    latencies = sorted(each for one, _ in turns for each in one.latencies_ns)
    return Calls(
        per_second=statistics.median(one.calls / one.seconds for one, _ in turns),
        median_us=statistics.median(latencies) / 1e3,
        p99_us=latencies[len(latencies) * 99 // 100] / 1e3,
        cpu_us=statistics.median(one.cpu_ns / one.calls for one, _ in turns) / 1e3,
        pipelined_per_second=statistics.median(many.calls / many.seconds for _, many in turns),
        pipelined_cpu_us=statistics.median(many.cpu_ns / many.calls for _, many in turns) / 1e3,
    )


def _ratios(ours: _Turns, theirs: _Turns) -> Ratios:
    """Compare round by round, for what disturbs a machine lasts longer than a round."""
    rounds = list(zip(ours, theirs, strict=True))
    return Ratios(
        latency=statistics.median(
            statistics.median(one.latencies_ns) / statistics.median(other.latencies_ns)
            for (one, _), (other, _) in rounds
        ),
        cpu=statistics.median(
            (one.cpu_ns / one.calls) / (other.cpu_ns / other.calls)
            for (one, _), (other, _) in rounds
        ),
        pipelined_time=statistics.median(
            (one.seconds / one.calls) / (other.seconds / other.calls)
            for (_, one), (_, other) in rounds
        ),
        pipelined_cpu=statistics.median(
            (one.cpu_ns / one.calls) / (other.cpu_ns / other.calls)
            for (_, one), (_, other) in rounds
        ),
    )


@contextlib.contextmanager
def user_agent(
    plan: Plan, path: Path, directory: Path, extra: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Child]:
    """Start a user's agent as a login does, with a runtime folder of its own."""
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(runtime), **extra}
    with Child([*plan.agent, "user", "--socket", path], env=env) as agent:
        agent.wait_line("connected to")
        yield agent


def idle(pids: Sequence[int], seconds: float) -> list[int]:
    """Return the wake-ups of each while nobody asks anything."""
    time.sleep(SETTLE)
    before = [wakeups(pid) for pid in pids]
    time.sleep(seconds)
    return [wakeups(pid) - was for pid, was in zip(pids, before, strict=True)]
