"""What lies in dbus/ is read by the programs that will read it, and checked by their own tools."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.bus import access
from sessiond.transport.bus import Bus
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import in_loop
from tests.fixtures.polkit import POLICY, Polkit, require_polkit
from tests.fixtures.processes import DIE_WITH_PARENT, FixtureError, end_process

if TYPE_CHECKING:
    from collections.abc import Iterator

DBUS: Final = Path(__file__).parents[2] / "dbus"
NAME: Final = "org.spice_space.Sessiond1"
CONTRACT: Final = DBUS / f"{NAME}.xml"
INTROSPECT_DTD: Final = Path("/usr/share/xml/dbus-1/introspect.dtd")  # libdbus-1-dev
POLICY_DTD: Final = Path("/usr/share/polkit-1/policyconfig-1.dtd")  # polkitd
NOBODY: Final = 65534
ADMIN: Final = ("auth_admin", "auth_admin", "auth_admin")
KEPT: Final = ("auth_admin_keep", "auth_admin_keep", "auth_admin_keep")
DEFAULTS: Final = {  # of the design: for any, inactive and active sessions
    access.SWITCH: ("auth_admin_keep", "auth_admin_keep", "yes"),
    access.PAUSE: ADMIN,
    access.RESTART: ADMIN,
    access.SETTINGS: ADMIN,
    access.RELOAD: ADMIN,
    access.QUERY_DISPLAYS: KEPT,
    access.CONNECT_DISPLAY: KEPT,
    access.RUN_COMMAND: ADMIN,
}
# A system bus as its own system.conf makes it: what is not allowed by somebody's file is denied.
SYSTEM_BUS: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{dbus}</servicedir>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{dbus}/org.spice_space.Sessiond1.conf</include>
</busconfig>
"""

pytestmark = pytest.mark.lint


@pytest.mark.parametrize(
    ("file", "dtd"), [(CONTRACT, INTROSPECT_DTD), (POLICY, POLICY_DTD)], ids=["xml", "policy"]
)
def test_file_is_valid(file: Path, dtd: Path) -> None:
    done = _run("xmllint", "--noout", "--nonet", "--dtdvalid", str(dtd), str(file))
    assert (done.returncode, done.stderr) == (0, "")


def test_code_generator_takes_the_contract(tmp_path: Path) -> None:
    done = _run(
        *("gdbus-codegen", "--generate-c-code", "sessiond1", "--generate-docbook", "sessiond1"),
        *("--output-directory", str(tmp_path), str(CONTRACT)),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_action_that_is_asked_for_is_defined_and_no_other() -> None:
    found = {
        action.attrib["id"]: tuple(
            action.findtext(f"defaults/allow_{who}") for who in ("any", "inactive", "active")
        )
        for action in ET.parse(POLICY).iter("action")  # noqa: S314 (our own file)
    }
    asked = {it for it in vars(access).values() if str(it).startswith("org.spice-space.")}
    assert found.keys() == asked
    assert found == DEFAULTS


def test_every_action_that_the_contract_names_is_defined() -> None:
    root = ET.parse(CONTRACT).getroot()  # noqa: S314 (our own file)
    words = " ".join(it.attrib["value"] for it in root.iter("annotation")).split()
    named = {word.rstrip(".,;") for word in words if word.startswith("org.spice-space.")}
    assert named == DEFAULTS.keys()


def test_polkit_reads_the_actions() -> None:
    require_polkit()
    with PrivateBus() as bus, Polkit(bus.address):
        done = subprocess.run(
            ["pkaction", "--verbose"],
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert _actions(done.stdout) == DEFAULTS


class SystemBus:
    """A private bus with the system bus's policy and our files in it; ``log`` is what it said."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="bus-")
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        config = directory / "bus.conf"
        config.write_text(SYSTEM_BUS.format(directory=directory, dbus=DBUS), encoding="utf-8")
        self._log = directory / "log"
        ready, told = os.pipe()
        with open(ready) as answer, self._log.open("wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    [
                        *(*DIE_WITH_PARENT, "dbus-daemon", f"--config-file={config}"),
                        *("--nofork", "--nopidfile", f"--print-address={told}"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(told,),
                )
            finally:
                os.close(told)
            self.address = answer.readline().strip()
        if not self.address:
            log = self.log
            self.close()
            raise FixtureError(f"dbus-daemon did not start: {log}")

    @property
    def log(self) -> list[str]:
        """What it complained of; its limit of open files is the machine's."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if "fd limit" not in line]

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
        end_process(self._process)
        self._directory.cleanup()


@pytest.fixture
def system_bus() -> Iterator[SystemBus]:
    bus = SystemBus()
    yield bus
    bus.close()


def test_bus_reads_the_policy_and_the_activation_without_complaint(system_bus: SystemBus) -> None:
    done = _driver(system_bus, "ListActivatableNames")
    assert NAME in json.loads(done.stdout)["data"][0]
    assert system_bus.log == []


def test_nobody_is_started_without_systemd(system_bus: SystemBus) -> None:
    done = _driver(system_bus, "StartServiceByName", "su", NAME, "0")
    assert "exited with status 1" in done.stderr


def test_only_root_may_own_the_name(system_bus: SystemBus) -> None:
    if os.getuid() != 0:
        pytest.skip("to be root and somebody else takes root")
    own = ("RequestName", "su", NAME, "0")
    denied = _driver(system_bus, *own, uid=NOBODY)
    assert "Access denied" in denied.stderr
    assert json.loads(_driver(system_bus, *own).stdout)["data"] == [1]


@in_loop
async def test_everybody_may_ask_and_nobody_else_is_asked(system_bus: SystemBus) -> None:
    if os.getuid() != 0:
        pytest.skip("to be root and somebody else takes root")
    with await Bus.connect(system_bus.address) as server:
        ping = ("call", NAME, "/", "org.freedesktop.DBus.Peer", "Ping")
        await server.request_name(NAME)
        answered = await asyncio.to_thread(_busctl, system_bus, *ping, uid=NOBODY)
        # By its unique name it is the same connection; one without a name may not be asked.
        with await Bus.connect(system_bus.address) as other:
            nameless = ("call", other.unique_name, *ping[2:])
            denied = await asyncio.to_thread(_busctl, system_bus, *nameless, uid=NOBODY)
    assert (answered.returncode, answered.stderr) == (0, "")
    assert "Access denied" in denied.stderr


def _run(*command: str, **how: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


def _busctl(bus: SystemBus, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    somebody = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    return _run("busctl", f"--address={bus.address}", "--json=short", *arguments, **somebody)


def _driver(bus: SystemBus, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    driver = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    return _busctl(bus, "call", *driver, *arguments, uid=uid)


def _actions(text: str) -> dict[str, tuple[str, ...]]:
    """Return what pkaction prints: an action's name and a colon, then its lines, indented."""
    found: dict[str, tuple[str, ...]] = {}
    for block in text.strip().split("\n\n"):
        name, *lines = block.splitlines()
        values = dict(line.strip().split(":", 1) for line in lines)
        found[name.rstrip(":")] = tuple(
            values[f"implicit {who}"].strip() for who in ("any", "inactive", "active")
        )
    return found
