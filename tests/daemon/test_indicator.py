"""The indicator beside the real daemon, a real host and a real client."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.indicator import menu
from sessiond.indicator.view import STREAMED
from tests.daemon.scene import ALICE, Scene, wait_number
from tests.fixtures.child import Child
from tests.sessiond.indicator.desktop import World, in_world

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

USER: Final = os.getuid() or pwd.getpwnam("nobody").pw_uid
"""Whose session it is: of somebody with an entry in the user database, as a bus wants it."""

# As the session's user: root's pause is an administrator's. The modules may lie where only root
# reads them: they are loaded first, as an installed program's would be readable.
AS_USER: Final = """\
import os, sys
from sessiond.indicator.__main__ import main
uid = int(sys.argv.pop(1))
if uid != os.getuid():
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
sys.exit(main())
"""


@pytest.fixture
def world() -> Iterator[World]:
    """Two buses, of which the session's is used."""
    with contextlib.ExitStack() as stack:
        yield World(stack)


@in_world
async def test_a_client_is_told_of_and_paused_from_the_menu(world: World, scene: Scene) -> None:
    service, watcher = await world.notifications(), await world.watcher()
    scene.add_alice(uid=USER, gid=USER)
    program = [
        *(sys.executable, "-c", AS_USER, str(USER)),
        *("--system-bus", scene.stage.bus.address, "--session-bus", world.session.address),
    ]
    with Child(program, env={**os.environ, "XDG_SESSION_ID": "1"}) as child:
        panel = await world.panel(watcher)
        await panel.until_known()
        assert not service.log, "nobody watches"
        probe = scene.watch()
        wait_number(probe, ALICE)
        await service.until(lambda: service.shown == {1: STREAMED})
        await panel.until_status("Active")

        await panel.click(menu.PAUSE)
        await service.until(lambda: not service.shown)
        await panel.until_item("Title", "The streaming is paused")
        assert scene.daemon.property("State") == "paused"
        assert scene.daemon.property("Reason") == "paused-by-user"

        await panel.click(menu.RESUME)
        await panel.until_item("Title", STREAMED)
        assert scene.daemon.property("State") == "streaming"
        child.process.terminate()
        assert (child.wait_exit(), child.lines) == (0, [])
