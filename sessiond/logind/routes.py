"""Which back-ends may capture a session, and in which order. Pure, as a table.

A back-end captures what a session's type can have: never the X server of a Wayland session, whose
root window shows nothing of it, nor a compositor that a session of type x11 has beside its screen.
"kms" reads what the graphics card shows, past whatever the session would say to that: so it is the
last, and only allowed where nobody else could be asked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sessiond.model import KMS, Session

AUTO: Final = ("auto",)
_WAYLAND: Final = ("wlroots", "mutter", KMS)
_OF_TYPE: Final[Mapping[str, tuple[str, ...]]] = {
    "x11": ("x11", KMS),
    "wayland": _WAYLAND,
    "tty": ("x11", *_WAYLAND),  # startx keeps that type, and compositors that use seatd
}
_OF_OTHERS: Final = (KMS,)

# Words of Desktop (the session's file without .desktop, most often) whose compositor is GNOME's
# or KDE's, which ask their user before anybody sees the screen.
_GNOME: Final = re.compile(r"gnome|\b(ubuntu|pop|zorin|endless)\b", re.IGNORECASE)
_KDE: Final = re.compile(r"kde|plasma", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What people have ordered: the keys ``capture.*``.

    ``order`` is for users' sessions, ``greeter_order`` for greeters and lock screens,
    ``console_order`` for users' text sessions and for VTs without a session: names of back-ends,
    or AUTO. ``kms`` is "auto", "all" or "off".
    """

    order: tuple[str, ...] = AUTO
    greeter_order: tuple[str, ...] = AUTO
    console_order: tuple[str, ...] = AUTO
    kms: str = "auto"

    def order_for(self, session: Session) -> tuple[str, tuple[str, ...]]:
        """Return the key that holds for a session, and its value."""
        if session.cls in {"greeter", "lock-screen"}:
            return "capture.greeter_order", self.greeter_order
        if session.type == "tty":
            return "capture.console_order", self.console_order
        return "capture.order", self.order


def routes(session: Session, capture: Capture, *, has_card: bool) -> tuple[str, ...]:
    """Return the names of the back-ends to be tried, the first first; none if there is no way."""
    is_bare = session.is_console or is_left(session)
    possible = (KMS,) if is_bare else _OF_TYPE.get(session.type, _OF_OTHERS)
    _, order = capture.order_for(session)
    closed = {KMS} if why_no_kms(session, capture, has_card=has_card) else set[str]()
    wanted = possible if order == AUTO else order
    return tuple(name for name in wanted if name in possible and name not in closed)


def why_no_kms(session: Session, capture: Capture, *, has_card: bool) -> str:
    """Return what keeps the card's own picture from being used, as a clause; "" for nothing."""
    key, order = capture.order_for(session)
    rows = (
        (capture.kms == "off", 'capture.kms is "off"'),
        (order != AUTO and KMS not in order, f'{key} leaves "kms" out'),
        (not has_card, "there is no graphics card"),
        (not session.vt, "the session has no virtual terminal"),
        (capture.kms == "auto" and not _is_free(session), 'that needs capture.kms = "all"'),
    )
    return next((clause for applies, clause in rows if applies), "")


def is_left(session: Session) -> bool:
    """Whether its user has logged out of a text console, where the next login prompt is now.

    While a process of the session goes on, a tmux for one, logind still has it in front there.
    """
    return session.type == "tty" and session.state == "closing"


def _is_free(session: Session) -> bool:
    """Whether no consent of the desktop's own is gone round by reading the card."""
    if session.cls in {"greeter", "lock-screen"} or session.type in {"x11", "tty"}:
        return True
    is_named = session.type == "wayland" and bool(session.desktop)
    return is_named and not (is_gnome(session.desktop) or _KDE.search(session.desktop))


def is_gnome(desktop: str) -> bool:
    """Whether that is GNOME, by logind's Desktop."""
    return bool(_GNOME.search(desktop))
