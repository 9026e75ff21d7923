"""The door to the D-Bus library and the connection behind it, on a private bus."""

import asyncio
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.errors import BusCallError, BusError, SessiondError
from sessiond.transport.bus import NO_REPLY, Bus, Call
from sessiond.transport.bus_address import usable_address
from sessiond.transport.bus_match import Match
from sessiond.transport.dbus import (
    FAILED,
    LIBRARY,
    DBusError,
    PropertyAccess,
    ServiceInterface,
    Variant,
    caller,
    dbus_property,
    guard,
    method,
    unpack,
)
from sessiond.transport.fds import OwnedFd
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop

if TYPE_CHECKING:  # annotations of a service are D-Bus signatures
    Fd = int
    Text = str
    TextSetting = str
else:
    Fd = "h"
    Text = "s"
    TextSetting = "s"

NAME = "org.example.Test"
PATH = "/org/example/Test"
PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.freedesktop.DBus.ObjectManager"
SECRET = "what nobody outside may read"  # noqa: S105 (a canary)


class Service(ServiceInterface):
    """Fails in every way that a service can."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.fds: list[int] = []
        self.sitting = asyncio.Event()

    @method()
    def Fail(self) -> Text:  # noqa: N802
        raise RuntimeError(SECRET)

    @method()
    async def FailLater(self) -> Text:  # noqa: N802
        await asyncio.sleep(0)
        raise RuntimeError(SECRET)

    @method()
    def Refuse(self) -> Text:  # noqa: N802
        raise SessiondError("no such session")

    @method()
    def RefuseByName(self) -> Text:  # noqa: N802
        raise DBusError(f"{NAME}.Error.Denied", "you may not")

    @method()
    def WrongType(self) -> Text:  # noqa: N802
        return [SECRET]  # type: ignore[return-value]

    @method()
    async def WrongTypeLater(self) -> Text:  # noqa: N802
        return [SECRET]  # type: ignore[return-value]

    @dbus_property()
    def Broken(self) -> Text:  # noqa: N802
        raise RuntimeError(SECRET)

    @dbus_property(PropertyAccess.READWRITE)
    def Setting(self) -> TextSetting:  # noqa: N802
        return "as it was"

    @Setting.setter  # type: ignore[no-redef]
    @guard
    def Setting(self, value: TextSetting) -> None:  # noqa: N802
        raise SessiondError(f"no {value}")

    @method()
    def Caller(self) -> Text:  # noqa: N802
        return caller()

    @method()
    async def CallerLater(self) -> Text:  # noqa: N802
        await asyncio.sleep(0)
        return caller()

    @method()
    def Take(self, fd: Fd) -> None:  # noqa: N802
        self.fds.append(fd)

    @method()
    def TakeTwo(self, one: Fd, two: Fd) -> None:  # noqa: N802
        self.fds += [one, two]

    @method()
    async def TakeLater(self, fd: Fd) -> None:  # noqa: N802
        await asyncio.sleep(0)
        self.fds.append(fd)

    @method()
    async def Sit(self) -> None:  # noqa: N802
        self.sitting.set()
        await asyncio.Event().wait()


@pytest.fixture
def private_bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


class Pair:
    """A connection that serves, and one that calls it."""

    def __init__(self, server: Bus, client: Bus) -> None:
        self.server = server
        self.client = client
        self.service = Service()
        server.export(PATH, self.service)

    @classmethod
    async def connect(cls, stack: ExitStack, address: str) -> "Pair":
        server = stack.enter_context(await Bus.connect(address, takes_fds=True))
        return cls(server, stack.enter_context(await Bus.connect(address, takes_fds=True)))

    async def call(self, member: str, signature: str = "", *body: object, **how: Any) -> list[Any]:  # noqa: ANN401
        interface = PROPERTIES if member in {"Get", "GetAll", "Set"} else NAME
        call = Call(self.server.unique_name, PATH, interface, member, signature, body)
        return await self.client.call(call, **how)


def test_both_libraries_or_the_one_that_was_asked_for() -> None:
    assert os.environ.get("SPICE_SESSIOND_DBUS", LIBRARY) == LIBRARY
    assert LIBRARY in {"dbus_fast", "dbus_next"}


FAILURES: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "a method": ("Fail", "", ()),
    "a coroutine": ("FailLater", "", ()),
    "a result": ("WrongType", "", ()),
    "a coroutine's result": ("WrongTypeLater", "", ()),
    "a property": ("Get", "ss", (NAME, "Broken")),
    "all properties": ("GetAll", "s", (NAME,)),
}


@pytest.mark.parametrize(("member", "signature", "body"), FAILURES.values(), ids=FAILURES.keys())
@in_loop
async def test_failure_of_ours_is_told_without_its_text(
    private_bus: PrivateBus, member: str, signature: str, body: tuple[object, ...]
) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        with pytest.raises(BusCallError) as error:
            await pair.call(member, signature, *body)
        assert (error.value.name, error.value.text) == (FAILED, "internal error")


@pytest.mark.parametrize("sent", [0, 1])
@in_loop
async def test_descriptor_that_was_not_sent(private_bus: PrivateBus, sent: int) -> None:
    """Some libraries would hand the index to the method: a descriptor of the daemon itself."""
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        fds = [write.fileno() for _read, write in [_pipe(stack)]][:sent]
        with pytest.raises(BusCallError, match="named but not sent") as error:
            await pair.call("TakeTwo", "hh", 0, 2, fds=fds)
        assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
        assert pair.service.fds == []


@in_loop
async def test_refusal_is_told_in_our_own_words(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        with pytest.raises(BusCallError) as error:
            await pair.call("Refuse")
        assert (error.value.name, error.value.text) == (FAILED, "no such session")
        with pytest.raises(BusCallError) as error:
            await pair.call("RefuseByName")
        assert (error.value.name, error.value.text) == (f"{NAME}.Error.Denied", "you may not")
        with pytest.raises(BusCallError) as error:
            await pair.call("Set", "ssv", NAME, "Setting", Variant("s", "thanks"))
        assert (error.value.name, error.value.text) == (FAILED, "no thanks")


@pytest.mark.parametrize("member", ["Caller", "CallerLater"])
@in_loop
async def test_caller_is_known(private_bus: PrivateBus, member: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        other = stack.enter_context(await Bus.connect(private_bus.address))
        call = Call(pair.server.unique_name, PATH, NAME, member)
        answers = await asyncio.gather(pair.call(member), other.call(call), pair.call(member))
        mine = pair.client.unique_name
        assert list(answers) == [[mine], [other.unique_name], [mine]]


def test_no_caller_outside_of_a_call() -> None:
    with pytest.raises(LookupError):
        caller()


@pytest.mark.parametrize("member", ["Take", "TakeLater"])
@in_loop
async def test_received_descriptor_is_close_on_exec(private_bus: PrivateBus, member: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        read, write = _pipe(stack)
        await pair.call(member, "h", 0, fds=[write.fileno()])
        [fd] = pair.service.fds
        assert not os.get_inheritable(fd)
        assert os.fstat(fd).st_ino == os.fstat(read.fileno()).st_ino
        assert stat.S_ISFIFO(os.fstat(fd).st_mode)
        os.close(fd)


UNWANTED: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "no such method": ("Nothing", "h", (0,)),
    "a method without one": ("Caller", "", ()),
    "a wrong signature": ("Take", "hh", (0, 0)),
    "named wrongly": ("TakeTwo", "hh", (0, 9)),
}


@pytest.mark.parametrize(("member", "signature", "body"), UNWANTED.values(), ids=UNWANTED.keys())
@in_loop
async def test_descriptor_that_nobody_takes_is_closed(
    private_bus: PrivateBus, member: str, signature: str, body: tuple[object, ...]
) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        read, write = _pipe(stack)
        with suppress(BusCallError):
            await pair.call(member, signature, *body, fds=[write.fileno()])
        write.close()
        await pair.call("Caller")  # the loop has turned
        assert select.select([read], [], [], 5)[0] == [read]
        assert os.read(read.fileno(), 1) == b""


@in_loop
async def test_descriptor_that_is_named_twice_comes_twice(private_bus: PrivateBus) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        _read, write = _pipe(stack)
        await pair.call("TakeTwo", "hh", 0, 0, fds=[write.fileno()])
        fds = pair.service.fds
        assert len(set(fds)) == 2
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)


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
        await pair.server.request_name(NAME)
        with pytest.raises(BusError, match="taken"):
            await pair.client.request_name(NAME)
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


@in_loop
async def test_introspection_is_ours_and_no_signal_has_a_wrong_path(
    private_bus: PrivateBus,
) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, private_bus.address)
        xml = "<node><!-- ours --></node>"
        pair.server.serve_introspection(PATH, xml)
        introspect = Call(
            pair.server.unique_name, PATH, "org.freedesktop.DBus.Introspectable", "Introspect"
        )
        assert await pair.client.call(introspect) == [xml]
        paths: list[str] = []
        name = pair.server.unique_name
        for member in ("InterfacesAdded", "InterfacesRemoved"):
            match = Match(sender=name, interface=MANAGER, member=member)
            pair.client.subscribe(match, lambda signal: paths.append(signal.path))
        await pair.call("Caller")
        pair.server.unexport(PATH)
        pair.server.export(PATH, Service())
        pair.server.emit("/org/example", MANAGER, "InterfacesRemoved", "oas", [PATH, [NAME]])
        await pair.call("Caller")
        assert paths == ["/org/example"]
        assert (await pair.client.call(introspect))[0].count("interface name") > 1


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
