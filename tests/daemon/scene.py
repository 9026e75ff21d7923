"""What the daemon's tests have around it: two X servers, a SPICE host, a private bus, a login1."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, Self

from tests.daemon.world import ALICE, BOB, wait_number
from tests.fixtures.daemon import Daemon, Stage
from tests.fixtures.drawing import SAMPLE, Canvas
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["ALICE", "BOB", "SIZE", "UIDS", "Scene", "wait_number"]

SIZE: Final = (640, 480)
# As root each user's agent is really another's; without, it can only be ours. The numbers are
# those of nobody: without an entry in the user database, as some greeters are.
_USERS: Final = ("alice", "bob", "carol", "greeter")
UIDS: Final = {
    user: os.getuid() or uid for user, uid in zip(_USERS, range(65533, 0, -1), strict=False)
}


class Scene:
    """Alice's screen shows 1 and Bob's 2; sessions are added by the test."""

    def __init__(
        self,
        settings: Sequence[str] = (),
        *,
        has_login1: bool = True,
        send_buffer: int = 0,
        args: Sequence[str | Path] = (),
    ) -> None:
        with contextlib.ExitStack() as stack:
            self.alice = stack.enter_context(Xvfb(*SIZE))
            self.bob = stack.enter_context(Xvfb(*SIZE))
            self.servers = {ALICE: self.alice, BOB: self.bob}
            self.screens = {
                ALICE: stack.enter_context(Canvas(self.alice.display)),
                BOB: stack.enter_context(Canvas(self.bob.display)),
            }
            for number, canvas in self.screens.items():
                canvas.show_number(number)
            self.host = stack.enter_context(SpiceHost(multi=True, send_buffer=send_buffer))
            stage = Stage(self.host.socket_path, settings, has_login1=has_login1, args=args)
            self.stage = stack.enter_context(stage)
            self.stage.daemon.wait_line("is open")
            self.stage.daemon.wait_ready()
            self._stack = stack.pop_all()

    @property
    def daemon(self) -> Daemon:
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

    def watch(self, decoders: Decoders = Decoders.NONE) -> SpiceProbe:
        """Connect a client; it is gone at the end of the test."""
        client = SpiceProbe(self.host.uri, sample=SAMPLE, decoders=decoders)
        probe = self._stack.enter_context(client)
        self.host.wait_for("client-connected")
        return probe

    def add_alice(self, **properties: object) -> None:
        """Log Alice in on VT 7, session 1."""
        self._add("add_session", ALICE, {"id": "1", "vt": 7, "user": "alice"}, properties)

    def add_alice_late(self, **properties: object) -> None:
        """Log Alice in likewise, but her session is the active one only a moment later."""
        self._add("add_session_late", ALICE, {"id": "1", "vt": 7, "user": "alice"}, properties)

    def add_bob(self, **properties: object) -> None:
        """Log Bob in on VT 8, session c2."""
        self._add("add_session", BOB, {"id": "c2", "vt": 8, "user": "bob"}, properties)

    def _add(
        self, action: str, number: int, values: dict[str, object], properties: dict[str, object]
    ) -> None:
        uid = UIDS[str(values["user"])]
        account = {"uid": uid, "gid": uid, "display": self.servers[number].display}
        session = values | account | properties
        mark = self.daemon.now()
        self.stage.login1.do(action, **session)
        if session.get("answers", True):  # from here on the daemon knows it, too
            self.daemon.wait_line(f"session {session['id']} of .* has come", after=mark)
