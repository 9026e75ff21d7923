"""Shell completion: scripts that parse, and ids that never get in the way."""

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sessiond.ctl.__main__ import main
from sessiond.ctl.completion import COMPLETERS
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import in_loop
from tests.sessiond.ctl.daemon import serving

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "spice-sessionctl" in script
    if shell != "fish":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("spice-sessionctl re", {"resume", "restart-agent", "reload"}),
        ("spice-sessionctl s", {"status", "shell", "show", "switch", "screens", "set-auto-switch"}),
        ("spice-sessionctl exec --p", {"--pty"}),
        (
            "spice-sessionctl shell --",
            {"--session", "--user", "--bus", "--name", "--json", "--no-ask-password", "--help"},
        ),
        ("spice-sessionctl terminal ", {"serve", "attach"}),
        ("spice-sessionctl terminal attach --", {"--name", "--wait", "--fallback", "--help"}),
        ("spice-sessionctl set-auto-switch o", {"off", "on-session-end"}),
        ("spice-sessionctl --json p", {"pretty"}),
        ("spice-sessionctl show --bus unix:path=/nowhere ", set()),
    ],
)
def test_offers(typed: str, offered: set[str], tmp_path: Path) -> None:
    assert _offers(typed, tmp_path) == offered


@pytest.mark.parametrize("what", COMPLETERS)
def test_what_a_bus_without_a_daemon_offers_is_nothing(what: str) -> None:
    with PrivateBus() as bus:
        options = argparse.Namespace(bus=bus.address)
        assert COMPLETERS[what](parsed_args=options) == []
    assert COMPLETERS[what](parsed_args=options) == []


@pytest.mark.parametrize(
    ("what", "prefix", "offered"),
    [
        ("SESSION", "", ["c2", "10"]),
        ("SESSION", "1", ["10"]),
        ("USER", "a", ["alice"]),
        ("USER", "b", []),
        ("DISPLAY", "", [":0", ":1"]),
    ],
)
@in_loop
async def test_what_the_daemon_knows_is_offered(what: str, prefix: str, offered: list[str]) -> None:
    with PrivateBus() as bus:
        options = argparse.Namespace(bus=bus.address)
        async with serving(bus.address):
            found = await asyncio.to_thread(COMPLETERS[what], prefix, parsed_args=options)
    assert found == offered


def _offers(typed: str, tmp_path: Path) -> set[str]:
    """Ask as the shells' scripts do."""
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\v", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "sessiond.ctl"],
        cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return {offer.strip() for offer in answer.read_text().split("\v")} - {""}
