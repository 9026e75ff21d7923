"""Every kind of screen in one guest, and switches between them: the story that a client sees.

The tests are its chapters, in this order: each begins where the one before ended. The guest is that
of ``test_desktop``, which leaves it freshly booted. What the client saw is in build/vm/screens/.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.vm.desktop import SLOW, Desktop, install
from tests.vm.image import COLOURS
from tests.vm.sessions import x_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.guest import Guest

pytestmark = pytest.mark.vm

PROGRAM: Final = "/usr/bin/spice-sessiond"
SERVICE: Final = "spice-sessiond.service"
DROP_IN: Final = "/etc/spice-sessiond/config.toml.d/screens.toml"
READER: Final = "/root/reader.py"
CARD_CLIENTS: Final = "/sys/kernel/debug/dri/0/clients"
POLLS: Final = 1000
# VTs: of a getty, where alice logs in, and of bob's X server. The image has greetd on another one.
GETTY, CONSOLE, XORG = 1, 3, 8


@pytest.fixture(scope="module")
def desktop(desktop_guest: Guest, package: Path, pictures: Path) -> Iterator[Desktop]:
    """Give a guest where nobody is logged in and no display manager runs; a client looks at it."""
    guest = desktop_guest
    if guest.run(["test", "-e", PROGRAM], check=False).status:
        install(guest, package)
    guest.run(["systemctl", "stop", "lightdm.service"], timeout=SLOW)
    guest.run(["chvt", str(GETTY)])
    guest.push(READER, Path(__file__).with_name("reader.py").read_bytes())
    with Desktop(guest, pictures) as desktop:
        desktop.connect()
        yield desktop


@pytest.fixture(scope="module")
def xorg(desktop: Desktop) -> Iterator[None]:
    """Bob's X server, in front at first."""
    with x_session(desktop.guest, "bob", display=1, vt=XORG):
        desktop.guest.spawn(["xterm", "-display", ":1", "-bg", "white"], user="bob")
        desktop.paint("bob", ":1", COLOURS["bob"])
        yield


def configure(desktop: Desktop, text: str) -> None:
    """Have the daemon follow this, and nothing from before."""
    desktop.guest.push(DROP_IN, text.encode())
    desktop.guest.run(["systemctl", "reload", SERVICE], timeout=SLOW)


def assert_shown(desktop: Desktop, backend: str, user: str = "") -> None:
    """The seat's screen is streamed: by this back-end, of this user's session."""
    desktop.wait_for_status("streaming", "ok")
    assert desktop.status("Backend") == backend, desktop.journal()
    session = desktop.path_of(desktop.session_of(user)) if user else ["", "/"]
    assert desktop.status("ActiveSession") == session


def helpers(desktop: Desktop) -> str:
    """Return the helpers that may look at the card, "" for none."""
    argv = ["systemctl", "list-units", "--plain", "--no-legend", "spice-sessiond-kms@*"]
    return desktop.guest.run(argv).stdout


def read_card(desktop: Desktop, vt: int, polls: int = 0) -> dict[str, Any]:
    """Return what ``tests.vm.reader`` says."""
    argv = ["python3", READER, str(vt), str(polls)]
    told: dict[str, Any] = json.loads(desktop.guest.run(argv, timeout=3 * SLOW).stdout)
    return told


def test_the_login_prompt_is_seen(desktop: Desktop) -> None:
    desktop.see_text("login-prompt")
    assert_shown(desktop, "kms")
    assert desktop.status("ReasonText") == f"VT {GETTY} is shown."


def test_so_is_a_login_on_a_console(desktop: Desktop) -> None:
    desktop.log_in_on_console("alice", CONSOLE)
    desktop.see_text("console")
    assert_shown(desktop, "kms", "alice")
    desktop.guest.type_line("id")
    desktop.wait_for_text(CONSOLE, "uid=1000")
    desktop.see_text("a-command-on-the-console")


def test_a_compositor_that_is_started_there_is_asked_itself(desktop: Desktop) -> None:
    desktop.guest.type_line("sway")
    desktop.see(COLOURS["alice"], "sway")
    assert_shown(desktop, "wlroots", "alice")


@pytest.mark.usefixtures("xorg")
def test_beside_it_an_x_session(desktop: Desktop) -> None:
    desktop.see(COLOURS["bob"], "x-session")
    assert_shown(desktop, "x11", "bob")


@pytest.mark.usefixtures("xorg")
def test_each_is_seen_when_its_terminal_comes_to_the_front(desktop: Desktop) -> None:
    desktop.guest.run(["chvt", str(GETTY)])
    desktop.see_text("switched-to-the-prompt")
    assert_shown(desktop, "kms")
    desktop.guest.run(["chvt", str(CONSOLE)])
    desktop.see(COLOURS["alice"], "switched-to-sway")
    assert_shown(desktop, "wlroots", "alice")
    desktop.guest.run(["chvt", str(XORG)])
    desktop.see(COLOURS["bob"], "switched-to-x")
    assert_shown(desktop, "x11", "bob")


@pytest.mark.usefixtures("xorg")
def test_the_card_shows_it_as_well(desktop: Desktop) -> None:
    configure(desktop, '[capture]\norder = ["kms"]\n')
    desktop.wait_until(lambda: desktop.status("Backend") == "kms")
    desktop.paint("bob", ":1", "#506020")
    desktop.see("#506020", "x-by-kms")
    assert_shown(desktop, "kms", "bob")
    # The card's master, who says what it shows, is somebody else.
    clients = [row.split() for row in desktop.guest.read(CARD_CLIENTS).decode().splitlines()]
    master = clients[0].index("master")
    assert [row[master] for row in clients if row[0].startswith("spice")] == ["n"], clients


@pytest.mark.usefixtures("xorg")
def test_who_is_denied_is_not_read_from_the_card_either(desktop: Desktop) -> None:
    configure(desktop, '[capture]\norder = ["kms"]\n[stream]\ndeny_users = ["bob"]\n')
    text = desktop.wait_for_status("no-session", "session-denied")
    desktop.see_sentence(text, "denied")
    desktop.wait_until(lambda: not helpers(desktop))
    # What is drawn now nobody sees.
    desktop.paint("bob", ":1", COLOURS["bob"])
    desktop.see_sentence(text, "still-denied")
    assert not helpers(desktop)
    configure(desktop, "")
    desktop.see(COLOURS["bob"], "not-denied-any-more")
    assert_shown(desktop, "x11", "bob")


@pytest.mark.usefixtures("xorg")
def test_a_thousand_polls_leave_nothing_open(desktop: Desktop) -> None:
    told = read_card(desktop, XORG, POLLS)
    assert told["before"] == ["NOT_GRANTED", 0]
    code, buffers = told["granted"]
    assert not code
    assert buffers
    assert told["polls"] == [told["granted"]]
    assert told["held"]["handles"]
    assert told["still held"] == told["held"]
    assert told["after"] == ["NOT_GRANTED", 0]


@pytest.mark.usefixtures("xorg")
def test_who_is_on_another_terminal_gets_no_buffer(desktop: Desktop) -> None:
    assert read_card(desktop, CONSOLE)["granted"] == ["OTHER_VT", 0]


def test_a_greeter_on_wayland(desktop: Desktop) -> None:
    desktop.guest.run(["systemctl", "stop", "x-session-1.service"], timeout=SLOW)
    desktop.guest.run(["systemctl", "start", "greetd.service"], timeout=SLOW)
    desktop.see(COLOURS["greeter"], "greeter")
    assert_shown(desktop, "wlroots", "_greetd")


def test_a_greeter_that_is_read_from_the_card(desktop: Desktop) -> None:
    configure(desktop, '[capture]\ngreeter_order = ["kms"]\n')
    desktop.wait_until(lambda: desktop.status("Backend") == "kms")
    desktop.see(COLOURS["greeter"], "greeter-by-kms")
    assert_shown(desktop, "kms", "_greetd")


def test_from_there_to_the_users_compositor(desktop: Desktop) -> None:
    desktop.log_in_by_greetd("bob")
    desktop.see(COLOURS["bob"], "sway-after-the-greeter")
    assert_shown(desktop, "wlroots", "bob")


def test_nothing_has_failed_meanwhile(desktop: Desktop) -> None:
    desktop.wait_until(lambda: not helpers(desktop))
    assert not desktop.failed_units()
    assert "Traceback" not in desktop.journal()
