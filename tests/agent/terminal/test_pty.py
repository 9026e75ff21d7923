"""``spice-session-agent pty`` in a window, and without one, as people and programs use it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.child import ROOT
from tests.fixtures.processes import DIE_WITH_PARENT, end_process, wait_process
from tests.fixtures.screen import Screen
from tests.fixtures.witness import Witness
from tests.terminals.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PTY: Final = (sys.executable, "-m", "agent", "pty")
PATIENCE: Final = 20.0  # seconds
ENV: Final = {"PS1": "$ ", "HOME": "/", "HISTFILE": "", "INPUTRC": "/dev/null"}


def window(*words: str, size: tuple[int, int] = (80, 24)) -> Window:
    """Return a window in which that runs with a terminal of its own."""
    return Window([*PTY, *words], size=size, extra=ENV)


@contextmanager
def piped(
    *words: str, stdin: int = subprocess.PIPE, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run that with pipes for streams."""
    process = subprocess.Popen(
        [*DIE_WITH_PARENT, *PTY, *words],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT, env={**os.environ, **(extra or {})},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def screen(process: subprocess.Popen[bytes]) -> Screen:
    assert process.stdin
    assert process.stdout
    return Screen(process.stdout.fileno(), process.stdin.fileno())


def status_of(process: subprocess.Popen[bytes]) -> int:
    assert wait_process(process, PATIENCE)
    return process.wait()


def output(*words: str) -> tuple[bytes, bytes, int]:
    """Return what it said, what we did, and the exit status; given no input."""
    with piped(*words, stdin=subprocess.DEVNULL) as process:
        said, complaint = process.communicate(timeout=PATIENCE)
        return said, complaint, process.returncode


# What it says.


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -HUP $$", 129),
    ],
)
def test_exit_status(code: str, status: int) -> None:
    assert output("sh", "-c", f"echo begun; {code}") == (b"begun\r\n", b"", status)


@pytest.mark.parametrize(
    ("word", "status", "text"),
    [
        ("/nonexistent", 127, b"cannot run '/nonexistent': No such file or directory\n"),
        ("/etc/passwd", 126, b"cannot run '/etc/passwd': Permission denied\n"),
    ],
)
def test_what_cannot_be_run(word: str, status: int, text: bytes) -> None:
    assert output(word) == (b"", text, status)


@pytest.mark.parametrize("size", ["0x1", "1x0", "65536x1", "x", "80", "-1x1", "1x1x1", "٣x٣"])
def test_wrong_sizes(size: str) -> None:
    _, complaint, status = output(f"--size={size}", "true")
    assert status == 2
    assert b"two numbers" in complaint


@pytest.mark.parametrize(
    ("options", "size"),
    [((), b"24 80"), (("--size=1x1",), b"1 1"), (("--size=500x1000",), b"1000 500")],
)
def test_size_without_a_window(options: tuple[str, ...], size: bytes) -> None:
    assert output(*options, "--", "stty", "size") == (size + b"\r\n", b"", 0)


def test_it_has_a_terminal_and_we_have_none() -> None:
    """Which stdin, stdout and stderr are, and which controls it."""
    code = "tty; tty <&1; tty <&2; readlink /proc/self/fd/0; : </dev/tty && echo controls"
    said = output("sh", "-c", code)[0].split()
    assert len(set(said[:4])) == 1
    assert said[0].startswith(b"/dev/pts/")
    assert said[4:] == [b"controls"]


def test_all_that_is_said_at_the_end_comes() -> None:
    """However much that is, and whoever still has the terminal."""
    code = (
        "stty -opost; (trap '' HUP; echo >&3; exec sleep 1000) & read x <&4; exec cat /proc/self/x"
    )
    del code
    size = 3 << 20
    said, _, status = output("sh", "-c", f"stty -opost; head -c {size} /dev/zero; exit 4")
    assert (len(said), status) == (size, 4)


def test_who_stays_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """Though it still has the terminal."""
    os.mkfifo(tmp_path / "gate")
    code = "(trap '' HUP; echo >gate; exec sleep 1000) & read x <gate; echo $!; exit 5"
    said, _, status = output("sh", "-c", f"cd {tmp_path}; {code}")
    os.kill(int(said), signal.SIGKILL)
    assert status == 5


# What it is told.


@pytest.mark.parametrize("kind", ["pipe", "nothing", "socket"])
def test_end_of_input(kind: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as nothing:
        stdin = {"pipe": subprocess.PIPE, "nothing": nothing.fileno(), "socket": theirs.fileno()}
        with piped("sh", "-c", "stty -echo; cat; cat; exit 6", stdin=stdin[kind]) as process:
            theirs.close()
            ours.shutdown(socket.SHUT_WR)
            assert process.communicate(timeout=PATIENCE) == (b"", b"")
            assert process.returncode == 6


def test_what_is_typed_before_the_end() -> None:
    with piped("sh", "-c", "stty -echo; echo begun; cat; exit 6") as process:
        shown = screen(process)
        shown.wait(b"begun")
        shown.type(b"line\nrest")
        assert process.stdin
        process.stdin.close()
        assert shown.wait_end() == b"begun\r\nline\r\nrest"
        assert status_of(process) == 6


def test_much_input() -> None:
    data = os.urandom(1 << 20)
    with piped("sh", "-c", f"stty raw -echo; echo begun; exec head -c {len(data)}") as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.read(6) == b"begun\n"
        assert process.communicate(data, timeout=PATIENCE)[0] == data


# The end.


def test_nobody_reads_what_it_has_said_before_its_end(tmp_path: Path) -> None:
    with Witness(tmp_path / "witness") as witness:
        code = f"exec 9>{witness.path}; echo begun >&9; exec seq 3000"
        with piped("sh", "-c", code) as process:
            assert process.stdout
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            witness.wait_told(b"begun")
            witness.wait_end()
            process.stdout.close()
            assert status_of(process) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("is_said", [True, False])
def test_nobody_reads_it_any_more(tmp_path: Path, *, is_said: bool) -> None:
    """Its terminal is hung up, at once."""
    with Witness(tmp_path / "witness") as witness:
        # A child that is just being forked may not hear of it.
        trap = "trap 'echo hung up >&9; kill $!; exit' HUP"
        code = f"exec 9>{witness.path}; {trap}; echo begun; "
        code += "while :; do echo x; done" if is_said else "sleep 1000 & wait"
        with piped("sh", "-c", code) as process:
            screen(process).wait(b"begun")
            assert process.stdout
            process.stdout.close()
            assert status_of(process) == 128 + signal.SIGPIPE
        witness.wait_told(b"hung up")
        witness.wait_end()


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL]
)
def test_a_hang_up_reaches_all_jobs(tmp_path: Path, number: signal.Signals) -> None:
    """Those of a shell in the background, too, and one that is stopped."""
    with Witness(tmp_path / "witness") as witness, window("bash", "--norc", "-i") as shown:
        before = shown.before
        shown.wait(r"\$ ")
        shown.type(f"exec 9>{witness.path}\r")
        trap = 'trap "echo hung up >&9; kill \\$!; exit" HUP'
        job = f"sh -c '{trap}; echo job >&9; sleep 1000 & wait'"
        shown.type(f"{job} &\r")
        witness.wait_told(b"job")
        shown.type("sh -c 'echo fore >&9; exec sleep 1000'\r")
        witness.wait_told(b"fore")
        shown.type("\x1a")
        shown.wait("Stopped")
        shown.process.send_signal(number)
        status = shown.wait_exit()
        assert status == (-number if number == signal.SIGKILL else 128 + number)
        witness.wait_told(b"hung up")
        witness.wait_end()
        if number != signal.SIGKILL:
            assert shown.modes() == before


def test_what_is_ignored_does_not_end_it() -> None:
    """As by nohup(1)."""
    begin = 'trap "" HUP INT; exec "$@"'
    words = ["sh", "-c", begin, "sh", *PTY, "sh", "-c", "echo begun; exec cat"]
    with Window(words, extra=ENV) as shown:
        shown.wait("begun")  # our terminal is raw now, and shows nothing of itself
        shown.type("before\r")
        shown.wait("before\r\nbefore")
        shown.process.send_signal(signal.SIGHUP)
        shown.process.send_signal(signal.SIGINT)
        shown.type("after\r")
        shown.wait("after\r\nafter")
        shown.type("\x04")
        assert shown.wait_exit() == 0


def test_our_terminal_is_closed(tmp_path: Path) -> None:
    with Witness(tmp_path / "witness") as witness:
        code = f"exec 9>{witness.path}; trap 'kill $!; exit' HUP; echo begun >&9; sleep 1000 & wait"
        master, terminal = os.openpty()
        with piped("sh", "-c", code, stdin=terminal) as process:  # which does not control us
            os.close(terminal)
            witness.wait_told(b"begun")
            os.close(master)
            assert status_of(process) == 128 + signal.SIGHUP
        witness.wait_end()


# In a window.


def test_job_control() -> None:
    with window("bash", "--norc", "-i") as shown:
        before = shown.before
        shown.wait(r"\$ ")
        assert shown.is_raw
        shown.type("sh -c 'echo first; exec sleep 1000'\r")
        shown.wait("[\r\n]first")
        shown.type("\x03")
        shown.wait(r"\^C[^$]*\$ ")
        shown.type("echo status $?\r")
        shown.wait("status 130")
        shown.type(f"{JOB}\r")
        shown.wait("[\r\n]begun")
        at = shown.now()
        shown.type("\x1a")
        shown.wait(r"Stopped[^$]*\$ ", after=at)
        at = shown.now()
        shown.type("fg\r")
        shown.wait("[\r\n]front", after=at)
        shown.type("\x03")
        shown.wait(r"\^C[^$]*\$ ", after=at)
        shown.type("exit 7\r")
        assert shown.wait_exit() == 7
        assert shown.modes() == before


@pytest.mark.parametrize("size", [(1, 1), (500, 1000)])
def test_size_of_the_window(size: tuple[int, int]) -> None:
    with window("sh", "-c", "stty size; sleep 1000", size=size) as shown:
        shown.wait(f"{size[1]} {size[0]}\r\n")


# Gives word when it is in front again, which a shell does before it continues a job.
JOB: Final = "sh -c 'trap \"echo front\" CONT; echo begun; while :; do read x; done'"
RESIZED: Final = """if True:
    import os, signal
    def say(*_):
        os.write(1, b"size %d %d end\\n" % os.get_terminal_size(0))
    signal.signal(signal.SIGWINCH, say)
    say()
    while True:
        signal.pause()
"""


def test_the_final_size_reaches_the_program() -> None:
    with window(sys.executable, "-c", RESIZED) as shown:
        shown.wait("size 80 24 end")
        for columns in range(1, 300):
            shown.resize(columns, 1 + columns % 7)
        shown.resize(500, 1000)
        shown.wait("size 500 1000 end")
        shown.resize(1, 1)
        shown.wait("size 1 1 end")


def test_we_are_stopped_and_continued() -> None:
    """By a signal; meanwhile the terminal is as it was, and it may get another size."""
    with window(sys.executable, "-c", RESIZED) as shown:
        before = shown.before
        shown.wait("size 80 24 end")
        raw = shown.modes()
        assert shown.is_raw
        for columns in (90, 100):
            shown.process.send_signal(signal.SIGTSTP)
            # It leads its session, so that the kernel does not stop it by itself (setpgid(2)).
            shown.resize(columns, 30)
            shown.wait(f"size {columns} 30 end")
            shown.process.send_signal(signal.SIGCONT)
            assert shown.modes() in (raw, before)
        shown.process.send_signal(signal.SIGTERM)
        assert shown.wait_exit() == 143
        assert shown.modes() == before


def test_a_shells_job_that_is_stopped_and_continued() -> None:
    """The shell has its terminal back meanwhile, as it was."""
    with Window(["bash", "--norc", "-i"], extra=ENV) as shown:
        words = " ".join(PTY)
        shown.wait(r"\$ ")
        shown.type(f"{words} sh -c 'echo pid $PPID; exec cat'\r")
        pid = int(shown.wait(r"pid (\d+)\r\n")[1])
        shown.type("one\r")
        shown.wait("one\r\none")
        at = shown.now()
        os.kill(pid, signal.SIGTSTP)
        shown.wait("Stopped", after=at)
        shown.resize(90, 30)
        shown.type("stty -a | grep -o -- '-*icanon'\r")
        shown.wait(r"[\r\n]icanon", after=at)
        at = shown.now()
        shown.type("fg\r")
        shown.wait(r"fg\r\n.*agent", after=at)
        shown.type("two\r")
        shown.wait("two\r\ntwo", after=at)
        shown.type("\x04")
        shown.wait(r"\$ ", after=shown.now() - 1)
        shown.type("exit 3\r")
        assert shown.wait_exit() == 3


def test_nothing_is_left_behind() -> None:
    """Neither a process nor a raw terminal, whatever the command does to its own."""
    with window("sh", "-c", "stty raw; exec true") as shown:
        before = shown.before
        assert shown.wait_exit() == 0
        assert shown.modes() == before
        assert termios.tcgetwinsize(shown.slave) == (24, 80)
    end_process(shown.process)
