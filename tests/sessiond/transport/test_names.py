"""A watched name: what comes, goes and is closed, in folders that may come later themselves."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from tests.fixtures.loop import in_loop, turns


class Changes:
    """Counts what the watch tells; ``wait`` returns when there was something since the last."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()


@contextmanager
def watching(path: Path, *, is_folder: bool = False) -> Iterator[tuple[Changes, NameWatch]]:
    poller, changes = EdgePoller(), Changes()
    watch = NameWatch(str(path), poller, changes.add, is_folder=is_folder)
    try:
        yield changes, watch
    finally:
        watch.close()
        poller.close()


@in_loop
async def test_a_file_that_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "port"
    with watching(path) as (changes, _):
        path.touch()
        await changes.wait()
        path.unlink()
        await changes.wait()


@in_loop
async def test_a_link_in_folders_that_come_first(tmp_path: Path) -> None:
    path = tmp_path / "dev" / "virtio-ports" / "port"
    with watching(path) as (changes, _):
        path.parent.parent.mkdir()
        await changes.wait()
        path.parent.mkdir()
        await changes.wait()
        path.symlink_to(tmp_path)
        await changes.wait()


@in_loop
async def test_folders_that_went_and_came_again(tmp_path: Path) -> None:
    path = tmp_path / "virtio-ports" / "port"
    path.parent.mkdir()
    with watching(path) as (changes, _):
        path.parent.rmdir()
        await changes.wait()
        path.parent.mkdir()
        await changes.wait()
        path.touch()
        await changes.wait()


@in_loop
async def test_somebody_else_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    with watching(path) as (changes, _):
        os.close(fd)
        await changes.wait()


@in_loop
async def test_closed_it_is_silent(tmp_path: Path) -> None:
    with watching(tmp_path / "port") as (changes, watch):
        watch.close()
        (tmp_path / "port").touch()
        await turns(5)
        assert not changes.count


@in_loop
async def test_nothing_new_wakes_nobody(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with watching(tmp_path / "port") as (changes, _):
        (tmp_path / "sub" / "other").touch()
        await turns(5)
        assert not changes.count


@in_loop
async def test_a_folder_and_what_others_make_in_it(tmp_path: Path) -> None:
    folder = tmp_path / ".X11-unix"
    with watching(folder, is_folder=True) as (changes, watch):
        folder.mkdir()
        await changes.wait()
        (folder / "X0").symlink_to("X0")  # that leads nowhere
        await changes.wait()
        (folder / "X1").symlink_to(tmp_path / "elsewhere")
        await changes.wait()
        assert watch.is_watching
        assert list(watch._watched) == [folder]


@in_loop
async def test_a_link_in_the_folders_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / ".X11-unix"
    folder.symlink_to(tmp_path / "elsewhere")
    with watching(folder, is_folder=True) as (changes, watch):
        assert list(watch._watched) == [tmp_path]
        (tmp_path / "elsewhere" / "X0").touch()
        await turns(5)
        assert not changes.count


@in_loop
async def test_a_file_that_is_a_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "port"
    with watching(path) as (changes, watch):
        path.symlink_to("port")
        await changes.wait()
        path.unlink()
        path.touch()
        await changes.wait()
        assert watch.is_watching
