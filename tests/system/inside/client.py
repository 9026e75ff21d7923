"""The program of an X session: shows a numbered picture, says so, and stays with the server.

    python3 -m tests.system.inside.client NUMBER [--leave]

With ``--leave`` it goes once the picture is there; the server keeps it. The picture is the root
window's background: what is only drawn there is gone after the next switch of consoles, for a
server clips its root to nothing while another console is in front.
"""

from __future__ import annotations

import contextlib
import sys

from Xlib.display import Display
from Xlib.error import ConnectionClosedError

from tests.fixtures.drawing import numbered


def main(number: int, *, leave: bool) -> None:
    """Show the picture on the server that $DISPLAY names."""
    display = Display()
    root = display.screen().root
    size = root.get_geometry()
    pixmap = root.create_pixmap(size.width, size.height, size.depth)
    picture = numbered(number, size.width, size.height)
    pixmap.put_pil_image(pixmap.create_gc(), 0, 0, picture)
    root.change_attributes(background_pixmap=pixmap)
    root.clear_area()
    display.sync()
    sys.stdout.write(f"drawn {number}\n")
    sys.stdout.flush()
    with contextlib.suppress(ConnectionClosedError):
        while not leave:
            display.next_event()


if __name__ == "__main__":
    main(int(sys.argv[1]), leave="--leave" in sys.argv[2:])
