"""What the graphics card shows: text consoles, and sessions that nothing else captures.

Real are the daemon, its agents, the helper and the host; the card is one of memory files.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.kms import Grant, Serve
from tests.daemon.scene import Scene
from tests.daemon.world import (
    ALICE,
    assert_connected,
    numbers,
    wait_number,
    wait_sentence,
    wait_words,
)
from tests.screens.reader import END, CardReader

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

SCREEN: Final = 40  # the numbers that the card shows
CONSOLE_VT: Final = 3
SHOWN: Final = [Serve(CONSOLE_VT), Grant(True)]
NOBODY: Final = 65534
WAYLAND: Final = {"type": "wayland", "display": "", "vt": CONSOLE_VT}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[CardReader]:
    tmp_path.chmod(0o755)
    with CardReader(tmp_path) as made:
        made.draw(SCREEN)
        yield made


@pytest.fixture
def scene(reader: CardReader) -> Iterator[Scene]:
    with Scene([*reader.settings, "stream.grace=0.0"]) as made:
        yield made


def descriptors(pid: int) -> list[str]:
    """Return what a process has open, anonymous things without their numbers."""
    links = (os.readlink(it) for it in Path(f"/proc/{pid}/fd").iterdir())
    return sorted(link.split(":[")[0] for link in links)


def wait_end(pid: int) -> None:
    """Wait until there is no such process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000)
    os.close(pidfd)


def backend(scene: Scene) -> object:
    return scene.daemon.property("Backend")


def test_a_text_console_is_shown_as_it_is(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    scene.daemon.wait_reason("ok")
    assert scene.daemon.property("ReasonText") == "VT 3 is shown."
    assert scene.daemon.property("ActiveSession")[0] == ""
    assert backend(scene) == "kms"
    assert reader.heard_by(0) == SHOWN
    status = Path(f"/proc/{scene.daemon.property('AgentPID')}/status").read_text()
    if os.geteuid() == 0:
        assert f"\nUid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
        assert "\nGroups:\t \n" in status
    # Nobody else of nobody's can look into it (proc(5): whose the files of such a process are).
    assert Path(f"/proc/{scene.daemon.property('AgentPID')}/fd").stat().st_uid == 0
    reader.draw(SCREEN + 1)
    wait_number(probe, SCREEN + 1)
    assert_connected(probe)


def test_a_login_on_a_console_is_shown_by_another_agent(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    first = scene.daemon.property("AgentPID")
    mark = scene.daemon.now()
    scene.add_alice(type="tty", vt=CONSOLE_VT, display="")
    scene.daemon.wait_line("agent .* of 1 shows", after=mark)
    reader.draw(SCREEN + 1)
    wait_number(probe, SCREEN + 1)
    assert scene.daemon.property("AgentPID") != first
    text = scene.daemon.property("ReasonText")
    assert text.startswith("Session 1 is read from the graphics card: Neither an X server")
    assert reader.heard_by(0) == [*SHOWN, Grant(False), END]
    assert reader.heard_by(1) == SHOWN
    # Nobody had leave while somebody else had.
    given = [(who, what.is_given) for who, what in reader.heard if isinstance(what, Grant)]
    assert given == [(0, True), (0, False), (1, True)]
    assert_connected(probe)


def test_who_is_switched_away_from_sees_nothing_any_more(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    agent = scene.daemon.property("AgentPID")
    scene.add_alice()
    since = wait_number(probe, ALICE)
    reader.wait_heard((0, END))
    assert reader.heard_by(0) == [*SHOWN, Grant(False), END]
    assert backend(scene) == "x11"
    wait_end(agent)
    reader.draw(SCREEN + 1)
    scene.screens[ALICE].show_number(ALICE + 10)
    wait_number(probe, ALICE + 10)
    assert SCREEN + 1 not in numbers(probe, after=since)
    scene.stage.login1.do("remove_session", id="1")
    wait_number(probe, SCREEN + 1)
    assert reader.heard_by(1) == SHOWN
    assert_connected(probe)


def test_a_monitor_that_sleeps(scene: Scene, reader: CardReader) -> None:
    away = "Nothing can be captured now: no output of the graphics card shows anything."
    reader.sleep()
    probe = scene.watch()
    wait_words(probe, away, (1024, 768))
    assert scene.daemon.property("ReasonText") == f"VT 3 is shown. {away}"
    mark = scene.daemon.now()
    reader.wake()
    since = wait_number(probe, SCREEN)
    mark = scene.daemon.wait_line("unavailable: ''", after=mark)
    assert scene.daemon.property("ReasonText") == "VT 3 is shown."
    reader.sleep()
    scene.daemon.wait_line("unavailable: 'no output", after=mark)
    assert scene.daemon.property("ReasonText") == f"VT 3 is shown. {away}"
    assert numbers(probe, after=since) <= {SCREEN}  # the last picture stands
    assert_connected(probe)


def test_the_users_agent_comes_first(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    mark = scene.daemon.now()
    scene.add_alice(**WAYLAND, desktop="sway")
    refused = scene.daemon.wait_line("session 1 is read from the graphics card", after=mark)
    shown = scene.daemon.wait_line("agent .* of 1 shows", after=mark)
    assert refused < shown
    scene.daemon.wait_reason("ok", after=shown)
    reader.wait_heard((1, Grant(True)))
    assert reader.heard_by(1) == SHOWN
    assert backend(scene) == "kms"
    assert_connected(probe)


def test_what_a_display_is_found_for_later_is_captured_there(
    scene: Scene, reader: CardReader
) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    mark = scene.daemon.now()
    scene.add_alice(display="", vt=CONSOLE_VT)
    scene.daemon.wait_line("agent .* of 1 shows Virtual-1", after=mark)
    scene.stage.login1.do("set_display", id="1", display=scene.alice.display)
    wait_number(probe, ALICE)
    reader.wait_heard((1, END))
    assert reader.heard_by(1) == [*SHOWN, Grant(False), END]
    assert backend(scene) == "x11"


@pytest.mark.parametrize("desktop", ["GNOME", ""])
def test_what_asks_its_user_is_not_gone_round(
    scene: Scene, reader: CardReader, desktop: str
) -> None:
    probe = scene.watch()
    since = wait_number(probe, SCREEN)
    mark = scene.daemon.now()
    scene.add_alice(**WAYLAND, desktop=desktop)
    scene.daemon.wait_reason("no-display-found", after=mark)
    text = scene.daemon.property("ReasonText")
    assert "Nor is it read from the graphics card" in text
    wait_sentence(probe, after=since)
    reader.wait_heard((0, END))
    assert reader.heard_by(0) == [*SHOWN, Grant(False), END]
    assert reader.heard_by(1) == []


def test_a_helper_that_refuses_is_told_of_and_asked_again(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    since = wait_number(probe, SCREEN)
    reader.refusal = "card0: nothing can be read on a Sunday"
    mark = scene.daemon.now()
    reader.kill()
    scene.daemon.wait_reason("display-refused", after=mark)
    scene.daemon.wait_line("there is no KMS helper: .*: card0: nothing can be read", after=mark)
    text = scene.daemon.property("ReasonText")
    assert text.startswith("The picture is not read from the graphics card: no card can be")
    assert text.endswith(": card0: nothing can be read on a Sunday.")
    wait_sentence(probe, after=since)
    reader.refusal = ""
    wait_number(probe, SCREEN)
    assert_connected(probe)


def test_where_there_is_no_helper_both_reasons_are_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    other = tmp_path / "other.sock"
    with CardReader(tmp_path) as reader, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
        listener.listen()
        settings = [*reader.settings[1:], f'capture.kms_socket="{other}"', "stream.grace=0.0"]
        with Scene(settings) as scene:
            scene.watch()
            mark = scene.daemon.now()
            scene.add_alice(type="tty", vt=CONSOLE_VT, display="")
            scene.daemon.wait_line("session 1: there is no KMS helper", after=mark)
            text = scene.daemon.property("ReasonText")
            assert text == (
                "Neither an X server nor a Wayland compositor runs in the session. The picture is "
                f"not read from the graphics card: the helper at {other}: Protocol wrong type for "
                "socket."
            )


def test_nothing_leaks(scene: Scene, reader: CardReader) -> None:
    probe = scene.watch()
    wait_number(probe, SCREEN)
    before = descriptors(scene.daemon.pid)
    for turn in range(1, 4):
        scene.add_alice()
        wait_number(probe, ALICE)
        scene.stage.login1.do("remove_session", id="1")
        reader.draw(SCREEN + turn)
        wait_number(probe, SCREEN + turn)
        reader.wait_heard((turn - 1, END))
    reader.kill()
    reader.wait_heard((4, Grant(True)))
    reader.draw(SCREEN + 9)
    wait_number(probe, SCREEN + 9)
    now: list[str] = []
    for _ in range(20):  # calls: who has just ended, is reaped meanwhile
        scene.daemon.property("State")
        now = descriptors(scene.daemon.pid)
        if now == before:
            break
    assert now == before
