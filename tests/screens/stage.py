"""A compositor's screen that goes to a real SPICE client: by the agent alone, as its user."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tests.fixtures.agent import READY
from tests.fixtures.child import Child
from tests.fixtures.drawing import SAMPLE, psnr
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.painter import Painter
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.public import public_agent
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.screens.mutter import Mutter
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from PIL import Image

SIZE: Final = (640, 480)
GOOD: Final = 35.0  # dB
PATIENCE: Final = 15.0  # seconds


class Compositor(Protocol):
    """What is used of both kinds; ``wayland`` is its socket."""

    uid: int
    runtime: Path
    wayland: str

    @property
    def pid(self) -> int:
        """The compositor's process id."""

    @property
    def environment(self) -> dict[str, str]:
        """What programs of its session have in their environment."""

    def close(self) -> None:
        """End it."""


def crash(compositor: Compositor) -> None:
    """End it as a crash would; its socket's file stays."""
    if isinstance(compositor, Mutter):
        compositor.kill_mutter()
    else:
        assert isinstance(compositor, Sway)
        compositor.kill()


def start_again(compositor: Compositor) -> None:
    """Start one that has crashed."""
    if isinstance(compositor, Mutter):
        compositor.start_mutter()
    else:
        assert isinstance(compositor, Sway)
        compositor.start()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of compositor: its back-end, its desktop's name, and how it is started.

    ``display`` is how the back-end names its screen.
    """

    backend: str
    desktop: str
    start: Callable[[tuple[int, int]], Compositor]
    display: Callable[[Compositor], str]


SWAY: Final = Kind("wlroots", "sway", Sway, lambda it: it.wayland)
MUTTER: Final = Kind("mutter", "GNOME", Mutter, lambda it: str(it.runtime))
KINDS: Final = (SWAY, MUTTER)


@dataclass(frozen=True, slots=True)
class Show:
    """A running stream, from a compositor to a client."""

    compositor: Compositor
    painter: Painter
    host: SpiceHost
    agent: Child
    probe: SpiceProbe


@contextlib.contextmanager
def show(
    kind: Kind, host: SpiceHost, *options: str, decoders: Decoders = Decoders.NONE
) -> Iterator[Show]:
    """Stream a screen with a window that fills it, by an agent with OPTIONS, to a client."""
    with contextlib.ExitStack() as stack:
        compositor = stack.enter_context(contextlib.closing(kind.start(SIZE)))
        painter = stack.enter_context(Painter(compositor.wayland))
        agent = stack.enter_context(start_agent(kind, compositor, host, *options))
        probe = stack.enter_context(SpiceProbe(host.uri, sample=SAMPLE, decoders=decoders))
        yield Show(compositor, painter, host, agent, probe)


def start_agent(kind: Kind, compositor: Compositor, host: SpiceHost, *options: str) -> Child:
    """Start ``agent stream`` as the compositor's user; it has opened the screen and the port."""
    port = host.socket_path
    port.parent.chmod(0o755)
    os.chown(port, compositor.uid, -1)
    become = (f"--reuid={compositor.uid}", f"--regid={compositor.uid}", "--clear-groups")
    agent = public_agent("av") if "--codec" in options else public_agent()
    where = ("--port", port, "--capture", kind.backend, "--display", kind.display(compositor))
    prefix = () if os.getuid() else ("setpriv", *become)
    child = Child([*prefix, *agent, "stream", *where, *options], env=compositor.environment)
    try:
        child.wait_line(READY)
    except BaseException:
        child.close()
        raise
    return child


def wait_picture(probe: SpiceProbe, is_it: Callable[[Image.Image], bool]) -> Image.Image:
    """Wait until the client shows a picture for which IS_IT holds; return it.

    Raises EventTimeoutError.
    """
    deadline, mark = time.monotonic() + PATIENCE, -1
    while True:
        probe.wait_for("invalidate", deadline - time.monotonic(), after=mark)
        mark = probe.now()
        seen = probe.shot()
        if is_it(seen):
            return seen


def wait_like(
    probe: SpiceProbe,
    picture: Image.Image,
    *,
    least: float = GOOD,
    whole: tuple[int, int] = (0, 0),
) -> None:
    """Wait until the client shows PICTURE, alike by LEAST dB.

    WHOLE is the size of all of it where PICTURE is only its upper left part. Raises
    EventTimeoutError, which tells how alike it became.
    """
    best = 0.0

    def is_alike(seen: Image.Image) -> bool:
        nonlocal best
        if seen.size == (whole if whole[0] else picture.size):
            best = max(best, psnr(seen.crop((0, 0, *picture.size)), picture))
        return best >= least

    try:
        wait_picture(probe, is_alike)
    except EventTimeoutError as error:
        raise EventTimeoutError(f"alike by {best:.1f} dB, not {least} dB; {error}") from error
