"""What the reading commands print, to the letter: status, list, show, history."""

import json

import pytest

from sessiond.ctl.screen import Screen, to_json
from sessiond.ctl.sessions import history_page, list_page, show_page
from sessiond.ctl.status import status_page
from sessiond.ctl.users import connected_page, displays_page, screens_page, users_page
from sessiond.ctl.view import Page
from tests.sessiond.ctl.told import (
    AGENT,
    AGENTS,
    ALICE,
    BOB,
    DISPLAYS,
    ESCAPE,
    MANAGER,
    NOW,
    SCREENS,
    SESSIONS,
)

pytestmark = pytest.mark.usefixtures("_utc")

STATUS = """\
       Seat: seat0
      State: streaming (ok)
        Why: Session c2 is shown.
   In front: session c2, bob, x11 user, VT 8
      Shown: session c2, display :1 by x11 (found by logind)
       Host: asking; decodes mjpeg, vp8
     Stream: mjpeg (libjpeg-turbo), 1920x1080, 25.0 frames/s
       Sent: 64 frames, 33.1 kB
      Agent: pid 4711; ended unexpectedly 2 times
 Next retry: none
Auto switch: off
    Version: 0.1.0
"""
TROUBLE = """\
       Seat: seat0
      State: back-off (agent-crashed)
        Why: Session c2's agent has crashed.
   In front: session c2, bob, x11 user, VT 8
      Shown: no session
       Host: not asking
     Stream: none
       Sent: 1 frame, 999 bytes
      Agent: none; ended unexpectedly once
 Next retry: in 4 s, at 2026-09-21 14:13:24
Auto switch: off
    Version: 0.1.0
"""
LIST = """\
SESSION  USER   CLASS  TYPE  VT  DISPLAY  BY   FRONT  SHOWN  REASON
     10  alice  user   x11    7  :0       -    no     no     paused-by-user
     c2  bob    user   x11    8  :1       x11  yes    yes    ok
2 sessions.
"""
SHOW = """\
    Session: 10
       User: alice (uid 1000)
      Class: user
       Type: x11
         VT: 7
        TTY: -
    Display: :0
Captured by: -
   Found by: -
    Desktop: xfce
     Remote: no
   In front: no
     Locked: yes
      Shown: no
     Reason: paused-by-user
  In logind: /org/freedesktop/login1/session/_310
"""
HISTORY = """\
TIME                 SESSION  STATE (REASON)                  WHY
2026-09-21 14:13:20  -        no-session (no-active-session)  No session is active on seat0.
2026-09-21 14:13:22  c2       streaming (ok)                  Session c2 is shown.
"""
USERS = """\
 UID  USER    PID  SINCE
1000  alice  4712  2026-09-21 14:13:20
1 user agent.
"""
SHOWN_DISPLAYS = """\
DISPLAY  SESSION  TYPE  FRONT
:0            10  x11   yes
:7             -  -     no
2 displays.
"""
SHOWN_SCREENS = """\
OUTPUT      X  Y  WIDTH  HEIGHT  PRIMARY
DP-1    -1280  0   1280    1024  no
HDMI-1      0  0   1920    1080  yes
2 screens.
"""
EVENTS = [
    [
        1_790_000_000_000_000,
        "",
        "no-session",
        "no-active-session",
        "No session is active on seat0.",
    ],
    [1_790_000_002_500_000, "c2", "streaming", "ok", "Session c2 is shown."],
]


def printed(page: Page, capsys: pytest.CaptureFixture[str], mode: str = "off") -> str:
    Screen(mode).show(page)
    return capsys.readouterr().out


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(status_page(MANAGER, SESSIONS, NOW), capsys) == STATUS


def test_status_in_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    manager = MANAGER | {
        "State": "back-off", "Reason": "agent-crashed", "HostAsking": False, "Codec": "",
        "ReasonText": "Session c2's agent has crashed.", "AgentPID": 0, "AgentRestarts": 1,
        "NextRetryUSec": int((NOW + 4) * 1e6), "FramesSent": 1, "BytesSent": 999,
    }  # fmt: skip
    sessions = {path: it | {"Shown": False} for path, it in SESSIONS.items()}
    assert printed(status_page(manager, sessions, NOW), capsys) == TROUBLE


def test_status_says_why_it_is_this_codec(capsys: pytest.CaptureFixture[str]) -> None:
    why = {"Codec": "vp8", "Encoder": "libvpx", "CodecReason": f"it takes 0.4 MB/s{ESCAPE}"}
    text = printed(status_page(MANAGER | why, SESSIONS, NOW), capsys)
    told = "vp8 (libvpx), 1920x1080, 25.0 frames/s, because it takes 0.4 MB/s"
    assert f"Stream: {told}" in text
    assert ESCAPE not in text
    unknown = printed(status_page(MANAGER | {"Encoder": ""}, SESSIONS, NOW), capsys)
    assert "Stream: mjpeg, 1920x1080, 25.0 frames/s\n" in unknown


def test_status_of_a_console_and_of_a_wayland_session(capsys: pytest.CaptureFixture[str]) -> None:
    empty = MANAGER | {"ActiveSession": ["", "/"], "Backend": "kms"}
    assert "Shown: a text console, by kms\n" in printed(status_page(empty, {}, NOW), capsys)
    paused = empty | {"State": "paused"}
    assert "Shown: no session\n" in printed(status_page(paused, {}, NOW), capsys)
    way = {"Type": "wayland", "Display": "wayland-1", "Backend": "wlroots", "EnvSource": "socket"}
    sessions = {MANAGER["ActiveSession"][1]: BOB | way}
    text = printed(status_page(MANAGER, sessions, NOW), capsys)
    assert "In front: session c2, bob, wayland user, VT 8\n" in text
    assert "Shown: session c2, display wayland-1 by wlroots (found by socket)\n" in text
    nameless = BOB | {"Display": "", "Backend": "kms", "EnvSource": "kms-helper"}
    text = printed(status_page(MANAGER, {MANAGER["ActiveSession"][1]: nameless}, NOW), capsys)
    assert "Shown: session c2, by kms (found by kms-helper)\n" in text
    older = {key: value for key, value in BOB.items() if key != "Backend"}
    text = printed(status_page(MANAGER, {MANAGER["ActiveSession"][1]: older}, NOW), capsys)
    assert "Shown: session c2, display :1 (found by logind)\n" in text


def test_status_of_an_empty_seat(capsys: pytest.CaptureFixture[str]) -> None:
    page = status_page(MANAGER | {"ActiveSession": ["", "/"], "Backend": ""}, {}, NOW)
    text = printed(page, capsys)
    assert "   In front: no session\n      Shown: no session\n" in text
    assert json.loads(to_json(page.document))["Session"] is None


def test_status_as_json_has_the_properties_by_their_names() -> None:
    page = status_page(MANAGER, SESSIONS, NOW)
    assert json.loads(to_json(page.document)) == MANAGER | {"Session": BOB}


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(list_page(SESSIONS), capsys) == LIST


def test_list_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(list_page({}), capsys) == "0 sessions.\n"
    assert printed(list_page({}), capsys, "short") == "[]\n"


def test_list_as_json_is_in_the_order_of_the_ids() -> None:
    more = {f"/{name}": ALICE | {"Id": name} for name in ("c10", "2", "c2", "9", "10")}
    found = [session["Id"] for session in json.loads(to_json(list_page(more).document))]
    assert found == ["2", "9", "10", "c2", "c10"]
    assert json.loads(to_json(list_page(SESSIONS).document)) == [ALICE, BOB]


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(show_page(ALICE), capsys) == SHOW
    assert json.loads(printed(show_page(ALICE), capsys, "short")) == ALICE


def test_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(history_page(EVENTS), capsys) == HISTORY
    assert printed(history_page([]), capsys) == "Nothing has changed yet.\n"


def test_history_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    [_, last] = json.loads(printed(history_page(EVENTS), capsys, "short"))
    assert last == {
        "Time": 1_790_000_002_500_000, "Session": "c2", "State": "streaming", "Reason": "ok",
        "ReasonText": "Session c2 is shown.",
    }  # fmt: skip


def test_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(users_page(AGENTS), capsys) == USERS
    assert json.loads(printed(users_page(AGENTS), capsys, "short")) == [AGENT]
    assert printed(users_page({}), capsys) == "0 user agents.\n"


def test_displays_and_screens(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(displays_page(DISPLAYS), capsys) == SHOWN_DISPLAYS
    assert printed(displays_page([]), capsys) == "0 displays.\n"
    assert printed(screens_page(SCREENS), capsys) == SHOWN_SCREENS
    [first, _] = json.loads(printed(screens_page(SCREENS), capsys, "short"))
    assert first == {
        "Output": "DP-1", "X": -1280, "Y": 0, "Width": 1280, "Height": 1024, "Primary": False
    }  # fmt: skip


def test_connected(capsys: pytest.CaptureFixture[str]) -> None:
    page = connected_page(":0", "10")
    assert printed(page, capsys) == "Connected to :0, which belongs to session 10.\n"
    assert printed(connected_page(":7", ""), capsys).endswith("belongs to no session.\n")


@pytest.mark.parametrize("mode", ["off", "short", "pretty"])
def test_nothing_that_is_told_steers_the_terminal(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = {name: f"{ESCAPE}\n\x7f\u202e" if isinstance(v, str) else v for name, v in BOB.items()}
    manager = {n: ESCAPE if isinstance(v, str) else v for n, v in MANAGER.items()}
    manager["HostCodecs"] = [ESCAPE]
    evil["User"] = [1, ESCAPE]
    pages = [
        status_page(manager, {MANAGER["ActiveSession"][1]: evil}, NOW),
        list_page({"/": evil}),
        show_page(evil),
        history_page([[1, *[ESCAPE] * 4]]),
        users_page({"/": AGENT | {"Name": ESCAPE}}),
        displays_page([[*[ESCAPE] * 3, True]]),
        screens_page([[ESCAPE, 0, 0, 1, 1, True]]),
        connected_page(ESCAPE, ESCAPE),
    ]
    for page in pages:
        text = printed(page, capsys, mode)
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "red" in text


def test_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[red]x[/]" in printed(show_page(ALICE | {"User": [1, "[red]x[/]"]}), capsys)


def test_another_versions_properties_are_shown_as_far_as_they_go() -> None:
    assert status_page({"Seat": "seat0"}, {}, NOW).table
    assert list_page({"/": {}}).table
    assert show_page({"Id": "1", "New": "?"}).table
