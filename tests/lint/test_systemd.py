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
from sessiond.stream import kms
from sessiond.transport import listening
from sessiond.transport.objects import MOST_CALLS
from sessiond.users import connection as users_connection
from sessiond.users import listener as users_listener
from sessiond.users.qrexec_callers import MAX_CALLERS
from sessiond.users.qrexec_commands import MAX_BEGINNING

ROOT: Final = Path(__file__).parents[2]
SYSTEMD: Final = ROOT / "systemd"
SERVICE: Final = SYSTEMD / "spice-sessiond.service"
HELPER: Final = SYSTEMD / "spice-sessiond.socket"
AGENT: Final = SYSTEMD / "spice-sessiond-agent.socket"
RULES: Final = SYSTEMD / "60-spice-sessiond.rules"
PRESET: Final = SYSTEMD / "90-spice-sessiond.preset"
KMS: Final = SYSTEMD / "spice-sessiond-kms.socket"
READER: Final = SYSTEMD / "spice-sessiond-kms@.service"
ENABLED: Final = (SERVICE, HELPER, AGENT, KMS)
USERS: Final = SYSTEMD / "spice-session-agent@.service"  # of one user, from boot on
GRAPHICAL: Final = SYSTEMD / "user" / "spice-session-agent.service"
USER_PRESET: Final = SYSTEMD / "user" / "90-spice-session-agent.preset"
AUTOSTART: Final = ROOT / "packaging" / "spice-session-agent.desktop"
START: Final = "/usr/bin/spice-session-agent user"
# A tenth each: one more than what they have.
WORST: Final = {SERVICE: 26, READER: 13}

pytestmark = pytest.mark.lint


def values(unit: Path, key: str) -> list[str]:
    """Return all that a unit says of a key, in order."""
    return re.findall(rf"^{key}=(.*)", unit.read_text(), re.MULTILINE)


def default(key: str) -> object:
    return config.KEYS[key].default


def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    for unit in (*ENABLED, READER, USERS):
        shutil.copy(unit, tmp_path)
    # It looks whether the program is there, and for an instance of a template.
    for service in tmp_path.glob("*.service"):
        text = re.sub(r"=/usr/bin/spice-[a-z-]+(?=\s)", "=/bin/true", service.read_text())
        service.write_text(text)
    names = [str(path).replace("@.", "@daemon.") for path in tmp_path.iterdir()]
    done = _run("systemd-analyze", "verify", "--man=no", *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_has_no_complaint_of_what_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    unit = tmp_path / GRAPHICAL.name
    unit.write_text(GRAPHICAL.read_text().replace(START, "/bin/true user"))
    done = _run("systemd-analyze", "--user", "verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_users_agent_is_started_once() -> None:
    """By the user's manager where that knows of graphical sessions, else by the desktop."""
    assert values(GRAPHICAL, "ExecStart") == values(USERS, "ExecStart") == [START]
    target = ["graphical-session.target"]
    for key in ("PartOf", "After", "WantedBy"):
        assert values(GRAPHICAL, key) == target
    for unit in (GRAPHICAL, USERS):  # where another agent runs, it is not started again and again
        assert values(unit, "SuccessExitStatus") == ["3"]
    assert values(USERS, "User") == ["%i"]
    assert values(AUTOSTART, "Exec") == [START.removeprefix("/usr/bin/")]
    assert values(AUTOSTART, "X-systemd-skip") == ["true"]


def test_the_autostart_entry_is_valid() -> None:
    done = _run("desktop-file-validate", str(AUTOSTART))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("unit", WORST, ids=lambda unit: unit.name)
def test_the_sandbox_is_as_tight_as_it_was(unit: Path) -> None:
    threshold = f"--threshold={WORST[unit]}"
    done = _run("systemd-analyze", "security", "--offline=true", threshold, str(unit))
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_may_look_past_a_desktop_may_do_nothing_else() -> None:
    """The daemon has not that capability, and who has it gets no other, and one kind of device."""
    assert "CAP_SYS_ADMIN" not in " ".join(values(SERVICE, "CapabilityBoundingSet"))
    assert values(READER, "CapabilityBoundingSet") == ["CAP_SYS_ADMIN"]
    assert values(READER, "DevicePolicy") == ["closed"]
    assert values(READER, "DeviceAllow") == ["char-drm rw"]
    assert values(READER, "RestrictAddressFamilies") == ["none"]
    assert values(READER, "StandardInput") == ["socket"]


def test_the_service_is_started_by_all_that_should_start_it() -> None:
    assert values(SERVICE, "Sockets") == [f"{HELPER.name} {AGENT.name}"]
    assert values(SERVICE, "BusName") == [default("bus.name")]
    activation = ROOT / "dbus" / f"{default('bus.name')}.service"
    assert values(activation, "SystemdService") == [SERVICE.name]
    for socket in (HELPER, AGENT):
        assert values(socket, "Service") == [SERVICE.name]
    [also] = values(SERVICE, "Also")
    assert set(also.split()) == {unit.name for unit in ENABLED} - {SERVICE.name}


def test_the_sockets_are_those_that_the_daemon_takes() -> None:
    assert values(HELPER, "ListenStream") == [default("helper.socket")]
    assert values(HELPER, "FileDescriptorName") == [listener.NAME]
    assert values(HELPER, "Backlog") == [str(listening.BACKLOG)]
    assert values(AGENT, "ListenStream") == [default("users.socket")]
    assert values(AGENT, "FileDescriptorName") == [users_listener.NAME]


def test_the_card_is_read_where_the_daemon_connects_and_by_root_alone() -> None:
    assert values(KMS, "ListenSequentialPacket") == [default("capture.kms_socket")]
    assert values(KMS, "SocketMode") == ["0600"]
    assert values(KMS, "Accept") == ["yes"]  # of the service of the same name, one for each
    for key in ("Wants", "After"):
        assert KMS.name in values(SERVICE, key)[0].split()
    assert KMS.name == kms.SOCKET_UNIT


@pytest.mark.parametrize("key", ["stream.port", "host_channel"])
def test_a_rule_is_for_each_port_that_the_daemon_opens(key: str) -> None:
    name = Path(str(default(key))).name
    [rule] = [line for line in RULES.read_text().splitlines() if f'ATTR{{name}}=="{name}"' in line]
    assert 'OWNER="root", GROUP="root", MODE="0600"' in rule
    assert f'ENV{{SYSTEMD_WANTS}}+="{SERVICE.name}"' in rule


def test_the_store_has_room_for_all_that_is_kept() -> None:
    """The port, three memos, and each connection."""
    assert int(values(SERVICE, "FileDescriptorStoreMax")[0]) >= 4 + Limits().connections


def test_there_are_descriptors_for_all_that_others_can_have_wait() -> None:
    """Each call on the bus may have three; systemd's own limit is 1024."""
    agents = users_connection.Limits().connections
    most = 3 * MOST_CALLS + 2 * agents + 2 * MAX_BEGINNING + MAX_CALLERS + Limits().connections
    [limit] = values(SERVICE, "LimitNOFILE")
    assert int(limit) >= most + 1024


def test_the_preset_and_the_readme_name_every_file() -> None:
    for preset, units in ((PRESET, ENABLED), (USER_PRESET, [GRAPHICAL])):
        enabled = re.findall(r"^enable (.*)", preset.read_text(), re.MULTILINE)
        assert sorted(enabled) == sorted(unit.name for unit in units)
    readme = (SYSTEMD / "README.md").read_text()
    documented = re.findall(r"^\| `([\w.@/-]+)`", readme, re.MULTILINE)
    files = (path for path in SYSTEMD.rglob("*") if path.is_file())
    assert set(documented) == {str(path.relative_to(SYSTEMD)) for path in files} - {"README.md"}


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
