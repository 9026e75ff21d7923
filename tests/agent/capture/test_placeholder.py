"""A picture with a sentence."""

import os

import pytest
from PIL import Image, ImageChops

from agent.capture import placeholder
from agent.capture.base import MAX_SIDE, Changes
from agent.capture.placeholder import PlaceholderCapture, draw_placeholder, parse_size
from sessiond.errors import UsageError
from sessiond.transport.fds import OwnedFd

SENTENCE = "The text console on VT 3 is active; it has no picture that could be shown."


def ink(image: Image.Image) -> tuple[int, int, int, int]:
    """Return the box around what differs from the background."""
    background = image.getpixel((0, 0))
    assert isinstance(background, tuple)
    plain = Image.new("RGB", image.size, background)
    box = ImageChops.difference(image, plain).getbbox()
    assert box
    return box


@pytest.mark.parametrize("size", [(1024, 768), (640, 480), (3840, 2160), (400, 900)])
@pytest.mark.parametrize("text", ["No.", SENTENCE, 6 * SENTENCE])
def test_centred_and_inside(size: tuple[int, int], text: str) -> None:
    left, top, right, bottom = ink(draw_placeholder(size, text))
    assert abs(left - (size[0] - right)) <= 4
    assert abs(top - (size[1] - bottom)) <= 4
    assert left >= size[0] // 20
    assert top >= size[1] // 20


def test_large_and_wrapped() -> None:
    left, top, right, bottom = ink(draw_placeholder((1024, 768), SENTENCE))
    assert right - left > 500
    assert bottom - top > 100


@pytest.mark.parametrize("text", ["", " ", "\n\0", "x" * 10000, "ünïcode ☃ 漢字"])
@pytest.mark.parametrize("size", [(1, 1), (30, 20), (1024, 768)])
def test_any_text_in_any_size(size: tuple[int, int], text: str) -> None:
    assert draw_placeholder(size, text).size == size


def test_without_the_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placeholder, "_FONT", "no-such-font.ttf")
    assert ink(draw_placeholder((1024, 768), "plain ASCII and \u6f22"))


def test_capture() -> None:
    capture = PlaceholderCapture((30, 20), "x")
    assert capture.size == (30, 20)
    frame = capture.grab(1)
    assert (frame.width, frame.height, frame.stride, frame.slot) == (30, 20, 120, 1)
    assert len(frame.pixels) == 30 * 20 * 4
    with OwnedFd(os.eventfd(1, os.EFD_CLOEXEC)) as wake:
        assert capture.wait(wake.fileno()) is Changes.NONE
    capture.close()
    assert len(frame.pixels) == 30 * 20 * 4


def test_size() -> None:
    assert parse_size("640x480") == (640, 480)


@pytest.mark.parametrize("size", ["", "640", "0x1", "1x0", f"1x{MAX_SIDE + 1}", "1x1 ", "-1x1"])
def test_wrong_size(size: str) -> None:
    with pytest.raises(UsageError, match="is not WxH"):
        parse_size(size)
