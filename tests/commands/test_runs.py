"""Commands of the daemon's, by a whole agent and programs that do what programs may do."""

import getpass
import os
import pty
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.user.running import GRACE
from sessiond.errors import CommandError
from sessiond.wire import rpc
from tests.agent.user.daemon import Daemon, start
from tests.commands.ordering import Orders, holdings, null, pipe, send, settle, wait_count
from tests.fixtures.child import Child
from tests.fixtures.deadmount import dead_mount
from tests.fixtures.processes import family
from tests.fixtures.witness import Witness

USER = getpass.getuser()
COUNT = 200
AT_ONCE = 64  # calls that an agent answers at one time


# Its streams.


def test_any_bytes_both_ways(orders: Orders) -> None:
    """None of them comes by the agent: the program has our own descriptors."""
    data = os.urandom(10 << 20)
    with pipe() as (its_stdin, ours), pipe() as (reader, its_stdout), null() as nothing:
        number, _ = orders.run([its_stdin, its_stdout, nothing], "cat")
        for fd in (its_stdin, its_stdout):
            os.close(fd)

        def feed() -> None:
            with open(ours, "wb") as file:
                file.write(data)

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        with open(reader, "rb", closefd=False) as file:
            assert file.read() == data
        feeder.join()
        assert orders.ending(number) == (0, 0)


def test_each_stream_is_the_one_that_was_passed(orders: Orders, tmp_path: Path) -> None:
    with pipe() as (reader, writer), null() as nothing:
        log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, b"before\n")
        code = "readlink /proc/self/fd/0; echo error >&2; ls /proc/self/fd | wc -l"
        number, _ = orders.run([nothing, writer, log], "sh", "-c", code)
        assert orders.ending(number) == (0, 0)
        os.close(log)
        # Three, and the folder itself.
        assert os.read(reader, 100).split() == [b"/dev/null", b"4"]
    assert (tmp_path / "log").read_text() == "before\nerror\n"


def test_a_terminal_is_one_but_does_not_control(orders: Orders) -> None:
    master, terminal = pty.openpty()
    code = """if True:
    import os
    print(*map(os.isatty, range(3)))
    try:
        open("/dev/tty")
    except OSError:
        print("no terminal controls it")
    """
    try:
        number, _ = orders.run([terminal] * 3, sys.executable, "-c", code)
        assert orders.ending(number) == (0, 0)
        assert b"True True True" in (told := os.read(master, 1000))
        assert b"no terminal controls it" in told
    finally:
        os.close(master)
        os.close(terminal)


def test_the_agent_keeps_none_of_them(orders: Orders) -> None:
    """Else who reads an output would never see its end."""
    with pipe() as (reader, writer), null() as nothing:
        number, _ = orders.run([nothing, writer, nothing], "sh", "-c", "exec >&-; sleep 1000")
        os.close(writer)
        assert os.read(reader, 1) == b""
        orders.signal(number, signal.SIGTERM)
        assert orders.ending(number) == (128 + signal.SIGTERM, signal.SIGTERM)


# Its end.


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("exit 0", (0, 0)),
        ("exit 3", (3, 0)),
        ("exit 255", (255, 0)),
        ("kill -9 $$", (137, 9)),
        ("kill -HUP $$", (129, 1)),
        ("kill -QUIT $$", (131, 3)),
    ],
)
def test_how_it_ends(orders: Orders, nothing: int, code: str, ending: tuple[int, int]) -> None:
    number, _ = orders.run([nothing] * 3, "sh", "-c", f"ulimit -c 0; {code}")
    assert orders.ending(number) == ending


def test_others_that_it_leaves_behind_go_on(orders: Orders, nothing: int, tmp_path: Path) -> None:
    """Its end is that of its first process, whoever has the outputs."""
    with Witness(tmp_path / "fifo") as witness:
        code = f"exec 9>{witness.path}; (read x <{tmp_path}/go; echo $x >&9) &"
        os.mkfifo(tmp_path / "go")
        number, _ = orders.run([nothing] * 3, "sh", "-c", code)
        assert orders.ending(number) == (0, 0)
        (tmp_path / "go").write_text("still here\n")
        assert witness.wait_end() == b"still here\n"


def test_the_answer_comes_before_the_end(orders: Orders, nothing: int) -> None:
    for _ in range(20):
        number, call = orders.ask_run([nothing] * 3, "true")
        assert isinstance(orders.connection.hear(), rpc.Result)
        assert isinstance(orders.connection.hear(), rpc.Notice)
        del number, call


# What cannot be started.


@pytest.mark.parametrize(
    ("argv", "more", "reason"),
    [
        (["no-such-program"], {}, (127, "'no-such-program': No such file or directory")),
        (["/nonexistent/x"], {}, (127, "'/nonexistent/x': No such file or directory")),
        (["/etc/passwd"], {}, (126, "'/etc/passwd': Permission denied")),
        (["/"], {}, (126, "'/': Permission denied")),
        (["x" * 5000], {}, (126, "File name too long")),
        (["true"], {"cwd": "/nonexistent"}, (125, "'true', in '/nonexistent': No such file")),
        (["true"], {"env": {"A": "x" * (1 << 18)}}, (126, "Argument list too long")),
        ([], {"service": "no.Such+x"}, (127, "there is no service no.Such+x")),
        ([], {"service": "../etc/passwd"}, (125, "a service's name that is a path")),
    ],
)
def test_what_cannot_be_started(
    orders: Orders, nothing: int, argv: list[str], more: dict[str, Any], reason: tuple[int, str]
) -> None:
    _, answer = orders.run([nothing] * 3, *argv, **more)
    code, text = reason
    assert answer["error-code"] == code
    assert text in answer["text"]
    assert orders.output("echo", "well") == b"well\n"


@pytest.mark.parametrize(
    ("argv", "more", "text"),
    [
        ([], {}, "there is no command"),
        (["a\0"], {}, "a text with a NUL in it"),
        (["true"], {"cwd": "/\0"}, "a text with a NUL in it"),
        (["true"], {"env": {"": "x"}}, "a variable without a name"),
        (["true"], {"env": {"A=": "x"}}, "a variable without a name, or with = in it"),
        (["true"], {"env": {"A": 1}}, "a text is none"),
        (["true"], {"session": {"display": [":0"]}}, "a text is none"),
        (["true"], {"service": "x"}, "a service takes no words"),
        ([], {"service": "x", "env": {"LD_PRELOAD": "x"}}, "a service takes no words, variables"),
        ([], {"service": "x", "cwd": "/"}, "variables or directory of its caller's"),
        (["true"], {"argv": "true"}, "Invalid parameter type for 'argv'"),
        (["true"], {"id": "1"}, "Invalid parameter type for 'id'"),
    ],
)
def test_calls_that_are_wrong(
    orders: Orders, nothing: int, argv: list[str], more: dict[str, Any], text: str
) -> None:
    with pytest.raises(CommandError) as caught:
        orders.run([nothing] * 3, *argv, **more)
    assert text in str(caught.value)
    assert orders.output("echo", "well") == b"well\n"


def test_an_id_that_is_in_use(orders: Orders, nothing: int) -> None:
    number, _ = orders.run([nothing] * 3, "sleep", "1000")
    with pytest.raises(CommandError, match="there is such a command already"):
        orders.run([nothing] * 3, "true", id=number)
    orders.signal(number, signal.SIGKILL)
    assert orders.ending(number) == (137, signal.SIGKILL)
    _, answer = orders.run([nothing] * 3, "true", id=number)
    assert "pid" in answer
    assert orders.ending(number) == (0, 0)


# What it has.


def test_what_it_is(orders: Orders) -> None:
    """The leader of a session; nothing is ignored or blocked that a caller may send."""
    code = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"
    assert orders.output(sys.executable, "-c", code) == b"True\n"


@pytest.mark.parametrize("is_served", [False, True], ids=["run", "served"])
def test_signals_are_as_by_default(daemon: Daemon, env: dict[str, str], *, is_served: bool) -> None:
    """However the agent was started: ^C reaches whoever has not asked not to be reached."""
    argv = [sys.executable, "-m", "agent", "user", "--socket", str(daemon.path)]
    ignoring = ["sh", "-c", "trap '' INT QUIT HUP; exec \"$@\"", "sh", *argv]
    with Child(ignoring, env=env), daemon.accept() as connection:
        orders = Orders(connection)
        if is_served:
            with orders.serve(f"{USER}:grep Sig /proc/self/status")[1] as peer:
                text, _, _ = peer.greet().result()
        else:
            text = orders.output("grep", "Sig", "/proc/self/status")
        found = dict(line.split(b":\t") for line in text.splitlines())
        assert int(found[b"SigBlk"], 16) == 0
        # Two are glibc's own, and posix_spawn(3) has them ignored.
        assert int(found[b"SigIgn"], 16) & ~(3 << 31) == 0


def test_its_environment_and_directory(daemon: Daemon, env: dict[str, str], tmp_path: Path) -> None:
    """That of the agent, of the session over it, and the caller's own over both."""
    env |= {"DISPLAY": ":1", "A": "agent's", "B": "agent's"}
    with start(daemon, env), daemon.accept() as connection:
        orders = Orders(connection)
        session = {"id": "c7", "type": "x11", "display": ":7", "other": 1}
        more = {"session": session, "env": {"B": "caller's", "C": "\u00e4 =\n"}}
        listed = orders.output("env", "-0", **more).split(b"\0")
        assert {b"XDG_SESSION_ID=c7", b"XDG_SESSION_TYPE=x11", b"DISPLAY=:7"} <= {*listed}
        assert {b"A=agent's", b"B=caller's", "C=\u00e4 =\n".encode()} <= {*listed}
        # A session without a display leaves that of the agent.
        listed = orders.output("env", session={"id": "3", "type": "tty", "display": ""}).split()
        assert {b"XDG_SESSION_ID=3", b"DISPLAY=:1"} <= {*listed}
        assert orders.output("pwd") == f"{tmp_path}\n".encode()
        assert orders.output("pwd", cwd="/tmp") == b"/tmp\n"  # noqa: S108
        # Where there is no home, as login(1) does.
    env["HOME"] = "/nonexistent"
    with start(daemon, env), daemon.accept() as connection:
        assert Orders(connection).output("pwd") == b"/\n"


def test_programs_are_found_by_the_path_that_it_has(orders: Orders, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert orders.output("program", env={"PATH": str(tmp_path)}) == b"found\n"


# Signals.


def test_a_signal_goes_to_all_of_it(orders: Orders, nothing: int, tmp_path: Path) -> None:
    with Witness(tmp_path / "fifo") as witness:
        code = f"""exec 9>{witness.path}
        (trap 'echo child >&9; exit' USR1; echo begun >&9; while :; do sleep 0.1; done) &
        trap 'echo parent >&9; wait; exit 5' USR1; echo begun >&9; wait"""
        number, _ = orders.run([nothing] * 3, "sh", "-c", code)
        wait_count(witness, b"begun\n", 2)
        orders.signal(number, signal.SIGUSR1)
        assert orders.ending(number) == (5, 0)
        assert sorted(witness.wait_end().split()[2:]) == [b"child", b"parent"]


def test_signals_that_are_none(orders: Orders, nothing: int) -> None:
    number, _ = orders.run([nothing] * 3, "sleep", "1000")
    for what in (0, -1, 65, 1 << 40):
        with pytest.raises(CommandError, match="there is no such signal"):
            orders.signal(number, what)
    with pytest.raises(CommandError, match="there is no such command"):
        orders.signal(number + 1, signal.SIGTERM)
    orders.signal(number, signal.SIGINT)
    assert orders.ending(number) == (130, signal.SIGINT)
    with pytest.raises(CommandError, match="there is no such command"):
        orders.signal(number, signal.SIGTERM)


# The end of everything.

SHELLS = {
    "obedient": "echo >&9; sleep 1000",
    "stubborn": "trap '' HUP TERM; echo >&9; sleep 1000; true",
    "with a stubborn child": "(trap '' HUP TERM; echo >&9; sleep 1000; true) & wait",
    "stopped": "echo >&9; kill -STOP $$",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_lost_connection_is_its_end(
    daemon: Daemon, agent: Child, nothing: int, tmp_path: Path, shell: str
) -> None:
    with Witness(tmp_path / "fifo") as witness:
        with daemon.accept() as first:
            orders = Orders(first)
            code = f"exec 9>{witness.path}; {SHELLS[shell]}"
            number, _ = orders.run([nothing] * 3, "sh", "-c", code)
            witness.wait_told(b"\n")
        with daemon.accept() as second:
            # The next daemon knows nothing of it, and counts from the beginning.
            orders = Orders(second)
            assert orders.run([nothing] * 3, "sh", "-c", "exit 7")[0] == number
            assert orders.ending(number) == (7, 0)
            witness.wait_end()
            assert orders.output("echo", "well") == b"well\n"
    assert agent.process.poll() is None


def test_a_child_has_time_to_tidy_up_after_its_parent_has_gone(
    daemon: Daemon, nothing: int, tmp_path: Path, agent: Child
) -> None:
    del agent
    with Witness(tmp_path / "fifo") as witness:
        with daemon.accept() as connection:
            code = f"""exec 9>{witness.path}
            (trap '' HUP; trap 'sleep 0.3; echo tidy >&9; exit' TERM; echo >&9; sleep 1000 & wait) &
            wait"""
            Orders(connection).run([nothing] * 3, "sh", "-c", code)
            witness.wait_told(b"\n")
        assert witness.wait_end() == b"\ntidy\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_agents_end_is_theirs(
    daemon: Daemon, agent: Child, nothing: int, tmp_path: Path, number: signal.Signals
) -> None:
    with Witness(tmp_path / "fifo") as witness, daemon.accept() as connection:
        orders = Orders(connection)
        for shell in SHELLS.values():
            orders.run([nothing] * 3, "sh", "-c", f"exec 9>{witness.path}; {shell}")
        wait_count(witness, b"\n", len(SHELLS))
        agent.signal(number)
        assert agent.wait_exit(GRACE + 10) == 0
        witness.wait_end()
    assert not any("Traceback" in line for line in agent.lines)


# Descriptors.


def test_descriptors_that_nobody_takes(orders: Orders, agent: Child, nothing: int) -> None:
    """They are closed, and what comes next has its own."""
    assert orders.call("guest-ping") == {}
    before = holdings(agent.pid)
    with pipe() as (reader, writer):
        assert orders.call("guest-ping", [writer]) == {}
        with pytest.raises(CommandError, match="has not been found"):
            orders.call("of-a-newer-daemon", [writer, writer])
        with pytest.raises(CommandError, match="it comes with 3 descriptors"):
            orders.run([writer] * 2, "true")
        with pytest.raises(CommandError, match="it comes with 1 descriptors"):
            orders.call("serve-command")
        with pytest.raises(CommandError, match="Parameter 'id' is missing"):
            orders.call("run-command", [writer] * 3)
        assert orders.output("echo", "well") == b"well\n"
        os.close(writer)
        assert os.read(reader, 1) == b""  # as soon as the last copy is closed
    settle(orders, agent.pid, before)
    del nothing


def test_a_call_with_descriptors_in_pieces(orders: Orders) -> None:
    with null() as nothing, pipe() as (reader, writer):
        arguments = {"id": 1, "argv": ["echo", "hi"], "service": "", "session": {}, "env": {}}
        line = rpc.encode(rpc.Call("run-command", {**arguments, "cwd": ""}, 7, 3))
        ping = rpc.encode(rpc.Call("guest-ping", id=8))
        send(orders.connection.sock, ping + line[:0], [])
        send(orders.connection.sock, line[:1], [nothing, writer, nothing])
        for byte in line[1:]:
            orders.connection.sock.sendall(bytes([byte]))
        assert orders.answer(8) == {}
        assert "pid" in orders.answer(7)
        assert os.read(reader, 10) == b"hi\n"
        assert orders.ending(1) == (0, 0)


@pytest.mark.parametrize(
    ("count", "said", "text"),
    [
        (0, 3, "a call without its 3 descriptors"),
        (2, 3, "a call without its 3 descriptors"),
        (9, 8, "too many descriptors"),
        (1, 9, "a number of descriptors is no whole number, or out of range"),
    ],
)
def test_descriptors_that_do_not_come_or_are_too_many(
    daemon: Daemon, agent: Child, count: int, said: int, text: str
) -> None:
    with daemon.accept() as connection, null() as fd:
        send(connection.sock, rpc.encode(rpc.Call("guest-ping", fds=said)), [fd] * count)
        with pytest.raises(EOFError):
            connection.hear()
    agent.wait_line(f"is lost: {text}")
    with daemon.accept() as connection:
        assert connection.call("guest-ping") == {}


def test_descriptors_that_pile_up(daemon: Daemon, agent: Child, nothing: int) -> None:
    with daemon.accept() as connection:
        for _ in range(3):
            send(connection.sock, b" ", [nothing] * 8)
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.hear()
    agent.wait_line("is lost: too many descriptors")


# Many.


def run_many(orders: Orders, fds: list[list[int]], *argv: str) -> list[int]:
    """Have one run for each list of descriptors, as many at a time as an agent takes."""
    numbers = list[int]()
    for begin in range(0, len(fds), AT_ONCE):
        asked = [orders.ask_run(it, *argv) for it in fds[begin : begin + AT_ONCE]]
        for number, call in asked:
            assert "pid" in orders.answer(call)
            numbers.append(number)
    return numbers


def test_200_at_once(orders: Orders, agent: Child) -> None:
    assert orders.output("echo", "warm") == b"warm\n"
    before = holdings(agent.pid)
    with pipe() as (reader, writer), null() as nothing:
        pairs = [socket.socketpair() for _ in range(COUNT)]
        fds = [[its.fileno(), writer, nothing] for _, its in pairs]
        numbers = run_many(orders, fds, "sh", "-c", "read x; echo $x; exit $((x % 7))")
        for _, its in pairs:
            its.close()
        os.close(writer)
        assert len(family(agent.pid)) >= COUNT
        # Nobody ends before the last one has begun.
        for at, (ours, _) in enumerate(pairs):
            ours.sendall(b"%d\n" % at)
        with open(reader, "rb", closefd=False) as file:
            assert sorted(map(int, file)) == list(range(COUNT))
        for at, number in enumerate(numbers):
            assert orders.ending(number) == (at % 7, 0)
        for ours, _ in pairs:
            ours.close()
    settle(orders, agent.pid, before)


def test_200_that_lose_their_connection(
    daemon: Daemon, agent: Child, nothing: int, tmp_path: Path
) -> None:
    with daemon.accept() as connection:
        assert Orders(connection).output("echo", "warm") == b"warm\n"
        before = holdings(agent.pid)
    with Witness(tmp_path / "fifo") as witness:
        with daemon.accept() as connection:
            code = f"exec 9>{witness.path}; echo >&9; exec sleep 1000"
            run_many(Orders(connection), [[nothing] * 3] * COUNT, "sh", "-c", code)
            wait_count(witness, b"\n", COUNT)
        witness.wait_end()
    with daemon.accept() as connection:
        orders = Orders(connection)
        # One that outlives GRACE: when it is gone, the others are waited for, too.
        orders.output("sleep", str(GRACE + 0.5))
        settle(orders, agent.pid, before)


# Services.


@pytest.fixture
def rpc_folder(env: dict[str, str], tmp_path: Path) -> Path:
    for variable, name in (("QREXEC_SERVICE_PATH", "rpc"), ("QUBES_RPC_CONFIG_PATH", "config")):
        (tmp_path / name).mkdir()
        env[variable] = str(tmp_path / name)
    env |= {"QREXEC_SERVICE_ARGUMENT": "junk", "QREXEC_AGENT_PID": "1", "MINE": "kept"}
    return tmp_path


def add_service(folder: Path, name: str, text: str) -> None:
    path = folder / "rpc" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_service(rpc_folder: Path, daemon: Daemon, env: dict[str, str]) -> None:
    """It has what a call from another domain would give it, less that domain."""
    add_service(rpc_folder, "test.Env", 'echo "$# $1"; env')
    add_service(rpc_folder, "test.Env+special", "echo special")
    with start(daemon, env), daemon.accept() as connection:
        orders = Orders(connection)
        first, *listed = orders.output(service="test.Env+a").splitlines()
        assert first == b"1 a"
        assert {
            b"QREXEC_SERVICE_FULL_NAME=test.Env+a", b"QREXEC_SERVICE_ARGUMENT=a", b"MINE=kept",
            b"QREXEC_REMOTE_DOMAIN=", b"QREXEC_REQUESTED_TARGET_TYPE=",
        } <= {*listed}  # fmt: skip
        assert not any(line.startswith(b"QREXEC_AGENT_PID") for line in listed)
        first, *listed = orders.output(service="test.Env").splitlines()
        assert first == b"0 "
        assert not any(line.startswith(b"QREXEC_SERVICE_ARGUMENT") for line in listed)
        assert orders.output(service="test.Env+special") == b"special\n"


def test_services_that_are_of_no_use(
    rpc_folder: Path, daemon: Daemon, env: dict[str, str], nothing: int
) -> None:
    add_service(rpc_folder, "test.Other", "echo")
    (rpc_folder / "config" / "test.Other").write_text("force-user = 'daemon'\n")
    add_service(rpc_folder, "test.Own", "echo own")
    (rpc_folder / "config" / "test.Own").write_text(f"force-user = '{USER}'\n")
    add_service(rpc_folder, "test.Wrong", "echo")
    (rpc_folder / "config" / "test.Wrong").write_text("nonsense\n")
    (rpc_folder / "rpc" / "test.NotExecutable").write_text("x")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        start(daemon, env),
        daemon.accept() as connection,
    ):
        listener.bind(str(rpc_folder / "rpc" / "test.Socket"))
        orders = Orders(connection)
        for name, code in {
            "test.Other": 126, "test.Socket": 126, "test.Wrong": 125, "test.NotExecutable": 125,
            "test.None": 127, "a b": 127, "+x": 125,
        }.items():  # fmt: skip
            _, answer = orders.run([nothing] * 3, service=name)
            assert (name, answer["error-code"]) == (name, code)
        assert orders.output(service="test.Own") == b"own\n"


# A file system that does not answer.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_program_on_a_dead_mount(orders: Orders, agent: Child, nothing: int) -> None:
    """Nobody else waits for it; and who gives it up is not surprised by it later."""
    with dead_mount() as mount:
        number, call = orders.ask_run([nothing] * 3, f"{mount}/program")
        assert orders.output("echo", "well") == b"well\n"
        with pytest.raises(CommandError, match="it is not started yet"):
            orders.signal(number, signal.SIGUSR1)
        orders.signal(number, signal.SIGKILL)
        with pytest.raises(CommandError, match="there is no such command"):
            orders.signal(number, signal.SIGKILL)
    assert "error-code" in orders.answer(call)
    assert agent.process.poll() is None
