"""The helper before a daemon that is a socket of the test's own, and what is installed with it."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Final, Self

import pytest

from agent import helper
from agent.helper import Exit, build_parser, main
from sessiond.wire.helper import MAX_VALUE, NAME, Record, RecordReader, pack_record
from tests.fixtures.child import ROOT
from tests.fixtures.processes import wait_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAM: Final = (sys.executable, "-m", "agent.helper")
PAGE: Final = ROOT / "docs" / "man" / "spice-session-helper.1"
DOCUMENT: Final = ROOT / "docs" / "helper.md"
AUTOSTART: Final = ("spice-session-helper.desktop", "spice-session-helper-greeter.desktop")
RECORD: Final = Record(":0", "/run/user/1000/gdm/Xauthority")
MESSAGE: Final = "0101023a30021d2f72756e2f757365722f313030302f67646d2f58617574686f72697479"
SOON: Final = 5.0  # seconds, for what takes milliseconds


class Daemon:
    """A listening socket; everything else a test does itself."""

    def __init__(self, name: str = "", *, backlog: int = 5) -> None:
        self.name = name or f"@test-helper-{uuid.uuid4()}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.settimeout(SOON)
        self.listener.bind(self.name.replace("@", "\0", 1))
        self.listener.listen(backlog)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def accept(self) -> socket.socket:
        """Return the next connection."""
        connection, _ = self.listener.accept()
        connection.settimeout(SOON)
        return connection


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", RECORD.display)
    monkeypatch.setenv("XAUTHORITY", RECORD.xauthority)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program; it is ended if the test does not wait for it."""
    with subprocess.Popen(
        [*PROGRAM, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit status and what was printed."""
    out, err = process.communicate(timeout=SOON)
    return process.returncode, out + err


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(4096):
        data += chunk
    return data


def told(daemon: Daemon, *arguments: str) -> bytes:
    """Run the program in this process, against a daemon in a thread; return what it was told."""
    found: list[bytes] = []

    def serve() -> None:
        with daemon.accept() as connection:
            found.append(read_all(connection))

    server = threading.Thread(target=serve)
    server.start()
    try:
        assert main(["--socket", daemon.name, *arguments]) == Exit.OK
    finally:
        server.join()
    return found[0]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the program in this process; return its exit status and its one line."""
    status = main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("spice-session-helper: ")
    assert captured.err.count("\n") == 1
    return status, captured.err


def test_message_is_that_of_the_protocol(daemon: Daemon) -> None:
    data = told(daemon)
    assert data.hex() == MESSAGE
    assert data == pack_record(RECORD)


def test_default_address_is_that_of_the_protocol() -> None:
    assert build_parser().parse_args([]).socket == "@" + NAME[1:].decode()


@pytest.mark.parts
def test_it_lives_until_the_daemon_closes(daemon: Daemon) -> None:
    with started("--socket", daemon.name) as process:
        with daemon.accept() as connection:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            assert struct.unpack("iII", peer) == (process.pid, os.getuid(), os.getgid())
            assert read_all(connection).hex() == MESSAGE
            assert process.poll() is None
        assert ended(process) == (Exit.OK, "")


@pytest.mark.parts
def test_daemon_that_takes_the_first_piece_and_only_input(daemon: Daemon) -> None:
    """As spice-streaming-agent's does: one recv, and only if the event is exactly POLLIN."""
    with started("--socket", daemon.name) as process:
        with daemon.accept() as connection:
            half_closed = select.poll()
            half_closed.register(connection, select.POLLRDHUP)
            assert half_closed.poll(SOON * 1000) == [(connection.fileno(), select.POLLRDHUP)]
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            assert poll.poll(0) == [(connection.fileno(), select.POLLIN)]
            assert connection.recv(4096, socket.MSG_DONTWAIT).hex() == MESSAGE
        assert ended(process) == (Exit.OK, "")


def test_options_come_before_the_environment(daemon: Daemon) -> None:
    data = told(daemon, "--display", "unix:7.1", "--xauthority", "/a")
    assert data == pack_record(Record(":7.1", "/a"))


def test_socket_may_be_a_path(tmp_path: Path) -> None:
    with Daemon(str(tmp_path / "socket")) as daemon:
        assert told(daemon).hex() == MESSAGE


@pytest.mark.parametrize("value", ["", None])
def test_cookie_file_of_the_home_directory(
    value: str | None, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XAUTHORITY")
    if value is not None:
        monkeypatch.setenv("XAUTHORITY", value)
    path = tmp_path / ".Xauthority"
    path.touch()
    assert told(daemon) == pack_record(Record(":0", str(path)))


def test_without_a_cookie_file(
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XAUTHORITY")
    status, line = refused(capsys, "--socket", daemon.name)
    assert status == Exit.UNUSABLE
    assert f"there is no {tmp_path}/.Xauthority" in line
    assert told(daemon, "--xauthority", "") == pack_record(Record(":0", ""))


def test_longest_path(daemon: Daemon) -> None:
    path = "/" + "x" * (MAX_VALUE - 1)
    assert told(daemon, "--xauthority", path) == pack_record(Record(":0", path))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DISPLAY", "", "DISPLAY is not set"),
        ("DISPLAY", "localhost:10.0", "'localhost:10.0' is not a local one"),
        ("DISPLAY", ":100000", "not a local one"),
        ("DISPLAY", ":0\n", r"':0\n' is not a local one"),
        ("DISPLAY", ":\u0663", "not a local one"),
        ("XAUTHORITY", "a", "'a' is not an absolute path"),
        ("XAUTHORITY", "/\x1b[0m", r"'/\x1b[0m' has characters"),
        ("XAUTHORITY", "/\udcff", r"'/\udcff' has characters"),
        ("XAUTHORITY", "/" + "x" * MAX_VALUE, "XAUTHORITY has 256 bytes"),
    ],
)
def test_values_that_are_not_sent(
    name: str,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The daemon would refuse them, and could not say so."""
    monkeypatch.setenv(name, value)
    status, line = refused(capsys)
    assert status == Exit.UNUSABLE
    assert words in line


def test_no_daemon(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.listener.close()
    status, line = refused(capsys, "--socket", daemon.name)
    assert status == Exit.NO_DAEMON
    assert f"no daemon is listening on {daemon.name}: Connection refused" in line
    status, line = refused(capsys, "--socket", "/nonexistent/socket")
    assert status == Exit.NO_DAEMON
    assert "No such file or directory" in line


def test_daemon_that_accepts_and_forgets(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = refused(capsys, "--socket", daemon.name, "--timeout", "0.05")
    assert status == Exit.NOT_ACKNOWLEDGED
    assert "not taken it within 0.05 s" in line
    with daemon.accept() as connection:  # what was sent is whole, for a daemon that is only slow
        assert read_all(connection).hex() == MESSAGE


def test_daemon_that_does_not_accept(capsys: pytest.CaptureFixture[str]) -> None:
    with Daemon(backlog=0) as daemon, socket.socket(socket.AF_UNIX) as other:
        other.connect("\0" + daemon.name[1:])  # takes the only place
        status, line = refused(capsys, "--socket", daemon.name, "--timeout", "0.05")
    assert status == Exit.NOT_ACKNOWLEDGED
    assert "not taken it within 0.05 s" in line


@pytest.mark.parts
def test_daemon_that_answers_is_waited_for(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no answer in the protocol: only the end counts, and the time until then."""
    with started("--socket", daemon.name) as process:
        with daemon.accept() as connection:
            connection.sendall(b"welcome" * 100)
            assert read_all(connection).hex() == MESSAGE
            connection.sendall(b"goodbye")
        assert ended(process) == (Exit.OK, "")
    ends = threading.Event()

    def chatter() -> None:
        with daemon.accept() as connection, contextlib.suppress(OSError):
            while not ends.is_set():
                connection.sendall(b"wait" * 100)

    server = threading.Thread(target=chatter)
    server.start()
    try:
        status, line = refused(capsys, "--socket", daemon.name, "--timeout", "0.05")
    finally:
        ends.set()
        server.join()
    assert status == Exit.NOT_ACKNOWLEDGED
    assert "not taken it within 0.05 s" in line


def _drop_at_once(daemon: Daemon) -> None:
    """As one that is full does; whether the message was on its way by then is chance."""
    daemon.accept().close()


def _end(daemon: Daemon) -> None:
    """As one that is stopped with connections in its queue."""
    poll = select.poll()
    poll.register(daemon.listener, select.POLLIN)
    assert poll.poll(SOON * 1000)
    daemon.listener.close()


@pytest.mark.parts
@pytest.mark.parametrize("drop", [_drop_at_once, _end])
def test_daemon_that_hangs_up_without_reading(
    drop: Callable[[Daemon], None], daemon: Daemon
) -> None:
    with started("--socket", daemon.name) as process:
        drop(daemon)
        status, line = ended(process)
    assert status == Exit.NOT_ACKNOWLEDGED
    assert "the daemon hung up without reading: " in line


@pytest.mark.parts
def test_interrupt_ends_it_quietly(daemon: Daemon) -> None:
    with started("--socket", daemon.name) as process, daemon.accept() as connection:
        read_all(connection)
        process.send_signal(signal.SIGINT)
        assert wait_process(process, SOON)
        assert ended(process) == (Exit.INTERRUPTED, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "-1"],
        ["--timeout", "4000"],
        ["--timeout", "x"],
        ["--socket", ""],
        ["--socket", "@" + "x" * 107],
        ["--displ", ":0"],
        ["more"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == Exit.USAGE
    assert "usage: spice-session-helper" in capsys.readouterr().err


@pytest.mark.parts
def test_it_loads_little() -> None:
    """Every login runs it: what costs time at the start stays out."""
    code = "import sys, agent.helper; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    own = {name for name in loaded if name.partition(".")[0] in {"agent", "sessiond"}}
    assert own == {"agent", "agent.helper", "sessiond"}
    assert loaded.isdisjoint({
        "asyncio", "dataclasses", "inspect", "json", "logging", "pathlib", "subprocess",
        "threading", "typing_extensions",
    })  # fmt: skip


@pytest.mark.parts
@pytest.mark.lint
@pytest.mark.parametrize("name", AUTOSTART)
def test_autostart_file_is_valid(name: str) -> None:
    done = subprocess.run(
        ["desktop-file-validate", ROOT / "packaging" / name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", AUTOSTART)
def test_autostart_file_starts_the_program(name: str) -> None:
    file = configparser.ConfigParser(interpolation=None)
    file.optionxform = str  # type: ignore[assignment, method-assign]
    file.read(ROOT / "packaging" / name)
    entry = file["Desktop Entry"]
    command = build_parser().prog
    assert (entry["Exec"], entry["TryExec"], entry["NoDisplay"]) == (command, command, "true")


@pytest.mark.lint
def test_manual_page_names_every_option_and_status() -> None:
    text = PAGE.read_text(encoding="utf-8")
    items = re.findall(r"^\.It (Fl .*)", text, re.MULTILINE)
    documented = {flag for line in items for flag in re.findall(r"Fl (-?[\w-]+)", line)}
    options = {o.removeprefix("-") for a in build_parser()._actions for o in a.option_strings}
    assert options == documented
    assert [int(it) for it in re.findall(r"^\.It (\d+)$", text, re.MULTILINE)] == sorted(Exit)


@pytest.mark.parts
@pytest.mark.parametrize("record", [RECORD, Record(":10", "/a b/%s\\n'é"), Record(":1.0", "/0")])
def test_the_documents_shell_script(
    record: Record, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    script = text.partition("```sh\n")[2].partition("```\n")[0]
    assert script.startswith("#!/bin/sh\n")
    assert len(script.splitlines()) <= 10
    own = script.replace(helper.SOCKET[1:], daemon.name[1:])
    assert own != script
    monkeypatch.setenv("DISPLAY", record.display)
    monkeypatch.setenv("XAUTHORITY", record.xauthority)
    with subprocess.Popen(["/bin/sh", "-eu", "-c", own]) as shell:
        with daemon.accept() as connection:
            first = connection.recv(4096)
            reader = RecordReader()
            reader.feed(first)  # in one piece
            assert read_all(connection) == b""
            assert reader.finish() == record
            assert shell.poll() is None
        assert shell.wait(SOON) == 0
