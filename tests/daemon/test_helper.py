"""A helper of the older protocol tells the daemon of a display that nothing else knows of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Final

import pytest

from tests.daemon.scene import ALICE, BOB, UIDS, Scene, wait_number
from tests.daemon.world import wait_sentence
from tests.fixtures.daemon import Daemon
from tests.fixtures.public import public_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

HEAR_ALL: Final = ("helper.needs_xauthority=false", "helper.allow_root=true")
LISTEN: Final = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(sys.argv[1].replace("@", chr(0), 1))
    sock.listen()
    print("listening", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Anybody's helper is heard, also without a cookie file: these servers want none."""
    with Scene(HEAR_ALL) as made:
        yield made


def drop(user: str) -> list[str]:
    """Return what a command needs before it to be run as USER; without root everybody is us."""
    uid = UIDS[user]
    options = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return ["setpriv", *options] if os.getuid() == 0 else []


def tell(scene: Scene, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the helper as USER. It inherits no terminal."""
    socket = scene.stage.daemon.helper_socket
    helper = [*public_agent()[:-1], "agent.helper"]
    return subprocess.run(
        [*drop(user), *helper, "--socket", socket, "--xauthority", "", *arguments],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


def test_its_word_ends_the_search_at_once(scene: Scene) -> None:
    scene.add_alice(display="")
    probe = scene.watch()
    wait_sentence(probe, after=-1)
    done = tell(scene, "alice", "--display", scene.alice.display)
    assert (done.returncode, done.stderr) == (0, "")
    wait_number(probe, ALICE)
    scene.daemon.wait_line(r"shows .* \(helper\)")


def test_its_word_counts_more_than_what_was_found(scene: Scene) -> None:
    scene.add_alice(display=scene.bob.display)  # an error of somebody's
    probe = scene.watch()
    wait_number(probe, BOB)
    tell(scene, "alice", "--display", f"{scene.alice.display}.0")
    wait_number(probe, ALICE)
    assert scene.daemon.property("AgentRestarts") == 0


@pytest.mark.skipif(os.getuid() != 0, reason="without root everybody is us")
def test_who_has_no_session_is_refused_and_told_nothing(scene: Scene) -> None:
    scene.add_alice()
    done = tell(scene, "bob", "--display", scene.bob.display)
    assert done.returncode == 0, "the acknowledgement says nothing"
    scene.daemon.wait_line(rf"uid {UIDS['bob']}, .*refused: .*no session")


def test_the_record_goes_with_its_session(scene: Scene) -> None:
    scene.add_alice(display="")
    probe = scene.watch()
    tell(scene, "alice", "--display", scene.alice.display)
    wait_number(probe, ALICE)
    scene.stage.login1.do("remove_session", id="1")
    mark = scene.daemon.now()
    scene.add_alice(id="2", display="")
    scene.daemon.wait_reason("no-display-found", after=mark)


def test_one_daemon_at_a_time_listens(scene: Scene) -> None:
    settings = [f'helper.socket="{scene.daemon.helper_socket}"']
    with Daemon(
        scene.stage.bus, scene.host.socket_path, settings, name="org.example.Other"
    ) as second:
        assert second.wait_exit() == 1
        assert any("is in use: another spice-sessiond" in line for line in second.lines)
    assert scene.daemon.property("Version")


@contextlib.contextmanager
def user_listening(name: str) -> Iterator[subprocess.Popen[str]]:
    """Let another user's program listen at an abstract name, and say who it is."""
    argv = [*drop("carol"), os.path.realpath(sys.executable), "-I", "-S", "-c", LISTEN, name]
    with subprocess.Popen(
        argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "listening\n"
        yield child


@pytest.mark.skipif(os.getuid() != 0, reason="without root everybody is us")
def test_a_user_who_takes_the_name_stops_no_stream() -> None:
    name = f"@spice-test-{uuid.uuid4()}"
    with user_listening(name) as other, Scene([*HEAR_ALL, f'helper.socket="{name}"']) as scene:
        told = f"not heard: {name} was taken by uid {UIDS['carol']}, pid {other.pid}:"
        first = scene.daemon.wait_line(told)
        scene.add_alice()
        wait_number(scene.watch(), ALICE)
        scene.daemon.signal(signal.SIGHUP)
        again = scene.daemon.wait_line(told, after=first)
        other.communicate()
        scene.daemon.signal(signal.SIGHUP)
        scene.daemon.wait_line(f"listening on {name}", after=again)
        scene.stage.daemon.helper_socket = name
        tell(scene, "alice", "--display", scene.bob.display)
        scene.daemon.wait_line(r"shows .* \(helper\)")
        assert len([line for line in scene.daemon.lines if "not heard" in line]) == 2
