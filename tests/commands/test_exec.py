"""``spice-sessionctl exec``: the real program, daemon, bus and user's agent, and real commands."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pty
import pwd
import re
import select
import shlex
import signal
import subprocess
import sys
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.errors import BusCallError
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.users.policy import Origin
from sessiond.users.runs import MOST_OF_USER
from tests.fixtures.child import ROOT as CODE
from tests.fixtures.daemon import BUS_NAME, MANAGER, MANAGER_PATH, Stage
from tests.fixtures.loop import Signal
from tests.fixtures.polkit import Polkit, require_polkit
from tests.fixtures.user_agent import ALICE, BOB, IS_ROOT, UserAgent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sessiond.transport.bus_match import Signal as BusSignal

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(not IS_ROOT, reason="without root everybody is us")
LIMIT: Final = 60
MIB: Final = 1 << 20
EVERY_BYTE: Final = bytes(range(256)) * 40 * 1024  # 10 MiB
DIGEST: Final = hashlib.sha256(EVERY_BYTE).hexdigest()
COMMANDS: Final = f"{MANAGER_PATH}/command"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path / "no-port") as made:
        made.daemon.wait_ready()
        yield made


@pytest.fixture
def alice(stage: Stage) -> Iterator[UserAgent]:
    with connected(stage) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return what a test leaves as it was: all is well there, whatever the commands do."""
    with Stage(tmp_path_factory.mktemp("stage") / "no-port") as made:
        made.daemon.wait_ready()
        yield made


@pytest.fixture(scope="module")
def shared_alice(shared: Stage) -> Iterator[UserAgent]:
    with connected(shared) as made:
        yield made


@contextlib.contextmanager
def connected(stage: Stage, user: str = ALICE) -> Iterator[UserAgent]:
    mark = stage.daemon.now()
    with UserAgent(stage.daemon.agent_socket, user) as made:
        stage.daemon.wait_line(f"the agent of {user} has connected", after=mark)
        yield made


def ctl(stage: Stage, *words: str, **how: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    """Begin a program of ours, all pipes."""
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    command = [sys.executable, "-m", "sessiond.ctl", f"--bus={stage.bus.address}", *words]
    return subprocess.Popen(command, cwd=CODE, **how)


def begin(stage: Stage, *words: str, **how: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    """Begin a command as Alice."""
    return ctl(stage, "exec", f"--user={ALICE}", "--", *words, **how)


def run(
    stage: Stage, *words: str, data: bytes = b"", options: Sequence[str] = (), user: str = ALICE
) -> tuple[int, bytes, str]:
    """Run a command to its end; return status, output and what was said about it."""
    with ctl(stage, "exec", f"--user={user}", *options, "--", *words) as process:
        out, said = process.communicate(data, timeout=LIMIT)
        return process.returncode, out, said.decode()


def shell(stage: Stage, script: str, **how: Any) -> tuple[int, bytes, str]:  # noqa: ANN401
    return run(stage, "sh", "-c", script, **how)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status; the pipes are read and closed."""
    with process:
        process.communicate(timeout=LIMIT)
        return process.returncode


def line_of(process: subprocess.Popen[bytes]) -> str:
    """Return the first line of a command that goes on."""
    assert process.stdout
    return process.stdout.readline().decode().strip()


def wait_gone(pid: int) -> None:
    """Wait until a process has ended, whoever's it is."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], 10)[0], f"{pid} has not ended"
        finally:
            os.close(pidfd)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# Bytes.


@pytest.mark.usefixtures("shared_alice")
def test_bytes_both_ways(shared: Stage) -> None:
    status, out, said = run(shared, "cat", data=EVERY_BYTE)
    assert (status, said) == (0, "")
    assert hashlib.sha256(out).hexdigest() == DIGEST


@pytest.mark.usefixtures("shared_alice")
def test_bytes_out_and_errors_apart(shared: Stage) -> None:
    script = f"head -c {10 * MIB} /dev/zero; echo wrong >&2"
    status, out, said = shell(shared, script)
    assert (status, len(out), out.strip(b"\0"), said) == (0, 10 * MIB, b"", "wrong\n")


@pytest.mark.usefixtures("shared_alice")
def test_bytes_in(shared: Stage) -> None:
    status, out, _ = run(shared, "sha256sum", data=EVERY_BYTE)
    assert (status, out.decode().split()[0]) == (0, DIGEST)


def test_no_byte_passes_daemon_or_agent(shared: Stage, shared_alice: UserAgent) -> None:
    """Neither has the pipes open while the command has."""
    process = begin(shared, "sh", "-c", "echo on; cat")
    assert line_of(process) == "on"
    assert process.stdin
    assert process.stdout
    ours = {os.readlink(f"/proc/self/fd/{it.fileno()}") for it in (process.stdin, process.stdout)}
    for pid in (shared.daemon.pid, shared_alice.pid):
        wait_until_closed(pid, ours)
    wait(process)


def wait_until_closed(pid: int, places: set[str]) -> None:
    for _ in range(500):
        if not places & set(open_files(pid)):
            return
        select.select([], [], [], 0.02)  # closed in a thread, of which nobody tells
    raise AssertionError(f"{pid} still has {places & set(open_files(pid))}")


def open_files(pid: int) -> list[str]:
    found = []
    for it in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(it))
    return found


@pytest.mark.usefixtures("shared_alice")
@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_stream_that_the_program_itself_lacks(shared: Stage, fd: int) -> None:
    command = shlex.join([sys.executable, "-m", "sessiond.ctl", f"--bus={shared.bus.address}"])
    script = f"{command} exec --user={ALICE} -- sh -c 'cat; exit 3' {fd}>&-"
    with subprocess.Popen(["sh", "-c", script], cwd=CODE, stdin=subprocess.DEVNULL) as process:
        assert process.wait(LIMIT) == 3


@pytest.mark.usefixtures("shared_alice")
def test_stdin_that_is_closed(shared: Stage) -> None:
    process = begin(shared, "cat", preexec_fn=lambda: os.close(0), stdin=None)
    assert wait(process) == 0


@pytest.mark.usefixtures("shared_alice")
def test_who_writes_to_a_stdin_that_the_command_has_closed(shared: Stage) -> None:
    process = begin(shared, "sh", "-c", "exec <&-; echo closed; sleep 100")
    assert line_of(process) == "closed"
    assert process.stdin
    with pytest.raises(BrokenPipeError):
        process.stdin.write(EVERY_BYTE)  # more than any pipe holds
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None
    process.terminate()
    assert wait(process) == 128 + signal.SIGTERM


@pytest.mark.usefixtures("shared_alice")
def test_the_end_of_its_output_does_not_wait_for_its_own(shared: Stage) -> None:
    process = begin(shared, "sh", "-c", "exec >&-; sleep 100", stderr=subprocess.DEVNULL)
    assert process.stdout
    assert process.stdout.read() == b""
    process.terminate()
    assert wait(process) == 128 + signal.SIGTERM


@pytest.mark.usefixtures("shared_alice")
def test_nobody_reads_its_output(shared: Stage) -> None:
    process = begin(shared, "yes")
    assert line_of(process) == "y"
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    assert wait(process) in {128 + signal.SIGPIPE, 1}


# How it ends.


@pytest.mark.parametrize("code", [0, 1, 42, 125, 127, 255])
@pytest.mark.usefixtures("shared_alice")
def test_exit_code(shared: Stage, code: int) -> None:
    assert shell(shared, f"exit {code}") == (code, b"", "")


@pytest.mark.usefixtures("shared_alice")
def test_signal(shared: Stage) -> None:
    assert shell(shared, "kill -SEGV $$") == (128 + signal.SIGSEGV, b"", "")


@pytest.mark.usefixtures("shared_alice")
def test_what_does_not_exist(shared: Stage) -> None:
    status, out, said = run(shared, "/nowhere/at-all")
    assert (status, out) == (127, b"")
    assert re.fullmatch(r"spice-sessionctl: .*/nowhere/at-all.*\n", said)


@pytest.mark.usefixtures("shared_alice")
def test_what_is_no_program(shared: Stage) -> None:
    status, out, said = run(shared, "/etc/passwd")
    assert (status, out) == (126, b"")
    assert re.fullmatch(r"spice-sessionctl: .*/etc/passwd.*\n", said)


def test_no_agent(stage: Stage) -> None:
    said = f"spice-sessionctl: no agent connected for user '{ALICE}'\n"
    assert run(stage, "true") == (125, b"", said)


def test_no_daemon(stage: Stage) -> None:
    assert stage.daemon.close() == 0
    status, _, said = run(stage, "true")
    assert status == 125
    assert said.startswith("spice-sessionctl: spice-sessiond is not running; ")


@pytest.mark.usefixtures("shared_alice")
def test_no_session_of_that_name(shared: Stage) -> None:
    with ctl(shared, "exec", "--session=77", "true") as process:
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 125
    assert b"no session '77'" in said


@pytest.mark.usefixtures("shared_alice")
def test_a_grandchild_that_holds_the_output(shared: Stage) -> None:
    """It has ended, and so have we; who reads our output waits for the grandchild."""
    process = begin(shared, "sh", "-c", "(read line; echo $line) <&3 & exit 5",
                    stderr=subprocess.DEVNULL)  # fmt: skip
    assert process.wait(LIMIT) == 5
    wait(process)


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
@pytest.mark.usefixtures("shared_alice")
def test_signal_goes_on_to_the_command(shared: Stage, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = begin(shared, "sh", "-c", f"trap 'echo {name}; exit 7' {name}; echo on; while :; do "
                    "sleep 0.05; done")  # fmt: skip
    assert line_of(process) == "on"
    process.send_signal(number)
    assert line_of(process) == name
    assert wait(process) == 7


@pytest.mark.usefixtures("shared_alice")
def test_signal_that_ends_the_command(shared: Stage) -> None:
    process = begin(shared, "sh", "-c", "echo on; exec sleep 100")
    assert line_of(process) == "on"
    process.send_signal(signal.SIGINT)
    assert wait(process) == 128 + signal.SIGINT


@pytest.mark.usefixtures("shared_alice")
def test_interrupt_from_a_terminal(shared: Stage) -> None:
    """^C at a terminal, which is also the command's: a shell would see 130."""
    ours, theirs = pty.openpty()
    tty.setcbreak(theirs)  # no echo; but signals as ever
    how = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    process = begin(shared, "sh", "-c", "echo on; exec sleep 100",
                    preexec_fn=claim_terminal, **how)  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 100).strip() == b"on"
    os.write(ours, b"\x03")
    assert process.wait(LIMIT) == 130
    os.close(ours)


def claim_terminal() -> None:
    import fcntl  # noqa: PLC0415 (in the child)
    import termios  # noqa: PLC0415

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.usefixtures("shared_alice")
def test_what_ignores_it_goes_on(shared: Stage) -> None:
    process = begin(shared, "sh", "-c", "trap '' INT; echo on; read line; echo $line; exit 3")
    assert line_of(process) == "on"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(b"done\n", timeout=LIMIT)
    assert (process.returncode, out) == (3, b"done\n")


# Who goes away.


@pytest.mark.parametrize("script", ["exec sleep 100", "trap '' HUP; while :; do sleep 0.1; done"])
@pytest.mark.usefixtures("alice")
def test_ctl_is_killed(stage: Stage, script: str) -> None:
    process = begin(stage, "sh", "-c", f"echo $$; {script}", stderr=subprocess.DEVNULL)
    pid = int(line_of(process))
    process.kill()
    wait_gone(pid)
    wait(process)


@pytest.mark.usefixtures("alice")
def test_daemon_is_killed(stage: Stage) -> None:
    process = begin(stage, "sh", "-c", "echo $$; exec sleep 100")
    pid = int(line_of(process))
    os.kill(stage.daemon.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 125
    assert said == b"spice-sessionctl: spice-sessiond has ended, and the command with it\n"
    wait_gone(pid)


@pytest.mark.usefixtures("alice")
def test_bus_is_lost(stage: Stage) -> None:
    process = begin(stage, "sh", "-c", "echo $$; exec sleep 100")
    pid = int(line_of(process))
    stage.bus.close()
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 125
    assert said.startswith(b"spice-sessionctl: ")
    wait_gone(pid)


def test_agent_is_killed(stage: Stage, alice: UserAgent) -> None:
    process = begin(stage, "cat")
    mark = stage.daemon.wait_line(r"run 'cat' .*: started")
    os.kill(alice.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 125
    assert b"the user's agent has ended: how the command ends is not known\n" in said
    stage.daemon.wait_line(r"run 'cat' .*: lost", after=mark)


def test_agent_ends(stage: Stage) -> None:
    with connected(stage) as agent:
        process = begin(stage, "sh", "-c", "echo $$; trap '' HUP TERM; while :; do sleep 0.1; done")
        pid = int(line_of(process))
        agent.process.terminate()
        wait_gone(pid)
        assert wait(process) == 125


@pytest.mark.usefixtures("alice")
def test_daemon_goes_on_without_it(stage: Stage) -> None:
    """An object is there while its command runs, and no longer."""
    process = begin(stage, "sh", "-c", "echo $$; cat")
    pid = line_of(process)
    [path] = commands(stage)
    assert get(stage, path, "PID") == int(pid)
    assert get(stage, path, "User") == ALICE
    assert get(stage, path, "Argv") == ["sh", "-c", "echo $$; cat"]
    assert wait(process) == 0
    assert commands(stage) == []


def commands(stage: Stage) -> list[str]:
    """Return the paths of the commands' objects."""
    tree = subprocess.run(
        ["busctl", f"--address={stage.bus.address}", "--list", "tree", BUS_NAME],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [it for it in tree.splitlines() if it.startswith(f"{COMMANDS}/")]


def get(stage: Stage, path: str, name: str) -> Any:  # noqa: ANN401
    done = subprocess.run(
        ["busctl", f"--address={stage.bus.address}", "--json=short", "get-property", BUS_NAME,
         path, f"{BUS_NAME}.Command", name],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)["data"]


# As whom, where, with what.


@needs_root
def test_it_is_the_users_own(stage: Stage, alice: UserAgent) -> None:
    account = pwd.getpwnam(ALICE)
    status, out, _ = shell(stage, 'id -u; id -g; echo "$XDG_SESSION_ID:$DISPLAY"; ps -o sid= $$')
    assert status == 0
    uid, gid, session, sid = out.decode().split()
    assert (int(uid), int(gid), session) == (account.pw_uid, account.pw_gid, ":")
    assert int(sid) != os.getsid(alice.pid), "a session of its own"


@pytest.mark.usefixtures("alice")
def test_environment_and_folder(stage: Stage) -> None:
    script = 'pwd; echo "$A,$B"'
    options = ["--cwd=/usr", "--env=A=1=2", "--env", "B= x"]
    assert shell(stage, script, options=options) == (0, b"/usr\n1=2, x\n", "")


@pytest.mark.usefixtures("alice")
def test_session_it_runs_in(stage: Stage) -> None:
    account = pwd.getpwnam(ALICE)
    for number, display in (("3", ":7"), ("4", "")):
        mark = stage.daemon.now()
        stage.login1.do("add_session", id=number, vt=7, user=ALICE, display=display,
                        uid=account.pw_uid, gid=account.pw_gid)  # fmt: skip
        stage.daemon.wait_line(rf"session {number} of .* has come", after=mark)
    script = 'echo "$XDG_SESSION_ID $DISPLAY"'
    assert shell(stage, script)[1] == b"4 \n", "it is the active one"
    with ctl(stage, "exec", "--session=3", "sh", "-c", script) as process:
        out, _ = process.communicate(timeout=LIMIT)
    assert out == b"3 :7\n"


@pytest.mark.usefixtures("alice")
def test_nothing_of_the_daemon_is_inherited(stage: Stage) -> None:
    status, out, _ = run(stage, "ls", "/proc/self/fd")
    assert (status, out.split()) == (0, [b"0", b"1", b"2", b"3"])  # 3 is the list's own


@pytest.mark.usefixtures("alice")
def test_every_run_is_in_the_journal(stage: Stage) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    shell(stage, "exit 3", options=["--env=SECRET=swordfish"])
    stage.daemon.wait_line(rf"{me} -> {ALICE}: run 'sh' \['-c' 'exit 3'\], id \d+: started, pid ")
    stage.daemon.wait_line(rf"{me} -> {ALICE}: run 'sh' .*: exit code 3, \d+ ms")
    run(stage, "/nowhere/at-all")
    stage.daemon.wait_line(rf"{me} -> {ALICE}: run '/nowhere/at-all' .*: not started, 127")
    run(stage, "true", user="nobody-here")
    stage.daemon.wait_line(rf"{me} -> nobody-here: run 'true' .*: no agent")
    assert "swordfish" not in "\n".join(stage.daemon.lines)


# Who may.

RULES: Final = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.spice-space.sessiond1.run-command")
        return subject.user == "backup" ? polkit.Result.YES : polkit.Result.NO;
});
"""
# The modules may lie where only root reads them: they are loaded first.
AS_USER: Final = """\
import os, sys
import sessiond.ctl.execute, sessiond.ctl.interactive, sessiond.ctl.program, sessiond.ctl.__main__
os.setresuid({uid}, {uid}, {uid})
sys.exit(sessiond.ctl.__main__.main())
"""


def run_as(stage: Stage, caller: str, *words: str) -> tuple[int, bytes, str]:
    """Run a command as Alice for another user."""
    program = AS_USER.format(uid=pwd.getpwnam(caller).pw_uid)
    with subprocess.Popen(
        [sys.executable, "-c", program, f"--bus={stage.bus.address}", "--no-ask-password",
         "exec", f"--user={ALICE}", "--", *words],
        cwd=CODE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        out, said = process.communicate(timeout=LIMIT)
    return process.returncode, out, said.decode()


@needs_root
@pytest.mark.usefixtures("alice")
def test_without_polkit_only_oneself_and_root_may(stage: Stage) -> None:
    assert run_as(stage, ALICE, "echo", "me") == (0, b"me\n", "")
    assert run(stage, "echo", "root")[:2] == (0, b"root\n")
    said = "spice-sessionctl: not permitted: polkit is not there: only root may do that\n"
    assert run_as(stage, "backup", "echo", "other") == (126, b"", said)
    stage.daemon.wait_line(rf"backup -> {ALICE}: run 'echo' \['other'\], .*: refused by polkit")


@needs_root
@pytest.mark.usefixtures("alice")
def test_sessions_of_others_are_a_matter_for_polkit(stage: Stage) -> None:
    require_polkit()
    with Polkit(stage.bus.address, RULES):
        assert run_as(stage, "backup", "id", "-un") == (0, f"{ALICE}\n".encode(), "")
        status, out, said = run_as(stage, BOB, "id", "-un")
        assert (status, out) == (126, b"")
        assert "polkit does not allow" in said
        assert run_as(stage, ALICE, "id", "-un") == (0, f"{ALICE}\n".encode(), "")


POLICY: Final = """
[[rule]]
caller = "{caller}"
service = "command"
user = "{user}"
allow = {allow}
"""


@needs_root
def test_the_policy_comes_first_and_is_followed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "exec.toml"
    path.write_text(POLICY.format(caller="*", user="=", allow="false"))
    settings = [f'exec.policy="{path}"']
    with Stage(tmp_path / "no-port", settings) as stage:
        stage.daemon.wait_ready()
        with connected(stage):
            status, _, said = run_as(stage, ALICE, "true")
            refused = f"not permitted: the policy refuses to run that as user '{ALICE}'"
            assert (status, said) == (126, f"spice-sessionctl: {refused}\n")
            stage.daemon.wait_line(rf"{ALICE} -> {ALICE}: run 'true' .*: refused by the policy")
            path.write_text(POLICY.format(caller="backup", user=ALICE, allow="true"))
            reload(stage)
            assert run_as(stage, ALICE, "true")[0] == 0
            assert run_as(stage, "backup", "true")[0] == 0, "polkit is not asked"
            path.write_text("nonsense")
            with pytest.raises(subprocess.CalledProcessError) as error:
                reload(stage)
            assert str(path) in error.value.stderr
            assert run_as(stage, "backup", "true")[0] == 0, "nothing was changed"


def test_nobody_may_anything_where_the_policy_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "exec.toml"
    path.write_text("[[rule]]\nallow = true")
    with Stage(tmp_path / "no-port", [f'exec.policy="{path}"']) as stage:
        stage.daemon.wait_line("nobody may run anything: .*exec.toml: rule 1: caller is missing")
        stage.daemon.wait_ready()
        with connected(stage):
            assert run(stage, "true")[0] == 126


def reload(stage: Stage) -> None:
    subprocess.run(
        [sys.executable, "-m", "sessiond.ctl", f"--bus={stage.bus.address}", "reload"],
        cwd=CODE, capture_output=True, text=True, check=True, timeout=LIMIT,
    )  # fmt: skip


# Many.


class Many:
    """Commands of one connection; each has a pipe for stdin and one for stdout."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.ended: dict[str, list[int]] = {}
        self.paths: list[str] = []
        self.signal = Signal()
        self.ends: list[tuple[int, int]] = []
        match = Match(sender=BUS_NAME, interface=f"{BUS_NAME}.Command", member="Exited")
        bus.subscribe(match, self._on_exited)

    def _on_exited(self, arrived: BusSignal) -> None:
        self.ended[arrived.path] = arrived.body
        self.signal.happened()

    async def start(self, user: str, *argv: str) -> None:
        stdin, to = os.pipe()
        of, stdout = os.pipe()
        body = [user, "", "", list(argv), {}, 0, 1, 1]
        call = Call(BUS_NAME, MANAGER_PATH, MANAGER, "RunCommand", "sssasa{sv}hhh", body)
        try:
            self.paths += await self.bus.call(call, fds=[stdin, stdout])
        finally:
            os.close(stdin)
            os.close(stdout)
        self.ends.append((to, of))


def test_a_hundred_at_once(stage: Stage, alice: UserAgent) -> None:
    users, count = [ALICE, BOB] if IS_ROOT else [ALICE], 100 if IS_ROOT else 50
    with contextlib.ExitStack() as stack:
        agents = [alice, *(stack.enter_context(connected(stage, it)) for it in users[1:])]
        pids = [stage.daemon.pid, *(it.pid for it in agents)]
        run(stage, "true")  # whatever is made once, is there now
        before = [count_fds(it) for it in pids]
        outputs = asyncio.run(run_many(stage.bus.address, users, count))
        assert outputs == [b"%d\n" % it for it in range(count)]
        for pid, files in zip(pids, before, strict=True):
            for _ in range(500):
                if count_fds(pid) == files:
                    break
                select.select([], [], [], 0.02)  # closed in a thread, of which nobody tells
            assert count_fds(pid) == files
        assert commands(stage) == []
        for it in agents:
            assert zombies_of(it.pid) == []


async def run_many(address: str, users: Sequence[str], count: int) -> list[bytes]:
    """Run so many until all run at one time; return what each has said, then."""
    with await Bus.connect(address, takes_fds=True) as bus:
        many = Many(bus)
        for at in range(count):
            await many.start(users[at % len(users)], "sh", "-c", 'read line; echo "$line"; exit 7')
        assert not many.ended
        assert len(set(many.paths)) == count
        for at, (to, _) in enumerate(many.ends):
            os.write(to, b"%d\n" % at)
        await many.signal.until(lambda: len(many.ended) == count)
        assert many.ended == {path: [7, 0] for path in many.paths}
        return [read_and_close(*it) for it in many.ends]


def read_and_close(to: int, of: int) -> bytes:
    os.close(to)
    with open(of, "rb") as file:
        return file.read()


@pytest.mark.usefixtures("alice")
def test_there_may_be_so_many_of_a_user(stage: Stage) -> None:
    most = MOST_OF_USER[Origin.LOCAL]

    async def fill() -> str:
        with await Bus.connect(stage.bus.address, takes_fds=True) as bus:
            many = Many(bus)
            for _ in range(most):
                await many.start(ALICE, "cat")
            with pytest.raises(BusCallError) as error:
                await many.start(ALICE, "cat")
            for to, of in many.ends:
                os.close(to)
                os.close(of)
            await many.signal.until(lambda: len(many.ended) == most)
            return error.value.text

    assert "run already" in asyncio.run(fill())
    assert run(stage, "true")[0] == 0


@pytest.mark.usefixtures("alice")
def test_who_calls_and_leaves_leaves_nothing(stage: Stage) -> None:
    async def start() -> list[int]:
        with await Bus.connect(stage.bus.address, takes_fds=True) as bus:
            many = Many(bus)
            for _ in range(5):
                await many.start(ALICE, "sh", "-c", "echo $$; exec sleep 100")
            return [int(os.read(of, 100)) for _, of in many.ends]

    pids = asyncio.run(start())
    for pid in pids:
        wait_gone(pid)


@pytest.mark.usefixtures("alice")
def test_command_is_killed_by_who_may(stage: Stage) -> None:
    process = begin(stage, "sh", "-c", "echo on; exec sleep 100")
    assert line_of(process) == "on"
    [path] = commands(stage)
    assert "NotSupported" in call(stage, path, "Resize", "uu", "80", "25")
    assert "InvalidArgs" in call(stage, path, "Kill", "i", "65")
    if IS_ROOT:
        assert "AccessDenied" in call(stage, path, "Kill", "i", "9", user=BOB)
        assert is_there(process.pid)
    assert call(stage, path, "Kill", "i", "15") == ""
    assert wait(process) == 128 + signal.SIGTERM


def call(stage: Stage, path: str, member: str, *arguments: str, user: str = "root") -> str:
    """Call a member of a command; return what is complained of."""
    account = pwd.getpwnam(user) if IS_ROOT else pwd.getpwuid(os.getuid())
    return subprocess.run(
        ["gdbus", "call", "--address", stage.bus.address, "--dest", BUS_NAME, "--object-path",
         path, "--method", f"{BUS_NAME}.Command.{member}", *arguments[1:]],
        capture_output=True, text=True, check=False, user=account.pw_uid,
    ).stderr  # fmt: skip


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def zombies_of(pid: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    states = ((it, Path(f"/proc/{it}/stat").read_text().rpartition(")")[2].split()[0])
              for it in children)  # fmt: skip
    return [it for it, state in states if state == "Z"]
