"""``spice-session-agent call``: a user's script asks the host, through the agent that runs."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.user.link import MAX_ASKED
from agent.user.local import MAX_CONNECTIONS
from agent.user.runtime import SOCKET
from sessiond.errors import CommandError
from sessiond.wire import rpc
from tests.agent.user.daemon import TIMEOUT, Connection, Daemon, as_json, environment, start
from tests.fixtures.child import ROOT

pytestmark = pytest.mark.parts

CALL = [sys.executable, "-m", "agent", "call"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def host(daemon: Daemon, env: dict[str, str]) -> Iterator[Connection]:
    """Return the daemon's end of an agent that runs."""
    with start(daemon, env), daemon.accept() as connection:
        # When it answers, its own socket is there.
        assert connection.call("guest-ping") == {}
        yield connection


def ask(env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CALL, *words], env=env, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=TIMEOUT)
    return program.returncode, out, err


def local(env: dict[str, str]) -> Connection:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(Path(env["XDG_RUNTIME_DIR"]) / SOCKET))
    return Connection(sock)


@pytest.mark.parametrize(
    "value",
    [{}, None, [1, {"a": "\u00e4"}], "x" * (3 << 20)],
    ids=["nothing", "null", "a list", "much"],
)
def test_an_answer(host: Connection, env: dict[str, str], value: object) -> None:
    with ask(env, "tell-me", '{"what": ["\u00e4", 1.5]}') as program:
        call = host.hear()
        assert isinstance(call, rpc.Call)
        assert (call.command, call.arguments) == ("tell-me", {"what": ["\u00e4", 1.5]})
        host.say(rpc.Result(call.id, value))
        assert outcome(program) == (0, as_json(value), "")


def test_an_error(host: Connection, env: dict[str, str]) -> None:
    with ask(env, "tell-me") as program:
        call = host.hear()
        assert isinstance(call, rpc.Call)
        assert call.arguments == {}
        host.say(rpc.Result(call.id, error=CommandError("the host does not want to")))
        assert outcome(program) == (1, "", "spice-session-agent: the host does not want to\n")


def test_the_daemon_goes(host: Connection, env: dict[str, str]) -> None:
    with ask(env, "tell-me") as program:
        host.hear()
        host.sock.close()
        text = "the connection to spice-sessiond is lost"
        assert outcome(program) == (1, "", f"spice-session-agent: {text}\n")


def test_there_is_no_daemon(daemon: Daemon, env: dict[str, str]) -> None:
    daemon.stop()
    with start(daemon, env) as agent:
        agent.wait_line("waiting")
        with ask(env, "tell-me") as program:
            text = "spice-sessiond is not connected"
            assert outcome(program) == (1, "", f"spice-session-agent: {text}\n")


def test_there_is_no_agent(env: dict[str, str]) -> None:
    with ask(env, "tell-me") as program:
        status, out, err = outcome(program)
    assert (status, out) == (1, "")
    assert f"no agent answers at {env['XDG_RUNTIME_DIR']}/{SOCKET}: No such file" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "required: COMMAND"),
        ([""], "a command's name has 1 to 255 characters"),
        (["x" * 256], "a command's name has 1 to 255 characters"),
        (["x", "{"], "the arguments are not JSON"),
        (["x", '{"a": NaN}'], "the arguments are not JSON"),
        (["x", "[]"], "the arguments are not an object"),
    ],
)
def test_wrong_usage(env: dict[str, str], words: list[str], complaint: str) -> None:
    with ask(env, *words) as program:
        status, out, err = outcome(program)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_answers_find_who_asked(host: Connection, env: dict[str, str]) -> None:
    with ask(env, "one") as one, ask(env, "two") as two:
        calls = {
            call.command: call.id for _ in range(2) if isinstance(call := host.hear(), rpc.Call)
        }
        host.say(rpc.Result(max(calls.values()) + 1, "nobody's"))
        host.say(rpc.Result(calls["two"], 2))
        host.say(rpc.Result(calls["two"], "again"))
        host.say(rpc.Result(calls["one"], 1))
        assert outcome(one) == (0, "1\n", "")
        assert outcome(two) == (0, "2\n", "")


def test_who_gives_up_is_forgotten(host: Connection, env: dict[str, str]) -> None:
    with local(env) as first:
        first.say(rpc.Call("x", id=4711))
        call = host.hear()
    assert isinstance(call, rpc.Call)
    host.say(rpc.Result(call.id, 1))
    assert host.call("guest-ping") == {}


@pytest.mark.parametrize(
    "line", [b"nonsense\n", rpc.encode(rpc.Notice("X")), rpc.encode(rpc.Call("x")) * 2]
)
def test_who_speaks_otherwise_is_let_go(host: Connection, env: dict[str, str], line: bytes) -> None:
    with local(env) as client:
        client.sock.sendall(line)
        with pytest.raises(EOFError):
            client.hear()
    assert host.call("guest-ping") == {}


def test_too_much_at_once(host: Connection, env: dict[str, str]) -> None:
    """More than the daemon takes."""
    with local(env) as client:
        client.say(rpc.Call("x", {"a": "y" * (MAX_ASKED - 40)}, 1))
        answer = client.hear()
        assert isinstance(answer, rpc.Result)
        assert str(answer.error) == f"a call of over {MAX_ASKED} bytes"
    assert host.call("guest-ping") == {}


def test_too_many(host: Connection, env: dict[str, str]) -> None:
    clients = [local(env) for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        client.say(rpc.Call("x"))
        assert isinstance(host.hear(), rpc.Call)  # so it has been accepted
    with local(env) as client, pytest.raises((EOFError, ConnectionResetError)):
        client.hear()
    for client in clients:
        client.sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_another_user(host: Connection, env: dict[str, str], tmp_path: Path) -> None:
    """Root's own socket is not for nobody, even where its mode would allow it."""
    place = Path(env["XDG_RUNTIME_DIR"]) / SOCKET
    for folder in (place.parent, *place.parent.parents):
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):  # noqa: S108
            folder.chmod(folder.stat().st_mode | 0o011)
    place.chmod(0o666)
    code = (
        "import os, socket, sys; os.setresuid(65534, 65534, 65534); sock = socket.socket(1); "
        "sock.settimeout(10); sock.connect(sys.argv[1]); print(len(sock.recv(1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n", done.stderr
    assert host.call("guest-ping") == {}
    assert tmp_path.is_dir()
