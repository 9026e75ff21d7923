"""The pointer is seen once: apart where the compositor tells of it, else in the picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageChops

from tests.fixtures.drawing import bits_of
from tests.screens.mutter import Mutter
from tests.screens.stage import MUTTER, SIZE, SWAY, show, wait_picture
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from tests.fixtures.processes import Event
    from tests.fixtures.spice import SpiceHost

PLACES: Final = ((120, 90), (300, 200), (301, 201))
ROUND: Final = 32  # pixels to each side in which an arrow of the usual size is


def test_mutters_pointer_comes_as_a_cursor(host: SpiceHost) -> None:
    with show(MUTTER, host) as shown:
        assert isinstance(shown.compositor, Mutter)
        shown.painter.show_number(1)
        shown.probe.wait_for("invalidate", bits=bits_of(1))
        for x, y in PLACES:
            shown.compositor.move_pointer(x, y)
            shown.probe.wait_for("cursor-move", after=-1, x=x, y=y)


def test_sways_pointer_is_in_the_picture_alone(host: SpiceHost) -> None:
    with show(SWAY, host) as shown:
        assert isinstance(shown.compositor, Sway)
        shown.painter.show_number(1)
        shown.probe.wait_for("invalidate", bits=bits_of(1))
        shown.painter.move_pointer(1, 1)  # there is one from now on
        shown.compositor.command("workspace 2")  # nothing is there but the pointer
        for place in PLACES:
            shown.compositor.command("seat seat0 cursor set {} {}".format(*place))
            wait_picture(shown.probe, partial(is_at, place))
        assert not [event for event in shown.probe.events if is_visible(event)]


def is_at(place: tuple[int, int], seen: Image.Image) -> bool:
    """Tell whether all that is on the screen, one colour but for that, is an arrow there."""
    ground = Image.new("RGB", SIZE, seen.getpixel((SIZE[0] - 1, SIZE[1] - 1)))
    different = ImageChops.difference(seen, ground).convert("L").point(lambda level: level > 64)
    box = different.getbbox()
    if box is None:
        return False
    left, top, right, bottom = box
    x, y = place
    return left >= x - ROUND and top >= y - ROUND and right <= x + ROUND and bottom <= y + ROUND


def is_visible(event: Event) -> bool:
    """Tell whether the client has got a cursor that is not the one of nothing."""
    return event["event"] == "cursor-set" and (event["w"], event["h"]) != (1, 1)
