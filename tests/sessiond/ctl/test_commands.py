"""Each command against a stand-in daemon on a private bus: what is called, asked and said."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.ctl.client import MANAGER, ROOT
from sessiond.ctl.commands import run
from sessiond.ctl.outcome import Exit, explain
from sessiond.ctl.parser import parse
from sessiond.ctl.screen import to_json
from sessiond.ctl.users import own_name
from sessiond.errors import BusCallError, BusError, RequestError, SessiondError
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop
from tests.sessiond.ctl.daemon import STANDARD, FakeDaemon, serving
from tests.sessiond.ctl.told import AGENT, ALICE, BOB
from tests.sessiond.ctl.told import MANAGER as VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.ctl.view import Page

pytestmark = pytest.mark.parts


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


async def do(address: str, *argv: str) -> Page | None:
    return await run(parse([f"--bus={address}", *argv]), _unused)


async def document(address: str, *argv: str) -> Any:  # noqa: ANN401 (as the command has it)
    page = await do(address, *argv)
    assert page
    return json.loads(to_json(page.document))


def _unused(_page: Page) -> None:
    raise AssertionError("only a monitor prints meanwhile")


@in_loop
async def test_what_is_read(address: str) -> None:
    async with serving(address) as daemon:
        assert await document(address, "status") == VALUES | {"Session": BOB}
        assert await document(address, "list") == [ALICE, BOB]
        assert await document(address, "show", "10") == ALICE
        assert await document(address, "users") == [AGENT]
        assert [it["ReasonText"] for it in await document(address, "history")] == ["1", "2"]
        assert [it["ReasonText"] for it in await document(address, "history", "-n1")] == ["2"]
        assert daemon.manager.orders == []


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("activate c2", ("ActivateSession", "c2")),
        ("switch 3", ("SwitchToVT", 3)),
        ("pause", ("set_StreamingEnabled", False)),
        ("resume", ("set_StreamingEnabled", True)),
        ("pause --session 10", ("SetStreaming", "10", False)),
        ("resume --session 10", ("SetStreaming", "10", True)),
        ("restart-agent", ("RestartAgent",)),
        ("set-auto-switch on-session-end", ("set_AutoSwitch", "on-session-end")),
        ("reload", ("Reload",)),
    ],
)
@in_loop
async def test_what_is_ordered(address: str, line: str, order: tuple[object, ...]) -> None:
    async with serving(address) as daemon:
        assert await do(address, *line.split()) is None
        assert await do(address, "--no-ask-password", *line.split()) is None
        assert daemon.manager.orders == [order, order]
        assert daemon.manager.asked == [True, False]


@pytest.mark.parametrize(
    ("line", "order", "answer"),
    [
        ("displays", ("QueryDisplays", own_name()), {"Display": ":0", "Session": "10"}),
        ("displays bob", ("QueryDisplays", "bob"), {"Type": "x11", "Active": True}),
        ("screens :0", ("QueryScreens", own_name(), ":0"), {"Output": "DP-1", "X": -1280}),
        ("screens bob :0", ("QueryScreens", "bob", ":0"), {"Width": 1280, "Primary": False}),
    ],
)
@in_loop
async def test_what_an_agent_is_asked(
    address: str, line: str, order: tuple[object, ...], answer: dict[str, object]
) -> None:
    """It may need a password, as an order does."""
    async with serving(address) as daemon:
        first = (await document(address, *line.split()))[0]
        await do(address, "--no-ask-password", *line.split())
        assert first | answer == first
        assert daemon.manager.orders == [order, order]
        assert daemon.manager.asked == [True, False]


@pytest.mark.parametrize(
    ("line", "order", "session"),
    [
        ("connect-display :0", ("ConnectDisplay", own_name(), ":0", False), "10"),
        ("connect-display bob :7", ("ConnectDisplay", "bob", ":7", False), ""),
        ("connect-display --show bob :0", ("ConnectDisplay", "bob", ":0", True), "10"),
    ],
)
@in_loop
async def test_display_is_connected(
    address: str, line: str, order: tuple[object, ...], session: str
) -> None:
    async with serving(address) as daemon:
        display = line.rpartition(" ")[2]
        found = await document(address, *line.split())
        assert found == {"Display": display, "Session": session}
        assert daemon.manager.orders == [order]


@pytest.mark.parametrize(
    ("name", "text", "status", "words"),
    [
        (f"{STANDARD}.AccessDenied", "no\nno", Exit.DENIED, r"not permitted: no\nno"),
        (f"{STANDARD}.InteractiveAuthorizationRequired", "ask", Exit.DENIED, "not permitted: ask"),
        ("org.spice_space.Sessiond1.Error.NotSwitched", "too slow", Exit.FAILED, "too slow"),
        ("org.spice_space.Sessiond1.Error.Failed", "", Exit.FAILED,
         "org.spice_space.Sessiond1.Error.Failed"),
    ],
)  # fmt: skip
@in_loop
async def test_a_refusal_is_told_in_the_daemons_words(
    address: str, name: str, text: str, status: Exit, words: str
) -> None:
    async with serving(address) as daemon:
        daemon.manager.error = RequestError(name, text)
        with pytest.raises(BusCallError) as raised:
            await do(address, "restart-agent")
    assert explain(raised.value) == (status, words)


@in_loop
async def test_no_such_session(address: str) -> None:
    async with serving(address):
        for line in ("show 5", "pause --session 5"):
            with pytest.raises(BusCallError) as raised:
                await do(address, *line.split())
            assert explain(raised.value) == (Exit.FAILED, "there is no session '5'")


@pytest.mark.parametrize("command", ["status", "pause", "monitor", "show 1"])
@in_loop
async def test_the_daemon_does_not_run(address: str, command: str) -> None:
    with pytest.raises(BusCallError) as raised:
        await do(address, *command.split())
    status, words = explain(raised.value)
    assert status == Exit.NOT_RUNNING
    assert "is not running" in words
    assert "systemctl start spice-sessiond" in words


@in_loop
async def test_another_name(address: str) -> None:
    async with serving(address, "org.example.Other"):
        assert await document(address, "--name=org.example.Other", "status")
        with pytest.raises(BusCallError):
            await do(address, "status")


@in_loop
async def test_no_bus() -> None:
    with pytest.raises(BusError) as raised:
        await do("unix:path=/nowhere", "status")
    assert explain(raised.value)[0] == Exit.FAILED


@in_loop
async def test_the_doctor_finds_a_daemon(address: str) -> None:
    async with serving(address):
        found = {line["Check"]: line["Result"] for line in await document(address, "doctor")}
    assert found["bus name"] == found["host"] == found["display"] == found["encoder"] == "ok"


class Watch:
    """A monitor that runs beside the test."""

    def __init__(self, address: str) -> None:
        self.pages: list[Page] = []
        self.signal = Signal()
        self.error: SessiondError | None = None
        self._options = parse([f"--bus={address}", "monitor"])

    async def run(self) -> None:
        try:
            await run(self._options, self._show)
        except SessiondError as error:
            self.error = error
        self.signal.happened()

    def _show(self, page: Page) -> None:
        self.pages.append(page)
        self.signal.happened()

    async def wait(self, words: str) -> None:
        await self.signal.until(lambda: any(words in page.note for page in self.pages))

    async def wait_end(self) -> SessiondError:
        await self.signal.until(lambda: self.error is not None)
        assert self.error
        return self.error


def _change(daemon: FakeDaemon, **values: object) -> None:
    daemon.manager.values |= values
    daemon.objects.changed(ROOT)


@in_loop
async def test_monitor(address: str) -> None:
    watch = Watch(address)
    async with asyncio.TaskGroup() as tasks:
        async with serving(address) as daemon:
            tasks.create_task(watch.run())
            await watch.wait("seat0 is streaming (ok)")
            _change(daemon, State="idle", Reason="host-not-asking")
            await watch.wait("seat: State=idle, Reason=host-not-asking")
            daemon.objects.emit(ROOT, "SessionSwitched", ["c2", "/a"], ["", "/"])
            await watch.wait("switched from session c2 to no session")
            daemon.objects.remove(f"{ROOT}/session/c2")
            await watch.wait("gone: session c2")
            daemon.objects.remove(f"{ROOT}/user/1000")
            await watch.wait("gone: agent of user alice")
        assert explain(await watch.wait_end())[0] == Exit.NOT_RUNNING
    assert "the daemon has left the bus" in watch.pages[-1].note
    events = [json.loads(to_json(page.document)) for page in watch.pages]
    assert [event["Event"] for event in events] == [
        "Now", "PropertiesChanged", "SessionSwitched", "SessionRemoved", "UserAgentRemoved",
        "Gone",
    ]  # fmt: skip
    assert all(event["Time"] > 10**15 for event in events)


@in_loop
async def test_a_stranger_is_not_heard(address: str) -> None:
    watch = Watch(address)
    async with asyncio.TaskGroup() as tasks:
        async with serving(address) as daemon, serving(address, "org.example.Other") as stranger:
            tasks.create_task(watch.run())
            await watch.wait("seat0 is streaming")
            stranger.bus.emit(ROOT, MANAGER, "AgentStarted", "su", ["10", 1])
            daemon.objects.emit(ROOT, "AgentStarted", "10", 2)
            await watch.wait("pid 2")
        await watch.wait_end()
    assert not [page for page in watch.pages if "pid 1" in page.note]


@in_loop
async def test_a_monitor_ends_with_the_bus() -> None:
    bus = PrivateBus()
    watch = Watch(bus.address)
    async with asyncio.TaskGroup() as tasks, serving(bus.address):
        tasks.create_task(watch.run())
        await watch.wait("seat0 is streaming")
        bus.process.kill()  # at a quieter end it would say that the daemon has left
        assert explain(await watch.wait_end())[0] == Exit.FAILED
    bus.close()


@in_loop
async def test_a_monitor_ends_when_nobody_reads(address: str) -> None:
    async with serving(address) as daemon:

        def show(page: Page) -> None:
            if "is streaming" not in page.note:
                raise BrokenPipeError
            _change(daemon, State="idle")

        with pytest.raises(BrokenPipeError):
            await run(parse([f"--bus={address}", "monitor"]), show)
