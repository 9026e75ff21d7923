"""The last picture gets out whatever was drawn before it: a real display, a real encoder."""

import asyncio
import random
from collections.abc import Iterator
from typing import Final

import pytest
from Xlib import X
from Xlib.display import Display
from Xlib.protocol import event
from Xlib.protocol.display import Display as XlibDisplay

from agent.capture.base import Frame
from agent.capture.x11.backend import open_x11
from agent.encode.base import Encoder
from agent.encode.jpeg import JpegEncoder
from agent.stream.pipeline import Pipeline
from agent.stream.screen import Screen
from tests.agent.scripted import Listener
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

SIZE: Final = (333, 250)
COLOURS: Final = (0x000000, 0xFFFFFF, 0xCC2200, 0x0022CC)


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    # python-xlib keeps event codes in the class, and they differ from server to server.
    monkeypatch.setattr(XlibDisplay, "event_classes", event.event_class.copy())


@pytest.fixture(scope="module")
def server() -> Iterator[Xvfb]:
    with Xvfb(*SIZE) as xvfb:
        yield xvfb


def storm(name: str, seed: int) -> bytes:
    """Draw 400 rectangles, many of them over others of the same colour; return the picture."""
    chance = random.Random(seed)
    display = Display(name)
    root = display.screen().root
    gcs = [root.create_gc(foreground=colour) for colour in COLOURS]
    for _ in range(400):
        place = (chance.randrange(SIZE[0]), chance.randrange(SIZE[1]))
        size = (chance.choice([3, 40, 333]), chance.choice([1, 9, 100]))
        root.fill_rectangle(chance.choice(gcs), *place, *size)
        if chance.random() < 0.3:
            display.sync()
    for number in range(12):
        root.fill_rectangle(gcs[number % 4], 29 * number, 21 * number, 25, 17)
    reply = root.get_image(0, 0, *SIZE, X.ZPixmap, 0xFFFFFFFF)
    display.close()
    return bytes(reply.data)


NEVER = (3600.0,)
"""When a picture at rest is sent again, and sharper."""


@pytest.mark.parametrize("seed", range(4))
@in_loop
async def test_final_pattern_after_a_storm(server: Xvfb, seed: int) -> None:
    listener, signal, sent = Listener(), Signal(), list[bytes]()
    loop = asyncio.get_running_loop()

    def send(_encoder: Encoder, _frame: Frame, jpeg: bytes) -> None:
        sent.append(jpeg)
        if len(sent) % 3:
            pipeline.on_sent()
        else:
            loop.call_soon(pipeline.on_sent)
        signal.happened()

    screen = Screen(lambda: open_x11(server.display), listener)
    pipeline = Pipeline(screen, framerate=1000, send=send, fail=pytest.fail)
    listener.changed = pipeline.on_changed
    screen.start()
    try:
        screen.call_nowait(lambda capture: capture.begin(), lambda _: None)
        pipeline.start(lambda _width, _height: JpegEncoder({"quality": 80}), NEVER)
        await signal.until(lambda: bool(sent))
        final = await asyncio.to_thread(storm, server.display, seed)
        frame = Frame(*SIZE, 4 * SIZE[0], memoryview(final), 0)
        expected = JpegEncoder({"quality": 80}).encode(frame)
        await signal.until(lambda: sent[-1] == expected)
        assert len(sent) > 2
    finally:
        pipeline.close()
        screen.close(10)
