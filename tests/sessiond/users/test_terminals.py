"""The terminals that a daemon watches, with real ones behind names that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.transport.backoff import Backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.resizes import WindowSize, listener_command, listening
from sessiond.users import terminals
from sessiond.users.terminals import Terminals
from tests.fixtures.loop import Signal, in_loop, turns
from tests.fixtures.processes import family
from tests.fixtures.pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.parts


class World:
    """Watches PATHS; ``heard`` has what it tells, ``said`` what it says in the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *paths: Path) -> None:
        self.heard: list[tuple[str, int, int]] = []
        self.signal = Signal()
        self._caplog = caplog
        self.poller = EdgePoller()
        self.tasks: list[asyncio.Task[None]] = []
        names = [str(path) for path in paths]
        Terminals(names, listener_command, self.poller, self._spawn, self._on_size).start()

    def _spawn(self, work: Any) -> object:  # noqa: ANN401 (a coroutine)
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return None

    def _on_size(self, path: str, size: WindowSize) -> None:
        self.heard.append((path.rpartition("/")[2], size.columns, size.rows))
        self.signal.happened()

    async def said(self, text: str, count: int = 1) -> None:
        """Wait until TEXT has been said that often."""
        while sum(text in it.getMessage() for it in self._caplog.records) < count:
            await turns(1)

    async def has_heard(self, *sizes: tuple[str, int, int]) -> None:
        """Wait until it has told of exactly these."""
        await self.signal.until(lambda: len(self.heard) >= len(sizes))
        assert self.heard == list(sizes)

    async def has_heard_last(self, *size: object) -> None:
        """Wait until it has told of this one."""
        await self.signal.until(lambda: self.heard[-1:] == [size])


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert family(os.getpid()) == [os.getpid()], "no listener, and no zombie of one"


@contextlib.asynccontextmanager
async def world(caplog: pytest.LogCaptureFixture, *paths: Path) -> AsyncIterator[World]:
    caplog.set_level(logging.INFO, "sessiond.users.terminals")
    made = World(caplog, *paths)
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.wait(made.tasks)
        made.poller.close()
    assert all(task.cancelled() for task in made.tasks)


@in_loop
async def test_new_sizes_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with Pseudo() as first, Pseudo() as second:
        one.symlink_to(first.path)
        two.symlink_to(second.path)
        async with world(caplog, one, two, one) as it:
            await it.said("is watched", 2)
            assert it.heard == []
            first.resize(10, 1)
            await it.has_heard(("one", 10, 1))
            second.resize(20, 2)
            await it.has_heard(("one", 10, 1), ("two", 20, 2))
            assert len(it.tasks) == 2, "one for each"


@in_loop
async def test_device_that_comes_again_is_watched_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda _self: 0.0)
    path = tmp_path / "console"
    async with world(caplog, path) as it:
        await it.said("a terminal is not watched: ")
        for columns in (10, 20):
            with Pseudo() as pty:
                path.symlink_to(pty.path)
                await it.said("is watched", columns // 10)
                pty.resize(columns, 1)
                await it.has_heard_last("console", columns, 1)
                path.unlink()
            await it.said("is not listened to any more", columns // 10)
        with Pseudo() as pty:
            pty.resize(20, 1)
            path.symlink_to(pty.path)
            await it.said("is watched", 3)
        assert it.heard == [
            ("console", 10, 1),
            ("console", 0, 0),
            ("console", 20, 1),
        ], "another one has another size, or has not"


@in_loop
async def test_listener_that_was_killed_is_followed_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "console"
    with Pseudo() as pty:
        path.symlink_to(pty.path)
        async with world(caplog, path) as it:
            await it.said("is watched")
            (pid,) = family(os.getpid())[1:]
            os.kill(pid, signal.SIGSTOP)
            pty.resize(10, 1)
            os.kill(pid, signal.SIGKILL)
            await it.has_heard(("console", 10, 1))
            pty.resize(20, 2)
            await it.has_heard(("console", 10, 1), ("console", 20, 2))


@in_loop
async def test_one_that_cannot_be_watched_is_said_once_and_the_rest_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "SETTLE", 0.0)
    taken, good = tmp_path / "taken", tmp_path / "good"
    with Pseudo() as first, Pseudo() as second, Pseudo() as third:
        taken.symlink_to(first.path)
        good.symlink_to(second.path)
        async with (
            listening(first.path, listener_command()),
            world(caplog, taken, good) as it,
        ):
            await it.said("is another session's terminal")
            await it.said("is watched")
            for number in range(1, 4):
                (tmp_path / f"something-else-{number}").touch()
                second.resize(number, 1)
                await it.has_heard_last("good", number, 1)
            warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert len(warnings) == 1
            (tmp_path / "new").symlink_to(third.path)
            (tmp_path / "new").rename(taken)
            await it.said("taken is watched")


@in_loop
async def test_one_that_comes_to_life_is_watched_when_names_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel's consoles do, whose names are there without them."""
    monkeypatch.setattr(terminals, "SETTLE", 0.0)
    path = tmp_path / "console"
    with Pseudo() as pty:
        path.symlink_to(pty.path)
        async with contextlib.AsyncExitStack() as stack:
            async with listening(pty.path, listener_command()):
                it = await stack.enter_async_context(world(caplog, path))
                await it.said("is another session's terminal")
            (tmp_path / "port").touch()
            await it.said("is watched")
