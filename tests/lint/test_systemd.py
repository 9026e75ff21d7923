"""What lies in systemd/ is checked by systemd's own tools, and against the program it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from sessiond import config
from sessiond.helper import listener
from sessiond.helper.connection import Limits
from sessiond.users import refuser

ROOT: Final = Path(__file__).parents[2]
SYSTEMD: Final = ROOT / "systemd"
SERVICE: Final = SYSTEMD / "spice-sessiond.service"
HELPER: Final = SYSTEMD / "spice-sessiond.socket"
AGENT: Final = SYSTEMD / "spice-sessiond-agent.socket"
RULES: Final = SYSTEMD / "60-spice-sessiond.rules"
PRESET: Final = SYSTEMD / "90-spice-sessiond.preset"
UNITS: Final = (SERVICE, HELPER, AGENT)
WORST: Final = 26  # a tenth each; the service has 25

pytestmark = pytest.mark.lint


def values(unit: Path, key: str) -> list[str]:
    """Return all that a unit says of a key, in order."""
    return re.findall(rf"^{key}=(.*)", unit.read_text(), re.MULTILINE)


def default(key: str) -> object:
    return config.KEYS[key].default


def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    for unit in UNITS:
        shutil.copy(unit, tmp_path)
    # It looks whether the program is there.
    service = tmp_path / SERVICE.name
    service.write_text(service.read_text().replace("=/usr/bin/spice-sessiond ", "=/bin/true "))
    done = _run("systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_sandbox_is_as_tight_as_it_was() -> None:
    threshold = f"--threshold={WORST}"
    done = _run("systemd-analyze", "security", "--offline=true", threshold, str(SERVICE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_is_started_by_all_that_should_start_it() -> None:
    assert values(SERVICE, "Sockets") == [f"{HELPER.name} {AGENT.name}"]
    assert values(SERVICE, "BusName") == [default("bus.name")]
    activation = ROOT / "dbus" / f"{default('bus.name')}.service"
    assert values(activation, "SystemdService") == [SERVICE.name]
    assert f'ENV{{SYSTEMD_WANTS}}+="{SERVICE.name}"' in RULES.read_text()
    for socket in (HELPER, AGENT):
        assert values(socket, "Service") == [SERVICE.name]


def test_the_sockets_are_those_that_the_daemon_takes() -> None:
    assert values(HELPER, "ListenStream") == [default("helper.socket")]
    assert values(HELPER, "FileDescriptorName") == [listener.NAME]
    assert values(HELPER, "Backlog") == [str(listener.BACKLOG)]
    assert values(AGENT, "FileDescriptorName") == [refuser.NAME]


def test_the_rule_is_for_the_port_that_the_daemon_opens() -> None:
    assert f'ATTR{{name}}=="{Path(str(default("stream.port"))).name}"' in RULES.read_text()


def test_the_store_has_room_for_all_that_is_kept() -> None:
    """The port, three memos, and each connection."""
    assert int(values(SERVICE, "FileDescriptorStoreMax")[0]) >= 4 + Limits().connections


def test_the_preset_and_the_readme_name_every_file() -> None:
    enabled = re.findall(r"^enable (.*)", PRESET.read_text(), re.MULTILINE)
    assert sorted(enabled) == sorted(unit.name for unit in UNITS)
    documented = re.findall(r"^\| `([\w.-]+)`", (SYSTEMD / "README.md").read_text(), re.MULTILINE)
    there = {path.name for path in SYSTEMD.iterdir()} - {"README.md"}
    assert set(documented) == there


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
