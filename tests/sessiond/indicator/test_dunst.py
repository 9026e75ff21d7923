"""A real service of notifications: dunst, on a screen of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING

import pytest

from sessiond.indicator.notifier import APP_NAME, NAME
from sessiond.indicator.view import STREAMED
from sessiond.indicator.watch import PROPERTIES
from sessiond.transport.bus import Bus, Call
from sessiond.transport.fds import OwnedFd
from tests.fixtures.child import Child
from tests.fixtures.loop import Signal
from tests.fixtures.xserver import Xvfb
from tests.sessiond.indicator.desktop import World, in_world, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.parts

_SCRIPT = """\
#!/bin/sh
printf '%s|%s|%s\\n' "$DUNST_APP_NAME" "$DUNST_SUMMARY" "$DUNST_ID" >"$HOME/shown"
"""
_SHOWN = Call(
    *(NAME, "/org/freedesktop/Notifications", PROPERTIES, "Get", "ss"),
    ["org.dunstproject.cmd0", "displayedLength"],
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two buses, and dunst on the session's, which says in a pipe what it shows."""
    script = tmp_path / "script"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    (tmp_path / "dunstrc").write_text(f'[all]\nscript = "{script}"\n')
    os.mkfifo(tmp_path / "shown")
    with contextlib.ExitStack() as stack:
        world = World(stack)
        screen = stack.enter_context(Xvfb(640, 480))
        env = {
            **os.environ,
            "DISPLAY": screen.display,
            "DBUS_SESSION_BUS_ADDRESS": world.session.address,
            "HOME": str(tmp_path),
        }
        stack.enter_context(Child(["dunst", "-config", tmp_path / "dunstrc"], env=env))
        yield world


class _Dunst:
    """``lines`` are what it has shown: who, what, and the number."""

    def __init__(self, bus: Bus, pipe: int) -> None:
        self.lines: list[list[str]] = []
        self.owner = ""
        self.signal = Signal()
        self._bus = bus
        self._pipe = pipe
        bus.watch_owner(NAME, self._on_owner)
        asyncio.get_running_loop().add_reader(pipe, self._on_shown)

    async def until_nothing_is_shown(self) -> None:
        """Ask until it says so, as it tells only who has sent a notification."""
        while (await self._bus.call(_SHOWN))[0] != 0:
            pass

    def _on_shown(self) -> None:
        text = os.read(self._pipe, select.PIPE_BUF).decode()  # a line is written at once
        self.lines += [line.split("|") for line in text.splitlines()]
        self.signal.happened()

    def _on_owner(self, owner: str) -> None:
        self.owner = owner
        self.signal.happened()


@in_world
async def test_dunst_shows_it_and_takes_it_back(world: World, tmp_path: Path) -> None:
    daemon = await world.daemon()
    pipe = world.peers.enter_context(OwnedFd(os.open(tmp_path / "shown", os.O_RDWR)))
    bus = world.peers.enter_context(await Bus.connect(world.session.address))
    dunst = _Dunst(bus, pipe.fileno())
    await dunst.signal.until(lambda: bool(dunst.owner))
    async with running(world.settings()):
        daemon.stream()
        await dunst.signal.until(lambda: len(dunst.lines) == 1)
        daemon.stream(is_shown=False)
        await dunst.until_nothing_is_shown()
        daemon.stream()
        await dunst.signal.until(lambda: len(dunst.lines) == 2)
    first, second = dunst.lines
    assert first[:2] == [APP_NAME, STREAMED]
    assert first == second, "under one number"
