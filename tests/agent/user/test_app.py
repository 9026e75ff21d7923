"""The program ``spice-session-agent user``, with a daemon of the test's own at its socket."""

import asyncio
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.stream.places import Places
from agent.user import app
from agent.user.app import Settings, UserApp
from agent.user.displays import Displays
from agent.user.link import MAX_CALLS
from agent.user.runtime import LOCK, SOCKET
from sessiond import __version__
from sessiond.errors import CommandError
from sessiond.transport.backoff import Backoff
from sessiond.wire import rpc
from tests.agent.stream.cookies import record, write
from tests.agent.user.daemon import Daemon, environment, start
from tests.fixtures.child import ROOT, Child
from tests.fixtures.loop import in_loop
from tests.fixtures.processes import family
from tests.fixtures.xserver import Xvfb
from tests.sessiond.helper.peers import NOBODY, peer, wait_line

pytestmark = pytest.mark.parts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

MAX_MEMORY = 24 << 10  # KiB, of all its processes
QUIET = 1.0  # seconds
COMMANDS = {
    "guest-ping", "guest-info", "guest-exec", "guest-exec-status", "query-displays",
    "connect-display", "query-screens", "virtagent-watch-terminal", "virtagent-unwatch-terminal",
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that other users can enter."""
    with tempfile.TemporaryDirectory(prefix="user-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder) as daemon:
        yield daemon


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    return environment(folder)


@pytest.fixture
def agent(daemon: Daemon, env: dict[str, str]) -> Iterator[Child]:
    with start(daemon, env) as agent:
        yield agent


@pytest.mark.usefixtures("agent")
def test_it_says_what_it_can_do(daemon: Daemon) -> None:
    with daemon.accept() as agent:
        assert agent.call("guest-ping") == {}
        info = agent.call("guest-info")
        assert info["version"] == __version__
        assert {it["name"] for it in info["supported_commands"]} == COMMANDS
        assert all(it["enabled"] and it["success-response"] for it in info["supported_commands"])


@pytest.mark.parametrize(
    ("command", "arguments", "error", "cls"),
    [
        ("guest-nope", {}, "The command guest-nope has not been found", "CommandNotFound"),
        ("guest-ping", {"z": 1}, "Parameter 'z' is unexpected", "GenericError"),
        ("guest-exec", {}, "Parameter 'path' is missing", "GenericError"),
        ("guest-exec-status", {"pid": 0}, "Invalid parameter 'pid'", "GenericError"),
        (
            "guest-exec-status", {"pid": "1"},
            "Invalid parameter type for 'pid', expected: integer", "GenericError",
        ),
        ("query-screens", {"display": ":0"}, "display ':0' is not connected", "GenericError"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("agent")
def test_errors(
    daemon: Daemon, command: str, arguments: dict[str, object], error: str, cls: str
) -> None:
    with daemon.accept() as agent:
        with pytest.raises(CommandError) as caught:
            agent.call(command, **arguments)
        assert (str(caught.value), caught.value.cls) == (error, cls)
        assert agent.call("guest-ping") == {}


@pytest.mark.usefixtures("agent")
def test_more_calls_than_it_takes(daemon: Daemon) -> None:
    """At once, so that none is answered in between; a daemon has at most that many pending."""
    with daemon.accept() as agent:
        calls = [rpc.Call("query-displays", id=number) for number in range(MAX_CALLS + 1)]
        agent.sock.sendall(b"".join(map(rpc.encode, calls)))
        results = [agent.hear() for _ in calls]
        assert {it.id for it in results if isinstance(it, rpc.Result)} == {it.id for it in calls}
        errors = [it.error for it in results if isinstance(it, rpc.Result) and it.error]
        assert [str(error) for error in errors] == [f"{MAX_CALLS} calls are being answered"]
        assert agent.call("guest-ping") == {}


def test_the_daemon_is_restarted(daemon: Daemon, agent: Child) -> None:
    """What was begun before goes on."""
    with daemon.accept() as first:
        pid = first.call("guest-exec", path="sleep", arg=["1000"])["pid"]
        daemon.stop()
    agent.wait_line("is lost: it has closed the connection")
    agent.wait_line("there is no .*; waiting")
    daemon.listen()
    with daemon.accept() as second:
        assert second.call("guest-exec-status", pid=pid) == {"exited": False}


def test_the_daemon_comes_later(daemon: Daemon, env: dict[str, str]) -> None:
    daemon.stop()
    with start(daemon, env) as agent:
        agent.wait_line("there is no .*; waiting")
        daemon.listen()
        with daemon.accept() as connection:
            assert connection.call("guest-ping") == {}


def test_a_daemon_that_breaks_the_protocol(daemon: Daemon, agent: Child) -> None:
    with daemon.accept() as connection:
        connection.sock.sendall(b"[]\n")
        with pytest.raises(EOFError):
            connection.hear()
    agent.wait_line("is lost: a line is no JSON object")
    with daemon.accept() as connection:
        assert connection.call("guest-ping") == {}


def test_a_call_in_pieces(daemon: Daemon, agent: Child) -> None:
    with daemon.accept() as connection:
        for byte in rpc.encode(rpc.Call("guest-ping", id=7)):
            connection.sock.sendall(bytes([byte]))
        assert connection.hear() == rpc.Result(7, {})
    assert agent.process.poll() is None


@in_loop
async def test_who_is_not_wanted_stays_away_for_long(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced or refused: two agents must not fight. No time passes here, but it is asked for."""
    waits = list[str]()

    def delay(_backoff: Backoff) -> float:
        waits.append("short")
        return 0.0

    monkeypatch.setattr(Backoff, "delay", delay)
    monkeypatch.setattr(app, "LONGEST", 0.0)
    places = Places(os.getuid(), "", "", sockets=folder)
    user = UserApp(Settings(str(daemon.path), folder / "own", places, {}))
    running = asyncio.get_running_loop().create_task(user.run())

    def hang_up_twice() -> None:
        with daemon.accept() as connection:
            connection.say(rpc.Farewell("agent replaced: pid 7 has taken over"))
            with pytest.raises(EOFError):
                connection.hear()
        with daemon.accept():
            waits.append("long")
        with daemon.accept() as connection:
            assert connection.call("guest-ping") == {}
            os.kill(os.getpid(), signal.SIGTERM)

    await asyncio.to_thread(hang_up_twice)
    await running
    assert waits[:2] == ["long", "short"]


@in_loop
async def test_two_that_replace_each_other_do_so_ever_less(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = list[float]()
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    places = Places(os.getuid(), "", "", sockets=folder)
    user = UserApp(Settings(str(daemon.path), folder / "own", places, {}))
    running = asyncio.get_running_loop().create_task(user.run())

    def refuse_often() -> None:
        for _ in range(10):
            with daemon.accept() as connection:
                connection.say(rpc.Farewell("agent replaced: pid 7 has taken over"))
                with pytest.raises(EOFError):
                    connection.hear()
        with daemon.accept():
            pass  # hung up without a word
        with daemon.accept() as connection:
            connection.say(rpc.Farewell("agent replaced: pid 7 has taken over"))
            with pytest.raises(EOFError):
                connection.hear()
        os.kill(os.getpid(), signal.SIGTERM)

    await asyncio.to_thread(refuse_often)
    await running
    assert waits[:10] == [*(30.0 * 2**n for n in range(5)), *5 * [app.LONGEST_AWAY]]
    assert waits[10] == 30.0


def test_a_second_start_says_who_runs(daemon: Daemon, agent: Child, env: dict[str, str]) -> None:
    with daemon.accept():
        with start(daemon, env) as second:
            assert second.wait_exit() == 3
            assert second.lines == [f"spice-session-agent: already running as pid {agent.pid}"]
        # The first one has noticed nothing.
        assert not daemon.is_asked
        agent.process.kill()
        agent.wait_exit()
    with start(daemon, env), daemon.accept() as connection:
        assert connection.call("guest-ping") == {}


def test_its_files_are_its_users_alone(daemon: Daemon, agent: Child, env: dict[str, str]) -> None:
    with daemon.accept() as connection:
        runtime = Path(env["XDG_RUNTIME_DIR"])
        assert (runtime / LOCK).read_text() == f"{agent.pid}\n"
        assert stat.S_IMODE((runtime / LOCK).stat().st_mode) == 0o600
        assert stat.S_IMODE((runtime / SOCKET).stat().st_mode) == 0o600
        # Of its own descriptors a command has none, the lock not either.
        listed = connection.run("/bin/sh", "-c", "ls -l /proc/self/fd")["out-data"]
        assert str(runtime) not in listed
        assert len(listed.splitlines()) == 5  # "total", three, and the folder itself
    agent.signal(signal.SIGTERM)
    assert agent.wait_exit() == 0
    assert not (runtime / SOCKET).exists()


@in_loop
async def test_a_bug_is_its_end_with_its_commands(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_displays: Displays) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Displays, "query", fail)
    places = Places(os.getuid(), "", "", sockets=folder)
    user = UserApp(Settings(str(daemon.path), folder / "own", places, {}))
    running = asyncio.get_running_loop().create_task(user.run())

    def ask() -> int:
        with daemon.accept() as connection:
            pid = connection.call("guest-exec", path="sleep", arg=["1000"])["pid"]
            pidfd = os.pidfd_open(pid)
            connection.say(rpc.Call("query-displays", id=4711))
            with pytest.raises(EOFError):
                connection.hear()
            return pidfd

    pidfd = await asyncio.to_thread(ask)
    with pytest.raises(ExceptionGroup):
        await running
    try:
        assert select.select([pidfd], [], [], 0)[0]  # it has ended
    finally:
        os.close(pidfd)


@needs_root
def test_it_becomes_a_user_for_good(daemon: Daemon, env: dict[str, str]) -> None:
    env |= {"SECRET": "root's", "DISPLAY": ":4711"}
    mask = os.umask(0)
    agent = start(daemon, env, "--username", "nobody", private=NOBODY)
    os.umask(mask)
    with agent, daemon.accept() as connection:
        status = connection.run("cat", f"/proc/{agent.pid}/status")["out-data"]
        found = dict(line.split(":\t", 1) for line in status.splitlines())
        assert found["Uid"].split() == found["Gid"].split() == [str(NOBODY)] * 4
        assert found["Groups"].split() == [str(NOBODY)]
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[name], 16) == 0
        variables = dict(
            line.split("=", 1) for line in connection.run("env")["out-data"].splitlines()
        )
        assert variables == {
            "HOME": "/nonexistent", "USER": "nobody", "LOGNAME": "nobody",
            "SHELL": "/usr/sbin/nologin", "PATH": "/usr/local/bin:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": f"/run/user/{NOBODY}",
        }  # fmt: skip
        assert connection.run("pwd")["out-data"] == "/\n"
        assert connection.run("sh", "-c", "umask")["out-data"] == "0022\n"
        assert connection.run("cat", f"/proc/{agent.pid}/root/etc/shadow")["exitcode"] == 1
    assert Path("/run/user", str(NOBODY)) not in Path("/run/user").glob("*")


@pytest.mark.parametrize(
    ("name", "uid", "complaint"),
    [
        ("no-such-user", None, "there is no such user"),
        ("", None, "there is no such user"),  # a script's variable that was never set
        ("root", NOBODY, "only root can become"),
    ],
)
def test_a_user_that_it_cannot_become(
    name: str, uid: int | None, complaint: str, folder: Path
) -> None:
    if uid is not None and os.geteuid() != 0:
        pytest.skip("takes root")
    # Imported first: the tree may lie where nobody else can read it.
    code = f"""if True:
    import os, sys
    from agent.__main__ import main
    import agent.user.main
    {f"os.setresuid({uid}, {uid}, {uid})" if uid else "pass"}
    sys.exit(main(sys.argv[1:]))
    """
    argv = ["user", "--username", name, "--socket", str(folder / "x")]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert complaint in line


def test_to_become_oneself_changes_nothing(daemon: Daemon, env: dict[str, str]) -> None:
    name = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    env["MINE"] = "kept"
    with start(daemon, env, "--username", name), daemon.accept() as connection:
        assert "MINE=kept\n" in connection.run("env")["out-data"]


@needs_root
def test_a_socket_of_another_user(daemon: Daemon, env: dict[str, str], folder: Path) -> None:
    daemon.stop()
    folder.chmod(0o777)
    code = "sock.bind(sys.argv[1]); sock.listen(); print(flush=True); sys.stdin.read()"
    with peer(str(daemon.path), code + "\n", uid=NOBODY) as other:
        wait_line(other)
        with start(daemon, env) as agent:
            agent.wait_line(f"at {daemon.path} a program of uid {NOBODY} listens; waiting")


@needs_root
def test_at_rest_it_costs_nothing(daemon: Daemon, env: dict[str, str]) -> None:
    # In the common folder others' X servers come and go.
    with start(daemon, env, private=0) as agent, daemon.accept() as connection:
        assert connection.call("guest-ping") == {}
        connection.sock.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            connection.hear()  # it has answered, and has yet to go to sleep
        processes = family(agent.pid)
        assert len(processes) == 3  # with the fork server, and who waits for its end
        before = sum(map(context_switches, processes))
        with pytest.raises(TimeoutError):
            connection.hear()
        assert sum(map(context_switches, processes)) == before
        assert sum(map(memory, processes)) <= MAX_MEMORY
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
        assert not any(name in maps for name in ("libssl", "_imaging", "libsystemd"))


def context_switches(pid: int) -> int:
    """Return how often a process has gone to sleep so far, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(it.split()[1]) for it in lines if it.startswith("voluntary_ctxt_switches:"))


def memory(pid: int) -> int:
    """Return the KiB of a process, less what it shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [found] = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(found)


def test_a_display_from_first_to_last(daemon: Daemon, env: dict[str, str], folder: Path) -> None:
    cookie = write(folder / ".Xauthority", record())
    with Xvfb(64, 48, args=["-auth", cookie]) as xserver:
        name = xserver.display
        with start(daemon, env), daemon.accept() as agent:
            assert {"display": name, "connected": False} in agent.call("query-displays")
            assert agent.call("connect-display", display=name) == {}
            assert agent.call("connect-display", display=f"{name}.0") == {}
            assert {"display": name, "connected": True} in agent.call("query-displays")
            [screen] = agent.call("query-screens", display=name)
            assert screen == {
                "output": "screen", "x": 0, "y": 0, "width": 64, "height": 48,
                "primary": screen["primary"],
            }  # fmt: skip
            xserver.kill()
            while agent.hear() != rpc.Notice("DISPLAYS_CHANGED"):
                pass
            with pytest.raises(CommandError, match=f"^display '{name}' is not connected$"):
                agent.call("query-screens", display=name)


def test_a_display_that_comes(daemon: Daemon, env: dict[str, str]) -> None:
    with start(daemon, env), daemon.accept() as agent:
        assert agent.call("guest-ping") == {}
        with Xvfb(64, 48) as xserver:
            # Others' come and go, too.
            while {"display": xserver.display, "connected": False} not in agent.call(
                "query-displays"
            ):
                while agent.hear() != rpc.Notice("DISPLAYS_CHANGED"):
                    pass
            assert agent.call("connect-display", display=xserver.display) == {}
