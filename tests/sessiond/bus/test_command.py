"""RunCommand and the Command objects, on a private bus: descriptors, ends, and who may what."""

from __future__ import annotations

import asyncio
import os
import select
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.bus import access
from sessiond.bus.order import MAX_WORDS, read_order
from sessiond.bus.paths import ROOT, command_path
from sessiond.errors import BusCallError, RequestError
from sessiond.model import Ending, Order, TerminalSize
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.transport.dbus import Variant
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop
from tests.sessiond.bus.test_manager import (
    MANAGER,
    NAME,
    OBJECT_MANAGER,
    PROPERTIES,
    STANDARD,
    FakeRun,
    Served,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.transport.bus_match import Signal as BusSignal

pytestmark = pytest.mark.parts

COMMAND: Final = f"{NAME}.Command"
SIGNATURE: Final = "sssasa{sv}hhh"
PATH: Final = command_path(1)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


class Pipes:
    """Three pipes; their writing ends are passed."""

    def __init__(self) -> None:
        pairs = [os.pipe() for _ in range(3)]
        self.ours = [read for read, _ in pairs]
        self.theirs = [write for _, write in pairs]

    def let_go(self) -> None:
        """Close what was passed, on our side."""
        while self.theirs:
            os.close(self.theirs.pop())

    def wait_closed(self) -> None:
        """Wait until nobody can write to them any more; then close them."""
        self.let_go()
        while self.ours:
            fd = self.ours.pop()
            assert select.select([fd], [], [], 10)[0] == [fd], "somebody still has it"
            assert os.read(fd, 1) == b""
            os.close(fd)


async def run(served: Served, *argv: str, options: Any = None, **of: str) -> Pipes:  # noqa: ANN401
    """Have a command run; return its pipes."""
    pipes = Pipes()
    body = [of.get("user", "alice"), of.get("session", ""), of.get("service", ""), list(argv)]
    try:
        [path] = await served.call(
            "RunCommand", SIGNATURE, *body, options or {}, 0, 1, 2, fds=pipes.theirs
        )
        assert path == command_path(len(served.users.runs))
    except BusCallError:
        pipes.wait_closed()
        raise
    pipes.let_go()
    return pipes


def close(run: FakeRun) -> None:
    for fd in run.fds:
        os.close(fd)


@in_loop
async def test_descriptors_come_in_their_order_and_are_closed(address: str) -> None:
    async with Served(address) as served:
        pipes = await run(served, "echo", "ü")
        [made] = served.users.runs
        for at, fd in enumerate(made.fds):
            os.write(fd, b"%d" % at)
        assert [os.read(fd, 9) for fd in pipes.ours] == [b"0", b"1", b"2"]
        close(made)
        pipes.wait_closed()
        uid = os.getuid()
        assert served.users.orders == [("run", Order(uid=uid, user="alice", argv=("echo", "ü")))]
        assert served.access.asked == [], "the policy says whether polkit is"


@in_loop
async def test_what_is_ordered(address: str) -> None:
    async with Served(address) as served:
        options = {"env": Variant("a{ss}", {"A": "1", "B": ""}), "cwd": Variant("s", "/tmp")}  # noqa: S108
        pipes = await run(served, "x", options=options, user="", session="3")
        [(_, order)] = served.users.orders
        env = {"A": "1", "B": ""}
        assert order == Order(uid=os.getuid(), session="3", argv=("x",), env=env, cwd="/tmp")  # noqa: S108
        close(served.users.runs[0])
        pipes.wait_closed()
        pipes = await run(served, service="my.Clock+x")
        assert served.users.orders[1][1].service == "my.Clock+x"
        close(served.users.runs[1])
        pipes.wait_closed()
        options = {
            "pty": Variant("b", True), "size": Variant("(uu)", [1000, 1]),
            "login-shell": Variant("b", True),
        }  # fmt: skip
        pipes = await run(served, options=options)
        order = served.users.orders[2][1]
        assert (order.argv, order.is_login_shell) == ((), True)
        assert order.terminal == TerminalSize(1000, 1)
        close(served.users.runs[2])
        pipes.wait_closed()


@in_loop
async def test_polkit_is_asked_where_the_policy_says_so(address: str) -> None:
    async with Served(address) as served:
        served.users.needs_polkit = True
        pipes = await run(served, "true")
        assert served.access.asked == [(access.RUN_COMMAND, None)]
        close(served.users.runs[0])
        pipes.wait_closed()
        served.access.is_denying, served.access.uid = True, 4711
        with pytest.raises(BusCallError) as error:
            await run(served, "true")
        assert error.value.name == f"{STANDARD}.AccessDenied"


@in_loop
async def test_refusals_close_the_descriptors(address: str) -> None:
    async with Served(address) as served:
        served.users.refusal = RequestError(f"{NAME}.Error.NoUserAgent", "nobody")
        for argv in (["true"], []):
            with pytest.raises(BusCallError):
                await run(served, *argv)


@in_loop
async def test_too_many_calls_close_the_descriptors(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the call is never begun."""
    monkeypatch.setattr("sessiond.transport.objects.MOST_EACH", 0)
    async with Served(address) as served:
        with pytest.raises(BusCallError, match="too many"):
            await run(served, "true")


class Told:
    """What is told of commands, in order."""

    def __init__(self, served: Served) -> None:
        self.signal = Signal()
        self.heard: list[tuple[str, str, list[Any]]] = []
        members = ((COMMAND, "Exited"), (OBJECT_MANAGER, "InterfacesAdded"),
                   (OBJECT_MANAGER, "InterfacesRemoved"))  # fmt: skip
        for interface, member in members:
            match = Match(sender=NAME, interface=interface, member=member)
            served.client.subscribe(match, self._hear)

    def _hear(self, arrived: BusSignal) -> None:
        self.heard.append((arrived.member, arrived.path, arrived.body))
        self.signal.happened()


@pytest.mark.parametrize(("argv", "early"), [("false", True), ("true", False)])
@in_loop
async def test_end_is_told_after_the_answer_and_then_it_is_gone(
    address: str, argv: str, *, early: bool
) -> None:
    async with Served(address) as served:
        told = Told(served)
        answers: list[Any] = []
        pipes = Pipes()
        body = ["alice", "", "", [argv], {}, 0, 1, 2]
        call = Call(NAME, ROOT, MANAGER, "RunCommand", SIGNATURE, body)
        await served.get("Version")  # and so the matches are there

        def on_answer(answer: Any) -> None:  # noqa: ANN401
            answers.append(answer)
            assert [it[0] for it in told.heard] == ["InterfacesAdded"], "nothing of its end"
            if not early:
                served.users.runs[0].ended.set_result(Ending(-1, 15))

        served.client.call_nowait(call, on_answer, fds=pipes.theirs)
        await told.signal.until(lambda: len(told.heard) == 3)
        assert answers == [[PATH]]
        _added, exited, removed = told.heard
        assert exited == ("Exited", PATH, [1, 0] if early else [-1, 15])
        assert removed == ("InterfacesRemoved", ROOT, [PATH, [COMMAND]])
        name, _ = await served.error("Kill", "i", 9, path=PATH, interface=COMMAND)
        assert name == f"{STANDARD}.UnknownObject"
        close(served.users.runs[0])
        pipes.wait_closed()


@in_loop
async def test_object(address: str) -> None:
    async with Served(address) as served:
        pipes = await run(served, "sleep", "100")
        call = Call(NAME, PATH, PROPERTIES, "GetAll", "s", [COMMAND])
        assert await served.client.call(call) == [
            {
                "User": "alice",
                "PID": 4713,
                "Argv": ["sleep", "100"],
                "StartedUSec": 1_700_000_000_500_000,
            }
        ]
        of: Any = {"path": PATH, "interface": COMMAND}
        assert (await served.error("Resize", "uu", 80, 25, **of))[0] == f"{STANDARD}.NotSupported"
        for wrong in (0, 65, -9):
            assert (await served.error("Kill", "i", wrong, **of))[0] == f"{STANDARD}.InvalidArgs"
        assert served.access.asked == []
        await served.call("Kill", "i", 15, **of)
        assert served.users.orders[1:] == [("kill", served.users.runs[0], 15)]
        close(served.users.runs[0])
        pipes.wait_closed()


@in_loop
async def test_size_of_its_terminal(address: str) -> None:
    async with Served(address) as served:
        pipes = await run(served, "vi", options={"pty": Variant("b", True)})
        assert served.users.orders[0][1].terminal == TerminalSize(80, 24)
        of: Any = {"path": PATH, "interface": COMMAND}
        for wrong in ((0, 1), (1, 0), (65536, 1), (1, 65536)):
            name, text = await served.error("Resize", "uu", *wrong, **of)
            assert name == f"{STANDARD}.InvalidArgs"
            assert f"not {wrong[0]} and {wrong[1]}" in text
        await served.call("Resize", "uu", 1, 65535, **of)
        assert served.users.orders[1:] == [("resize", served.users.runs[0], TerminalSize(1, 65535))]
        assert served.access.asked == []
        close(served.users.runs[0])
        pipes.wait_closed()


@pytest.mark.parametrize(("member", "signature", "body"), [("Kill", "i", [9]),
                                                           ("Resize", "uu", [80, 25])])  # fmt: skip
@pytest.mark.parametrize(("uid", "may"), [(1000, True), (4711, False)])
@in_loop
async def test_who_else_may_kill_and_resize_it(
    address: str, uid: int, member: str, signature: str, body: list[int], *, may: bool
) -> None:
    async with Served(address) as served:
        pipes = await run(served, "true", options={"pty": Variant("b", True)})
        served.access.is_denying, served.access.uid = True, uid
        with await Bus.connect(address) as other:
            call = Call(NAME, PATH, COMMAND, member, signature, body)
            if may:
                await other.call(call)
            else:
                with pytest.raises(BusCallError, match="AccessDenied"):
                    await other.call(call)
        assert served.access.asked == [(access.RUN_COMMAND, 1000)]
        assert len(served.users.orders) == (2 if may else 1)
        close(served.users.runs[0])
        pipes.wait_closed()


@in_loop
async def test_it_ends_when_its_caller_leaves_the_bus(address: str) -> None:
    async with Served(address) as served:
        pipes = await run(served, "true")
        [made] = served.users.runs
        assert not made.has_to_end.is_set()
        served.client.close()
        await made.has_to_end.wait()
        close(made)
        pipes.wait_closed()


@in_loop
async def test_it_ends_when_its_caller_has_left_meanwhile(address: str) -> None:
    async with Served(address) as served:
        may_go_on = asyncio.Event()
        asked = asyncio.Event()

        async def wait(*_: object, **__: object) -> int:
            asked.set()
            await may_go_on.wait()
            return 0

        served.access.check = wait  # type: ignore[method-assign]
        served.users.needs_polkit = True
        pipes = Pipes()
        body = ["alice", "", "", ["true"], {}, 0, 1, 2]
        call = Call(NAME, ROOT, MANAGER, "RunCommand", SIGNATURE, body)
        served.client.call_nowait(call, lambda _: None, fds=pipes.theirs)
        await asked.wait()
        served.client.close()
        may_go_on.set()
        await served.users.has_run.wait()
        [made] = served.users.runs
        await made.has_to_end.wait()
        close(made)
        pipes.wait_closed()


@in_loop
async def test_all_of_one_caller_end(address: str) -> None:
    """One that has ended takes its watch along, and not that of others."""
    async with Served(address) as served:
        all_pipes = [await run(served, "true") for _ in range(3)]
        first, *others = served.users.runs
        first.ended.set_result(Ending(0))
        await served.get("Version")
        served.client.close()
        for made in others:
            await made.has_to_end.wait()
        assert not first.has_to_end.is_set()
        for made, pipes in zip(served.users.runs, all_pipes, strict=True):
            close(made)
            pipes.wait_closed()


# Arguments.

ONE: Final[tuple[Any, ...]] = ("alice", "", "", ["true"], MappingProxyType({}))
WRONG: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "neither command nor service": (("alice", "", "", [], {}), "a command is to be named"),
    "both": (("alice", "", "x", ["true"], {}), "a command is to be named"),
    "no name": (("alice", "", "", ["", "a"], {}), "name is empty"),
    "an unknown option": ((*ONE[:4], {"user": 0}), "there is no option 'user'"),
    "no variables": ((*ONE[:4], {"env": ["A=1"]}), "env is a{ss}"),
    "variables that are none": ((*ONE[:4], {"env": {"A": 1}}), "env is a{ss}"),
    "names that are none": ((*ONE[:4], {"env": {1: "A"}}), "env is a{ss}"),
    "a variable without a name": ((*ONE[:4], {"env": {"": "1"}}), "name is empty"),
    "a name with =": ((*ONE[:4], {"env": {"A=": "1"}}), "has = in it"),
    "a folder that is none": ((*ONE[:4], {"cwd": 1}), "absolute path"),
    "a relative folder": ((*ONE[:4], {"cwd": "a"}), "absolute path"),
    "a service with a folder": (("", "", "x", [], {"cwd": "/"}), "a service takes no"),
    "a service with variables": (("", "", "x", [], {"env": {"A": ""}}), "a service takes no"),
    "much": (("", "", "", ["true", "x" * MAX_WORDS], {}), "over"),
    "many": (("", "", "", ["ü"] * ((MAX_WORDS - 2) // 3 + 1), {}), "over"),
    "a service with a terminal": (("", "", "x", [], {"pty": True}), "no terminal"),
    "a login shell with words": ((*ONE[:4], {"pty": True, "login-shell": True}), "neither"),
    "a login shell that is a service": (
        ("", "", "x", [], {"pty": True, "login-shell": True}),
        "neither",
    ),
    "a login shell without a terminal": (("", "", "", [], {"login-shell": True}), "has a pty"),
    "a size without a terminal": ((*ONE[:4], {"size": [1, 1]}), "has a pty"),
    "no terminal at all": ((*ONE[:4], {"pty": False, "size": [1, 1]}), "has a pty"),
    "a terminal that is a number": ((*ONE[:4], {"pty": 1}), "pty is b"),
    "a shell that is a text": ((*ONE[:4], {"pty": True, "login-shell": "bash"}), "login-shell is"),
    "a size that is a number": ((*ONE[:4], {"pty": True, "size": 80}), r"size is \(uu\)"),
    "half a size": ((*ONE[:4], {"pty": True, "size": [80]}), r"size is \(uu\)"),
    "a size of texts": ((*ONE[:4], {"pty": True, "size": "ab"}), "columns and rows"),
    "no columns": ((*ONE[:4], {"pty": True, "size": [0, 24]}), "not 0 and 24"),
    "many rows": ((*ONE[:4], {"pty": True, "size": [80, 65536]}), "not 80 and 65536"),
    "fewer than no rows": ((*ONE[:4], {"pty": True, "size": [80, -1]}), "not 80 and -1"),
    "a long variable": ((*ONE[:4], {"env": {"A": "x" * MAX_WORDS}}), "over"),
}


@pytest.mark.parametrize(("arguments", "complaint"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as error:
        read_order(0, arguments)
    assert error.value.name == f"{STANDARD}.InvalidArgs"


def test_right_arguments() -> None:
    assert read_order(7, ONE) == Order(uid=7, user="alice", argv=("true",))
    assert read_order(7, (*ONE[:4], {"pty": False, "login-shell": False})) == read_order(7, ONE)
    found = read_order(7, (*ONE[:4], {"pty": True, "size": [65535, 1]}))
    assert found.terminal == TerminalSize(65535, 1)
    much = ["ü"] * ((MAX_WORDS - 2) // 3)
    assert read_order(7, ("", "", "", much, {})).argv == tuple(much)
