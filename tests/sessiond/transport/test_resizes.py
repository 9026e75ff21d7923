"""The sizes of a pseudoterminal, by a real listener, and what is left of it at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import SessiondError
from sessiond.transport import resizes
from sessiond.transport.resizes import (
    PACE,
    Resizes,
    WindowSize,
    listener_command,
    listening,
)
from tests.fixtures.loop import Clock, in_loop, turns
from tests.fixtures.processes import family
from tests.fixtures.pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.parts

RESIZES = 10_000


@pytest.fixture
def pty() -> Iterator[Pseudo]:
    with Pseudo() as made:
        made.resize(80, 24)
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def held() -> tuple[int, list[int]]:
    """Return how many descriptors we have, and our children, zombies among them."""
    return len(os.listdir("/proc/self/fd")), family(os.getpid())[1:]


async def _next(sizes: Resizes) -> WindowSize:
    return await anext(sizes)


def listener() -> int:
    """Return the pid of the one that runs."""
    (pid,) = family(os.getpid())[1:]
    return pid


@in_loop
async def test_size_comes_when_it_is_another(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        assert sizes.size == WindowSize(80, 24, 0, 0)
        for size in (WindowSize(81, 24, 0, 0), WindowSize(81, 24, 810, 240)):
            pty.resize(*size.described().values())
            assert await anext(sizes) == size == sizes.size
        # Two changes that are none together, then one.
        os.kill(listener(), signal.SIGSTOP)
        pty.resize(1, 1)
        pty.resize(81, 24, 810, 240)
        os.kill(listener(), signal.SIGCONT)
        assert select.select([sizes._pipe], [], [], 10)[0]
        following = asyncio.get_running_loop().create_task(_next(sizes))
        await turns(10)
        assert not following.done()
        pty.resize(5, 5)
        assert await following == WindowSize(5, 5, 0, 0)


@in_loop
async def test_window_that_is_dragged_does_not_keep_us_busy(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        clock = Clock()
        pty.resize(1, 1)
        await anext(sizes)
        following = asyncio.get_running_loop().create_task(_next(sizes))
        for columns in range(2, 100):
            pty.resize(columns, 1)
        assert select.select([sizes._pipe], [], [], 10)[0]
        await turns(10)
        assert not following.done()
        clock.advance(PACE)
        assert await following == WindowSize(99, 1, 0, 0)


@in_loop
async def test_last_of_many_is_never_lost(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        heard = 0
        for number in range(RESIZES):
            pty.resize(1 + number % 500, 1 + number % 7)
            if number % 100 == 0:
                await asyncio.sleep(0)
        final = WindowSize(1 + number % 500, 1 + number % 7, 0, 0)
        async for size in sizes:
            heard += 1
            if size == final:
                break
        assert 1 <= heard <= RESIZES
        pty.resize(1000, 1000)
        assert await anext(sizes) == WindowSize(1000, 1000, 0, 0)


@in_loop
async def test_it_begins_again_and_again_and_nothing_is_left(pty: Pseudo) -> None:
    before = held()
    for columns in range(1, 20):
        async with listening(pty.path, listener_command()) as sizes:
            pty.resize(columns, 1)
            assert (await anext(sizes)).columns == columns
        assert held() == before


@in_loop
async def test_terminal_is_not_held_open(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        pty.leave()
        pty.resize(9, 9)
        assert await anext(sizes) == WindowSize(9, 9, 0, 0)
        with pytest.raises(OSError, match="Input/output error"):
            os.read(pty.master, 1)  # all have left


@in_loop
async def test_sizes_end_with_the_terminal(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        pty.close()
        assert [size async for size in sizes] == []


@in_loop
async def test_sizes_end_with_the_listener(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        os.kill(listener(), signal.SIGKILL)
        assert [size async for size in sizes] == []
    async with listening(pty.path, listener_command()) as sizes:
        pty.resize(9, 9)
        assert await anext(sizes) == WindowSize(9, 9, 0, 0), "another one may follow"


@in_loop
async def test_there_is_one_for_each_terminal(pty: Pseudo) -> None:
    async with listening(pty.path, listener_command()) as sizes:
        with pytest.raises(SessiondError, match=f"^{pty.path}: it is another session's terminal$"):
            async with listening(pty.path, listener_command()):
                pass
        pty.resize(9, 9)
        assert await anext(sizes) == WindowSize(9, 9, 0, 0)
        with Pseudo() as other:
            async with listening(other.path, listener_command()) as others:
                other.resize(3, 3)
                assert await anext(others) == WindowSize(3, 3, 0, 0)


@in_loop
async def test_what_is_no_terminal_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path, reason in (
        ("/dev/null", "/dev/null is no terminal"),
        ("/dev/ptmx", "/dev/ptmx is no terminal"),
        (str(tmp_path / "fifo"), "fifo is no terminal"),
        (str(tmp_path / "file"), "file is no terminal"),
        (str(tmp_path), "is no terminal"),
        (str(tmp_path / "none"), "none: No such file or directory"),
        ("/dev/\0", "is no path"),
        ("/" + 5000 * "x", "File name too long"),
    ):
        with pytest.raises(SessiondError, match=reason):
            async with listening(path, listener_command()):
                pass


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@in_loop
async def test_what_is_no_terminal_is_not_even_opened(tmp_path: Path) -> None:
    """Who opens a watchdog starts it, and who opens a tape rewinds it."""
    device = tmp_path / "device"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(240, 7))  # of nobody, for experiments
    with pytest.raises(OSError, match="No such device"):
        os.close(os.open(device, os.O_RDONLY))
    with pytest.raises(SessiondError, match=f"^{device} is no terminal$"):
        async with listening(str(device), listener_command()):
            pass


@in_loop
async def test_program_that_cannot_be_had_is_an_error(pty: Pseudo) -> None:
    for command, reason in (
        (["/none"], "No such file or directory"),
        (["/bin/false"], "its listener has ended with exit status 1"),
    ):
        with pytest.raises(SessiondError, match=reason):
            async with listening(pty.path, command):
                pass


@in_loop
async def test_one_that_does_not_begin(pty: Pseudo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizes, "START", 0.0)
    with pytest.raises(SessiondError, match=f"^{pty.path}: its listener does not begin$"):
        async with listening(pty.path, listener_command()):
            pass


@in_loop
async def test_one_that_does_not_end_is_killed(
    pty: Pseudo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resizes, "GRACE", 0.01)
    async with listening(pty.path, listener_command()):
        os.kill(listener(), signal.SIGSTOP)
    assert "does not end, and is killed" in caplog.text


@in_loop
async def test_start_that_is_given_up_leaves_nothing(pty: Pseudo) -> None:
    async def begin() -> None:
        async with listening(pty.path, listener_command()):
            raise AssertionError("it was cancelled before")

    before = held()
    for count in range(4):
        task = asyncio.get_running_loop().create_task(begin())
        await turns(count)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # Not before its thread has ended: until it begins, nothing is held either.
    while any(it.name == "aside" for it in threading.enumerate()) or held() != before:
        await turns(1)


@in_loop
async def test_ignored_signals_of_ours_do_not_matter(pty: Pseudo) -> None:
    number = signal.SIGCHLD
    before = signal.signal(number, signal.SIG_IGN)
    try:
        async with listening(pty.path, listener_command()) as sizes:
            pty.resize(9, 9)
            assert await anext(sizes) == WindowSize(9, 9, 0, 0)
    finally:
        signal.signal(number, before)


def test_without_a_binding_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resizes, "_BINDINGS", ("no_such_package", "nor_this"))
    listener_command.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            commands = [listener_command() for _ in range(3)]
    finally:
        listener_command.cache_clear()
    assert commands[0][-1] == ""
    (record,) = caplog.records
    assert record.getMessage().endswith("no Python package no_such_package or nor_this")


def test_size_of_strangers_is_one_that_a_kernel_has() -> None:
    assert WindowSize.of(65535, 0, 1, 2) == WindowSize(65535, 0, 1, 2)
    for number in (-1, 65536):
        with pytest.raises(ValueError, match="no size"):
            WindowSize.of(1, 1, 1, number)
