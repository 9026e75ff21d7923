"""Every picture arrives, fresh, whatever happens to the screen, the client and the host.

The age of a picture is measured where its frame's last byte passes to the client, and again when
the client has drawn it. The second includes the 0.4 s of playout delay that the server adds on its
own: the first is the sharp one. Which pictures it draws is the client's to decide, for it drops
those that it is late for; but the last one has to be among them.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.agent import Agent, start_stream
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of, number_in, number_of
from tests.fixtures.newest import CountingScreen
from tests.fixtures.relay import Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

both = pytest.mark.parametrize("port", ["socket", "pty"], indirect=True)

MODE: Final = "m800 40 800 840 968 1056 600 601 605 628"
FRESH: Final = 0.5  # seconds
PLAYOUT: Final = 0.4  # seconds; the server's
SLOW: Final = 1.25e6  # bytes/s
NOISE: Final = 60  # of 100: frames of some 145 kB, of which the line takes 8 a second
MANY: Final = 75  # the number until which a slow line is full: 3 s
HUNDREDS: Final = itertools.count(100, 100)
"""Where the next numbers begin: the screen is shared, and may show those of the last test."""


def watch(relay: Relay) -> SpiceProbe:
    """Connect a client that tells which numbers it draws."""
    return SpiceProbe(relay.uri, sample=SAMPLE)


def assert_shows(probe: SpiceProbe, number: int) -> None:
    """Wait until NUMBER is what the client has drawn."""
    probe.wait_for("invalidate", after=-1, bits=bits_of(number))


def wait_passed(relay: Relay, number: int, after: int) -> float:
    """Wait until NUMBER has passed to a client; return when."""
    return relay.wait_frame(lambda picture: number_of(picture) == number, after=after).at


def assert_delivers(canvas: Canvas, relay: Relay, probe: SpiceProbe) -> range:
    """Draw 20 pictures, each when the one before it has passed to the client; return which.

    All of them pass, and the last one is drawn.
    """
    first = next(HUNDREDS)
    numbers = range(first, first + 20)
    drawn_at, passed_at = {}, {}
    for number in numbers:
        mark = relay.now()
        drawn_at[number] = canvas.show_number(number)
        passed_at[number] = wait_passed(relay, number, mark)
    assert_shows(probe, numbers[-1])
    assert statistics.median(passed_at[n] - drawn_at[n] for n in numbers) < FRESH
    shown_at = first_shown(probe)
    ages = [shown_at[number] - drawn_at[number] for number in numbers if number in shown_at]
    assert statistics.median(ages) < FRESH + PLAYOUT
    assert min(ages) > PLAYOUT / 2, "the delay that this module's words rest on is gone"
    return numbers


def first_shown(probe: SpiceProbe) -> dict[int, float]:
    """Return when the client drew each number that it has drawn, for the first time."""
    shown: dict[int, float] = {}
    for event in probe.events:
        if event["event"] == "invalidate":
            shown.setdefault(number_in(event["bits"]), event["t"])
    return shown


@both
def test_twenty_pictures(agent: Agent, canvas: Canvas, relay: Relay) -> None:
    assert agent.process.poll() is None
    with watch(relay) as probe:
        assert_delivers(canvas, relay, probe)


@both
def test_after_a_resize(host: SpiceHost, port: Path, relay: Relay) -> None:
    with (
        contextlib.ExitStack() as resources,
        Xvfb(1024, 768) as xserver,
        Canvas(xserver.display) as canvas,
        start_stream(port, xserver.display) as agent,
    ):
        canvas.show_number(1)
        probe = resources.enter_context(watch(relay))
        assert_shows(probe, 1)
        resize(xserver)
        canvas.show_number(2)
        probe.wait_for("primary-create", w=800, h=600)
        assert_shows(probe, 2)
        assert_delivers(canvas, relay, probe)
        assert probe.shot().size == canvas.size == (800, 600)
        assert agent.process.poll() is None
        assert all(event["by"] != "host" for event in host.events if "by" in event)


@both
def test_after_the_client_has_come_again(agent: Agent, canvas: Canvas, relay: Relay) -> None:
    canvas.show_number(1)
    with watch(relay) as probe:
        assert_shows(probe, 1)
    agent.wait_line("stopped")
    canvas.show_number(2)
    with watch(relay) as probe:
        assert_shows(probe, 2)
        assert_delivers(canvas, relay, probe)


@pytest.mark.parametrize("transport", ["socket", "pty"])
def test_with_a_second_client(xserver: Xvfb, canvas: Canvas, transport: str) -> None:
    canvas.show_number(1)
    with (
        SpiceHost(pty=True, multi=True) as host,
        Relay(host.port) as relay,
        start_stream(host.socket_path if transport == "socket" else host.pty_path, xserver.display),
        watch(relay) as first,
    ):
        assert_shows(first, 1)
        with watch(relay) as second:
            assert_shows(second, 1)  # though nothing has changed since
            numbers = assert_delivers(canvas, relay, second)
            assert_shows(first, numbers[-1])
        assert_delivers(canvas, relay, first)


@both
def test_after_a_second_client_has_thrown_the_first_out(
    agent: Agent, canvas: Canvas, relay: Relay
) -> None:
    canvas.show_number(1)
    with watch(relay) as first:
        assert_shows(first, 1)
        with watch(relay) as second:
            first.wait_for("disconnected")
            assert_shows(second, 1)
            assert_delivers(canvas, relay, second)
    assert agent.process.poll() is None


@pytest.mark.parametrize("transport", ["socket", "pty"])
def test_after_the_hosts_restart(
    xserver: Xvfb, canvas: Canvas, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> None:
    directory = tmp_path_factory.mktemp("h")
    canvas.show_number(1)
    with SpiceHost(pty=True, directory=directory) as host:
        port = host.socket_path if transport == "socket" else host.pty_path
        agent = start_stream(port, xserver.display)
        relay = Relay(host.port)
        with agent, relay:
            with watch(relay) as probe:
                assert_shows(probe, 1)
            host.close()
            agent.wait_line("opening it again")
            canvas.show_number(2)
            with SpiceHost(pty=True, directory=directory) as restarted:
                relay.port = restarted.port
                with watch(relay) as probe:
                    assert_shows(probe, 2)
                    assert_delivers(canvas, relay, probe)


def test_the_last_picture_stands_behind_a_slow_line(host: SpiceHost, port: Path) -> None:
    # The host's kernel holds a second of this line and more, and the client drops what is so late.
    with (
        Xvfb(640, 480) as xserver,
        start_stream(port, xserver.display),
        Relay(host.port, rate=SLOW) as relay,
        Canvas(xserver.display) as canvas,
        watch(relay) as probe,
    ):
        with CountingScreen(canvas, noise=NOISE) as screen:
            relay.wait_frame(lambda picture: number_of(picture) >= MANY, 30)
        assert_shows(probe, max(screen.drawn))


def resize(xserver: Xvfb) -> None:
    """Make the screen 800x600 by RandR."""
    for command in (
        ["--newmode", *MODE.split()],
        ["--addmode", "screen", "m800"],
        ["--output", "screen", "--mode", "m800"],
    ):
        subprocess.run(["xrandr", "--display", xserver.display, *command], check=True)
