"""The helper's loop: an agent asks, and gets the screen's buffers only as the daemon allows.

The decision is the daemon's; that the VT in front is still the agent's is seen here, at the
kernel, since logind tells of a switch later.
"""

import array
import contextlib
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

from sessiond.errors import ProtocolError, SessiondError
from sessiond.kms.card import Card, Screen
from sessiond.kms.view import RefusalError, planes
from sessiond.transport import rights
from sessiond.transport.peer import peer_of
from sessiond.wire.kms import (
    MAX_ASK,
    MAX_CONTROL,
    Ask,
    Code,
    Failed,
    Grant,
    Plane,
    Ready,
    Refused,
    Serve,
    pack_answer,
    pack_control,
    parse_ask,
    parse_from_daemon,
)

ACTIVE: Final = "/sys/class/tty/tty0/active"
_TRIES: Final = 4  # to see a screen that shows the same before and after its buffers were opened

OpenCards = Callable[[], tuple[list[Card], str]]


class Console:
    """Which VT is in front, by the kernel's word."""

    def __init__(self, path: str = ACTIVE) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SessiondError(f"{path}: {error.strerror}") from None

    def active(self) -> str:
        """Return its name, such as "tty1". Raises OSError."""
        return os.pread(self._fd, 64, 0).decode("ascii", "replace").strip()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


OpenConsole = Callable[[], Console]


class _EndError(Exception):
    """Somebody has hung up."""


class Helper:
    """Serves one agent from ``control``'s first packet until its end, or the agent's.

    Only who runs as ``owner`` is listened to.
    """

    def __init__(
        self,
        control: socket.socket,
        open_cards: OpenCards,
        open_console: OpenConsole,
        owner: int = 0,
    ) -> None:
        self._control = control
        self._open_cards = open_cards
        self._open_console = open_console
        self._owner = owner
        self._cards: list[Card] = []
        self._sockets: list[socket.socket] = []  # that have come
        self._tty = ""
        self._is_granted = False

    def run(self) -> None:
        """Serve to the end. Raises SessiondError, which the daemon has been told if it listens."""
        try:
            if peer_of(self._control).uid != self._owner:
                raise SessiondError("this is for root alone")  # noqa: TRY301
            self._meet()
            with contextlib.closing(self._open_console()) as self._console:
                self._begin()
                self._serve()
        except _EndError:
            return
        except (OSError, SessiondError) as error:
            self._tell(Failed(str(error)))
            raise SessiondError(str(error)) from error
        finally:
            for card in self._cards:
                card.close()
            for sock in self._sockets:
                sock.close()

    def _meet(self) -> None:
        select.select([self._control], [], [])
        message = self._control_message(room=1)
        if not isinstance(message, Serve):
            raise ProtocolError("the daemon does not say who is served")
        self._agent = self._sockets[0]
        self._tty = f"tty{message.vt}"

    def _begin(self) -> None:
        self._cards, faults = self._open_cards()
        if not self._cards:
            raise SessiondError(f"no card can be looked at: {faults}")
        card = next((card for card in self._cards if card.screen().crtcs), self._cards[0])
        self._tell(Ready(card.name, card.driver))

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._agent, select.POLLIN)
        while True:
            poll.poll()
            self._hear()
            try:
                question = self._agent.recv(MAX_ASK + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not question:
                raise _EndError
            self._answer(parse_ask(question))

    def _hear(self) -> None:
        """Take what the daemon has said by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self._control_message(room=0)
                if not isinstance(message, Grant):
                    raise ProtocolError("the daemon says twice who is served")
                self._is_granted = message.is_given

    def _control_message(self, *, room: int) -> Serve | Grant:
        """Raises BlockingIOError if there is none."""
        data, fds, is_all = rights.receive(self._control, MAX_CONTROL + 1, room)
        sockets = [socket.socket(fileno=fd) for fd in fds]
        self._sockets += sockets
        if not data:
            raise _EndError
        message = parse_from_daemon(data)
        if not is_all or len(sockets) != (1 if isinstance(message, Serve) else 0):
            raise ProtocolError(f"a packet with {len(sockets)} descriptors")
        return message

    def _answer(self, ask: Ask) -> None:
        fds: list[int] = []
        try:
            try:
                answer: Sequence[Plane] | Refused = self._look(ask, fds)
                # Both may have changed while the buffers were opened.
                self._hear()
                self._check(ask)
            except RefusalError as refusal:
                answer = refusal.refused
                _close(fds)
            self._send(pack_answer(answer), fds)
        finally:
            _close(fds)

    def _look(self, ask: Ask, fds: list[int]) -> list[Plane]:
        """Return what is shown; opens the buffers into ``fds`` if they are asked for."""
        self._check(ask)
        for _ in range(_TRIES):
            for card in self._cards:
                screen = card.screen()
                if screen.crtcs:
                    found = _seen(card, screen, ask, fds)
                    break
            else:
                raise RefusalError(Code.OFF, "no output of the graphics card shows anything")
            if found:
                return found
            _close(fds)
        raise RefusalError(Code.RESTLESS, "the screen's buffers change too fast to be looked at")

    def _check(self, ask: Ask) -> None:
        if ask is Ask.PIXELS and not self._is_granted:
            raise RefusalError(Code.NOT_GRANTED, "this session is not the one that is shown")
        active = self._console.active()
        if active != self._tty:
            raise RefusalError(Code.OTHER_VT, f"{active} is in front, not {self._tty}")

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._agent.sendmsg([packet], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise _EndError from None
        except BlockingIOError:
            raise ProtocolError("the agent asks and does not read the answers") from None

    def _tell(self, message: Ready | Failed) -> None:
        with contextlib.suppress(OSError):  # it has hung up, which is seen next
            self._control.send(pack_control(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _seen(card: Card, screen: Screen, ask: Ask, fds: list[int]) -> list[Plane]:
    """Return what a card shows, which was ``screen`` just now; nothing if that has changed."""
    with card.opened(screen.framebuffers) as buffers:
        if len(buffers) < len(screen.framebuffers):
            return []
        found = planes(screen, buffers, card.outputs(screen), card.driver)
        used = list(dict.fromkeys(plane.buffer for plane in found))
        if ask is Ask.PIXELS:
            for number in used:
                fds.append(_exported(card, buffers[number].handle))  # noqa: PERF401 (each closed)
        # A number may belong to another framebuffer by now: what is seen is shown before and after.
        if not card.screen().is_alike(screen):
            return []
    return [plane._replace(buffer=used.index(plane.buffer)) for plane in found]


def _exported(card: Card, handle: int) -> int:
    try:
        return card.export(handle)
    except OSError as error:
        text = f"the driver {card.driver} does not hand out its buffers: {error.strerror}"
        raise RefusalError(Code.UNREADABLE, text) from None


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
