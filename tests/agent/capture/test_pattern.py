"""The test pattern."""

import os
import re
from collections.abc import Iterator

import pytest
from PIL import Image

from agent.capture.base import Changes
from agent.capture.pattern import PatternCapture, open_pattern
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd


@pytest.fixture
def wake() -> Iterator[int]:
    with OwnedFd(os.eventfd(0)) as fd:
        yield fd.fileno()


@pytest.mark.parametrize(
    ("name", "size", "interval"),
    [
        ("", (1280, 720), 1 / 30),
        ("640x480", (640, 480), 1 / 30),
        ("1x1@100", (1, 1), 1 / 100),
        ("8192x1@1", (8192, 1), 1),
    ],
)
def test_names(name: str, size: tuple[int, int], interval: float) -> None:
    capture = open_pattern(name)
    assert capture.size == size
    assert capture._interval == interval
    assert f"{size[0]}x{size[1]}" in capture.describe()
    capture.close()


@pytest.mark.parametrize(
    "name",
    [":0", "640", "640x", "x480", "0x1", "1x0", "8193x1", "1x8193", "1x1@0", "1x1@", "\u0661x1"],
)
def test_wrong_names(name: str) -> None:
    with pytest.raises(DisplayError, match=f"^pattern {re.escape(repr(name))} is [^\n]*$"):
        open_pattern(name)


def test_pictures_while_somebody_watches(wake: int) -> None:
    capture = open_pattern("64x48@999")
    frames = []
    capture.begin()
    for slot in (0, 1, 0):
        assert capture.wait(wake) is Changes.PICTURE
        frames.append(bytes(capture.grab(slot).pixels))
    assert len(set(frames)) == 3
    capture.end()
    os.eventfd_write(wake, 1)
    assert capture.wait(wake) is Changes.NONE


def test_frame_is_the_picture(wake: int) -> None:
    capture = PatternCapture(70, 33, 999)
    capture.begin()
    assert capture.wait(wake) is Changes.PICTURE
    frame = capture.grab(1)
    assert (frame.width, frame.height, frame.stride, frame.slot) == (70, 33, 280, 1)
    found = Image.frombuffer("RGB", (70, 33), bytes(frame.pixels), "raw", "BGRX", frame.stride, 1)
    assert found.tobytes() == capture.picture(1).tobytes()
    assert found.tobytes() != capture.picture(2).tobytes()


def test_bars_are_coloured() -> None:
    picture = PatternCapture(700, 100, 1).picture(0)
    assert [picture.getpixel((x, 99)) for x in (50, 350, 650)] == [
        (192, 192, 192),
        (0, 192, 0),
        (0, 0, 192),
    ]


def test_has_nothing_but_pictures() -> None:
    capture = open_pattern("")
    assert capture.unavailable == ""
    assert capture.outputs() == ()
    assert capture.pointer() == (0, 0)
