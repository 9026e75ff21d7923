"""A program and its peer that do anything in any order: nothing is lost, doubled or exchanged.

The model is short: a stream carries what was written to it, and then its end.
"""

from __future__ import annotations

import itertools
import select
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent.qrexec.peer import EXIT, STDERR, STDIN, STDOUT, TIMEOUT
from tests.agent.qrexec.services import shell

if TYPE_CHECKING:
    from tests.agent.qrexec.peer import Forker, Message, Peer

PROGRAM: Final = Path(__file__).with_name("program.py")

sizes = st.one_of(
    st.integers(0, 10), st.sampled_from([4095, 4096, 4097, 65535, 65536, 65537]),
    st.integers(0, 400_000),
)  # fmt: skip


@st.composite
def programs(draw: st.DrawFn) -> list[str]:
    """Return a program's words. What it has closed it does not use any more."""
    words = []
    open_ones, may_switch = set("oei"), True
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from([*sorted(open_ones), "s", "-"]))
        if kind in open_ones:
            words.append(f"{kind}{draw(sizes)}")
        elif kind == "s" and may_switch and {"o", "i"} <= open_ones:
            words.append("s")
            may_switch = False  # stdin is stdout then: closing either closes both
        elif kind == "-" and (closed := draw(st.sampled_from("oei"))) in open_ones and may_switch:
            words.append(f"{closed}-")
            open_ones.remove(closed)
    return [*words, f"x{draw(st.integers(0, 255))}"]


# What the peer sends, in pieces, and what it takes at a time: None is for a break in between.
feeds = st.lists(st.integers(1, 65536), max_size=12)
takes = st.lists(st.one_of(st.none(), st.integers(1, 200_000)), min_size=1, max_size=6)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=programs(), feed=feeds, take=takes, is_ended=st.booleans(), version=st.integers(2, 4))
@pytest.mark.parametrize("buffer", [None, 1])
def test_any_order(
    forker: Forker, *, buffer: int | None, words: list[str], feed: list[int],
    take: list[int | None], is_ended: bool, version: int,
) -> None:  # fmt: skip
    needed = sum(int(word[1:]) for word in words if word[0] == "i" and word != "i-")
    # Whoever reads more than there is waits for more, or for the end.
    is_ended = is_ended or needed > sum(feed)
    command = f"exec {sys.executable} -SEI {PROGRAM} {' '.join(words)}"
    peer = forker.start(shell(command), buffer=buffer).peer.greet(version)
    messages = exchange(peer, pieces(feed, 4096 if version == 2 else 65536, end=is_ended), take)
    forker.hang_up()
    for kind, letter in ((STDOUT, "o"), (STDERR, "e")):
        said = [body for got, body in messages if got == kind]
        assert said[-1] == b""
        assert b"" not in said[:-1]
        assert b"".join(said) == expected(words, letter)
    assert messages[-1] == (EXIT, struct.pack("<i", int(words[-1][1:])))


def expected(words: list[str], letter: str) -> bytes:
    everything = bytes(range(256)) * 2000
    return b"".join(everything[: int(w[1:])] for w in words if w[0] == letter and w[1:] != "-")


def pieces(feed: list[int], most: int, *, end: bool) -> bytes:
    """Return what the peer sends."""
    sent = [bytes(min(size, most)) for size in feed] + ([b""] if end else [])
    lost = sum(feed) - sum(map(len, sent))
    sent[:0] = [bytes(most)] * (lost // most) + ([bytes(lost % most)] if lost % most else [])
    return b"".join(struct.pack("<II", STDIN, len(body)) + body for body in sent)


def exchange(peer: Peer, data: bytes, take: list[int | None]) -> list[Message]:
    """Send DATA and receive everything, as much at a time as TAKE says, over and over."""
    peer.sock.setblocking(False)
    received = bytearray()
    for size in itertools.cycle(take):
        if size is None and (left := try_send(peer, data, 1000)) != data:
            data = left
            continue
        may_send = [peer.sock] if data else []
        readable, writable, _ = select.select([peer.sock], may_send, [], TIMEOUT)
        assert readable or writable
        if writable:
            data = try_send(peer, data, size or 1000)
        if readable:
            piece = peer.sock.recv(size or 1000)
            if not piece:
                break
            received += piece
    return split(bytes(received))


def try_send(peer: Peer, data: bytes, size: int) -> bytes:
    """Send at most SIZE bytes and return what is left; nothing, when nobody takes it any more."""
    try:
        return data[peer.sock.send(data[:size]) :]
    except BlockingIOError:
        return data
    except (BrokenPipeError, ConnectionResetError):
        return b""


def split(data: bytes) -> list[Message]:
    messages = []
    while data:
        kind, size = struct.unpack_from("<II", data)
        messages.append((kind, data[8 : 8 + size]))
        assert len(messages[-1][1]) == size
        data = data[8 + size :]
    return messages
