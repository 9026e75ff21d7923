"""Terminals that are watched, from who resizes them to the host: daemon, agent and listeners."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.transport.resizes import listener_command, listening
from tests.fixtures.daemon import Stage
from tests.fixtures.host_channel import USERNAME, HostClient, Line
from tests.fixtures.loop import in_loop
from tests.fixtures.processes import family
from tests.fixtures.pseudo import Pseudo
from tests.fixtures.user_agent import ALICE, UserAgent
from tests.system.consoles import CONSOLE, VT_DISALLOCATE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

EVENT = "VIRTAGENT_TERMINAL_RESIZED"
RESIZES = 10_000
VT = "/dev/tty62"


@contextlib.contextmanager
def watching(folder: Path, *paths: Path) -> Iterator[tuple[Stage, HostClient]]:
    """Run a daemon that watches PATHS, and a host that hears of events."""
    setting = f"terminals.watch={json.dumps([str(path) for path in paths])}"
    with Stage(folder / "no-port", [setting]) as stage:
        stage.daemon.wait_ready()
        with HostClient(stage.daemon.host_channel) as host:
            host.ask("virtagent-set-capabilities", events=True)
            yield stage, host


@contextlib.contextmanager
def alice_of(stage: Stage) -> Iterator[UserAgent]:
    with UserAgent(stage.daemon.agent_socket, ALICE) as agent:
        stage.daemon.wait_line(f"the agent of {ALICE} has connected")
        yield agent


def listeners(pid: int) -> dict[int, int]:
    """Return all below a process, with a descriptor for each."""
    return {
        found: os.pidfd_open(found)
        for found in family(pid)
        if b"sigwinch.py" in Path(f"/proc/{found}/cmdline").read_bytes()
    }


def size(columns: int, rows: int, x_pixels: int = 0, y_pixels: int = 0) -> dict[str, int]:
    return {"columns": columns, "rows": rows, "x-pixels": x_pixels, "y-pixels": y_pixels}


def wait_resized(
    host: HostClient, path: Path | str, *numbers: int, user: str | None = None
) -> None:
    wanted: Line = {"terminal": str(path), **size(*numbers)}

    def is_it(line: Line) -> bool:
        return line.get("event") == EVENT and line["data"] == wanted and line.get(USERNAME) == user

    host.wait(is_it)


def test_host_hears_of_the_daemons_terminals(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with Pseudo() as first, Pseudo() as second:
        one.symlink_to(first.path)
        with watching(tmp_path, one, two) as (stage, host):
            stage.daemon.wait_line(f"a terminal is not watched: {two}: No such file")
            stage.daemon.wait_line(f"{one} is watched")
            first.resize(80, 24, 800, 480)
            wait_resized(host, one, 80, 24, 800, 480)
            second.resize(132, 43)
            two.symlink_to(second.path)
            stage.daemon.wait_line(f"{two} is watched")
            second.resize(133, 43)
            wait_resized(host, two, 133, 43)
            (listener_of_one, listener_of_two) = listeners(stage.daemon.pid).values()
            first.close()
            stage.daemon.wait_line(f"{one} is not listened to any more")
            second.resize(134, 43)
            wait_resized(host, two, 134, 43)
            stage.daemon.close()
            assert select.select([listener_of_two], [], [], 10)[0]
            os.close(listener_of_one)
            os.close(listener_of_two)


def test_last_of_many_resizes_reaches_the_host(tmp_path: Path) -> None:
    path = tmp_path / "console"
    with Pseudo() as pty:
        path.symlink_to(pty.path)
        with watching(tmp_path, path) as (stage, host):
            stage.daemon.wait_line(f"{path} is watched")
            for number in range(RESIZES):
                pty.resize(1 + number % 500, 1 + number % 11)
            pty.resize(1000, 500)
            wait_resized(host, path, 1000, 500)


def test_host_hears_of_a_users_terminal(tmp_path: Path) -> None:
    with watching(tmp_path) as (stage, host), alice_of(stage) as alice, Pseudo() as pty:
        path = pty.path

        def ask(what: str) -> Any:  # noqa: ANN401 (any JSON)
            return host.ask(f"virtagent-{what}-terminal", ALICE, path=path)

        if os.getuid() == 0:
            assert ask("watch") == f"{path}: Permission denied", "root's own terminal"
        os.fchown(pty.slave, alice.uid, -1)
        assert ask("watch") == size(0, 0)
        pty.resize(80, 24)
        wait_resized(host, path, 80, 24, user=ALICE)
        assert ask("watch") == size(80, 24)
        (listener,) = listeners(alice.pid).values()
        assert ask("unwatch") == {}
        assert select.select([listener], [], [], 10)[0]
        os.close(listener)
        assert ask("unwatch") == f"{path} is not watched"
        assert not listeners(alice.pid)


@pytest.mark.skipif(not os.access(VT, os.R_OK | os.W_OK), reason="needs a virtual console")
@in_loop
async def test_terminal_that_is_no_pty_is_not_hung_up_at_the_end() -> None:
    theirs = os.open(VT, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    for _ in range(2):
        async with listening(VT, listener_command()) as sizes:
            assert sizes.size.columns
        with pytest.raises(BlockingIOError):  # which is no end
            os.read(theirs, 1)
    os.close(theirs)
    # As if it had never been opened; EBUSY: the kernel lets go of it later, in a thread of its own.
    with CONSOLE.open("rb") as console, contextlib.suppress(OSError):
        fcntl.ioctl(console, VT_DISALLOCATE, int(VT.removeprefix("/dev/tty")))


def test_without_a_user_nobody_watches(tmp_path: Path) -> None:
    with watching(tmp_path) as (_, host), Pseudo() as pty:
        said = host.ask("virtagent-watch-terminal", path=pty.path)
        assert said.startswith("Command virtagent-watch-terminal has been disabled")
