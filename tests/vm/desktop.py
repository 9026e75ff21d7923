"""A guest's desktop, seen and used from outside as a person would: a client's eyes, a keyboard.

Owns the questions that a test asks again and again: what does the client show, what does the
daemon say, who is logged in. What is on the screens (their colours) is ``tests.vm.image``'s.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import TYPE_CHECKING, Final, Self

from agent.capture.placeholder import draw_placeholder
from tests.fixtures.drawing import psnr
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.spice import SpiceProbe
from tests.vm.channel import GuestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from tests.vm.guest import Guest

DISPLAY: Final = 1  # the stream's, at the client; the graphics card is display 0
SLOW: Final = 90.0  # seconds; a guest under emulation
ALIKE: Final = 30.0  # dB; a JPEG of the same picture. Another sentence in the same place has 13
TEXT_ALIKE: Final = 22.0  # dB; a JPEG of small letters, and a cursor that blinks. Others have 12

PACKAGE: Final = "/root/spice-sessiond.deb"
BUS_NAME: Final = "org.spice_space.Sessiond1"
MANAGER: Final = (BUS_NAME, "/org/spice_space/Sessiond1", f"{BUS_NAME}.Manager")

LIGHTDM_LOG: Final = "/var/log/lightdm/lightdm.log"
# For its greeter, and for who logs in; not what asks.
WORKERS: Final = "pgrep --count --full 'greetd --session-[w]orker'"
LOGIN_TRIES: Final = 10
ANSWER_PATIENCE: Final = 10.0  # seconds; what was typed may have been lost

Colour = tuple[int, int, int]


def install(guest: Guest, package: Path) -> None:
    """Install or upgrade the project's package with dpkg, which gets no help: no network."""
    guest.push(PACKAGE, package.read_bytes())
    guest.run(["dpkg", "--install", PACKAGE], timeout=3 * SLOW)


class Desktop:
    """The guest, and the client that looks at its stream; a context manager.

    PICTURES is an empty directory for what was seen. Without ``connect`` there is no client.
    """

    def __init__(self, guest: Guest, pictures: Path) -> None:
        self.guest = guest
        self.client: SpiceProbe
        self._clients = contextlib.ExitStack()
        self._pictures = pictures
        self._kept = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the guest is so, for which there is no event; each look is a command there."""
        deadline = time.monotonic() + SLOW
        while not condition():
            if time.monotonic() > deadline:
                raise GuestTimeoutError(f"not within {SLOW:g} s: {self.journal()}")

    def connect(self) -> None:
        """Let a SPICE client come."""
        self.client = self._clients.enter_context(SpiceProbe(self.guest.spice_uri, display=DISPLAY))

    def disconnect(self) -> None:
        """Let the client go."""
        self._clients.close()

    def status(self, name: str) -> object:
        """Return a property of the daemon's, read by a user whom it does not concern."""
        argv = ["busctl", "--json=short", "get-property", *MANAGER, name]
        return json.loads(self.guest.run(argv, user="bob").stdout)["data"]

    def agents(self) -> dict[str, int]:
        """Return the users whose agents the daemon serves, with their pids."""
        argv = ["spice-sessionctl", "--json=short", "users"]
        users = json.loads(self.guest.run(argv, user="bob", timeout=SLOW).stdout)
        return {each["Name"]: each["PID"] for each in users}

    def wait_for_status(self, state: str, reason: str) -> str:
        """Wait until the daemon says so; return its sentence."""
        ask = f"busctl get-property {' '.join(MANAGER)} State Reason"
        said = f's "{state}"\ns "{reason}"'
        try:
            self.guest.wait_for(
                ["sh", "-c", f"[ \"$({ask})\" = '{said}' ]"], user="bob", timeout=SLOW
            )
        except GuestTimeoutError as error:
            raise GuestTimeoutError(f"not {reason}: {self.journal()}") from error
        return str(self.status("ReasonText"))

    def journal(self) -> str:
        """Return what the daemon and its agents have said since the boot."""
        argv = ["journalctl", "--boot", "--output=short-monotonic", "--no-hostname"]
        return self.guest.run([*argv, "_SYSTEMD_UNIT=spice-sessiond.service"]).stdout

    def see(self, colour: str, name: str) -> None:
        """Wait until the client shows the guest's screen, on a ground of this colour (#rrggbb).

        Something light has to be on it: a dialogue, a name. The card's own picture is the
        reference. What the client shows is kept as NAME.
        """

        def is_it(picture: Image.Image) -> bool:
            if not _is_near(_ground(picture), _rgb(colour)) or not _has_light(picture):
                return False
            screen = self.guest.screenshot().convert("RGB")
            return screen.size == picture.size and psnr(picture, screen) >= ALIKE

        self._see(is_it, name)

    def see_text(self, name: str) -> None:
        """Wait until the client shows what is written on the guest's console; keep it as NAME."""

        def is_it(picture: Image.Image) -> bool:
            screen = self.guest.screenshot().convert("RGB")
            # Most of it is black, whatever is written: so what is written is compared apart.
            box = screen.convert("L").point(lambda light: 255 * (light > 128)).getbbox()
            if screen.size != picture.size or not box:
                return False
            return psnr(picture.crop(box), screen.crop(box)) >= TEXT_ALIKE

        self._see(is_it, name)

    def see_sentence(self, text: str, name: str) -> None:
        """Wait until the client shows the placeholder with this sentence; keep it as NAME."""

        def is_it(picture: Image.Image) -> bool:
            return psnr(picture, draw_placeholder(picture.size, text)) >= ALIKE

        self._see(is_it, name)

    def paint(self, user: str, display: str, colour: str) -> None:
        """Give the root window of a user's screen another colour, as that user could."""
        self.guest.run(["xsetroot", "-display", display, "-solid", colour], user=user)

    def log_in(self, user: str) -> None:
        """Log in at the greeter that is in front, by the keyboard; the password is the name.

        Each of the greeter's fields takes the keyboard a little later than it is seen, and what was
        typed before is lost. So what is asked for is typed until lightdm has what it needs.
        Raises GuestTimeoutError.
        """
        for _ in range(LOGIN_TRIES):
            said = self._type_answer(user)
            if f"User {user} authorized\n" in said:
                return
            names = re.findall(r"start authentication for (.*)\n", said)
            if names and names[-1] != user:  # half of the name was lost: back to it
                self.guest.press("shift", "tab")
                self.guest.press("ctrl", "a")
        raise GuestTimeoutError(f"{user} was not let in: {self._lightdm()}")

    def log_in_by_greetd(self, user: str) -> None:
        """The same at greetd's greeter. Raises GuestTimeoutError."""
        self._answer(user, f"[ $({WORKERS}) -ge 2 ]")
        self._answer(user, f"loginctl --no-legend | grep -E ' {user} +seat0 '")

    def log_in_on_console(self, user: str, vt: int) -> None:
        """Bring a VT that nobody has used yet to the front, and log in there by the keyboard."""
        self.guest.run(["chvt", str(vt)])
        for question in ("login:", "Password:"):
            self.wait_for_text(vt, question)
            self.guest.type_line(user)
        self.wait_for_text(vt, f"{user}@guest")

    def wait_for_text(self, vt: int, text: str) -> None:
        """Wait until a console has a text."""
        argv = ["grep", "--text", "--quiet", "--fixed-strings", text, f"/dev/vcs{vt}"]
        self.guest.wait_for(argv, timeout=SLOW)

    def session_of(self, user: str) -> str:
        """Return the id of the user's session at the seat."""
        sessions = json.loads(self.guest.run(["loginctl", "--json=short"]).stdout)
        found = [each["session"] for each in sessions if each["user"] == user and each["seat"]]
        assert len(found) == 1, sessions
        return str(found[0])

    def path_of(self, session: str) -> list[str]:
        """Return a session as the daemon's ActiveSession has it: id and object path."""
        path = self.guest.run(
            ["busctl", "--json=short", "call", *MANAGER, "GetSession", "s", session]
        )
        return [session, json.loads(path.stdout)["data"][0]]

    def failed_units(self) -> str:
        """Return systemd's list of what has failed, "" for nothing."""
        return self.guest.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout

    def main_pid(self, unit: str) -> int:
        """Return the pid of a service."""
        shown = self.guest.run(["systemctl", "show", "--property=MainPID", "--value", unit])
        return int(shown.stdout)

    def _type_answer(self, text: str) -> str:
        """Type a line at the greeter; return what lightdm says to it, "" for nothing."""
        begin = int(self.guest.run(["stat", "--format=%s", LIGHTDM_LOG]).stdout)
        new = f"tail --bytes=+{begin + 1} {LIGHTDM_LOG}"
        self.guest.type_line(text)
        with contextlib.suppress(GuestTimeoutError):
            answered = ["sh", "-c", f"{new} | grep -E 'Prompt greeter|User .* authorized'"]
            self.guest.wait_for(answered, timeout=ANSWER_PATIENCE)
        return self.guest.run(["sh", "-c", new]).stdout

    def _answer(self, text: str, sign: str) -> None:
        """Type a line until a command of the guest's tells that it was taken."""
        for _ in range(LOGIN_TRIES):
            self.guest.type_line(text)
            with contextlib.suppress(GuestTimeoutError):
                return self.guest.wait_for(["sh", "-c", sign], timeout=ANSWER_PATIENCE)
        raise GuestTimeoutError(f"{text} is not taken: {sign}")

    def _lightdm(self) -> str:
        return self.guest.run(["tail", "--lines=40", LIGHTDM_LOG]).stdout

    def _see(self, is_it: Callable[[Image.Image], bool], name: str) -> None:
        deadline = time.monotonic() + SLOW
        while time.monotonic() < deadline:
            mark = self.client.now()
            # A stream that was not there yet, or is not any more, has no picture at all.
            if _has_surface(self.client):
                picture = self.client.shot()
                if is_it(picture):
                    self._keep(name, picture)
                    return
            # The client's picture and the screen are of two moments, so one that has come to rest
            # is looked at again, too.
            with contextlib.suppress(EventTimeoutError):
                self.client.wait_for("invalidate", 1.0, after=mark, channel=DISPLAY)
        if _has_surface(self.client):
            self._keep(f"{name}-failed-client", self.client.shot())
        self._keep(f"{name}-failed-screen", self.guest.screenshot())
        raise GuestTimeoutError(f"the client does not show {name}: {self.journal()}")

    def _keep(self, name: str, picture: Image.Image) -> None:
        self._kept += 1  # the order of the story
        picture.save(self._pictures / f"{self._kept:02}-{name}.png")


def _has_surface(client: SpiceProbe) -> bool:
    surfaces = [
        event["event"]
        for event in client.events
        if event["event"] in {"primary-create", "primary-destroy"} and event["channel"] == DISPLAY
    ]
    return surfaces[-1:] == ["primary-create"]


def _ground(picture: Image.Image) -> Colour:
    """Return the colour near the lower right corner, where nothing else is."""
    pixel = picture.getpixel((picture.width - 20, picture.height - 20))
    assert isinstance(pixel, tuple)
    red, green, blue = pixel
    return int(red), int(green), int(blue)


def _rgb(text: str) -> Colour:
    """Return the colour of ``#rrggbb``."""
    value = int(text.removeprefix("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255


def _has_light(picture: Image.Image) -> bool:
    return any(picture.convert("L").histogram()[200:])


def _is_near(one: Colour, other: Colour) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(one, other, strict=True))
