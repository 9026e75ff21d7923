"""Programs on terminals of their own, as they find themselves there."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from agent.terminal.begin import begin, login_shell, open_terminal
from sessiond.model import TerminalSize
from sessiond.transport.terminal import DEFAULT_SIZE, window_size
from tests.fixtures.processes import family
from tests.fixtures.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENV = {b"PATH": os.environb[b"PATH"]}
DESCRIBE = """if True:
    import os, signal, sys
    terminal = os.ttyname(0)
    assert os.ttyname(1) == os.ttyname(2) == terminal
    assert os.getsid(0) == os.getpgrp() == os.tcgetpgrp(0) == os.getpid()
    os.close(os.open("/dev/tty", os.O_RDWR))
    print(sorted(os.listdir("/proc/self/fd")), os.getcwd())
    status = open("/proc/self/status").read()
    found = [line for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn"))]
    print(*found, sep="\\n")
"""
OF_LIBC = 3 << 31  # signals 32 and 33 (nptl(7)), which nobody else can set: make(1) ignores them

STATUS = [b"grep", b"-E", b"SigBlk|SigIgn", b"/proc/self/status"]


def masks(lines: list[str]) -> list[int]:
    """Return the signals that these lines of a status have."""
    return [int(line.split()[1], 16) & ~OF_LIBC for line in lines]


def output(
    argv: list[bytes],
    env: Mapping[bytes, bytes] = ENV,
    *,
    file: bytes | None = None,
    cwd: bytes | None = None,
) -> bytes:
    """Return what a program that ends well has said."""
    terminal = open_terminal(DEFAULT_SIZE)
    process = begin(terminal, argv, env, file=file, cwd=cwd)
    said = Screen(terminal.master.fileno()).wait_end()
    assert process.wait() == 0, said
    terminal.master.close()
    return said.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("size", [(1, 1), (500, 1000)])
def test_a_terminal_is_its_users(size: tuple[int, int]) -> None:
    terminal = open_terminal(TerminalSize(*size))
    with terminal.master, terminal.end:
        found = os.fstat(terminal.end.fileno())
        assert found.st_uid == os.getuid()
        assert not stat.S_IMODE(found.st_mode) & stat.S_IRWXO
        assert window_size(terminal.end.fileno()) == TerminalSize(*size)
        assert not os.get_inheritable(terminal.master.fileno())
        assert not os.get_inheritable(terminal.end.fileno())


def test_a_character_is_erased_as_a_whole() -> None:
    terminal = open_terminal(DEFAULT_SIZE)
    with terminal.master, terminal.end:
        os.write(terminal.master.fileno(), "ä\u007f\n".encode())
        assert os.read(terminal.end.fileno(), 100) == b"\n"


def test_it_leads_the_session_that_the_terminal_controls(tmp_path: Path) -> None:
    argv = [os.fsencode(sys.executable), b"-c", DESCRIBE.encode()]
    said = output(argv, cwd=os.fsencode(tmp_path)).decode().splitlines()
    assert said[0] == f"['0', '1', '2', '3'] {tmp_path}"
    ignored = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # by that interpreter itself
    assert masks(said[1:]) == [0, ignored]
    assert masks(output(STATUS).decode().splitlines()) == [0, 0]


def test_keys_send_signals_whatever_began_us_ignored() -> None:
    """As a script does, where it begins something in the background."""
    numbers = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        said = output(STATUS).decode().splitlines()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert masks(said) == [0, 0]


def test_words_and_variables_are_as_they_were() -> None:
    """Any bytes, and no variable of ours; what an interpreter does to its own, it may."""
    odd = bytes(byte for byte in range(1, 256) if byte not in b"\n\r\t")
    env = {**ENV, b"LC_ALL": b"C", b"ODD": odd, b"PYTHONHOME": b"/nowhere", b"EMPTY": b""}
    raw = b"stty -opost; "
    assert output([b"sh", b"-c", raw + b'printf %s "$1"', b"sh", odd], env) == odd
    del env[b"LC_ALL"]
    said = output([b"sh", b"-c", raw + b"exec env -0"], env).split(b"\0")
    # The shell's own are PWD and the like.
    found = {
        line for line in said if line and not line.startswith((b"PWD", b"OLDPWD", b"_=", b"SHLVL"))
    }
    assert found == {name + b"=" + value for name, value in env.items()}


def test_a_program_is_looked_for_in_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "hello").chmod(0o755)
    assert output([b"hello"], {b"PATH": os.fsencode(tmp_path)}) == b"hello\n"
    with pytest.raises(FileNotFoundError):
        output([b"hello"])


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([b"/nonexistent"], FileNotFoundError),
        ([b"nonexistent", b"word"], FileNotFoundError),
        ([b"/etc/passwd"], PermissionError),
        ([b"/"], PermissionError),
        ([b"/etc/passwd/x"], NotADirectoryError),
        ([b"echo", bytes(128 << 10).replace(b"\0", b"x")], OSError),  # MAX_ARG_STRLEN (execve(2))
    ],
)
def test_what_cannot_be_executed(argv: list[bytes], error: type[OSError]) -> None:
    terminal = open_terminal(DEFAULT_SIZE)
    children = family(os.getpid())
    with terminal.master, pytest.raises(error) as caught:
        begin(terminal, argv, ENV)
    assert caught.value.filename == argv[0]
    assert family(os.getpid()) == children


def test_a_folder_that_there_is_not() -> None:
    terminal = open_terminal(DEFAULT_SIZE)
    with terminal.master, pytest.raises(FileNotFoundError) as caught:
        begin(terminal, [b"true"], ENV, cwd=b"/nonexistent")
    assert caught.value.filename == b"/nonexistent"


def test_a_login_shell_is_named_so() -> None:
    shell = login_shell()
    assert shell.file == (os.fsencode(pwd.getpwuid(os.getuid()).pw_shell) or b"/bin/sh")
    assert shell.words == [b"-" + os.path.basename(shell.file)]
    assert shell.env == {b"SHELL": shell.file}
    said = output([b"-sh", b"-c", b"echo $0"], file=b"/bin/sh")
    assert said == b"-sh\n"


def test_many_at_once_in_threads() -> None:
    """Each has a terminal of its own, and nothing is left of any."""
    before = len(os.listdir("/proc/self/fd")), family(os.getpid()), threading.active_count()
    said = list[bytes]()
    threads = [
        threading.Thread(target=lambda: said.append(output([b"sh", b"-c", b"tty"])))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name.startswith(b"/dev/pts/") for name in said] == [True] * len(threads)
    after = len(os.listdir("/proc/self/fd")), family(os.getpid()), threading.active_count()
    assert after == before


def test_modes_are_those_of_a_new_terminal() -> None:
    terminal = open_terminal(DEFAULT_SIZE)
    with terminal.master, terminal.end:
        modes = termios.tcgetattr(terminal.end.fileno())
        assert modes[3] & (termios.ICANON | termios.ISIG | termios.ECHO)
