"""The daemon's end of a KMS helper, with a helper that says what it is told to."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.stream import kms
from sessiond.stream.kms import KmsHelper, may_read_cards, open_helper
from sessiond.wire.kms import (
    MAX_CONTROL,
    Failed,
    Grant,
    Ready,
    pack_control,
)
from tests.fixtures.loop import Signal, in_loop
from tests.sessiond.stream.stage import HelpersEnd

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_left")

READY: Final = pack_control(Ready("card0", "virtio_gpu"))
VT: Final = 3


@dataclass
class Ends:
    """Who opens a helper: what has become of it."""

    opened: list[KmsHelper] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    signal: Signal = field(default_factory=Signal)

    def on_open(self, helper: KmsHelper) -> None:
        self.opened.append(helper)
        helper.on_lost = self.on_failed
        self.signal.happened()

    def on_failed(self, why: str) -> None:
        self.failed.append(why)
        self.signal.happened()

    def open(self, path: Path) -> None:
        open_helper(str(path), VT, self.on_open, self.on_failed)

    async def until_failed(self) -> str:
        await self.signal.until(lambda: bool(self.failed))
        [why] = self.failed
        return why


@dataclass
class Place:
    """Where a helper can be had."""

    path: Path
    listener: socket.socket

    async def meet(self, ends: Ends) -> HelpersEnd:
        """Have a helper opened; return the other end, which knows whom it serves."""
        ends.open(self.path)
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        control, _ = await loop.sock_accept(self.listener)
        loop.add_reader(control, arrived.set)
        await arrived.wait()
        loop.remove_reader(control)
        return HelpersEnd(control, VT)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(kms, "may_read_cards", lambda _pid: False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path = tmp_path / "kms.sock"
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        yield Place(path, listener)


@in_loop
async def test_the_agent_and_its_helper_are_joined_and_nothing_is_granted(place: Place) -> None:
    ends = Ends()
    helper = await place.meet(ends)
    assert not ends.opened, "it has not said yet that it has a card"
    helper.say(READY)
    await ends.signal.until(lambda: bool(ends.opened))
    [opened] = ends.opened
    with socket.socket(fileno=os.dup(opened.agents_end.fileno())) as agent:
        assert agent.type == socket.SOCK_SEQPACKET
        agent.send(b"may I look?")
    assert helper.agent.recv(64) == b"may I look?"
    assert helper.hear() == []
    opened.close()
    assert helper.hear() == [None]
    assert helper.agent.recv(64) == b"", "its agent is let go, too"
    opened.close()
    assert not ends.failed
    helper.close()


@in_loop
async def test_it_is_told_once_when_it_may_show_something_and_at_once_when_not(
    place: Place,
) -> None:
    ends = Ends()
    helper = await place.meet(ends)
    helper.say(READY)
    await ends.signal.until(lambda: bool(ends.opened))
    [opened] = ends.opened
    opened.revoke()
    assert helper.hear() == [], "there was nothing to revoke"
    opened.grant()
    opened.revoke()
    opened.revoke()
    assert helper.hear() == [Grant(True), Grant(False)]
    opened.close()
    opened.revoke()
    opened.grant()
    helper.close()


@in_loop
async def test_a_helper_that_cannot_be_told_is_let_go(place: Place) -> None:
    """It would go on showing what it may not, if it did not hear the end, either."""
    ends = Ends()
    helper = await place.meet(ends)
    helper.say(READY)
    await ends.signal.until(lambda: bool(ends.opened))
    [opened] = ends.opened
    while not ends.failed:  # until the socket holds no more
        opened.grant()
    assert ends.failed == ["the helper hears nothing: Resource temporarily unavailable"]
    assert helper.hear()[-1] is None
    opened.revoke()
    assert len(ends.failed) == 1
    helper.close()


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        ([pack_control(Failed("card0: it is on fire."))], "card0: it is on fire"),
        ([pack_control(Failed(""))], "the helper does not say why"),
        ([b"{}"], "the helper broke the rules: neither ready nor error"),
        ([b"x" * (2 * MAX_CONTROL)], f"the helper broke the rules: a packet of {MAX_CONTROL + 1}"),
        ([b"\xff"], "the helper broke the rules: no JSON"),
        ([READY, READY], "the helper is ready twice"),
        ([READY, pack_control(Failed("the card was unplugged"))], "the card was unplugged"),
    ],
)
@in_loop
async def test_what_it_says_of_its_end(place: Place, packets: list[bytes], why: str) -> None:
    ends = Ends()
    helper = await place.meet(ends)
    helper.say(*packets)
    assert (await ends.until_failed()).startswith(why)
    assert helper.hear() == [None]
    helper.close()


@in_loop
async def test_it_may_end_without_a_word(place: Place) -> None:
    ends = Ends()
    (await place.meet(ends)).close()
    assert await ends.until_failed() == "the helper has ended"


@in_loop
async def test_its_last_words_are_read_before_it_is_let_go(place: Place) -> None:
    ends = Ends()
    helper = await place.meet(ends)
    helper.say(READY)
    await ends.signal.until(lambda: bool(ends.opened))
    [opened] = ends.opened
    opened.read_rest()
    assert opened.error == ""
    opened.grant()  # which it does not hear any more: the kernel tells of that first
    helper.say(pack_control(Failed("the card was unplugged")))
    helper.close()
    opened.read_rest()
    assert (opened.error, ends.failed) == ("the card was unplugged", [opened.error])
    opened.read_rest()


@in_loop
async def test_a_silent_one_is_waited_for_no_longer_than_that(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kms, "READY_WITHIN", 0.05)
    ends = Ends()
    helper = await place.meet(ends)
    assert await ends.until_failed() == "the helper does not answer within 0.05 s"
    assert helper.hear() == [None]
    helper.close()


@in_loop
async def test_descriptors_that_it_sends_are_not_taken(place: Place) -> None:
    ends = Ends()
    helper = await place.meet(ends)
    socket.send_fds(helper.control, [READY], [helper.agent.fileno()])
    await ends.signal.until(lambda: bool(ends.opened))
    ends.opened[0].close()
    helper.close()


@in_loop
async def test_where_none_listens_the_text_says_what_to_do(place: Place, tmp_path: Path) -> None:
    ends = Ends()
    ends.open(tmp_path / "none")
    why = await ends.until_failed()
    assert why.startswith(f"no helper listens at {tmp_path}/none")
    assert "systemctl start spice-sessiond-kms.socket" in why
    place.listener.close()
    dead = Ends()
    dead.open(place.path)
    assert (await dead.until_failed()).startswith(f"no helper listens at {place.path}")


@in_loop
async def test_what_is_no_socket_of_the_kind_is_named(tmp_path: Path) -> None:
    ends, path = Ends(), tmp_path / "stream"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        ends.open(path)
        assert await ends.until_failed() == (
            f"the helper at {path}: Protocol wrong type for socket"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can let another user listen")
@in_loop
async def test_who_listens_has_to_be_root(place: Place) -> None:
    os.seteuid(1)
    try:
        place.listener.listen()  # the kernel keeps who calls that (unix(7), SO_PEERCRED)
    finally:
        os.seteuid(0)
    ends = Ends()
    ends.open(place.path)
    assert await ends.until_failed() == f"at {place.path} listens uid 1, and not root"
    control, _ = place.listener.accept()
    with control:
        assert control.recv(64) == b"", "nothing was said to it"


@pytest.mark.parts
@in_loop
async def test_where_we_may_it_is_a_child_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one: without a card, or without the right to read it, it says so."""
    monkeypatch.setattr(kms, "may_read_cards", lambda _pid: True)
    ends = Ends()
    ends.open(tmp_path / "none")
    await ends.signal.until(lambda: bool(ends.failed or ends.opened))
    for helper in ends.opened:
        helper.close()
    assert ends.opened or "the helper has ended" not in ends.failed[0]


def test_who_may_read_cards() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"CapEff:\s*(\w+)", status)
    assert match
    has_it = bool(int(match[1], 16) >> 21 & 1)  # CAP_SYS_ADMIN
    assert may_read_cards(os.getpid()) == has_it
    assert not may_read_cards(0)
