"""Agents that die, break the rules or do not listen: no other session and no client notices."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image

from sessiond.wire import device
from tests.daemon import rogue
from tests.daemon.scene import SIZE, Scene
from tests.daemon.world import (
    ALICE,
    BOB,
    assert_connected,
    numbers,
    wait_number,
    wait_sentence,
)
from tests.fixtures.drawing import numbered
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.public import public_agent

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceHost

pytestmark = pytest.mark.e2e

ROGUE: Final = 66  # the number in the frames of one with a part
LIVE: Final = 100


def with_rogue(part: str, session: str) -> Scene:
    """Return a scene in which that session's agent plays a part of ``tests.daemon.rogue``."""
    jpeg = io.BytesIO()
    numbered(ROGUE, *SIZE).save(jpeg, "JPEG")
    options = {
        "session": session,
        "part": part,
        "real": public_agent(),
        "format": device.pack(device.Format(*SIZE, 1)).hex(),
        "frame": device.pack(device.Data(jpeg.getvalue())).hex(),
    }
    source = Path(rogue.__file__).read_text(encoding="utf-8")
    command = ["/usr/bin/python3", "-I", "-S", "-c", source, json.dumps(options)]
    return Scene([f"stream.agent={json.dumps(command)}"])


def closings(host: SpiceHost) -> list[object]:
    """Return each time that the port was closed or refused."""
    return [e for e in host.events if e["event"] in {"guest-closed", "guest-refused"}]


def test_who_is_not_active_is_never_heard_however_much_it_writes() -> None:
    with with_rogue("deaf", "c2") as scene:
        scene.add_alice(front=False)
        scene.add_bob()
        probe = scene.watch()
        wait_number(probe, ROGUE)
        pid = scene.daemon.property("AgentPID")
        scene.stage.login1.do("switch", id="1")
        since = wait_number(probe, ALICE)
        before = written(pid)
        for number in (LIVE, LIVE + 1, LIVE + 2):
            scene.screens[ALICE].show_number(number)
            wait_number(probe, number)
        assert written(pid) > before  # it went on, to nobody
        assert ROGUE not in numbers(probe, after=since)
        # Nor was it ended for it: back in front, it is heard again.
        scene.stage.login1.do("switch", id="c2")
        wait_number(probe, ROGUE)
        assert scene.daemon.property("AgentPID") == pid
        assert_connected(probe)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("flood", "a frame without credit"),
        ("garbage", "protocol version 71"),
        ("half", "killed by signal 9"),
    ],
)
def test_who_breaks_the_rules_or_dies_in_mid_frame_ends_alone(part: str, words: str) -> None:
    with with_rogue(part, "c2") as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        agent = scene.daemon.property("AgentPID")
        scene.add_bob()
        scene.daemon.wait_line(rf"\(agent-crashed\): .*{words}")
        scene.stage.login1.do("switch", id="1")
        # Another one: the first may be there still, as the last picture of before.
        scene.screens[ALICE].show_number(LIVE)
        wait_number(probe, LIVE)
        assert scene.daemon.property("AgentPID") == agent
        assert closings(scene.host) == []
        assert_connected(probe)


def test_who_dies_whenever_it_is_shown_is_tried_less_and_less() -> None:
    with with_rogue("half", "c2") as scene:
        scene.add_bob()
        probe = scene.watch()
        wait_sentence(probe, after=-1)  # there is time for it, between two tries
        tries = scene.daemon.property("AgentRestarts")
        assert 1 < tries < 8
        assert_connected(probe)


def test_killed_while_its_frame_is_on_its_way_the_hosts_stream_stays_whole(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    agent = scene.daemon.property("AgentPID")
    scene.host.freeze()
    fill(scene)
    mark = scene.daemon.now()
    os.kill(agent, signal.SIGKILL)
    scene.daemon.wait_reason("agent-crashed", after=mark)
    scene.screens[ALICE].show_number(LIVE)
    scene.host.thaw()
    wait_number(probe, LIVE)
    assert closings(scene.host) == []
    assert_connected(probe)


def fill(scene: Scene) -> None:
    """Draw noise until the host's socket holds no more: then a frame is on its way in part."""
    noise = random.Random(1)
    for _ in range(30):
        picture = Image.frombytes("RGB", SIZE, noise.randbytes(3 * SIZE[0] * SIZE[1]))
        scene.screens[ALICE].show(picture)
        with contextlib.suppress(EventTimeoutError):
            scene.daemon.wait_reason("host-stalled", 0.2)
            return
    pytest.fail("the host's socket holds more than 30 frames")


def test_every_agent_ends_with_a_killed_daemon(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob()
    wait_number(scene.watch(), BOB)
    agent = os.pidfd_open(scene.daemon.property("AgentPID"))
    scene.daemon.signal(signal.SIGKILL)
    assert has_ended(agent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_with_its_agents(scene: Scene, number: signal.Signals) -> None:
    scene.add_alice()
    wait_number(scene.watch(), ALICE)
    agent = os.pidfd_open(scene.daemon.property("AgentPID"))
    scene.daemon.signal(number)
    assert scene.daemon.wait_exit() == 0
    assert has_ended(agent)


def has_ended(pidfd: int, timeout: float = 5.0) -> bool:
    """Wait for the end of a process, and close its descriptor."""
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


def written(pid: int) -> int:
    """Return how many bytes a process has written so far (proc(5), io)."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])
