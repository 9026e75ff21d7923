"""What all sources of a compositor share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.capture.wlroots.buffers import Buffer
    from sessiond.transport.wayland import Connection
    from sessiond.wire.wayland import Proxy


@dataclass(frozen=True, slots=True)
class Place:
    """Where sources get what they need, and whom they tell.

    ``held`` are the buffers that somebody still looks at, kept up by who owns them. ``on_picture``
    hears that there is a new picture, ``on_available`` that an output gives none, or does so again.
    """

    connection: Connection
    shm: Proxy
    held: Sequence[Buffer | None]
    on_picture: Callable[[], None]
    on_available: Callable[[], None]
