"""The indicator between a daemon and a desktop, each on a real bus."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import BusCallError
from sessiond.indicator import menu
from sessiond.indicator.app import run
from sessiond.indicator.item import PATH
from sessiond.indicator.notifier import NAME
from sessiond.indicator.view import STREAMED
from tests.fixtures import bus
from tests.fixtures.bus import PrivateBus
from tests.fixtures.child import Child
from tests.sessiond.indicator import desktop
from tests.sessiond.indicator.desktop import UID, World, in_world, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sessiond.indicator.desktop import Panel

pytestmark = pytest.mark.parts


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(stack)


# Notifications.


@in_world
async def test_each_start_is_told_once_and_taken_back_at_its_end(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    async with running(world.settings()):
        for replaces in (0, 1):
            daemon.stream()
            await service.until(lambda: service.shown == {1: STREAMED})
            assert service.log[-1] == ("notify", replaces), "they do not pile up"
            daemon.stream(is_shown=False)
            await service.until(lambda: not service.shown)
    app, body, hints = service.texts[0]
    assert app
    assert "sees" in body
    assert hints == {"urgency": 1, "desktop-entry": "spice-session-indicator"}
    assert [what for what, _ in service.log] == ["notify", "close"] * 2


@in_world
async def test_what_streams_already_at_a_login_is_told(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    daemon.stream()
    async with running(world.settings()):
        await service.until(lambda: service.shown == {1: STREAMED})


@in_world
async def test_client_that_comes_and_goes_is_no_flood(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    async with running(world.settings(interval=0.5)):
        loop = asyncio.get_running_loop()
        daemon.stream()
        await service.until(lambda: bool(service.shown))
        first = loop.time()
        daemon.stream(is_shown=False)
        await service.until(lambda: not service.shown)
        watcher = await world.watcher()
        panel = await world.panel(watcher)
        for _ in range(5):
            panel.heard.clear()
            daemon.stream()
            await panel.until_status("Active")
            daemon.stream(is_shown=False)
            await panel.until_status("Passive")
        daemon.stream()
        await service.until(lambda: bool(service.shown))
        assert loop.time() - first > 0.4, "the timer's own precision aside"
        assert [what for what, _ in service.log].count("notify") == 2


@in_world
async def test_other_sessions_streaming_is_none_of_ours(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    daemon.add_session("2", Active=False)
    watcher = await world.watcher()
    async with running(world.settings(session_id="2")):
        panel = await world.panel(watcher)
        daemon.stream("1")
        daemon.stream("1", is_shown=False)
        daemon.set("1", Active=False)
        daemon.set("2", Active=True)
        daemon.stream("2")
        await service.until(lambda: bool(service.shown))
        assert len(service.log) == 1
        assert (await panel.item())["Status"] == "Active"


@in_world
async def test_own_session_is_the_users_active_one_without_an_id(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    daemon.set("1", User=[UID + 1, "bob"])
    watcher = await world.watcher()
    async with running(world.settings(session_id="")):
        panel = await world.panel(watcher)
        daemon.stream("1")
        daemon.add_session("2", Active=False)
        daemon.set("2", Active=True)
        text = "The screen is being streamed."  # the seat's: so session 2 was found
        await panel.until_item(
            "ToolTip", ["video-display", [], "This screen is not streamed", text]
        )
        assert not service.log
        daemon.set("2", Shown=True, Backend="kms")
        await service.until(lambda: bool(service.shown))
        text += " Its picture is read from the graphics card: the desktop is not asked."
        await panel.until_item(
            "ToolTip", ["media-record", [], "This screen is being streamed", text]
        )
        # It stays ours, though another of ours is in front.
        daemon.add_session("3", Shown=True)
        daemon.set("2", Active=False, Shown=False)
        await service.until(lambda: not service.shown)


@in_world
async def test_session_that_ended_streams_no_more(world: World) -> None:
    daemon, service = await world.daemon(), await world.notifications()
    daemon.stream()
    async with running(world.settings()) as task:
        await service.until(lambda: bool(service.shown))
        daemon.remove_session("1")
        await service.until(lambda: not service.shown)
        assert not task.done()


@in_world
async def test_service_that_comes_late_is_told_and_a_new_one_is_not_told_again(
    world: World,
) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    daemon.stream()
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.item()
        with await desktop.Notifications.connect(world.session.address) as first:
            await first.until(lambda: bool(first.shown))
            await first.flush()
        second = await world.notifications()
        daemon.stream(is_shown=False)
        await panel.until_status("Passive")
        assert second.log == [], "neither told again nor asked to close what it never had"
        daemon.stream()
        await second.until(lambda: second.log == [("notify", 0)])


@in_world
async def test_daemon_that_goes_streams_no_more_and_comes_again(world: World) -> None:
    service, watcher = await world.notifications(), await world.watcher()
    async with running(world.settings()) as task:
        panel = await world.panel(watcher)
        assert (await panel.item())["ToolTip"][3] == "spice-sessiond is not running."
        for _ in range(2):
            with await desktop.Daemon.connect(world.system.address) as daemon:
                daemon.stream()
                await service.until(lambda: bool(service.shown))
            await service.until(lambda: not service.shown)
        assert not task.done()


# The icon.


@in_world
async def test_icon_shows_and_tells_what_is_so(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_known()
        item = await panel.item()
        assert (item["Status"], item["Title"]) == ("Passive", "Nobody watches this screen")
        assert item["ToolTip"] == [
            "video-display", [], item["Title"], "No client &lt;asks&gt; &amp; none waits.",
        ]  # fmt: skip
        assert (item["ItemIsMenu"], item["Menu"]) == (True, "/MenuBar")
        panel.heard.clear()
        daemon.stream()
        await panel.until("ItemsPropertiesUpdated", [[menu.LINE, {"label": STREAMED}]], [])
        assert {name for name, _ in panel.heard} == {
            "NewTitle", "NewIcon", "NewToolTip", "NewStatus", "ItemsPropertiesUpdated",
        }  # fmt: skip
        item = await panel.item()
        assert (item["Status"], item["Title"]) == ("Active", STREAMED)
        assert (item["IconName"], item["ToolTip"][3]) == (
            *("media-record", "The screen is being streamed."),
        )


@in_world
async def test_icon_comes_back_with_the_watcher(world: World) -> None:
    await world.notifications()
    async with running(world.settings()):
        with await desktop.Watcher.connect(world.session.address) as first:
            await first.until(lambda: len(first.items) == 1)
        second = await world.watcher()
        await second.until(lambda: second.items == first.items)


@in_world
async def test_paths_are_browsed_from_the_root(world: World) -> None:
    watcher = await world.watcher()
    async with running(world.settings()):
        panel = await world.panel(watcher)
        introspectable = "org.freedesktop.DBus.Introspectable"
        [root] = await panel.call("/", introspectable, "Introspect")
        assert '<node name="MenuBar"/>' in root
        assert '<node name="StatusNotifierItem"/>' in root
        [item] = await panel.call(PATH, introspectable, "Introspect")
        assert 'interface name="org.kde.StatusNotifierItem"' in item


# The menu.


@in_world
async def test_pause_and_resume_are_ordered_for_the_own_session(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    daemon.stream()
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_status("Active")
        assert await panel.entries() == {
            menu.LINE: (STREAMED, False, True),
            menu.PAUSE: ("Pause streaming", True, True),
            menu.RESUME: ("Resume streaming", True, False),
        }
        panel.heard.clear()
        await panel.click(menu.PAUSE)
        await daemon.until(lambda: daemon.orders == [("1", False, True)])
        daemon.set(State="paused", ReasonText="Its user has paused it.")
        daemon.set("1", Shown=False, Reason="paused-by-user")
        line = "The streaming is paused"
        await panel.until(
            "ItemsPropertiesUpdated",
            [
                [menu.LINE, {"label": line}],
                [menu.PAUSE, {"visible": False}],
                [menu.RESUME, {"visible": True}],
            ],
            [],
        )
        item = await panel.item()
        assert (item["Status"], item["IconName"]) == ("Active", "media-playback-pause")
        await panel.click(menu.RESUME)
        await daemon.until(lambda: daemon.orders[1:] == [("1", True, True)])


@in_world
async def test_click_means_what_was_seen(world: World) -> None:
    """Who clicks "Pause" when it was paused meanwhile does not resume."""
    daemon, watcher = await world.daemon(), await world.watcher()
    daemon.set("1", Reason="paused-by-admin")
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_status("Active")
        await panel.click(menu.PAUSE)
        await daemon.until(lambda: daemon.orders == [("1", False, True)])


@in_world
async def test_refusal_is_told(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    service = await world.notifications()
    daemon.refusal = "polkit says <no>"
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_known()
        await panel.click(menu.PAUSE)
        await service.until(lambda: service.shown == {1: "The streaming was not paused"})
        assert service.texts[0][1] == "polkit says &lt;no&gt;"


@in_world
async def test_nothing_is_ordered_where_nothing_can_be(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    daemon.set(StreamingEnabled=False, State="paused")
    daemon.set("1", Reason="paused-by-admin")
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_status("Active")
        entries = await panel.entries()
        assert entries[menu.RESUME] == ("Resume streaming", False, True)
        await panel.click(menu.RESUME)
        await panel.click(menu.LINE)
        await panel.menu("Event", "isvu", menu.PAUSE, "hovered", desktop._nothing(), 0)
        assert daemon.orders == []


@in_world
async def test_menu_answers_as_its_protocol_says(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    async with running(world.settings()):
        panel = await world.panel(watcher)
        await panel.until_known()
        assert await panel.menu("GetLayout", "iias", 0, 0, ["label"]) == [1, [0, {}, []]]
        [_, [entry, values, below]] = await panel.menu("GetLayout", "iias", 2, -1, ["label"])
        assert (entry, values, below) == (2, {"label": "Pause streaming"}, [])
        [found] = await panel.menu("GetGroupProperties", "aias", [2, 9], ["enabled"])
        assert found == [[2, {"enabled": True}]]
        [found] = await panel.menu("GetGroupProperties", "aias", [], ["children-display"])
        assert [0, {"children-display": "submenu"}] in found
        assert await panel.menu("GetProperty", "is", 2, "visible") == [True]
        assert await panel.menu("AboutToShow", "i", 0) == [False]
        assert await panel.menu("AboutToShowGroup", "ai", [0, 9]) == [[], [9]]
        events = [[2, "clicked", desktop._nothing(), 0], [9, "clicked", desktop._nothing(), 0]]
        assert await panel.menu("EventGroup", "a(isvu)", events) == [[9]]
        await daemon.until(lambda: daemon.orders == [("1", False, True)])
        for member, arguments in (
            ("GetLayout", ("iias", 9, -1, [])),
            ("GetProperty", ("is", 9, "label")),
            ("GetProperty", ("is", 2, "nothing")),
            ("AboutToShow", ("i", 9)),
            ("Event", ("isvu", 9, "clicked", desktop._nothing(), 0)),
        ):
            with pytest.raises(BusCallError) as error:
                await panel.menu(member, *arguments)
            assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


# When it ends.


@in_world
async def test_service_that_is_started_on_demand_is_there(world: World) -> None:
    """The bus could start one; that it fails to changes nothing."""
    daemon = await world.daemon()
    with _startable() as session:
        async with running(replace(world.settings(wait=0.0), session_bus=session.address)) as task:
            daemon.stream()
            with await desktop.Notifications.connect(session.address) as service:
                await service.until(lambda: service.shown == {1: STREAMED})
            assert not task.done()


@contextlib.contextmanager
def _startable() -> Iterator[PrivateBus]:
    """Run a bus that knows of a service that ends at once."""
    with tempfile.TemporaryDirectory(prefix="services-") as directory:
        service = f"[D-BUS Service]\nName={NAME}\nExec=/bin/false\n"
        Path(directory, f"{NAME}.service").write_text(service, encoding="utf-8")
        services = f"<servicedir>{directory}</servicedir>\n</busconfig>"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bus, "CONFIG", bus.CONFIG.replace("</busconfig>", services))
            with PrivateBus() as session:
                yield session


@in_world
async def test_it_ends_where_nothing_shows_anything(world: World) -> None:
    await world.daemon()
    await run(world.settings(wait=0.0))


@in_world
async def test_it_waits_for_a_desktop_that_is_slow(world: World) -> None:
    async with running(world.settings(wait=0.5)) as task:
        watcher = await world.watcher()
        await watcher.until(lambda: bool(watcher.items))
        watcher.bus.close()
        await task  # the desktop has gone again


@pytest.mark.parametrize("which", ["system", "session"])
@in_world
async def test_it_ends_with_a_bus(world: World, which: str) -> None:
    watcher = await world.watcher()
    async with running(world.settings()) as task:
        await watcher.until(lambda: bool(watcher.items))
        getattr(world, which).close()
        await task


# The program.


def _program(world: World, *options: str) -> Child:
    return Child([
        *(sys.executable, "-m", "sessiond.indicator", *options),
        *("--system-bus", world.system.address, "--session-bus", world.session.address),
    ])  # fmt: skip


def test_program_ends_quietly(world: World) -> None:
    with _program(world, "--wait", "0") as child:
        assert (child.wait_exit(), child.lines) == (0, [])


@in_world
async def test_program_sleeps_while_nothing_changes_and_ends_when_told(world: World) -> None:
    daemon, watcher = await world.daemon(), await world.watcher()
    with _program(world) as child:
        panel = await world.panel(watcher)
        daemon.stream()
        await panel.until_status("Active")
        before = -1
        while before != child.context_switches():  # what it does after the last answer
            before = child.context_switches()
            await _hear_nothing(panel, 0.3)
        await _hear_nothing(panel, 1.0)
        assert child.context_switches() == before
        child.process.terminate()
        assert (child.wait_exit(), child.lines) == (0, [])


async def _hear_nothing(panel: Panel, seconds: float) -> None:
    heard = len(panel.heard)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await panel.until("NewStatus", "no such status")
    assert len(panel.heard) == heard


def test_program_says_what_it_cannot_reach(world: World) -> None:
    world.system.close()
    with _program(world) as child:
        assert child.wait_exit() == 1
        [line] = child.lines
        assert line.startswith("spice-session-indicator: ")
        assert world.system.address in line
