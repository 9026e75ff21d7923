"""What the daemon's tests have around it: two X servers, a SPICE host, a private bus, a login1."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final, Self

from tests.fixtures.daemon import Stage
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SIZE: Final = (640, 480)
ALICE: Final = 1  # the number that her screen shows
BOB: Final = 2
_UID: Final = os.getuid()  # another user's agent is a test of its own


class Scene:
    """Alice's screen shows 1 and Bob's 2; sessions are added by the test."""

    def __init__(self, settings: Sequence[str] = ()) -> None:
        with contextlib.ExitStack() as stack:
            self.alice = stack.enter_context(Xvfb(*SIZE))
            self.bob = stack.enter_context(Xvfb(*SIZE))
            self.screens = {
                ALICE: stack.enter_context(Canvas(self.alice.display)),
                BOB: stack.enter_context(Canvas(self.bob.display)),
            }
            for number, canvas in self.screens.items():
                canvas.show_number(number)
            self.host = stack.enter_context(SpiceHost(multi=True))
            self.stage = stack.enter_context(Stage(self.host.socket_path, settings))
            self.stage.daemon.wait_line("is open")  # by then it owns its name
            self._stack = stack.pop_all()

    @property
    def daemon(self) -> Any:  # noqa: ANN401 (tests.fixtures.daemon.Daemon)
        """The daemon under test."""
        return self.stage.daemon

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def watch(self) -> SpiceProbe:
        """Connect a client; it is gone at the end of the test."""
        probe = self._stack.enter_context(SpiceProbe(self.host.uri, sample=SAMPLE))
        self.host.wait_for("client-connected")
        return probe

    def add_alice(self, **properties: object) -> None:
        """Log Alice in on VT 7, session 1."""
        values = {"id": "1", "vt": 7, "display": self.alice.display, "uid": _UID, "gid": _UID}
        self.stage.login1.do("add_session", **(values | properties))

    def add_bob(self, **properties: object) -> None:
        """Log Bob in on VT 8, session c2."""
        values = {"id": "c2", "vt": 8, "display": self.bob.display, "uid": _UID, "gid": _UID}
        self.stage.login1.do("add_session", user="bob", **(values | properties))


def wait_number(probe: SpiceProbe, number: int, timeout: float = 10.0) -> None:
    """Wait until the client draws the picture with NUMBER."""
    probe.wait_for("invalidate", timeout, bits=bits_of(number))
