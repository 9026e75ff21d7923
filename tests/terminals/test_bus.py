"""A terminal for a program on the bus that is none of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from sessiond.errors import BusCallError
from sessiond.model import TerminalSize
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.transport.dbus import Variant
from sessiond.transport.terminal import window_size
from sessiond.transport.terminal_passing import receive_master
from tests.commands.test_exec import call, is_there, wait_gone
from tests.fixtures.daemon import BUS_NAME, MANAGER, MANAGER_PATH
from tests.fixtures.loop import Signal
from tests.fixtures.user_agent import ALICE, BOB, IS_ROOT
from tests.terminals.served import open_files, serving, wait_until
from tests.terminals.window import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sessiond.transport.bus_match import Signal as BusSignal
    from sessiond.transport.fds import OwnedFd
    from tests.fixtures.daemon import Stage
    from tests.fixtures.user_agent import UserAgent

pytestmark = pytest.mark.e2e

STANDARD: Final = "org.freedesktop.DBus.Error"
PTY: Final = Variant("b", True)
WATCH: Final = "trap 'echo now $(stty size)' WINCH; echo $$; while read line; do :; done; exit 6"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, UserAgent]]:
    with serving(tmp_path_factory.mktemp("stage")) as made:
        yield made


class Caller:
    """A program on the bus, and the one that it has run."""

    def __init__(self, stage: Stage) -> None:
        self._address = stage.bus.address
        self._stack = contextlib.ExitStack()
        self.ends = dict[str, list[int]]()
        self.signal = Signal()
        self.bus: Bus
        self.path = ""
        self.master: OwnedFd
        self.shown = ""

    async def __aenter__(self) -> Self:
        connecting = await Bus.connect(self._address, takes_fds=True)
        self.bus = self._stack.enter_context(connecting)
        match = Match(sender=BUS_NAME, interface=f"{BUS_NAME}.Command", member="Exited")
        self.bus.subscribe(match, self._on_exited)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    def _on_exited(self, arrived: BusSignal) -> None:
        self.ends[arrived.path] = arrived.body
        self.signal.happened()

    async def run(self, argv: Sequence[str], *, service: str = "", **options: Variant) -> None:
        """Have it run; its master is there then."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        ours, theirs = socket.socketpair()
        nowhere = os.open(os.devnull, os.O_RDWR)
        body = [ALICE, "", service, list(argv), named, 0, 1, 1]
        with ours:
            try:
                run = Call(BUS_NAME, MANAGER_PATH, MANAGER, "RunCommand", "sssasa{sv}hhh", body)
                [self.path] = await self.bus.call(run, fds=[theirs.fileno(), nowhere])
            finally:
                theirs.close()
                os.close(nowhere)
            self.master = receive_master(ours)
        self._stack.callback(self.master.close)

    async def resize(self, columns: int, rows: int) -> None:
        await self._call("Resize", "uu", columns, rows)

    async def kill(self, number: int) -> None:
        await self._call("Kill", "i", number)

    async def _call(self, member: str, signature: str, *body: int) -> None:
        await self.bus.call(
            Call(BUS_NAME, self.path, f"{BUS_NAME}.Command", member, signature, body)
        )

    async def ending(self) -> list[int]:
        await self.signal.until(lambda: self.path in self.ends)
        return self.ends[self.path]

    def type(self, keys: bytes) -> None:
        os.write(self.master.fileno(), keys)

    def read(self, pattern: str) -> re.Match[str]:
        """Read until the pattern is found in all that was read; return the match."""
        while not (found := re.search(pattern, self.shown)):
            assert select.select([self.master], [], [], LIMIT)[0], self.shown
            self.shown += os.read(self.master.fileno(), 1 << 16).decode()
        return found


def run_in_loop(doing: Any) -> None:  # noqa: ANN401
    asyncio.run(asyncio.wait_for(doing, LIMIT))


def test_master_and_its_size(served: tuple[Stage, UserAgent]) -> None:
    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["sh", "-c", WATCH], pty=PTY, size=Variant("(uu)", [500, 1000]))
            caller.read(r"\d+\r\n")
            assert window_size(caller.master.fileno()) == TerminalSize(500, 1000)
            await caller.resize(1, 65535)
            assert window_size(caller.master.fileno()) == TerminalSize(1, 65535)
            caller.read("now 65535 1\r\n")
            caller.type(b"\x04")
            assert await caller.ending() == [6, 0]
            with pytest.raises(BusCallError) as error:
                await caller.resize(1, 1)
            assert error.value.name == f"{STANDARD}.UnknownObject"

    run_in_loop(use())


def test_size_without_one(served: tuple[Stage, UserAgent]) -> None:
    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["stty", "size"], pty=PTY)
            caller.read("^24 80\r\n")
            assert await caller.ending() == [0, 0]

    run_in_loop(use())


def test_signal(served: tuple[Stage, UserAgent]) -> None:
    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["sh", "-c", WATCH], pty=PTY)
            caller.read(r"\d+\r\n")
            await caller.kill(signal.SIGTERM)
            assert await caller.ending() == [-1, signal.SIGTERM]

    run_in_loop(use())


@pytest.mark.skipif(not IS_ROOT, reason="without root everybody is us")
def test_who_else_may_resize_it(served: tuple[Stage, UserAgent]) -> None:
    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["sh", "-c", WATCH], pty=PTY)
            caller.read(r"\d+\r\n")
            for user, complaint in ((BOB, "AccessDenied"), (ALICE, "")):
                said = await asyncio.to_thread(
                    call, served[0], caller.path, "Resize", "uu", "10", "20", user=user
                )
                assert (complaint in said) if complaint else not said
            caller.read("^\\d+\r\nnow 20 10\r\n")

    run_in_loop(use())


def test_caller_that_leaves_the_bus(served: tuple[Stage, UserAgent]) -> None:
    """It is hung up, with all that runs there; the agent keeps nothing of it."""
    stage, agent = served
    pids = list[int]()

    async def use() -> None:
        async with Caller(stage) as caller:
            text = "sleep 1000 & echo $$ $!.; sleep 999; echo on; sleep 998"
            await caller.run(["bash", "--norc", "-i", "-c", text], pty=PTY)
            pids.extend(int(it) for it in caller.read(r"(\d+) (\d+)\.").groups())
            assert "/dev/ptmx" in open_files(agent.pid)
            assert "/dev/ptmx" not in open_files(stage.daemon.pid)

    run_in_loop(use())
    for pid in pids:
        wait_gone(pid)
    wait_until(lambda: "/dev/ptmx" not in open_files(agent.pid))


def test_caller_that_leaves_the_bus_and_keeps_the_terminal(
    served: tuple[Stage, UserAgent],
) -> None:
    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["sh", "-c", "trap '' HUP TERM; echo $$.; sleep 1000"], pty=PTY)
            pid = int(caller.read(r"(\d+)\.")[1])
            caller.bus.close()
            await asyncio.to_thread(wait_gone, pid)

    run_in_loop(use())


def test_caller_that_lets_go_of_the_master(served: tuple[Stage, UserAgent]) -> None:
    """The agent has it still: nothing is hung up while somebody is on the bus for it."""

    async def use() -> None:
        async with Caller(served[0]) as caller:
            await caller.run(["sh", "-c", "echo $$.; sleep 1000"], pty=PTY)
            pid = int(caller.read(r"(\d+)\.")[1])
            caller.master.close()
            await caller.resize(10, 10)
            assert is_there(pid)
            await caller.kill(signal.SIGKILL)
            assert await caller.ending() == [-1, signal.SIGKILL]

    run_in_loop(use())


WRONG: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "service": ({"argv": [], "service": "x", "pty": PTY}, "InvalidArgs"),
    "size": ({"argv": ["true"], "pty": PTY, "size": Variant("(uu)", [0, 1])}, "InvalidArgs"),
    "shell": ({"argv": ["true"], "pty": PTY, "login_shell": PTY}, "InvalidArgs"),
    "program": ({"argv": ["/nowhere"], "pty": PTY}, "NoSuchCommand"),
}


@pytest.mark.parametrize(("how", "name"), WRONG.values(), ids=WRONG)
def test_what_is_not_run(served: tuple[Stage, UserAgent], how: dict[str, Any], name: str) -> None:
    stage, agent = served

    async def use() -> None:
        async with Caller(stage) as caller:
            with pytest.raises(BusCallError) as error:
                await caller.run(**how)
            assert error.value.name.endswith(f".{name}")

    run_in_loop(use())
    wait_until(lambda: "/dev/ptmx" not in open_files(agent.pid))


def test_stdin_that_is_no_socket(served: tuple[Stage, UserAgent], tmp_path: Path) -> None:
    stage, agent = served
    (tmp_path / "file").touch()

    async def use() -> None:
        with await Bus.connect(stage.bus.address, takes_fds=True) as bus:
            for path in (os.devnull, tmp_path / "file"):
                fd = os.open(path, os.O_RDWR)
                body = [ALICE, "", "", ["true"], {"pty": PTY}, 0, 0, 0]
                run = Call(BUS_NAME, MANAGER_PATH, MANAGER, "RunCommand", "sssasa{sv}hhh", body)
                try:
                    with pytest.raises(BusCallError) as error:
                        await bus.call(run, fds=[fd])
                finally:
                    os.close(fd)
                assert error.value.name == f"{BUS_NAME}.Error.NotDone"

    run_in_loop(use())
    wait_until(lambda: "/dev/ptmx" not in open_files(agent.pid))
