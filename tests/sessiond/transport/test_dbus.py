"""The door to the D-Bus library and the connection behind it, on a private bus."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sessiond.errors import BusCallError, BusError, SessiondError
from sessiond.transport.bus import NO_REPLY, Bus, Call
from sessiond.transport.bus_address import usable_address
from sessiond.transport.bus_match import DRIVER, Match
from sessiond.transport.bus_signals import Answer
from sessiond.transport.dbus import LIBRARY, Variant, unpack
from sessiond.transport.fds import OwnedFd
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.service import NAME, PATH, Pair

pytestmark = pytest.mark.parts


@pytest.fixture
def private_bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


def test_both_libraries_or_the_one_that_was_asked_for() -> None:
    assert os.environ.get("SPICE_SESSIOND_DBUS", LIBRARY) == LIBRARY
    assert LIBRARY in {"dbus_fast", "dbus_next"}


@in_loop
async def test_descriptors_are_kept_away_from_who_takes_none(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        deaf = stack.enter_context(await Bus.connect(private_bus.address))
        _read, write = _pipe(stack)
        with pytest.raises(BusCallError, match="file descriptors"):
            await pair.client.call(
                Call(deaf.unique_name, PATH, NAME, "Take", "h", [0]), fds=[write.fileno()]
            )


@in_loop
async def test_bus_that_hangs_up_in_authentication(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ExitStack() as stack:
            stack.callback(writer.close)
            await reader.readline()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "bus"):
        with pytest.raises(BusError, match=r"hung up|closed"):
            await Bus.connect(f"unix:path={tmp_path}/bus")


def test_bus_that_says_nothing(tmp_path: Path) -> None:
    """The listener accepts in its backlog, and nobody ever answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/bus")
        listener.listen(8)
        with pytest.raises(BusError, match="does not answer"):
            asyncio.run(_connect(f"unix:path={tmp_path}/bus", limit=0.05))


def test_bus_that_accepts_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{tmp_path}/bus")
        listener.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(f"{tmp_path}/bus")
        with pytest.raises(BusError, match="takes no more connections"):
            asyncio.run(_connect(f"unix:path={tmp_path}/bus"))


@pytest.mark.parametrize("address", ["", "unix:path=/nowhere/bus", "tcp:host=x", "unix:tmpdir=/x"])
def test_address_without_a_bus(address: str) -> None:
    with pytest.raises(BusError, match="cannot reach the message bus"):
        usable_address(address)


def test_system_bus_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, private_bus: PrivateBus
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path=/nowhere;{private_bus.address}")
    assert usable_address("system") == private_bus.address


@in_loop
async def test_bus_that_dies(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        async with asyncio.TaskGroup() as group:
            sitting = group.create_task(_error(pair.call("Sit")))
            await pair.service.sitting.wait()
            private_bus.process.kill()
            with pytest.raises(BusError, match="hung up"):
                await pair.client.wait_closed()
        assert isinstance(sitting.result(), BusError)
        assert isinstance(await _error(pair.call("Caller")), BusError)
        pair.client.emit(PATH, NAME, "Nothing", "", [])  # nobody hears it, and nothing breaks


@in_loop
async def test_bus_that_is_slow_to_read_is_waited_for(private_bus: PrivateBus) -> None:
    """More is said to it than its socket holds; it gets all of it, and the connection lasts."""
    answers, all_answered = list[Answer](), asyncio.Event()

    def on_answer(answer: Answer) -> None:
        answers.append(answer)
        if len(answers) == 5000:
            all_answered.set()

    with await Bus.connect(private_bus.address) as bus:
        private_bus.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(5000):  # of a hundred bytes and more each
                bus.call_nowait(Call(DRIVER, "/org/freedesktop/DBus", DRIVER, "GetId"), on_answer)
                await asyncio.sleep(0)
        finally:
            private_bus.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await all_answered.wait()
    assert [it for it in answers if isinstance(it, Exception)] == []


@in_loop
async def test_close_ends_calls_and_who_waits(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        async with asyncio.TaskGroup() as group:
            sitting = group.create_task(_error(pair.call("Sit")))
            waiting = group.create_task(pair.client.wait_closed())
            await pair.service.sitting.wait()
            pair.client.close()
        assert isinstance(sitting.result(), BusError)
        assert waiting.result() is None
        pair.client.close()


@in_loop
async def test_call_without_an_answer_ends_in_time(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        with pytest.raises(BusCallError) as error:
            await pair.call("Sit", limit=0.01)
        assert error.value.name == NO_REPLY
        assert await pair.call("Caller")


@in_loop
async def test_failing_handler_ends_the_connection_loudly(private_bus: PrivateBus) -> None:
    def fail(_owner: str) -> None:
        raise ZeroDivisionError

    with await Bus.connect(private_bus.address) as bus:
        bus.watch_owner(NAME, fail)
        with pytest.raises(ZeroDivisionError):
            await bus.wait_closed()


@in_loop
async def test_name_is_owned_once(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        await pair.client.check_free(NAME)
        await pair.server.request_name(NAME)
        for claim in (pair.client.request_name, pair.client.check_free):
            with pytest.raises(BusError, match="taken"):
                await claim(NAME)
        with pytest.raises(BusError, match="cannot own"):
            await pair.client.request_name("org.freedesktop.DBus")


@in_loop
async def test_owner_is_told_at_once_and_at_each_change(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        owners: list[str] = []
        told = Signal()

        def on_owner(owner: str) -> None:
            owners.append(owner)
            told.happened()

        pair.client.watch_owner(NAME, on_owner)
        await told.until(lambda: owners == [""])
        await pair.server.request_name(NAME)
        await told.until(lambda: len(owners) == 2)
        pair.client.watch_owner(NAME, on_owner)
        await told.until(lambda: len(owners) == 3)
        pair.client.unwatch_owner(NAME, on_owner)
        pair.server.close()
        await told.until(lambda: len(owners) == 4)
        assert owners == ["", pair.server.unique_name, pair.server.unique_name, ""]


@in_loop
async def test_names_that_are_watched_no_more_cost_nothing(private_bus: PrivateBus) -> None:
    """A bus takes 512 rules of a connection, and would refuse the next (dbus-daemon(1))."""
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)

        def ignore(_: object) -> None: ...

        match = Match(sender=NAME, interface=NAME, member="Said")
        for at in range(600):
            pair.client.watch_owner(f":1.{at + 1000}", ignore)
            pair.client.watch_owner(NAME, ignore)
            pair.client.subscribe(match, ignore)
            pair.client.unsubscribe(match, ignore)
            pair.client.unwatch_owner(NAME, ignore)
            pair.client.unwatch_owner(f":1.{at + 1000}", ignore)
            await pair.call("Caller")


@in_loop
async def test_name_stays_known_while_anything_needs_it(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        await pair.server.request_name(NAME)
        told = Signal()
        heard = list[object]()

        def hear(signal: object) -> None:
            heard.append(signal)
            told.happened()

        match = Match(sender=NAME, interface=NAME, member="Said")
        pair.client.watch_owner(NAME, hear)
        pair.client.subscribe(match, hear)
        pair.client.unwatch_owner(NAME, hear)
        await pair.call("Caller")
        pair.server.emit(PATH, NAME, "Said", "", [])
        await told.until(lambda: bool(heard))


@in_loop
async def test_signals_in_plain_types_while_subscribed(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        await pair.server.request_name(NAME)
        heard: list[list[Any]] = []
        told = Signal()
        match = Match(sender=NAME, interface=NAME, member="Said", path=PATH, arg0="a")

        def hear(signal: Any) -> None:  # noqa: ANN401
            heard.append(signal.body)
            told.happened()

        def say(path: str, first: str, number: int) -> None:
            values = {"number": Variant("v", Variant("(us)", [number, "x"]))}
            pair.server.emit(path, NAME, "Said", "sa{sv}", [first, values])

        pair.client.subscribe(match, hear)
        await pair.call("Caller")  # the bus has taken the rule
        say(PATH, "b", 1)
        say("/elsewhere", "a", 2)
        say(PATH, "a", 3)
        await told.until(lambda: bool(heard))
        pair.client.unsubscribe(match, hear)
        say(PATH, "a", 4)
        await pair.call("Caller")
        assert heard == [["a", {"number": [3, "x"]}]]


@in_loop
async def test_refused_match_rule_ends_the_connection(private_bus: PrivateBus) -> None:
    with await Bus.connect(private_bus.address) as bus:
        bus.subscribe(Match(sender="org..bad", interface=NAME, member="X"), lambda _signal: None)
        with pytest.raises(BusError, match="refused a match rule"):
            await bus.wait_closed()


def test_variants_are_taken_off_at_any_depth() -> None:
    value = {"a": Variant("av", [Variant("s", "x"), Variant("(si)", ["y", 1])]), "b": [b"z"]}
    assert unpack(value) == {"a": ["x", ["y", 1]], "b": [b"z"]}


async def _connect(address: str, limit: float = 5.0) -> None:
    with await Bus.connect(address, limit=limit):
        pass


async def _error(call: Any) -> Exception | None:  # noqa: ANN401
    try:
        await call
    except SessiondError as error:
        return error
    return None


def _pipe(stack: ExitStack) -> tuple[OwnedFd, OwnedFd]:
    read, write = (stack.enter_context(OwnedFd(fd)) for fd in os.pipe())
    return read, write
