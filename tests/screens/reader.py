"""A stand-in for what systemd starts at kms.sock: the real helper, for a card of memory files.

What it cannot show is the kernel's part: that a buffer is the one that is on the screen. It tells
all that the daemon says, in order.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from sessiond.errors import SessiondError
from sessiond.kms.serve import Console, Helper
from sessiond.wire.kms import Grant, Serve
from tests.fixtures.drawing import numbered
from tests.fixtures.kms import Memory, MemoryCard, full_screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from sessiond.kms.card import Card

SIZE: Final = (640, 480)
DEADLINE: Final = 15.0  # seconds
END: Final = "end"

Heard = tuple[int, Serve | Grant | str]
"""Which helper has heard it, counted from 0, and what; END for its own end."""


class CardReader:
    """Listens in ``folder``, and shows a number; VT 3 is in front until ``switch``."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.path = folder / "kms.sock"
        self.active = folder / "active"
        self.cards = folder / "dri"
        self.cards.mkdir()
        (self.cards / "card0").touch()
        self.switch(3)
        self.refusal = ""  # why there is no card, from now on
        self._memory = Memory(SIZE)
        self._card = MemoryCard("card0", "virtio_gpu")
        full_screen(self._card, self._memory)
        self._changed = threading.Condition()
        self._heard: list[Heard] = []
        self._controls: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let all go."""
        with contextlib.suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(DEADLINE)
        self._listener.close()
        self.kill()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        self._memory.close()

    @property
    def settings(self) -> list[str]:
        """What the daemon needs to know."""
        return [
            f'capture.kms_socket="{self.path}"',
            f'capture.cards="{self.cards}"',
            f'vt.active="{self.active}"',  # a plain file: the daemon sees what it begins with
        ]

    @property
    def heard(self) -> list[Heard]:
        """All that the helpers have heard, in order."""
        with self._changed:
            return list(self._heard)

    def heard_by(self, number: int) -> list[Serve | Grant | str]:
        """Return what one helper has heard."""
        return [what for who, what in self.heard if who == number]

    def wait_heard(self, what: Heard) -> None:
        """Wait until a helper has heard that."""
        with self._changed:
            assert self._changed.wait_for(lambda: what in self._heard, DEADLINE), self._heard

    def draw(self, number: int) -> None:
        """Let the screen show a number."""
        picture = numbered(number, *SIZE).convert("RGB").tobytes("raw", "BGRX")
        self._memory.map[:] = picture

    def sleep(self) -> None:
        """Switch all monitors off."""
        self._card.crtcs = []

    def wake(self) -> None:
        """Switch the monitor on again."""
        full_screen(self._card, self._memory)

    def switch(self, vt: int) -> None:
        """Bring another VT to the front, for the kernel; logind tells the daemon of its own."""
        # In place, as sysfs: who has it open sees it.
        self.active.write_text(f"tty{vt}\n")

    def kill(self) -> None:
        """Let all helpers end as by a crash: their sockets hang up."""
        for control in self._controls:
            with contextlib.suppress(OSError):  # the daemon was the first
                control.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                control, _ = self._listener.accept()
            except OSError:  # shut down
                return
            number = len(self._controls)
            self._controls.append(control)
            thread = threading.Thread(target=self._help, args=(number, control))
            self._threads.append(thread)
            thread.start()

    def _help(self, number: int, control: socket.socket) -> None:
        with control, contextlib.suppress(SessiondError):
            cards: list[Card] = [] if self.refusal else [self._card]
            opened = (cards, self.refusal)
            console = str(self.active)
            helper = _Telling(control, lambda: opened, lambda: Console(console), os.geteuid())
            helper.listener = lambda what: self._tell(number, what)
            helper.run()
        self._tell(number, END)

    def _tell(self, number: int, what: Serve | Grant | str) -> None:
        with self._changed:
            self._heard.append((number, what))
            self._changed.notify_all()


class _Telling(Helper):
    """Tells ``listener`` what it hears."""

    listener: Callable[[Serve | Grant], None]

    def _control_message(self, *, room: int) -> Serve | Grant:
        message = super()._control_message(room=room)
        self.listener(message)
        return message
