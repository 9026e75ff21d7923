"""Commands of the daemon's on terminals that a whole agent makes, and those of other domains."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import sys
import tempfile
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.errors import CommandError
from sessiond.transport.terminal_passing import receive_master
from tests.agent.qrexec.services import ME
from tests.agent.user.daemon import Daemon
from tests.commands.ordering import Orders, holdings, null, pipe, settle
from tests.fixtures.child import ROOT
from tests.fixtures.qrexec import Agent, Host
from tests.fixtures.screen import Screen
from tests.fixtures.user_agent import IS_ROOT, UserAgent
from tests.fixtures.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sessiond.transport.fds import OwnedFd
    from tests.fixtures.child import Child

COUNT: Final = 100
SIZE: Final = {"columns": 90, "rows": 30}
SHELL: Final = ("bash", "--norc", "-i")
ENV: Final = {"PS1": "$ ", "TERM": "dumb"}


def ask(orders: Orders, *argv: str, **more: object) -> tuple[int, dict[str, Any], socket.socket]:
    """Have it run on a terminal; return its id, the answer, and where the master has come."""
    ours, its = socket.socketpair()
    with its, null() as nothing:
        try:
            how = {"terminal": SIZE, "env": ENV, **more}
            number, answer = orders.run([its.fileno(), nothing, nothing], *argv, **how)
        except BaseException:
            ours.close()
            raise
    return number, answer, ours


def run(orders: Orders, *argv: str, **more: object) -> tuple[int, OwnedFd, int]:
    """Have it run on a terminal; return its id, the terminal's master, and its pid."""
    number, answer, sock = ask(orders, *argv, **more)
    assert "pid" in answer, answer
    with sock:
        master = receive_master(sock)
        assert sock.recv(1) == b""  # and nothing else
    return number, master, answer["pid"]


def said(orders: Orders, *argv: str, **more: object) -> bytes:
    """Return what one that ends well has said."""
    number, master, _ = run(orders, *argv, **more)
    with master:
        shown = Screen(master.fileno()).wait_end()
    assert orders.ending(number) == (0, 0), shown
    return shown


# Its terminal.


def test_it_is_interactive(orders: Orders) -> None:
    number, master, pid = run(orders, *SHELL)
    with master:
        shown = Screen(master.fileno())
        shown.wait(rb"\$ ")
        shown.type(b"echo $$ $(tty) $(stty size)\r")
        assert int(shown.wait(rb"\n(\d+) /dev/pts/\d+ 30 90")[1]) == pid
        shown.type(JOB.encode() + b"\r")
        shown.wait(rb"\nbegun")
        shown.type(b"\x1a")
        shown.wait(rb"Stopped[^$]*\$ ")
        at = len(shown.shown)
        shown.type(b"fg\r")
        shown.wait(rb"\nfront", at)
        shown.type(b"\x03")
        shown.wait(rb"\^C[^$]*\$ ", at)
        shown.type(b"exit 7\r")
        assert orders.ending(number) == (7, 0)


@pytest.mark.parametrize("size", [(1, 1), (500, 1000), (65535, 65535)])
def test_its_size(orders: Orders, size: tuple[int, int]) -> None:
    columns, rows = size
    shown = said(orders, "stty", "size", terminal={"columns": columns, "rows": rows})
    assert shown == b"%d %d\r\n" % (rows, columns)


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


def test_another_size(orders: Orders) -> None:
    """By the agent, and by who has the master."""
    number, master, _ = run(orders, sys.executable, "-c", RESIZED)
    with master:
        shown = Screen(master.fileno())
        shown.wait(b"size 90 30 end")
        for columns in (1, 500):
            assert orders.call("resize-command", id=number, columns=columns, rows=7) == {}
            shown.wait(b"size %d 7 end" % columns)
        termios.tcsetwinsize(master.fileno(), (8, 9))
        shown.wait(b"size 9 8 end")
        orders.signal(number, signal.SIGKILL)
        assert orders.ending(number) == (137, 9)
        with pytest.raises(CommandError, match="no such command"):
            orders.call("resize-command", id=number, columns=1, rows=1)


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (65536, 1), (-1, 1)])
def test_wrong_sizes(orders: Orders, size: tuple[int, int]) -> None:
    columns, rows = size
    with pytest.raises(CommandError, match="from 1 to 65535"):
        ask(orders, "true", terminal={"columns": columns, "rows": rows})
    number, master, _ = run(orders, "sleep", "1000")
    with master, pytest.raises(CommandError, match="from 1 to 65535"):
        orders.call("resize-command", id=number, columns=columns, rows=rows)


@pytest.mark.parametrize("terminal", [{}, {"columns": 1}, {"columns": "1", "rows": 1}])
def test_what_is_no_size(orders: Orders, terminal: dict[str, object]) -> None:
    with pytest.raises(CommandError, match="columns and rows"):
        ask(orders, "true", terminal=terminal)


def test_no_other_command_has_a_size(orders: Orders) -> None:
    with null() as nothing, pipe() as (reader, writer):
        del writer
        number, _ = orders.run([reader, nothing, nothing], "sleep", "1000")
        with pytest.raises(CommandError, match="no terminal"):
            orders.call("resize-command", id=number, columns=1, rows=1)
    number, peer = orders.serve(f"{ME}:exec sleep 1000")
    with contextlib.closing(peer.sock), pytest.raises(CommandError, match="no terminal"):
        orders.call("resize-command", id=number, columns=1, rows=1)


@pytest.mark.parametrize(
    ("argv", "more"),
    [
        (("true",), {"service": "test.Service"}),
        ((), {"service": "test.Service"}),
        (("true",), {"login_shell": True}),
        ((), {"login_shell": True, "service": "test.Service"}),
        ((), {}),
    ],
)
def test_more_than_one_thing_or_none(
    orders: Orders, argv: Sequence[str], more: dict[str, object]
) -> None:
    with pytest.raises(CommandError):
        ask(orders, *argv, **more)


def test_a_login_shell_needs_a_terminal(orders: Orders) -> None:
    with null() as nothing, pytest.raises(CommandError, match="needs a terminal"):
        orders.run([nothing] * 3, login_shell=True)


# What it runs.


@pytest.mark.parametrize(
    ("word", "code"), [("/nonexistent", 127), ("nonexistent", 127), ("/etc/passwd", 126)]
)
def test_what_cannot_be_run(orders: Orders, word: str, code: int) -> None:
    _, answer, sock = ask(orders, word)
    with sock, receive_master(sock) as master:
        assert answer["error-code"] == code
        assert word in answer["text"]
        assert Screen(master.fileno()).wait_end() == b""  # nobody is there


def test_a_folder_that_there_is_not(orders: Orders) -> None:
    _, answer, sock = ask(orders, "true", cwd="/nonexistent")
    sock.close()
    assert answer["error-code"] == 125
    assert "in '/nonexistent'" in answer["text"]


def test_its_environment(orders: Orders, tmp_path: Path) -> None:
    """As any command's."""
    session = {"id": "c1", "type": "x11", "display": ":7"}
    code = "echo $XDG_SESSION_ID $DISPLAY $TERM $ODD $HOME $PWD"
    shown = said(orders, "sh", "-c", code, session=session, env={"TERM": "vt52", "ODD": "ö"})
    assert shown.decode().split() == ["c1", ":7", "vt52", "ö", str(tmp_path), str(tmp_path)]


def test_login_shell(orders: Orders) -> None:
    shell = pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"
    number, master, _ = run(orders, login_shell=True)
    with master:
        shown = Screen(master.fileno())
        shown.type(b"echo name $0 $SHELL; exit 3\r")
        name = f"name -{os.path.basename(shell)} {shell}".encode()
        shown.wait(name)
        assert orders.ending(number) == (3, 0)


@pytest.mark.skipif(not IS_ROOT, reason="another user's agent takes root")
@pytest.mark.parametrize("user", ["nobody", "games"])
def test_login_shell_of_who_has_none(user: str) -> None:
    """It says so, and is the user's own program on the user's own terminal."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 (it is another user who is to come)
        with (
            Daemon(Path(folder)) as daemon,
            UserAgent(daemon.path, user),
            daemon.accept() as connection,
        ):
            orders = Orders(connection)
            number, master, _ = run(orders, login_shell=True)
            with master:
                shown = Screen(master.fileno()).wait_end()
            assert b"not available" in shown
            assert orders.ending(number) == (1, 0)
            owner = said(orders, "sh", "-c", "stat -c %U $(tty); id -un")
            assert owner.split() == [user.encode()] * 2


# The socket.


def test_what_is_no_socket(orders: Orders, tmp_path: Path) -> None:
    """Nothing is started then."""
    begun = tmp_path / "begun"
    udp, unconnected = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
    with null() as nothing, pipe() as (reader, writer), udp, unconnected:
        for fd in (nothing, reader, writer, udp.fileno(), unconnected.fileno()):
            fds = [fd, nothing, nothing]
            _, answer = orders.run(fds, "touch", str(begun), terminal=SIZE)
            assert answer["error-code"] == 125
            assert "cannot hand over its terminal" in answer["text"]
    assert said(orders, "ls", str(tmp_path)).count(b"begun") == 0


def test_a_caller_who_has_gone(orders: Orders, tmp_path: Path) -> None:
    """Nothing is started then."""
    ours, its = socket.socketpair()
    ours.close()
    with its, null() as nothing:
        begun = tmp_path / "begun"
        fds = [its.fileno(), nothing, nothing]
        _, answer = orders.run(fds, "touch", str(begun), terminal=SIZE)
    assert answer["error-code"] == 125
    assert "nobody takes it" in answer["text"]
    assert said(orders, "ls", str(tmp_path)).count(b"begun") == 0


# Its end.


@pytest.mark.parametrize("is_held", [True, False])
def test_a_hang_up_reaches_all_jobs(orders: Orders, tmp_path: Path, *, is_held: bool) -> None:
    """When the daemon has gone, even if the caller still has the terminal."""
    with Witness(tmp_path / "witness") as witness:
        _, master, _ = run(orders, *SHELL)
        with contextlib.ExitStack() as held:
            shown = Screen(master.fileno())
            shown.wait(rb"\$ ")
            trap = 'trap "echo hung up >&9; kill \\$!; exit" HUP'
            trap = f"sh -c '{trap}; echo job >&9; sleep 1000 & wait'"
            shown.type(f"exec 9>{witness.path}; {trap} &\r".encode())
            witness.wait_told(b"job")
            shown.type(b"sleep 1000 &\r")
            shown.wait(rb"\[2\]")
            held.callback(master.close)
            if not is_held:
                held.close()
            orders.connection.sock.close()
            witness.wait_told(b"hung up")
            witness.wait_end()


def test_a_caller_who_closes_it(orders: Orders) -> None:
    """Its terminal is hung up when the daemon says so, by its signals, or goes."""
    number, master, _ = run(orders, "sh", "-c", "echo begun; exec sleep 1000")
    Screen(master.fileno()).wait(b"begun")
    master.close()
    orders.signal(number, signal.SIGHUP)
    assert orders.ending(number) == (129, 1)


def test_nothing_is_left_of_a_hundred(orders: Orders, agent: Child) -> None:
    """Neither of those that end well, nor of those that cannot be started, nor of the hung up."""
    said(orders, "true")
    before = holdings(agent.pid)
    for at in range(COUNT):
        if at % 3 == 0:
            said(orders, "true")
        elif at % 3 == 1:
            ask(orders, "/nonexistent")[2].close()
        else:
            number, master, _ = run(orders, "sleep", "1000")
            master.close()
            orders.signal(number, signal.SIGHUP)
            assert orders.ending(number) == (129, 1)
    said(orders, "true")
    settle(orders, agent.pid, before)
    terminals = [
        os.readlink(f"/proc/{agent.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{agent.pid}/fd")
    ]
    assert not [name for name in terminals if "ptmx" in name or "/pts/" in name]


def test_the_agent_is_killed(orders: Orders, agent: Child, tmp_path: Path) -> None:
    with Witness(tmp_path / "witness") as witness:
        code = f"exec 9>{witness.path}; trap '' HUP; echo begun >&9; while :; do sleep 1000; done"
        _, master, _ = run(orders, "sh", "-c", code)
        with master:
            witness.wait_told(b"begun")
            agent.signal(signal.SIGKILL)
            witness.wait_end()


# From another domain.


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    folder = tmp_path / "qrexec"
    folder.mkdir()
    with Agent(folder, extra={"PS1": "$ ", "HOME": "/"}) as agent, Host(folder) as host:
        yield host.connect()
        del agent


def test_a_command_of_the_host_on_a_terminal(host: Host) -> None:
    pty = f"cd {ROOT}; exec {sys.executable} -m agent pty --size=90x30 -- bash --norc -i"
    far = host.start(f"{ME}:{pty}")
    host.attend(lambda: b"$ " in far.stdout)
    far.feed(b"stty size; sh -c 'echo begun; exec sleep 1000'\r")
    host.attend(lambda: b"30 90\r\n" in far.stdout and b"\nbegun" in far.stdout)
    far.feed(b"\x1a")
    host.attend(lambda: b"Stopped" in far.stdout)
    far.feed(b"kill %1; exit 7\rexit 7\r")
    host.finish(far)
    assert far.exit_code == 7


def test_a_host_that_goes(host: Host, tmp_path: Path) -> None:
    """What it ran is hung up."""
    with Witness(tmp_path / "witness") as witness:
        pty = f"cd {ROOT}; exec {sys.executable} -m agent pty -- bash --norc -i"
        far = host.start(f"{ME}:{pty}")
        host.attend(lambda: b"$ " in far.stdout)
        far.feed(f"exec 9>{witness.path}; echo begun >&9\r".encode())
        host.attend(lambda: b"begun" in witness.told, also=witness)
        far.vanish()
        witness.wait_end()
        host.wait_terminated(far)


def test_the_end_of_the_hosts_input(host: Host) -> None:
    pty = f"cd {ROOT}; exec {sys.executable} -m agent pty -- sh -c 'stty -echo; echo begun; cat'"
    far = host.start(f"{ME}:{pty}")
    host.attend(lambda: b"begun" in far.stdout)
    far.feed(b"line\n")
    far.end()
    host.finish(far)
    assert (far.stdout, far.exit_code) == (b"begun\r\nline\r\n", 0)
