"""Commands in a user's session: the speed of stdin and stdout, the start, and rest.

The same three scripts are run in four ways, in turn, round by round: as a child with two pipes, by
``spice-sessionctl exec``, by qrexec (daemon, user's agent, a data channel over a Unix socket), and
by ssh to this machine, whose sshd is ours, on a port of its own.  Each script writes a byte when it
has begun, and a fifth of what follows is not counted, for those that have started it are still busy
then; nor is its end.  A start is all that it takes to that byte, the caller's own program included;
qrexec's caller is this program, which runs already.
"""

import contextlib
import dataclasses
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from sessiond.wire.exec import HEADER_SIZE, Exec, Hello, Place, Terminated, pack
from tests.bench.host import idle, user_agent
from tests.bench.plan import Plan
from tests.bench.processes import ROOT, BenchError
from tests.bench.seat import QuietDaemon
from tests.bench.usage import family
from tests.fixtures.bus import PrivateBus
from tests.fixtures.child import Child
from tests.fixtures.daemon import Login1Process
from tests.fixtures.qrexec import AGENT, DOMAIN, Host

PIECE: Final = 65536  # bytes of one write; qrexec's longest message
PATIENCE: Final = 30.0  # seconds without a byte
SINK: Final = "echo; cat > /dev/null; echo"
START: Final = "echo"
WAIT: Final = "echo; cat"
_STDIN: Final = struct.pack("<II", 0x190, PIECE) + bytes(PIECE)
_STDIN_END: Final = struct.pack("<II", 0x190, 0)
_FIRST: Final = len(pack(Hello())) + HEADER_SIZE + 1  # bytes of qrexec: HELLO, and a line's end


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """What one way took in one round, in seconds; ``starts`` has each start."""

    stdin: float
    stdout: float
    starts: list[float]

    @property
    def start(self) -> float:
        """The median."""
        return statistics.median(self.starts)


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """What all rounds say of one way; medians."""

    stdin_mb_s: float
    stdout_mb_s: float
    start_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ratios:
    """A way's speeds and time to another's of the same rounds, medians; speed: more is better."""

    stdin: float
    stdout: float
    start: float


@dataclasses.dataclass(frozen=True, slots=True)
class CommandsResult:
    """All that was measured, by the names of the ways: pipe, exec, qrexec, ssh."""

    ways: dict[str, Way]
    turns: dict[str, list[Turn]]
    rest_seconds: float
    idle: dict[str, int]  # wake-ups of each while a command by exec and one by qrexec wait

    def ratios(self, way: str, other: str) -> Ratios:
        """Compare round by round, for what disturbs a machine lasts longer than a round."""
        rounds = list(zip(self.turns[way], self.turns[other], strict=True))
        return Ratios(
            stdin=statistics.median(theirs.stdin / ours.stdin for ours, theirs in rounds),
            stdout=statistics.median(theirs.stdout / ours.stdout for ours, theirs in rounds),
            start=statistics.median(ours.start / theirs.start for ours, theirs in rounds),
        )


class Command(Protocol):
    """One that runs. A context manager, left when it has ended."""

    def wait_begun(self) -> None:
        """Wait for the first byte of its output."""

    def write(self, count: int) -> None:
        """Write so many pieces."""

    def end(self) -> None:
        """Write the end."""

    def read(self, count: int) -> None:
        """Read so many bytes of its output."""

    def finish(self) -> None:
        """Read to the end of its output."""


Begin = Callable[[str], contextlib.AbstractContextManager[Command]]
"""Runs a script in one of the ways."""


def run_commands(plan: Plan, directory: Path) -> CommandsResult:
    """Everything, one after the other, on one daemon with one user's agent."""
    pieces = plan.command_mb * 1_000_000 // PIECE
    directory.chmod(0o711)
    services, vchan = directory / "rpc", directory / "vchan"
    for folder in (services, vchan):
        folder.mkdir()
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(PrivateBus())
        stack.enter_context(Login1Process(bus))
        more = (f"qrexec.domain={AGENT}", f'qrexec.socket_dir="{vchan}"', 'qrexec.calls=""')
        daemon = stack.enter_context(QuietDaemon(bus, directory / "no-port", plan, *more))
        daemon.wait_line("on the bus as")
        env = {"QREXEC_SERVICE_PATH": str(services)}
        agent = stack.enter_context(user_agent(plan, daemon.agent_socket, directory, env))
        daemon.wait_line("the agent of .* has connected")
        host = stack.enter_context(Host(vchan)).connect()
        exec_argv = [sys.executable, "-m", "sessiond.ctl", f"--bus={bus.address}", "exec", "--"]
        ssh_argv = stack.enter_context(sshd(directory / "ssh"))
        qrexec = _Qrexec(host, services, _me())
        ways: dict[str, Begin] = {
            # In a session of its own, as the others have it: the scheduler shares time among these.
            "pipe": lambda script: _piped(["setsid", "sh", "-c", script]),
            "exec": lambda script: _piped([*exec_argv, "sh", "-c", script]),
            "qrexec": qrexec.begin,
            "ssh": lambda script: _piped([*ssh_argv, script]),
        }
        waiting = _rest(ways, {"daemon": daemon.pid, "user's agent": agent.pid}, plan.rest_seconds)
        turns = _turns(ways, pieces, plan)
    return CommandsResult(
        ways={name: _way(each, pieces * PIECE / 1e6) for name, each in turns.items()},
        turns=turns,
        rest_seconds=plan.rest_seconds,
        idle=waiting,
    )


def _turns(ways: Mapping[str, Begin], pieces: int, plan: Plan) -> dict[str, list[Turn]]:
    """Return each way's rounds, the first of which, when nothing was warm, is left out."""
    found: dict[str, list[Turn]] = {name: [] for name in ways}
    for _ in range(1 + plan.call_rounds):
        stdin = {name: _stdin(begin, pieces) for name, begin in ways.items()}
        stdout = {name: _stdout(begin, pieces) for name, begin in ways.items()}
        starts: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(plan.command_starts):
            for name, begin in ways.items():
                starts[name].append(_start(begin))
        for name, turns in found.items():
            turns.append(Turn(stdin[name], stdout[name], starts[name]))
    return {name: turns[1:] for name, turns in found.items()}


def _way(turns: Sequence[Turn], megabytes: float) -> Way:
    return Way(
        stdin_mb_s=statistics.median(megabytes / turn.stdin for turn in turns),
        stdout_mb_s=statistics.median(megabytes / turn.stdout for turn in turns),
        start_ms=1e3 * statistics.median(start for turn in turns for start in turn.starts),
    )


def _stdin(begin: Begin, pieces: int) -> float:
    """Return the seconds in which a command has read that much."""
    with begin(SINK) as command:
        command.wait_begun()
        command.write(pieces // 4)
        begun = time.perf_counter()
        command.write(pieces)
        command.end()
        command.read(1)
        lasted = time.perf_counter() - begun
        command.finish()
    return lasted


def _stdout(begin: Begin, pieces: int) -> float:
    """Return the seconds in which that much of a command's output has come."""
    whole = pieces + pieces // 4
    script = f"echo; dd if=/dev/zero bs={PIECE} count={whole} status=none"
    with begin(script) as command:
        command.wait_begun()
        command.read(pieces // 4 * PIECE)
        begun = time.perf_counter()
        command.read(pieces * PIECE)
        lasted = time.perf_counter() - begun
        command.end()
        command.finish()
    return lasted


def _start(begin: Begin) -> float:
    """Return the seconds to the first byte."""
    begun = time.perf_counter()
    with begin(START) as command:
        command.wait_begun()
        lasted = time.perf_counter() - begun
        command.end()
        command.finish()
    return lasted


def _rest(ways: Mapping[str, Begin], pids: Mapping[str, int], seconds: float) -> dict[str, int]:
    """Return the wake-ups of PIDS and of all else that has a part in commands that wait."""
    with ways["exec"](WAIT) as one, ways["qrexec"](WAIT) as other:
        for command in (one, other):
            command.wait_begun()
        everybody = set(family(os.getpid())) - {os.getpid(), *pids.values()}
        woken = idle([*pids.values(), *everybody], seconds)
        for command in (one, other):
            command.end()
            command.finish()
    return {**dict(zip(pids, woken, strict=False)), "commands": sum(woken[len(pids) :])}


class _Piped:
    """A child of ours, or one that a child of ours stands for."""

    def __init__(self, name: str, stdin: int, stdout: int) -> None:
        self._name = name
        self._stdin = stdin
        self._stdout = stdout

    def wait_begun(self) -> None:
        if os.read(self._stdout, 1) != b"\n":
            raise BenchError("a command has not begun")

    def write(self, count: int) -> None:
        piece = memoryview(bytes(PIECE))
        for _ in range(count):
            done = os.write(self._stdin, piece)
            while done < PIECE:
                done += os.write(self._stdin, piece[done:])

    def end(self) -> None:
        os.close(self._stdin)

    def read(self, count: int) -> None:
        buffer = memoryview(bytearray(1 << 18))
        while count > 0:
            size = os.readv(self._stdout, [buffer[:count]])
            if not size:
                raise BenchError(f"of the output of {self._name} {count} bytes are missing")
            count -= size

    def finish(self) -> None:
        while os.read(self._stdout, PIECE):
            pass


@contextlib.contextmanager
def _piped(argv: Sequence[str]) -> Iterator[_Piped]:
    """Run a program to its end, which has to be a good one."""
    their_stdin, stdin = os.pipe()
    stdout, their_stdout = os.pipe()
    try:
        process = subprocess.Popen(argv, stdin=their_stdin, stdout=their_stdout, cwd=ROOT)
        os.close(their_stdin)
        os.close(their_stdout)
        try:
            yield _Piped(" ".join(argv), stdin, stdout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait(PATIENCE) != 0:
            raise BenchError(f"{' '.join(argv)}: exit status {process.returncode}")
    finally:
        os.close(stdout)


class _Qrexec:
    """Has services run by the daemon's host: each script is one, of that name."""

    def __init__(self, host: Host, services: Path, user: str) -> None:
        self._host = host
        self._services = services
        self._user = user
        self._names: dict[str, str] = {}
        self._port = 1024

    @contextlib.contextmanager
    def begin(self, script: str) -> Iterator["_Far"]:
        """Run it to its end."""
        place = Place(DOMAIN, self._port)
        self._port += 1
        line = f"{self._user}:QUBESRPC {self._service(script)} bench"
        path = self._host.path(DOMAIN, AGENT, place.port)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(PATIENCE)
            listener.bind(str(path))
            listener.listen(1)
            self._host.say(Exec(place, line.encode()))
            connection, _ = listener.accept()
        path.unlink()
        with connection:
            connection.settimeout(PATIENCE)
            connection.sendall(pack(Hello()))
            yield _Far(connection)
        self._host.wait_for(Terminated)

    def _service(self, script: str) -> str:
        if script not in self._names:
            name = self._names[script] = f"bench.Script{len(self._names)}"
            path = self._services / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        return self._names[script]


class _Far:
    """The far end of a data channel, as quick as this language lets it be."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def wait_begun(self) -> None:
        came = b""
        while len(came) < _FIRST:
            data = self._socket.recv(_FIRST - len(came))
            if not data:
                raise BenchError(f"a service has not begun: {came!r}")
            came += data
        if came[-1:] != b"\n":
            raise BenchError(f"a service has begun with {came!r}")

    def write(self, count: int) -> None:
        for _ in range(count):
            self._socket.sendall(_STDIN)

    def end(self) -> None:
        self._socket.sendall(_STDIN_END)

    def read(self, count: int) -> None:
        # The headers are counted, too: an eight thousandth.
        buffer = memoryview(bytearray(1 << 18))
        while count > 0:
            size = self._socket.recv_into(buffer[:count])
            if not size:
                raise BenchError(f"of a service's output {count} bytes are missing")
            count -= size

    def finish(self) -> None:
        while self._socket.recv(PIECE):
            pass


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[list[str]]:
    """Run an sshd for this user and this machine only; give the client's command."""
    directory.mkdir(mode=0o700)
    for name in ("host", "user"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name))
    port = _free_port()
    config = directory / "config"
    # SHLVL: else bash takes itself for the first shell, and reads what this user has for those.
    config.write_text(f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
AllowUsers {_me()}
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
SetEnv SHLVL=2
UsePAM no
PidFile none
""")
    # By its path: it starts itself again, and does so only by one.
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        raise BenchError("there is no sshd (apt-get install openssh-server)")
    with _privileged(Path("/run/sshd")), Child([program, "-D", "-e", "-f", config]) as server:
        server.wait_line("Server listening on")
        yield [
            *("ssh", "-F", "none", "-i", str(directory / "user"), "-p", str(port), "-l", _me()),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={directory}/known"),
            "127.0.0.1",
        ]


@contextlib.contextmanager
def _privileged(folder: Path) -> Iterator[None]:
    """Have the folder that an sshd of root's wants; its unit makes it, and not the package."""
    is_ours = os.geteuid() == 0 and not folder.exists()
    if is_ours:
        folder.mkdir(mode=0o755)
    try:
        yield
    finally:
        if is_ours:
            folder.rmdir()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def _me() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
