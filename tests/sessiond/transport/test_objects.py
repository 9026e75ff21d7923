"""Objects served after a contract: calls, properties, their signals, and every wrong question."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import xml.etree.ElementTree as ET
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.errors import BusCallError
from sessiond.transport import objects as module
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.transport.contract import parse
from sessiond.transport.dbus import Variant
from sessiond.transport.fds import OwnedFd
from sessiond.transport.objects import FAILED
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.service import NAME, PATH, PROPERTIES, XML, Pair, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.transport.bus_match import Signal as BusSignal

pytestmark = pytest.mark.parts

MANAGER = "org.freedesktop.DBus.ObjectManager"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
CHILD = f"{PATH}/child/_33"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


FAILURES: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "a method": ("Fail", "", ()),
    "a coroutine": ("FailLater", "", ()),
    "a result": ("WrongType", "", ()),
    "a coroutine's result": ("WrongTypeLater", "", ()),
}


@pytest.mark.parametrize(("member", "signature", "body"), FAILURES.values(), ids=FAILURES.keys())
@in_loop
async def test_failure_of_ours_is_told_without_its_text(
    address: str, member: str, signature: str, body: tuple[object, ...]
) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        with pytest.raises(BusCallError) as error:
            await pair.call(member, signature, *body)
        assert (error.value.name, error.value.text) == (FAILED, "internal error")


WRONG: dict[str, tuple[str, str, str, tuple[object, ...], str]] = {
    "no such method": (NAME, "Nothing", "", (), "UnknownMethod"),
    "no such interface": ("org.example.Other", "Caller", "", (), "UnknownInterface"),
    "a wrong signature": (NAME, "Caller", "s", ("x",), "InvalidArgs"),
    "too few arguments": (NAME, "TakeTwo", "h", (0,), "InvalidArgs"),
    "no such property": (PROPERTIES, "Get", "ss", (NAME, "Nothing"), "UnknownProperty"),
    "a property of no interface": (PROPERTIES, "Get", "ss", ("org.x", "Count"), "UnknownInterface"),
    "all of no interface": (PROPERTIES, "GetAll", "s", ("org.x",), "UnknownInterface"),
    "Get of one text": (PROPERTIES, "Get", "s", (NAME,), "InvalidArgs"),
    "no method of Properties": (PROPERTIES, "Drop", "", (), "UnknownMethod"),
    "no method of ObjectManager": (MANAGER, "Drop", "", (), "UnknownMethod"),
    "no method of Peer": ("org.freedesktop.DBus.Peer", "Drop", "", (), "UnknownMethod"),
    "a wrong type in Set": (
        *(PROPERTIES, "Set", "ssv", (NAME, "Setting", Variant("u", 1)), "InvalidArgs"),
    ),
    "Set of what can only be read": (
        *(PROPERTIES, "Set", "ssv", (NAME, "Count", Variant("u", 1)), "PropertyReadOnly"),
    ),
    "Set of what there is not": (
        *(PROPERTIES, "Set", "ssv", (NAME, "Nothing", Variant("u", 1)), "UnknownProperty"),
    ),
}


@pytest.mark.parametrize("question", WRONG.values(), ids=WRONG.keys())
@in_loop
async def test_wrong_question_gets_the_standard_error(
    address: str, question: tuple[str, str, str, tuple[object, ...], str]
) -> None:
    interface, member, signature, body, name = question
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        with pytest.raises(BusCallError) as error:
            await pair.client.call(
                Call(pair.server.unique_name, PATH, interface, member, signature, body)
            )
        assert error.value.name == f"org.freedesktop.DBus.Error.{name}"


@pytest.mark.parametrize("path", [f"{PATH}/none", "/org/example", "/elsewhere"])
@in_loop
async def test_there_is_no_such_object(address: str, path: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        with pytest.raises(BusCallError) as error:
            await pair.client.call(Call(pair.server.unique_name, path, NAME, "Caller"))
        assert error.value.name.startswith("org.freedesktop.DBus.Error.Unknown")


@in_loop
async def test_refusal_is_told_in_our_own_words(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        with pytest.raises(BusCallError) as error:
            await pair.call("Refuse")
        assert (error.value.name, error.value.text) == (FAILED, "no such session")
        with pytest.raises(BusCallError) as error:
            await pair.call("RefuseByName")
        assert (error.value.name, error.value.text) == (f"{NAME}.Error.Denied", "you may not")
        with pytest.raises(BusCallError) as error:
            await pair.call("Set", "ssv", NAME, "Setting", Variant("s", "never"))
        assert (error.value.name, error.value.text) == (FAILED, "no never")


@in_loop
async def test_caller_is_known(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        other = stack.enter_context(await Bus.connect(address))
        call = Call(pair.server.unique_name, PATH, NAME, "Caller")
        answers = await asyncio.gather(pair.call("Caller"), other.call(call), pair.call("Caller"))
        mine = pair.client.unique_name
        assert list(answers) == [[mine], [other.unique_name], [mine]]
        assert await pair.call("CallerLater") == [mine, False]


@in_loop
async def test_arguments_and_results_in_plain_types(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        named = {"b": Variant("v", Variant("u", 1)), "a": Variant("as", [])}
        answer = await pair.call("Echo", "a{sv}(ias)", named, [-1, ["x"]])
        assert answer == [[-1, ["x"]], ["a", "b"]]


@in_loop
async def test_properties(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        assert await pair.call("Get", "ss", NAME, "Pair") == [["a", "/b"]]
        assert await pair.call("Get", "ss", "", "Count") == [7]
        await pair.call("Set", "ssv", NAME, "Setting", Variant("s", "new"))
        assert await pair.call("GetAll", "s", NAME) == [
            {"Setting": "new", "Count": 7, "Pair": ["a", "/b"]}
        ]


@in_loop
async def test_changes_are_told_once_a_turn_and_before_a_signal(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        heard: list[tuple[str, list[Any]]] = []
        told = Signal()

        def hear(signal: BusSignal) -> None:
            heard.append((signal.member, signal.body))
            told.happened()

        name = pair.server.unique_name
        for interface, member in ((PROPERTIES, "PropertiesChanged"), (NAME, "Said")):
            match = Match(sender=name, interface=interface, member=member, path=PATH)
            pair.client.subscribe(match, hear)
        await pair.call("Caller")
        values = pair.service.values
        for number in range(5):  # in one turn
            values |= {"Setting": f"{number}", "Count": number}
            pair.objects.changed(PATH)
        await told.until(lambda: len(heard) == 1)
        values["Count"] = 99  # a counter is read, never told
        pair.objects.changed(PATH)
        values["Pair"] = ["c", "/d"]
        pair.objects.changed(PATH)
        pair.objects.emit(PATH, "Said", "hello")
        await told.until(lambda: len(heard) == 3)
        await pair.call("Caller")  # nothing else was under way
        assert heard == [
            ("PropertiesChanged", [NAME, {"Setting": "4"}, []]),
            ("PropertiesChanged", [NAME, {"Pair": ["c", "/d"]}, []]),
            ("Said", ["hello"]),
        ]


@in_loop
async def test_objects_come_and_go_from_the_managers_path(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        heard: list[tuple[str, str, list[Any]]] = []
        told = Signal()

        def hear(signal: BusSignal) -> None:
            heard.append((signal.path, signal.member, signal.body))
            told.happened()

        for member in ("InterfacesAdded", "InterfacesRemoved"):
            match = Match(sender=pair.server.unique_name, interface=MANAGER, member=member)
            pair.client.subscribe(match, hear)
        await pair.call("Caller")
        managed = Call(pair.server.unique_name, PATH, MANAGER, "GetManagedObjects")
        assert await pair.client.call(managed) == [{}]
        values = {NAME: dict(Service().values)}
        pair.objects.add(CHILD, Service())
        assert await pair.client.call(managed) == [{CHILD: values}]
        assert 'node name="child"' in await introspect(pair, PATH)
        assert 'node name="_33"' in await introspect(pair, f"{PATH}/child")
        pair.objects.changed(CHILD)  # and gone, before it was told
        pair.objects.remove(CHILD)
        await told.until(lambda: len(heard) == 2)
        assert heard == [
            (PATH, "InterfacesAdded", [CHILD, values]),
            (PATH, "InterfacesRemoved", [CHILD, [NAME]]),
        ]
        with pytest.raises(BusCallError, match="no object"):
            await pair.client.call(Call(pair.server.unique_name, CHILD, NAME, "Caller"))


@in_loop
async def test_introspection_is_the_contract_with_its_annotations(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        found = parse(await introspect(pair, PATH))
        want = parse(XML)[NAME]
        assert (found[NAME].methods, found[NAME].properties) == (want.methods, want.properties)
        assert ET.canonicalize(found[NAME].xml) == ET.canonicalize(want.xml)
        assert MANAGER in found
        above = await introspect(pair, "/")
        assert 'node name="org"' in above
        assert "interface" not in above


@in_loop
async def test_peer(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        peer = "org.freedesktop.DBus.Peer"
        assert await pair.client.call(Call(pair.server.unique_name, PATH, peer, "Ping")) == []


@in_loop
async def test_too_many_calls_that_wait(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EACH", 2)
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        async with asyncio.TaskGroup() as sitting:
            for _ in range(2):
                sitting.create_task(_error(pair.call("Sit")))
            await pair.service.sitting.wait()
            with pytest.raises(BusCallError, match="too many") as error:
                await pair.call("Sit")
            assert error.value.name.endswith("LimitsExceeded")
            assert await pair.call("Caller"), "what does not wait is not limited"
            with await Bus.connect(address) as other:
                setting = Variant("s", "another's order")
                await other.call(
                    Call(pair.server.unique_name, PATH, PROPERTIES, "Set", "ssv",
                         [NAME, "Setting", setting])
                )  # fmt: skip
            pair.client.close()


@in_loop
async def test_object_without_what_the_contract_says(address: str) -> None:
    class Lacking(Service):
        Sit = None  # type: ignore[assignment]

    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        with pytest.raises(TypeError, match="Lacking lacks Sit"):
            pair.objects.add(CHILD, Lacking())


@pytest.mark.parametrize("sent", [0, 1])
@in_loop
async def test_descriptor_that_was_not_sent(address: str, sent: int) -> None:
    """Some libraries would hand the index to the method: a descriptor of the daemon itself."""
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        fds = [write.fileno() for _read, write in [_pipe(stack)]][:sent]
        with pytest.raises(BusCallError, match="named but not sent") as error:
            await pair.call("TakeTwo", "hh", 0, 2, fds=fds)
        assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
        assert pair.service.fds == []


@in_loop
async def test_texts_of_any_language(address: str) -> None:
    """Debian 12's dbus-fast counts characters instead of bytes, and the bus hangs up."""
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        named = {"ключ": Variant("s", "ß"), "a": Variant("av", [Variant("as", ["é", "x"])])}
        for text in ("ü", "日本語", "x\U0001f600y", "\x7f"):
            pair.service.values["Setting"] = text
            answer = await pair.call("Echo", "a{sv}(ias)", named, [7, [text, "plain"]])
            assert answer == [[7, [text, "plain"]], ["a", "ключ"]]
            [values] = await pair.call("GetAll", "s", NAME)
            assert values["Setting"] == text
            with pytest.raises(BusCallError, match=text):
                await pair.call("Get", "ss", NAME, text)


@in_loop
async def test_many_descriptors_in_one_message(address: str) -> None:
    """Debian 12's dbus-fast has room for one."""
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        pipes = [_pipe(stack) for _ in range(16)]  # the bus's own limit (dbus-daemon(1))
        for first, second in ((0, 15), (14, 1)):
            fds = [write.fileno() for _read, write in pipes]
            await pair.call("TakeTwo", "hh", first, second, fds=fds)
            for index in (first, second):
                fd = pair.service.fds.pop(0)
                assert os.fstat(fd).st_ino == os.fstat(pipes[index][0].fileno()).st_ino
                os.close(fd)


@pytest.mark.parametrize("member", ["Take", "TakeLater"])
@in_loop
async def test_received_descriptor_is_close_on_exec(address: str, member: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
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
    address: str, member: str, signature: str, body: tuple[object, ...]
) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        read, write = _pipe(stack)
        with suppress(BusCallError):
            await pair.call(member, signature, *body, fds=[write.fileno()])
        write.close()
        await pair.call("Caller")  # the loop has turned
        assert select.select([read], [], [], 5)[0] == [read]
        assert os.read(read.fileno(), 1) == b""


@in_loop
async def test_descriptor_that_is_named_twice_comes_twice(address: str) -> None:
    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        _read, write = _pipe(stack)
        await pair.call("TakeTwo", "hh", 0, 0, fds=[write.fileno()])
        fds = pair.service.fds
        assert len(set(fds)) == 2
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)


async def introspect(pair: Pair, path: str) -> str:
    call = Call(pair.server.unique_name, path, INTROSPECTABLE, "Introspect")
    [text] = await pair.client.call(call)
    return str(text)


async def _error(call: Any) -> Exception | None:  # noqa: ANN401
    try:
        await call
    except Exception as error:  # noqa: BLE001
        return error
    return None


def _pipe(stack: ExitStack) -> tuple[OwnedFd, OwnedFd]:
    read, write = (stack.enter_context(OwnedFd(fd)) for fd in os.pipe())
    return read, write


@in_loop
async def test_no_descriptor_is_left_to_name_one_twice(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with ExitStack() as stack:
        pair = await Pair.connect(stack, address)
        read, write = _pipe(stack)
        monkeypatch.setattr(os, "dup", fail)
        with pytest.raises(BusCallError, match="Too many open files") as error:
            await pair.call("TakeTwo", "hh", 0, 0, fds=[write.fileno()])
        assert error.value.name == "org.freedesktop.DBus.Error.LimitsExceeded"
        write.close()
        assert select.select([read], [], [], 5)[0] == [read]
        assert os.read(read.fileno(), 1) == b""
