"""Who may: a stand-in for polkit on a private bus, and callers of any uid."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.bus import access as module
from sessiond.bus.access import PAUSE, RELOAD, SWITCH, Access
from sessiond.errors import RequestError
from sessiond.transport.bus import Bus
from sessiond.transport.dbus import Message, unpack
from sessiond.transport.objects import Caller
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.transport.bus import Call
    from sessiond.transport.dbus import Incoming

pytestmark = pytest.mark.parts

POLKIT = "org.freedesktop.PolicyKit1"
AUTHORITY = f"{POLKIT}.Authority"
PATH = "/org/freedesktop/PolicyKit1/Authority"
STANDARD = "org.freedesktop.DBus.Error"
DENIED = f"{STANDARD}.AccessDenied"
ASK = f"{STANDARD}.InteractiveAuthorizationRequired"
ALICE = 1000
CALLER = Caller(":1.4711")
PATIENT = Caller(":1.4711", is_interactive=True)
YES = [True, False, {}]
NO = [False, False, {}]
CHALLENGE = [False, True, {"polkit.retains_authorization_after_challenge": "1"}]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


class Disguise(Bus):
    """A bus on which a caller has the uid that the test wants; ``limits`` of the other calls."""

    uid = ALICE

    async def call(self, call: Call, **how: Any) -> list[Any]:  # noqa: ANN401
        if call.member == "GetConnectionUnixUser" and call.body == [CALLER.name]:
            return [self.uid]
        self.limits = [*getattr(self, "limits", []), how.get("limit")]
        return await super().call(call, **how)


class FakePolkit:
    """Answers with ``answer``, fails with an error of that name, or says nothing for None."""

    def __init__(self, bus: Bus, answer: list[Any] | str | None) -> None:
        self.bus = bus
        self.answer = answer
        self.asked: list[Message] = []
        self.cancelled: list[Any] = []
        self.told = Signal()
        bus.serve(self._on_call)

    def _on_call(self, message: Message, _incoming: Incoming) -> bool:
        assert (message.path, message.interface) == (PATH, AUTHORITY)
        if message.member == "CancelCheckAuthorization":
            self.cancelled += message.body
            self.bus.reply(Message.new_method_return(message, "", [], []))
        else:
            assert message.member == "CheckAuthorization"
            self.asked.append(message)
            if isinstance(self.answer, str):
                self.bus.reply(Message.new_error(message, self.answer, "as the test wants"))
            elif self.answer is not None:
                reply = Message.new_method_return(message, "(bba{ss})", [self.answer], [])
                self.bus.reply(reply)
        self.told.happened()
        return True


class Guard:
    """An Access and the polkit that it asks."""

    def __init__(self, bus: Disguise, polkit: FakePolkit) -> None:
        self.bus = bus
        self.polkit = polkit
        self.access = Access(bus)

    @classmethod
    async def connect(cls, stack: ExitStack, address: str, answer: list[Any] | str | None) -> Guard:
        """Connect both; they end with STACK."""
        bus = stack.enter_context(await Disguise.connect(address))
        other = stack.enter_context(await Bus.connect(address))
        await other.request_name(POLKIT)
        return cls(bus, FakePolkit(other, answer))

    async def refusal(self, caller: Caller = CALLER, action: str = PAUSE) -> tuple[str, str]:
        """Return the error's name and text."""
        with pytest.raises(RequestError) as error:
            await self.access.check(caller, action)
        return error.value.name, str(error.value)


@pytest.mark.parametrize("caller", [CALLER, PATIENT])
@in_loop
async def test_who_is_allowed(address: str, caller: Caller) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, YES)
        assert await guard.access.check(caller, PAUSE) == ALICE


REFUSALS: dict[str, tuple[Caller, list[Any], str, str]] = {
    "denied": (CALLER, NO, DENIED, f"polkit does not allow {PAUSE} to uid 1000"),
    "denied, with patience": (PATIENT, NO, DENIED, f"polkit does not allow {PAUSE} to uid 1000"),
    "a password": (CALLER, CHALLENGE, ASK, f"a password is needed for {PAUSE}"),
    "a password, and nobody to ask": (
        *(PATIENT, CHALLENGE, DENIED, f"polkit does not allow {PAUSE} to uid 1000"),
    ),
}


@pytest.mark.parametrize(
    ("caller", "answer", "name", "text"), REFUSALS.values(), ids=REFUSALS.keys()
)
@in_loop
async def test_who_is_refused(
    address: str, caller: Caller, answer: list[Any], name: str, text: str
) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, answer)
        assert await guard.refusal(caller) == (name, text)


@pytest.mark.parametrize(("caller", "flags"), [(CALLER, 0), (PATIENT, 1)])
@in_loop
async def test_what_polkit_is_asked(address: str, caller: Caller, flags: int) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, YES)
        for action in (SWITCH, RELOAD):
            await guard.access.check(caller, action)
        bodies = [unpack(message.body) for message in guard.polkit.asked]
        subject = ["system-bus-name", {"name": caller.name}]
        assert [body[:-1] for body in bodies] == [
            [subject, SWITCH, {}, flags],
            [subject, RELOAD, {}, flags],
        ]
        first, second = (body[-1] for body in bodies)
        assert first != second, "to cancel the one would cancel the other"
        assert {message.signature for message in guard.polkit.asked} == {"(sa{sv})sa{ss}us"}
        assert guard.polkit.cancelled == []


@pytest.mark.parametrize("uid", [0, 1001])
@in_loop
async def test_root_and_the_owner_are_not_asked_about(address: str, uid: int) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, NO)
        guard.bus.uid = uid
        assert await guard.access.check(CALLER, PAUSE, owner=1001) == uid
        assert guard.polkit.asked == []
        guard.bus.uid = ALICE
        with pytest.raises(RequestError):
            await guard.access.check(CALLER, PAUSE, owner=1001)
        assert len(guard.polkit.asked) == 1


@in_loop
async def test_without_polkit_only_root_may(address: str) -> None:
    with await Disguise.connect(address) as bus:
        with pytest.raises(RequestError, match="only root may") as error:
            await Access(bus).check(CALLER, PAUSE)
        assert error.value.name == DENIED
        bus.uid = 0
        assert await Access(bus).check(CALLER, PAUSE) == 0


@in_loop
async def test_uid_is_the_one_that_the_bus_knows(address: str) -> None:
    me = os.getuid()
    with await Bus.connect(address) as bus, await Bus.connect(address) as caller:
        assert await Access(bus).check(Caller(caller.unique_name), PAUSE, owner=me) == me


@in_loop
async def test_who_has_left_is_denied(address: str) -> None:
    with await Bus.connect(address) as bus:
        with await Bus.connect(address) as caller:
            name = caller.unique_name
            left = asyncio.Event()
            bus.watch_owner(name, lambda owner: None if owner else left.set())
        await left.wait()
        with pytest.raises(RequestError, match="has left the bus") as error:
            await Access(bus).check(Caller(name), PAUSE, owner=os.getuid())
        assert error.value.name == DENIED


@in_loop
async def test_polkits_own_error_is_no_permission(address: str) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, f"{POLKIT}.Error.Failed")
        assert await guard.refusal() == (DENIED, f"polkit could not be asked about {PAUSE}")


@in_loop
async def test_polkit_that_does_not_answer_is_no_permission(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT", 0.05)
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, None)
        name, text = await guard.refusal()
        assert (name, text) == (DENIED, f"polkit did not answer in time about {PAUSE}")
        await guard.polkit.told.until(lambda: bool(guard.polkit.cancelled))
        assert guard.polkit.cancelled == [guard.polkit.asked[0].body[-1]]


@pytest.mark.parametrize(
    ("caller", "limit"), [(CALLER, module.LIMIT), (PATIENT, module.INTERACTIVE_LIMIT)]
)
@in_loop
async def test_person_has_longer_than_a_program(address: str, caller: Caller, limit: float) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, YES)
        await guard.access.check(caller, PAUSE)
        assert guard.bus.limits == [limit]


@in_loop
async def test_question_that_nobody_waits_for_is_taken_back(address: str) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, None)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(guard.access.check(PATIENT, PAUSE))
            await guard.polkit.told.until(lambda: bool(guard.polkit.asked))
            task.cancel()
        await guard.polkit.told.until(lambda: bool(guard.polkit.cancelled))
        assert guard.polkit.cancelled == [guard.polkit.asked[0].body[-1]]


@in_loop
async def test_polkit_that_leaves_while_it_is_asked_is_no_permission(address: str) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, None)
        async with asyncio.TaskGroup() as tasks:
            refused = tasks.create_task(guard.refusal(PATIENT))
            await guard.polkit.told.until(lambda: bool(guard.polkit.asked))
            guard.polkit.bus.close()
        assert (await refused)[0] == DENIED


@in_loop
async def test_nothing_else_waits_for_one_question(address: str) -> None:
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, None)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(guard.access.check(PATIENT, PAUSE))
            await guard.polkit.told.until(lambda: bool(guard.polkit.asked))
            guard.polkit.answer = YES
            assert await guard.access.check(CALLER, RELOAD) == ALICE
            assert not first.done()
            first.cancel()


@in_loop
async def test_one_user_cannot_keep_everybody_waiting(address: str) -> None:
    """Each question may wait two minutes for a password, and all calls together are limited."""
    with ExitStack() as stack:
        guard = await Guard.connect(stack, address, None)
        async with asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(guard.access.check(PATIENT, PAUSE))
                for _ in range(module.MOST_ASKED)
            ]
            asked = guard.polkit.asked
            await guard.polkit.told.until(lambda: len(asked) == module.MOST_ASKED)
            name, text = await guard.refusal(PATIENT)
            assert (name, text) == (
                f"{STANDARD}.LimitsExceeded",
                f"uid {ALICE} has {module.MOST_ASKED} questions open",
            )
            guard.bus.uid, guard.polkit.answer = ALICE + 1, YES
            assert await guard.access.check(PATIENT, PAUSE) == ALICE + 1
            guard.bus.uid = ALICE
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            assert await guard.access.check(PATIENT, PAUSE) == ALICE
            for task in waiting:
                task.cancel()
