"""The KMS helper between a daemon, an agent and a card."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.errors import SessiondError
from sessiond.kms.card import Cursor, Output
from sessiond.kms.drm import Crtc
from sessiond.kms.serve import Console, Helper
from sessiond.wire.kms import (
    MAX_CONTROL,
    Ask,
    Code,
    Failed,
    Kind,
    Plane,
    Ready,
    Refused,
    Serve,
    pack_ask,
    pack_control,
    parse_answer,
    parse_from_helper,
)
from tests.fixtures.kms import Memory, MemoryCard, ServedCard, full_screen, receive

SIZE = (64, 48)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(SIZE)
    yield made
    made.close()


@pytest.fixture
def card(memory: Memory) -> MemoryCard:
    made = MemoryCard()
    full_screen(made, memory)
    return made


@pytest.fixture
def served(card: MemoryCard, tmp_path: Path) -> Iterator[ServedCard]:
    with ServedCard(card, tmp_path) as made:
        assert made.told() == Ready("card7", "vkms")
        yield made


def ask(served: ServedCard, what: Ask = Ask.PIXELS) -> tuple[tuple[Plane, ...] | Refused, int]:
    """Return the answer and how many descriptors came along, which are closed."""
    served.agent.send(pack_ask(what))
    received = receive(served.agent)
    for fd in received.fds:
        os.close(fd)
    return parse_answer(received.data, len(received.fds)), len(received.fds)


def helper(
    control: socket.socket, card: MemoryCard, folder: Path, owner: int | None = None
) -> Helper:
    owner = os.geteuid() if owner is None else owner
    return Helper(control, lambda: ([card], ""), lambda: Console(str(folder / "active")), owner)


def refusal(served: ServedCard, what: Ask = Ask.PIXELS) -> Refused:
    answer, fds = ask(served, what)
    assert isinstance(answer, Refused)
    assert fds == 0
    return answer


def test_agent_gets_what_is_shown(served: ServedCard, memory: Memory) -> None:
    served.grant(is_given=True)
    served.agent.send(pack_ask(Ask.PIXELS))
    received = receive(served.agent)
    answer = parse_answer(received.data, 1)
    assert not isinstance(answer, Refused)
    (plane,) = answer
    assert (plane.kind, plane.width, plane.height) == (Kind.PRIMARY, *SIZE)
    assert (plane.x, plane.y, plane.output) == (0, 0, "Virtual-1")
    (fd,) = received.fds
    assert os.fstat(fd).st_ino == os.fstat(memory.fd).st_ino
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_without_a_grant_there_is_no_buffer(served: ServedCard, card: MemoryCard) -> None:
    assert refusal(served).code is Code.NOT_GRANTED
    served.grant(is_given=True)
    assert ask(served)[1] == 1
    served.grant(is_given=False)
    assert refusal(served) == (Code.NOT_GRANTED, "this session is not the one that is shown")
    assert card.exported == 1


def test_sizes_need_no_grant(served: ServedCard, card: MemoryCard) -> None:
    answer, fds = ask(served, Ask.LOOK)
    assert not isinstance(answer, Refused)
    assert answer[0].width == SIZE[0]
    assert fds == card.exported == 0


@pytest.mark.parametrize("what", list(Ask))
def test_another_vt(served: ServedCard, card: MemoryCard, what: Ask) -> None:
    served.grant(is_given=True)
    served.switch(4)
    assert refusal(served, what) == (Code.OTHER_VT, "tty4 is in front, not tty3")
    assert card.exported == 0
    served.switch(3)
    assert not isinstance(ask(served, what)[0], Refused)


def test_switch_while_buffers_are_opened(served: ServedCard, card: MemoryCard) -> None:
    served.grant(is_given=True)
    card.on_opened = lambda: served.switch(4)
    assert refusal(served).code is Code.OTHER_VT


def test_grant_is_taken_while_buffers_are_opened(served: ServedCard, card: MemoryCard) -> None:
    served.grant(is_given=True)
    card.on_opened = lambda: served.grant(is_given=False)
    assert refusal(served).code is Code.NOT_GRANTED


def test_screen_that_is_off(served: ServedCard, card: MemoryCard) -> None:
    served.grant(is_given=True)
    card.crtcs = []
    assert refusal(served).code is Code.OFF


def test_flip_while_buffers_are_opened(served: ServedCard, card: MemoryCard) -> None:
    """What is seen is on the screen before and after."""
    served.grant(is_given=True)
    flips = 0

    def flip() -> None:
        nonlocal flips
        flips += 1
        if flips < 3:
            full_screen(card, next(iter(card.memory.values())))

    card.on_opened = flip
    assert ask(served)[1] == 1
    assert flips == 3
    card.on_opened = lambda: full_screen(card, next(iter(card.memory.values())))
    assert refusal(served).code is Code.RESTLESS


@pytest.mark.parametrize("what", list(Ask))
def test_a_look_reads_the_card_before_and_after(
    served: ServedCard, card: MemoryCard, what: Ask
) -> None:
    """Each time takes ioctls for all outputs and planes, at every look."""
    served.grant(is_given=True)
    before = card.read
    ask(served, what)
    assert card.read - before == 2


def test_framebuffer_that_is_gone(served: ServedCard, card: MemoryCard) -> None:
    served.grant(is_given=True)
    card.crtcs[0] = card.crtcs[0]._replace(framebuffer=99)
    assert refusal(served).code is Code.RESTLESS


def test_nothing_grows_in_a_thousand_answers(served: ServedCard, card: MemoryCard) -> None:
    served.grant(is_given=True)
    ask(served)
    ask(served, Ask.LOOK)  # what was passed before is closed by now
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        if number % 10 == 0:
            served.switch(4 if number % 20 else 3)
        ask(served, Ask.PIXELS if number % 3 else Ask.LOOK)
    ask(served, Ask.LOOK)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert card.handles == []


def test_several_outputs_and_a_cursor(served: ServedCard, card: MemoryCard) -> None:
    """Two outputs of one buffer come with one descriptor."""
    pointer = Memory((8, 8), "AR24")
    served.grant(is_given=True)
    ((number, screen),) = card.memory.items()
    card.memory = {number: screen, 7: pointer}
    card.crtcs = [Crtc(31, number, 32, 0, 32, 48), Crtc(33, number, 0, 0, 32, 48)]
    card.names = {33: Output(0, "DP-1"), 31: Output(1, "DP-2")}
    card.cursors = [Cursor(31, 7, 5, -3, 1, 2)]
    answer, fds = ask(served)
    pointer.close()
    assert fds == 2
    assert not isinstance(answer, Refused)
    assert [(p.kind, p.buffer, p.x, p.y, p.left, p.output) for p in answer] == [
        (Kind.PRIMARY, 0, 32, 0, 32, "DP-2"),
        (Kind.PRIMARY, 0, 0, 0, 0, "DP-1"),
        (Kind.CURSOR, 1, 37, -3, 0, ""),
    ]
    assert answer[2][-3:-1] == (1, 2)


def test_driver_that_exports_nothing(
    served: ServedCard, card: MemoryCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_handle: int) -> int:
        raise OSError(38, "Function not implemented")

    served.grant(is_given=True)
    monkeypatch.setattr(card, "export", export)
    text = "the driver vkms does not hand out its buffers: Function not implemented"
    assert refusal(served) == (Code.UNREADABLE, text)


def test_it_ends_with_the_daemon(served: ServedCard, card: MemoryCard) -> None:
    served.daemon.close()
    assert served.agent.recv(1) == b""
    served.wait_ended()
    assert (card.is_closed, served.error) == (True, "")


def test_it_ends_with_the_agent(served: ServedCard, card: MemoryCard) -> None:
    served.agent.close()
    assert served.daemon.recv(1) == b""
    served.wait_ended()
    assert (card.is_closed, served.error) == (True, "")


def test_missing_right_is_told(served: ServedCard, card: MemoryCard) -> None:
    card.lacks_right = True
    served.agent.send(pack_ask(Ask.LOOK))
    assert served.told() == Failed("CAP_SYS_ADMIN is needed")
    assert served.agent.recv(1) == b""


@pytest.mark.parametrize("question", [b"?", b"\0" * 4, b"\1\0\0\0\0", pack_ask(Ask.LOOK) * 2])
def test_agent_that_breaks_the_protocol(served: ServedCard, question: bytes) -> None:
    served.agent.send(question)
    told = served.told()
    assert isinstance(told, Failed)
    assert "no question of an agent's" in told.text


def test_agent_that_does_not_read(served: ServedCard) -> None:
    served.grant(is_given=True)
    served.agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with contextlib.suppress(OSError):  # its end, which is to come
        while True:
            served.agent.send(pack_ask(Ask.PIXELS))
    assert served.told() == Failed("the agent asks and does not read the answers")


@pytest.mark.parametrize(
    ("packets", "text"),
    [
        ([(pack_control(Serve(3)), 0)], "a packet with 0 descriptors"),
        ([(b"{}", 0)], "neither serve nor grant"),
        ([(b'{"grant": true}', 0)], "the daemon does not say who is served"),
        ([(pack_control(Serve(3)), 1), (pack_control(Serve(3)), 1)], "a packet with"),
        ([(pack_control(Serve(3)), 2)], "a packet with"),
    ],
)
def test_daemon_that_breaks_the_protocol(
    card: MemoryCard, tmp_path: Path, packets: list[tuple[bytes, int]], text: str
) -> None:
    (tmp_path / "active").write_text("tty3\n")
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, control, agent, theirs:
        for packet, fds in packets:
            socket.send_fds(daemon, [packet], [theirs.fileno()] * fds)
        with pytest.raises(SessiondError, match=text):
            helper(control, card, tmp_path).run()


def test_missing_console_is_told(card: MemoryCard, tmp_path: Path) -> None:
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    text = f"{tmp_path / 'active'}: No such file or directory"
    with daemon, control, agent, theirs:
        socket.send_fds(daemon, [pack_control(Serve(3))], [theirs.fileno()])
        with pytest.raises(SessiondError, match=re.escape(text)):
            helper(control, card, tmp_path).run()
        assert parse_from_helper(daemon.recv(MAX_CONTROL)) == Failed(text)


def test_strangers_are_not_served(card: MemoryCard, tmp_path: Path) -> None:
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, control, pytest.raises(SessiondError, match="for root alone"):
        helper(control, card, tmp_path, os.geteuid() + 1).run()
