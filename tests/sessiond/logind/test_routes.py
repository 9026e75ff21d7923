"""Which back-ends a session may be captured by: the whole table."""

import itertools
from dataclasses import replace

import pytest

from sessiond.logind.routes import Capture, routes
from sessiond.model import Session, console

X11 = ("x11",)
WAYLAND = ("wlroots", "mutter")
TTY = X11 + WAYLAND
KMS = ("kms",)


def session(kind: str, desktop: str = "", cls: str = "user", vt: int = 2) -> Session:
    return Session(
        id="3", path="/3", uid=1000, gid=1000, user="alice", seat="seat0", vt=vt, type=kind,
        cls=cls, desktop=desktop,
    )  # fmt: skip


# For each: without kms, and what capture.kms = "auto" adds with a card.
TABLE = {
    "X11": (session("x11", "GNOME"), X11, KMS),
    "X11 of no name": (session("x11"), X11, KMS),
    "X11 greeter": (session("x11", cls="greeter"), X11, KMS),
    "text": (session("tty"), TTY, KMS),
    "text of root, by systemd 257": (session("tty", cls="user-early"), TTY, KMS),
    "text greeter": (session("tty", cls="greeter"), TTY, KMS),
    "text, left by its user": (replace(session("tty"), state="closing"), (), KMS),
    "a VT alone": (console("seat0", 2), (), KMS),
    "Wayland greeter": (session("wayland", "GNOME", "greeter"), WAYLAND, KMS),
    "Wayland lock screen": (session("wayland", "KDE", "lock-screen"), WAYLAND, KMS),
    "sway": (session("wayland", "sway"), WAYLAND, KMS),
    "labwc": (session("wayland", "labwc:wlroots"), WAYLAND, KMS),
    "popcorn": (session("wayland", "popcorn"), WAYLAND, KMS),
    "GNOME": (session("wayland", "gnome"), WAYLAND, ()),
    "GNOME of many names": (session("wayland", "Budgie:GNOME"), WAYLAND, ()),
    "GNOME of old": (session("wayland", "gnome-classic-wayland"), WAYLAND, ()),
    "Ubuntu's": (session("wayland", "ubuntu-wayland"), WAYLAND, ()),
    "Pop's": (session("wayland", "pop"), WAYLAND, ()),
    "KDE": (session("wayland", "KDE"), WAYLAND, ()),
    "Plasma": (session("wayland", "plasmawayland"), WAYLAND, ()),
    "Wayland of no name": (session("wayland"), WAYLAND, ()),
    "mir": (session("mir", "unity8"), (), ()),
    "unspecified": (session("unspecified"), (), ()),
    "no type": (session(""), (), ()),
    "greeter of no type": (session("unspecified", cls="greeter"), (), KMS),
}


@pytest.mark.parametrize(("shown", "own", "more"), TABLE.values(), ids=TABLE.keys())
def test_by_type_class_and_desktop(
    shown: Session, own: tuple[str, ...], more: tuple[str, ...]
) -> None:
    assert routes(shown, Capture(), has_card=True) == own + more
    assert routes(shown, Capture(kms="all"), has_card=True) == own + KMS
    assert routes(shown, Capture(kms="off"), has_card=True) == own
    for kms in ("auto", "all", "off"):
        assert routes(shown, Capture(kms=kms), has_card=False) == own


def test_kms_needs_a_vt_to_see_that_it_is_in_front() -> None:
    assert routes(session("x11", vt=0), Capture(kms="all"), has_card=True) == X11


ORDER = ("mutter", "x11", "kms")
ORDERED = {
    "X11": (session("x11"), Capture(order=ORDER), ("x11", "kms")),
    "Wayland": (session("wayland", "sway"), Capture(order=ORDER), ("mutter", "kms")),
    "GNOME": (session("wayland", "GNOME"), Capture(order=ORDER), ("mutter",)),
    "GNOME, by order": (
        session("wayland", "GNOME"), Capture(order=ORDER, kms="all"), ("mutter", "kms")
    ),
    "nothing fits": (session("wayland", "sway"), Capture(order=X11), ()),
    "text has its own": (session("tty"), Capture(order=X11), TTY + KMS),
    "text": (session("tty"), Capture(console_order=ORDER), ORDER),
    "a VT alone": (console("seat0", 2), Capture(console_order=ORDER), KMS),
    "a VT alone, without": (console("seat0", 2), Capture(console_order=TTY), ()),
    "a greeter has its own": (session("x11", cls="greeter"), Capture(order=KMS), X11 + KMS),
    "greeter": (session("x11", cls="greeter"), Capture(greeter_order=KMS), KMS),
    "text greeter": (
        session("tty", cls="greeter"), Capture(greeter_order=KMS, console_order=X11), KMS
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shown", "capture", "wanted"), ORDERED.values(), ids=ORDERED.keys())
def test_by_order(shown: Session, capture: Capture, wanted: tuple[str, ...]) -> None:
    assert routes(shown, capture, has_card=True) == wanted


def test_the_x_server_of_a_wayland_session_is_never_captured() -> None:
    every = ("x11", *WAYLAND, "kms")
    for order, cls in itertools.product(itertools.permutations(every), ("user", "greeter")):
        capture = Capture(order=order, greeter_order=order, console_order=order, kms="all")
        assert "x11" not in routes(session("wayland", cls=cls), capture, has_card=True)
