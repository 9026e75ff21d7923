"""The program: what it says and its exit status."""

import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.__main__ import main
from sessiond.wire.device import Capabilities, Data, Role, StartStop
from sessiond.wire.device_state import DeviceConnection
from tests.fixtures.processes import wait_process

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[2]
PATTERN = ["stream", "--capture", "pattern"]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "port"))
        sock.listen()
        sock.settimeout(10)
        yield sock


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["stream", "-c", "speed=1"], 2, "there is no 'speed'"),
        (["stream", "-l", "/nonexistent/log"], 2, "log file /nonexistent/log cannot be written"),
        ([*PATTERN, "-p", "/nonexistent"], 1, "port /nonexistent is missing: no such file"),
        ([*PATTERN, "-p", "/dev"], 1, "port /dev is neither"),
        ([*PATTERN, "-p", "/dev/ptmx", "--display", "0x0"], 1, "pattern '0x0' is empty"),
    ],
)
def test_one_line_and_a_status(
    argv: list[str], status: int, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(argv) == status
    errors = [r for r in caplog.records if r.levelname == "ERROR"]
    assert [r.message.count("\n") for r in errors] == [0]
    assert complaint in errors[0].message
    assert errors[0].exc_info is None


@pytest.mark.parametrize(("command", "status"), [("stream", 0), ("pty", 130)])
def test_interrupted_before_it_has_begun(
    command: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only goes on until then has done all that it was to do; a command has not."""

    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.__main__._command", interrupt)
    assert main([command, *(["true"] if command == "pty" else [])]) == status


def test_an_x_display_is_looked_for_without_a_process() -> None:
    # Where another process is started, sys.audit says so before.
    code = """if True:
    import sys
    from agent.__main__ import main
    def hook(event, arguments):
        assert event not in {"subprocess.Popen", "os.posix_spawn", "os.fork"}, arguments
    sys.addaudithook(hook)
    sys.exit(main(["stream", "--display", ":4711", "--port", "/dev/ptmx"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert ":4711" in done.stderr
    assert "Assertion" not in done.stderr


@pytest.mark.parametrize(
    ("backend", "display", "others"),
    [
        ("x11", ":4711", ("agent.capture.wlroots", "agent.capture.mutter", "agent.capture.kms")),
        ("wlroots", "/nonexistent", ("Xlib", "agent.capture.mutter")),
        ("mutter", "/nonexistent", ("Xlib", "agent.capture.wlroots")),
    ],
)
def test_no_back_end_is_loaded_but_its_own(
    backend: str, display: str, others: tuple[str, ...]
) -> None:
    code = f"""if True:
    import sys
    from agent.__main__ import main
    assert main(["stream", "--capture", {backend!r}, "--display", {display!r},
                 "--port", "/dev/ptmx"]) == 1
    assert "agent.capture.{backend}.backend" in sys.modules
    loaded = [name for name in {others!r} if name in sys.modules]
    assert not loaded, loaded
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert display in done.stderr


@pytest.mark.parametrize(("card", "is_hidden"), [(("--kms-fd", "0"), True), ((), False)])
def test_who_is_given_the_card_hides_before_it_loads_the_rest(
    card: tuple[str, ...], *, is_hidden: bool
) -> None:
    """What others of nobody's could do until then, they could do for all that takes."""
    code = f"""if True:
    import ctypes, sys
    from agent.__main__ import main
    seen = []
    def hook(event, arguments):
        if event == "import" and arguments[0] == "agent.stream.app":
            seen.append(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
    sys.addaudithook(hook)
    main(["stream", "--capture", "kms", "--port", "/dev/ptmx", *{card!r}])
    assert seen == [{int(not is_hidden)}], seen
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def until_frame(sock: socket.socket) -> None:
    """Be a host that wants a stream until a frame has come."""
    host = DeviceConnection(Role.HOST)
    sock.settimeout(10)
    sock.sendall(host.send(Capabilities()) + host.send(StartStop((1,))))
    while not any(isinstance(m, Data) for m in host.receive(sock.recv(1 << 16))):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_while_streaming(listener: socket.socket, number: signal.Signals) -> None:
    port: str = listener.getsockname()
    with start(*PATTERN, "--port", port, "--display", "64x48@50") as agent:
        sock, _ = listener.accept()
        with sock:
            until_frame(sock)
            agent.send_signal(number)
            assert wait_process(agent, 10)
            assert agent.wait() == 0
            while sock.recv(1 << 16):
                pass  # what was under way, and then the end
        assert agent.stderr
        said = agent.stderr.read().splitlines()
    assert f"spice-session-agent: port {port} is open; waiting for the host" in said
    assert not [line for line in said if "Traceback" in line]


def test_host_that_is_lost_is_tried_again(listener: socket.socket) -> None:
    with start(*PATTERN, "--port", listener.getsockname(), "--display", "64x48") as agent:
        for _ in range(2):
            sock, _ = listener.accept()
            with sock:
                until_frame(sock)
        sock, _ = listener.accept()
        with sock:
            agent.terminate()
            assert wait_process(agent, 10)
            assert agent.wait() == 0


def test_wrong_command_line_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "stream", "--fast"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "spice-session-agent: unrecognized arguments: --fast; see spice-session-agent --help\n"
    )


def test_stalled_port_does_not_keep_it_from_ending(listener: socket.socket) -> None:
    with start(*PATTERN, "--port", listener.getsockname(), "--display", "2000x1000@50") as agent:
        sock, _ = listener.accept()
        with sock:
            until_frame(sock)
            # Nobody reads any more; full, when what can be read stays the same.
            assert select.select([sock], [], [], 10)[0]
            agent.terminate()
            assert wait_process(agent, 10)
            assert agent.wait() == 0
