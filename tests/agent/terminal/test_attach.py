"""``terminal attach`` and ``terminal serve`` as processes, and whom each refuses.

The terminals here are ptys of ours; those of a terminal emulator are in ``tests/terminals``.
"""

import itertools
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agent.terminal import handover
from sessiond.transport import rights

ROOT: Final = Path(__file__).parents[3]
# Isolated, and without what is installed: the standard library and the tree, as in an initramfs.
CODE: Final = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from agent.terminal.main import main
sys.exit(main(sys.argv[1:], "spice-session-agent"))
"""
START: Final = (sys.executable, "-I", "-S", "-B", "-c", CODE)
# Everybody can execute this one.
PYTHON: Final = (os.path.realpath(sys.executable), "-I", "-S", "-c")
TIMEOUT: Final = 20.0  # seconds
NOBODY: Final = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
_numbers = itertools.count()

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def name() -> str:
    """Give a name that nobody else offers a terminal by."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def start(name: str) -> Iterator[Start]:
    """Give what starts ``terminal`` with these words, in a session of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(action: str, *words: str, **how: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        command = [*START, action, "--name", name, *words]
        how = {**streams, "text": True, "start_new_session": True, **how}
        process: subprocess.Popen[str] = subprocess.Popen(command, **how)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def listen_at(address: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(address)
    sock.listen()
    sock.settimeout(TIMEOUT)
    return sock


def nobodys(code: str) -> subprocess.Popen[str]:
    """Start Python, as another user, and return it when it has written a line."""
    process = subprocess.Popen(
        [*PYTHON, code], user=NOBODY, group=NOBODY, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def outcome(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def read_until(master: int, wanted: bytes) -> bytes:
    """Read a terminal's output until that is in it, or its end."""
    seen = b""
    while wanted not in seen:
        assert select.select([master], [], [], TIMEOUT)[0], seen
        try:
            seen += os.read(master, 4096)
        except OSError:  # EIO: everybody has closed it
            break
    assert wanted in seen
    return seen


@pytest.mark.parametrize("padded", [False, True], ids=["tight", "padded"])
def test_it_becomes_the_command_with_what_it_receives(
    start: Start,
    name: str,
    padded: bool,
) -> None:
    with listen_at(handover.addresses(name)[padded]) as listener:
        attach = start("attach", "--", "sh", "-c", "read x; echo out $x; echo err >&2; exit 9")
        connection, _ = listener.accept()
        pipes = [os.pipe() for _ in range(3)]
        with connection:
            rights.send(connection, (pipes[0][0], pipes[1][1], pipes[2][1]))
    os.write(pipes[0][1], b"in\n")
    assert outcome(attach) == (9, "", "")
    assert os.read(pipes[1][0], 99) == b"out in\n"
    assert os.read(pipes[2][0], 99) == b"err\n"
    for end in (end for pipe in pipes for end in pipe):
        os.close(end)


def test_it_tries_again_for_as_long_as_it_may(start: Start, name: str) -> None:
    attach = start("attach", "--wait", "3600", "--", "true")
    for address in handover.addresses(name):
        with listen_at(address) as listener:
            listener.accept()[0].close()
    with listen_at(handover.addresses(name)[1]) as listener:
        connection, _ = listener.accept()
        with connection, open(os.devnull, "r+b") as null:
            rights.send(connection, [null.fileno()] * 3)
        assert outcome(attach) == (0, "", "")


def test_nobody_offers_one(start: Start, name: str) -> None:
    complaint = f"spice-session-agent: nobody offers a terminal as {name!r}\n"
    assert outcome(start("attach", "--", "true")) == (125, "", complaint)
    assert outcome(start("attach", "--wait", "0.3", "true")) == (125, "", complaint)


def test_the_fall_back_is_here(start: Start, name: str) -> None:
    attach = start("attach", "--fallback", "--", "sh", "-c", "echo here; exit 8")
    complaint = f"spice-session-agent: nobody offers a terminal as {name!r}; going on here\n"
    assert outcome(attach) == (8, "here\n", complaint)


@needs_root
def test_the_first_process_falls_back_unasked(name: str) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", *START, "attach", "--name", name]
    done = subprocess.run(
        [*command, "sh", "-c", "echo $$"], capture_output=True, text=True, timeout=TIMEOUT,
        check=True,
    )  # fmt: skip
    assert done.stdout == "1\n"
    assert "going on here" in done.stderr


@pytest.mark.parametrize(
    ("data", "count", "complaint"),
    [
        (b"", 0, "the other side went away, or does not trust us"),
        (b"\x17", 0, "0 descriptors came, not 3"),
        (b"\x17", 1, "1 descriptors came, not 3"),
        (b"\x17", 2, "2 descriptors came, not 3"),
        (b"\x17", 4, "4 descriptors came, not 3"),
        (b"\x17", 100, "4 and more descriptors came, not 3"),
        (b"\x17\x17", 3, "2 bytes came, not 1"),
    ],
)
def test_hostile_senders(start: Start, name: str, data: bytes, count: int, complaint: str) -> None:
    with listen_at(handover.addresses(name)[0]) as listener:
        attach = start("attach", "--", "true")
        connection, _ = listener.accept()
        with connection:
            if data:
                socket.send_fds(connection, [data], [0] * count)
        assert outcome(attach) == (125, "", f"spice-session-agent: {complaint}\n")


@pytest.mark.parametrize(
    ("command", "status", "complaint"),
    [("/no/such", 127, "No such file or directory"), ("/etc/passwd", 126, "Permission denied")],
)
def test_a_command_that_cannot_be_run(
    start: Start, name: str, command: str, status: int, complaint: str
) -> None:
    """That is said where it was asked for, not on the terminal."""
    with listen_at(handover.addresses(name)[0]) as listener:
        attach = start("attach", "--", command)
        connection, _ = listener.accept()
        with connection, open(os.devnull, "r+b") as null:
            rights.send(connection, [null.fileno()] * 3)
        text = f"spice-session-agent: cannot run {command!r}: {complaint}\n"
        assert outcome(attach) == (status, "", text)


def test_the_command_dies_of_a_broken_pipe_as_others_do(start: Start) -> None:
    attach = start("attach", "--fallback", "--", "grep", "SigIgn", "/proc/self/status")
    status, out, _ = outcome(attach)
    assert status == 0
    ignored = int(out.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@needs_root
def test_another_users_terminal_is_not_taken(start: Start, name: str) -> None:
    """Nor does it keep ours away, at the other address."""
    tight, padded = handover.addresses(name)
    squatter = nobodys(
        f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({tight!r}); s.listen(); "
        "print('ready', flush=True); socket.send_fds(s.accept()[0], [b'x'], [0, 0, 0]); input()"
    )
    try:
        attach = start("attach", "--", "true")
        status, _, err = outcome(attach)
        assert status == 125
        offered = f"the terminal that process {squatter.pid} of user {NOBODY} offers is not taken"
        assert err == f"spice-session-agent: {offered}\n"
        with listen_at(padded) as listener:
            attach = start("attach", "--", "true")
            connection, _ = listener.accept()
            with connection, open(os.devnull, "r+b") as null:
                rights.send(connection, [null.fileno()] * 3)
            assert outcome(attach) == (0, "", "")
    finally:
        squatter.kill()
        squatter.communicate()


def open_pty() -> tuple[int, str]:
    """Return a master and its terminal's path."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    return master, path


@pytest.fixture
def pane(start: Start) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Give a pty's master and what serves it, which leads the session that it controls."""
    master, path = open_pty()
    serve = start("serve", stdin=None, stdout=None, stderr=None, preexec_fn=Stdio(path))
    yield master, serve
    os.close(master)


class Stdio:
    """Make that terminal a child's own, after setsid(2)."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> None:
        fd = os.open(self._path, os.O_RDWR)  # it leads a session without one, and so gets it
        for number in range(3):
            os.dup2(fd, number)


@needs_root
def test_another_user_is_refused_and_keeps_nobody_away(
    pane: tuple[int, "subprocess.Popen[str]"], start: Start, name: str
) -> None:
    master, serve = pane
    read_until(master, b"is offered as")
    for _ in range(2):
        intruder = nobodys(
            "import socket; s = socket.socket(socket.AF_UNIX); "
            f"s.connect({handover.addresses(name)[1]!r}); print('ready', flush=True); "
            "print(s.recvmsg(9, 99)[:2])"
        )
        with intruder:
            assert intruder.stdout
            assert intruder.stdout.read() == "(b'', [])\n"
    attach = start("attach", "--", "sh", "-c", "echo hello")
    seen = read_until(master, b"hello")
    assert attach.wait(TIMEOUT) == 0
    assert serve.wait(TIMEOUT) == 0
    assert seen.count(b"refused: process") == 1  # a user's, once


def test_a_client_that_vanishes_does_not_take_the_terminal_along(
    pane: tuple[int, "subprocess.Popen[str]"], start: Start, name: str
) -> None:
    master, serve = pane
    read_until(master, b"is offered as")
    # Held up, so that who connects can be gone before it is looked at.
    serve.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, serve.pid, os.WSTOPPED | os.WNOWAIT)
    for address in handover.addresses(name):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
    serve.send_signal(signal.SIGCONT)
    read_until(master, b"not handed to process")
    attach = start("attach", "--wait", "20", "--", "sh", "-c", "ps -o tty= -p $$; echo done")
    seen = read_until(master, b"done")
    assert b"pts/" in seen  # it controls the command: the server had taken it back, to give it up
    assert attach.wait(TIMEOUT) == 0
    assert serve.wait(TIMEOUT) == 0


def test_a_client_that_does_not_take_it_leaves_it_to_others(
    pane: tuple[int, "subprocess.Popen[str]"], start: Start, name: str
) -> None:
    """As ``attach`` does with a server of whom it learns that it is another user's."""
    master, serve = pane
    read_until(master, b"is offered as")
    for address in handover.addresses(name):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            assert select.select([client], [], [], TIMEOUT)[0]
    seen = read_until(master, b"not handed to process")
    attach = start("attach", "--wait", "20", "--", "sh", "-c", "ps -o tty= -p $$; echo done")
    seen += read_until(master, b"done")
    assert b"pts/" in seen  # as above
    assert seen.count(b"not handed") == 1  # of one process
    assert attach.wait(TIMEOUT) == 0
    assert serve.wait(TIMEOUT) == 0


def test_serve_ends_with_its_terminal_and_by_a_signal(start: Start) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        master, path = open_pty()
        serve = start("serve", stdin=None, stdout=None, stderr=None, preexec_fn=Stdio(path))
        read_until(master, b"is offered as")
        serve.send_signal(number)
        assert serve.wait(TIMEOUT) == -number
        os.close(master)


def test_serve_with_a_closed_stream(start: Start) -> None:
    serve = start("serve", preexec_fn=lambda: os.close(0))
    text = "spice-session-agent: standard input, output or error is closed\n"
    assert outcome(serve) == (1, "", text)


def test_a_name_that_is_taken(start: Start, name: str) -> None:
    with listen_at(handover.addresses(name)[1]):
        text = f"spice-session-agent: a terminal is offered as {name!r} already\n"
        assert outcome(start("serve")) == (1, "", text)


def test_what_is_no_terminal_is_handed_over_too(start: Start) -> None:
    serve = start("serve")
    attach = start("attach", "--wait", "20", "--", "sh", "-c", "echo hello; echo words >&2")
    assert attach.wait(TIMEOUT) == 0
    status, out, err = outcome(serve)
    assert (status, out) == (0, "hello\n")
    assert err.endswith("words\n")


def test_nothing_but_the_standard_library_and_the_documented_files_are_loaded() -> None:
    """By ``spice-sessionctl`` and what that executes; so an initramfs needs nothing else."""
    code = f"""if True:
    import sys
    before = set(sys.modules)
    sys.path.insert(0, {str(ROOT)!r})
    import agent.terminal.main, sessiond.ctl.__main__, sessiond.ctl.terminal
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if name.partition(".")[0] not in sys.stdlib_module_names:
            print(file.removeprefix({str(ROOT) + "/"!r}))
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    used = sorted(done.stdout.split())
    assert sorted(documented_files()) == used


def test_the_documented_files_are_enough(name: str, tmp_path: Path) -> None:
    """In the places and with the start that the Debian package gives them."""
    for file in documented_files():
        target = tmp_path / "share" / "spice-sessiond" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    launcher = (ROOT / "packaging" / "debian" / "launcher.in").read_text(encoding="utf-8")
    program = tmp_path / "bin" / "spice-sessionctl"
    program.parent.mkdir()
    program.write_text(launcher.replace("@MODULE@", "sessiond.ctl.__main__"), encoding="utf-8")
    terminal = [sys.executable, "-I", "-B", str(program), "terminal"]
    with subprocess.Popen([*terminal, "serve", "--name", name], stdout=subprocess.PIPE) as serve:
        attach = [*terminal, "attach", "--name", name, "--wait", "20", "--", "echo", "hello"]
        subprocess.run(attach, timeout=TIMEOUT, check=True)
        assert serve.stdout
        assert serve.stdout.read() == b"hello\n"
        assert serve.wait(TIMEOUT) == 0


def documented_files() -> list[str]:
    page = (ROOT / "docs" / "terminals.md").read_text(encoding="utf-8")
    found = re.search(r"^sessiond/__init__.py\n(^\S+\.py\n)+", page, re.MULTILINE)
    assert found
    return found[0].split()
