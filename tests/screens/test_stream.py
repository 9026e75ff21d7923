"""A compositor's screen at a real client: its picture, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL import Image

from sessiond.wire.device import Type
from tests.fixtures.drawing import bits_of, picture_of
from tests.fixtures.gstreamer import Decoders
from tests.screens.stage import SIZE, SWAY, Kind, show, wait_like
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceHost

SMALL: Final = (160, 240, 32, 32)  # x, y, width, height
SHARP: Final = 36.0  # dB; what VP8 leaves of the screen at rest, less a little
SETTLED: Final = 1.0  # seconds without a frame: the screen has become sharp
RED: Final = (255, 0, 0)


def test_the_client_shows_the_windows_picture(kind: Kind, host: SpiceHost) -> None:
    with show(kind, host) as shown:
        shown.painter.show(picture_of(*SIZE, "the quick brown fox"))
        wait_like(shown.probe, shown.painter.picture)


def test_each_change_arrives(kind: Kind, host: SpiceHost) -> None:
    with show(kind, host) as shown:
        for number in range(1, 6):
            shown.painter.show_number(number)
            shown.probe.wait_for("invalidate", bits=bits_of(number))
        shown.painter.change(SMALL, RED)
        wait_like(shown.probe, shown.painter.picture)


def test_a_small_change_is_a_small_frame(kind: Kind, host: SpiceHost) -> None:
    options = ("--codec", "vp8")
    with show(kind, host, *options, decoders=Decoders.VPX) as shown:
        shown.painter.show(noise())
        host.wait_for("from-guest", type=Type.DATA)
        host.wait_silence("from-guest", SETTLED)
        whole = max(frames(host))
        mark = host.now()
        shown.painter.change(SMALL, RED)
        host.wait_for("from-guest", after=mark, type=Type.DATA)
        host.wait_silence("from-guest", SETTLED)
        assert max(frames(host, mark)) < whole / 10


def test_the_screen_becomes_another_size(host: SpiceHost) -> None:
    with show(SWAY, host) as shown:
        shown.painter.show_number(1)
        shown.probe.wait_for("invalidate", bits=bits_of(1))
        for size, number in (((800, 600), 2), ((1023, 767), 3), (SIZE, 4)):
            resize(shown.compositor, size)
            shown.painter.wait_size(size)
            shown.painter.show_number(number)
            wait_like(shown.probe, shown.painter.picture)
            shown.probe.wait_for("primary-create", w=size[0], h=size[1])


def test_the_screen_is_turned(host: SpiceHost) -> None:
    with show(SWAY, host) as shown:
        assert isinstance(shown.compositor, Sway)
        shown.compositor.command("output HEADLESS-1 transform 90")
        shown.painter.wait_size((SIZE[1], SIZE[0]))
        shown.painter.show(picture_of(SIZE[1], SIZE[0], "upright"))
        wait_like(shown.probe, shown.painter.picture)


def test_a_second_output_comes_and_is_moved(host: SpiceHost) -> None:
    with show(SWAY, host) as shown:
        assert isinstance(shown.compositor, Sway)
        shown.painter.show(picture_of(*SIZE, "always in the corner"))
        wait_like(shown.probe, shown.painter.picture)
        shown.compositor.command("create_output")
        for x, y in ((SIZE[0], 0), (0, SIZE[1])):
            shown.compositor.command(f"output HEADLESS-2 mode 320x200 position {x} {y}")
            whole = (max(SIZE[0], x + 320), max(SIZE[1], y + 200))
            wait_like(shown.probe, shown.painter.picture, whole=whole)


def test_the_end_of_the_compositor_is_told_in_words(kind: Kind, host: SpiceHost) -> None:
    with show(kind, host) as shown:
        shown.painter.show_number(1)
        shown.probe.wait_for("invalidate", bits=bits_of(1))
        shown.painter.close()
        shown.compositor.close()
        assert shown.agent.wait_exit() == 1
        assert shown.agent.lines[-1].startswith("spice-session-agent: ")
        assert "Traceback" not in "\n".join(shown.agent.lines)


def resize(compositor: object, size: tuple[int, int]) -> None:
    """Give sway's output another mode."""
    assert isinstance(compositor, Sway)
    compositor.command(f"output HEADLESS-1 mode {size[0]}x{size[1]}")


def noise() -> Image.Image:
    """Return a picture that takes many bytes."""
    return Image.effect_noise(SIZE, 40).convert("RGB")


def frames(host: SpiceHost, after: int = -1) -> list[int]:
    """Return the sizes of the frames that the host has read, later than the index AFTER."""
    events = host.events[after + 1 :]
    return [e["size"] for e in events if e["event"] == "from-guest" and e["type"] == Type.DATA]
