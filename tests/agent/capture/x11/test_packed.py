"""Requests that are packed at once, among those of python-xlib."""

import struct
from collections.abc import Iterator

import pytest
from Xlib import X, error
from Xlib.display import Display

from agent.capture.x11.packed import PackedEvent, PackedQuestion, PackedRequest
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

# The core protocol: opcode, a byte of its own, length in units of four bytes, and what follows.
GET_GEOMETRY = struct.Struct("=BBHI")  # 14; drawable
BELL = struct.Struct("=BbH")  # 104; percent


@pytest.fixture(scope="module")
def xserver() -> Iterator[Xvfb]:
    with Xvfb(320, 200) as server:
        yield server


@pytest.fixture
def display(xserver: Xvfb) -> Iterator[Display]:
    shown = Display(xserver.display)
    yield shown
    shown.close()


def geometry(display: Display, drawable: int) -> PackedQuestion:
    return PackedQuestion(display.display, GET_GEOMETRY.pack(14, 0, 2, drawable))


def size(answer: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=HH", answer, 16)


def test_answers_among_those_of_others(display: Display) -> None:
    root = display.screen().root
    first = geometry(display, root.id)
    PackedRequest(display.display, BELL.pack(104, 0, 1))
    atom = display.intern_atom("WM_NAME")
    second = geometry(display, root.id)
    assert display.get_atom_name(atom) == "WM_NAME"
    assert size(second.answer()) == (320, 200)
    assert size(first.answer()) == (320, 200)
    assert len(first.answer()) == 32


def test_refusal(display: Display) -> None:
    refused, good = geometry(display, 1), geometry(display, display.screen().root.id)
    with pytest.raises(error.BadDrawable):
        refused.answer()
    assert size(good.answer()) == (320, 200)


def test_numbers_begin_anew(display: Display) -> None:
    root = display.screen().root.id
    for _ in range(70000):  # they have 16 bits
        PackedRequest(display.display, BELL.pack(104, -100, 1))
        if display.display.request_serial % 1000 == 0:
            assert size(geometry(display, root).answer()) == (320, 200)
    assert size(geometry(display, root).answer()) == (320, 200)


def test_server_that_is_gone() -> None:
    with Xvfb(320, 200) as server:
        display = Display(server.display)
        question = geometry(display, display.screen().root.id)
    with pytest.raises(error.ConnectionClosedError):
        question.answer()


def test_event_is_only_its_type(display: Display) -> None:
    root = display.screen().root
    root.change_attributes(event_mask=X.PropertyChangeMask)
    classes = display.display.event_classes
    display.display.event_classes = {**classes, X.PropertyNotify: PackedEvent}
    root.change_text_property(display.intern_atom("WM_NAME"), display.intern_atom("STRING"), "x")
    event = display.next_event()
    assert event.type == X.PropertyNotify
    assert not hasattr(event, "atom")
