"""The terminals that the host has a user's agent watch: real ones, and real listeners."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from agent.user.terminals import MOST, RESIZED, Terminals
from sessiond.errors import CommandError
from sessiond.transport.resizes import listener_command
from sessiond.wire import rpc
from tests.agent.user.daemon import Daemon, environment, start
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.processes import family
from tests.fixtures.pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.parts


def size(columns: int, rows: int) -> dict[str, int]:
    return {"columns": columns, "rows": rows, "x-pixels": 0, "y-pixels": 0}


class World:
    """Its ``terminals`` watch; ``told`` is what the host hears."""

    def __init__(self) -> None:
        self.told: list[Mapping[str, Any]] = []
        self.signal = Signal()
        self.tasks: list[asyncio.Task[None]] = []
        self.terminals = Terminals(listener_command, self._spawn, self._tell)

    def _spawn(self, work: Any) -> asyncio.Task[None]:  # noqa: ANN401 (a coroutine)
        self.tasks.append(task := asyncio.get_running_loop().create_task(work))
        return task

    def _tell(self, event: str, data: Mapping[str, Any]) -> None:
        assert event == RESIZED
        self.told.append(data)
        self.signal.happened()

    async def has_told(self, path: str, columns: int, rows: int) -> None:
        """Wait until it has told this as the last of all."""
        wanted = {"terminal": path, **size(columns, rows)}
        await self.signal.until(lambda: self.told[-1:] == [wanted])


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        if made.tasks:
            await asyncio.wait(made.tasks)
    assert not made.terminals._watches
    assert family(os.getpid()) == [os.getpid()], "no listener, and no zombie of one"


@in_loop
async def test_each_is_watched_once_and_told_of() -> None:
    with Pseudo() as one, Pseudo() as two:
        one.resize(80, 24)
        async with world() as it:
            assert await it.terminals.watch(one.path) == size(80, 24)
            assert await it.terminals.watch(two.path) == size(0, 0)
            one.resize(81, 25)
            await it.has_told(one.path, 81, 25)
            two.resize(2, 2)
            await it.has_told(two.path, 2, 2)
            assert await it.terminals.watch(one.path) == size(81, 25), "as it is now"
            assert len(it.tasks) == 2


@in_loop
async def test_what_is_not_watched_any_more_may_be_again() -> None:
    with Pseudo() as pty:
        async with world() as it:
            for columns in (1, 2, 3):
                await it.terminals.watch(pty.path)
                pty.resize(columns, 1)
                await it.has_told(pty.path, columns, 1)
                assert await it.terminals.unwatch(pty.path) == {}
                with pytest.raises(CommandError, match="is not watched"):
                    await it.terminals.unwatch(pty.path)


@in_loop
async def test_watch_may_be_given_up_before_it_has_begun() -> None:
    with Pseudo() as pty:
        async with world() as it:
            watch = it.terminals.watch(pty.path)
            asking = asyncio.get_running_loop().create_task(_await(watch))
            await asyncio.sleep(0)
            await it.terminals.unwatch(pty.path)
            with pytest.raises(CommandError, match="is not to be watched any more"):
                await asking
            assert await it.terminals.watch(pty.path) == size(0, 0)


async def _await(watch: Any) -> object:  # noqa: ANN401 (a coroutine)
    return await watch


@in_loop
async def test_watch_ends_with_its_terminal() -> None:
    with Pseudo() as pty:
        async with world() as it:
            await it.terminals.watch(pty.path)
            pty.close()
            await asyncio.wait(it.tasks)
            with pytest.raises(CommandError, match="No such file or directory"):
                await it.terminals.watch(pty.path)


@in_loop
async def test_what_cannot_be_watched_is_an_error_and_no_more() -> None:
    with Pseudo() as pty:
        async with world() as it, world() as others:
            await others.terminals.watch(pty.path)
            for path, reason in (
                (pty.path, "it is another session's terminal"),
                ("/dev/null", "is no terminal"),
                ("/dev/none", "No such file"),
                ("/dev/\ud800", "is no path"),
                ("dev/null", "not an absolute path"),
                ("", "not an absolute path"),
            ):
                for _ in range(2):
                    with pytest.raises(CommandError, match=reason):
                        await it.terminals.watch(path)
            pty.resize(5, 5)
            await others.has_told(pty.path, 5, 5)
            for task in others.tasks:
                task.cancel()


@in_loop
async def test_there_are_only_so_many() -> None:
    with contextlib.ExitStack() as stack:
        ptys = [stack.enter_context(Pseudo()) for _ in range(MOST + 1)]
        async with world() as it:
            for pty in ptys[:-1]:
                await it.terminals.watch(pty.path)
            with pytest.raises(CommandError, match=f"{MOST} terminals"):
                await it.terminals.watch(ptys[-1].path)
            await it.terminals.unwatch(ptys[0].path)
            await it.terminals.watch(ptys[-1].path)


def test_agent_watches_and_ends_without_a_trace(tmp_path: Path) -> None:
    with (
        Pseudo() as pty,
        Daemon(tmp_path) as daemon,
        start(daemon, environment(tmp_path)) as agent,
        daemon.accept() as link,
    ):
        assert link.call("virtagent-watch-terminal", path=pty.path) == size(0, 0)
        pty.resize(80, 24)
        wanted = rpc.Notice(RESIZED, {"terminal": pty.path, **size(80, 24)})
        while link.hear() != wanted:  # but of displays that others have made
            pass
        assert link.call("virtagent-unwatch-terminal", path=pty.path) == {}
        link.call("virtagent-watch-terminal", path=pty.path)
        (listener,) = (pid for pid in family(agent.pid) if "sigwinch" in _command_of(pid))
        watched = os.pidfd_open(listener)
        agent.signal(signal.SIGTERM)
        agent.wait_exit()
        # It has no other parent that waits for it: it is gone, and not a zombie of ours.
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGCONT)
        os.close(watched)


def _command_of(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read()
