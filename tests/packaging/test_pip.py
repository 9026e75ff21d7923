"""What pip installs, and what ``spice-sessionctl install`` makes of it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sessiond import __version__
from sessiond.ctl.outcome import Exit

if TYPE_CHECKING:
    from tests.packaging.machine import Machine

ROOT: Final = Path(__file__).parents[2]
UNIT: Final = "/usr/local/lib/systemd/system/spice-sessiond.service"
HELPER: Final = "/etc/xdg/autostart/spice-session-helper.desktop"


def test_wheel_has_the_data_and_no_other_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    data = f"spice_sessiond-{__version__}.data"
    assert {name.split("/")[0] for name in names} == {
        "agent", "sessiond", data, f"spice_sessiond-{__version__}.dist-info"
    }  # fmt: skip
    share = f"{data}/data/share/spice-sessiond/"
    found = {name.removeprefix(share) for name in names if name.startswith(data)}
    patterns = (
        "dbus/org.*", "docs/man/*", "packaging/*.desktop", "packaging/*.toml", "systemd/**/*.*",
    )  # fmt: skip
    there = {str(path.relative_to(ROOT)) for it in patterns for path in ROOT.glob(it)}
    presets = {str(path.relative_to(ROOT)) for path in ROOT.glob("systemd/**/*.preset")}
    assert found == there - presets - {"systemd/README.md"}


def test_programs_find_their_contract(programs: Path) -> None:
    for name in ("spice-sessiond", "spice-session-agent", "spice-sessionctl"):
        done = subprocess.run(
            [programs / name, "--version"], cwd="/", capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{name} {__version__}\n"
    code = "from sessiond.bus.contract import find_contract; assert find_contract()"
    subprocess.run([programs / "python", "-I", "-c", code], cwd="/", check=True)


def test_data_files_are_put_in_place_and_taken_away(machine: Machine, programs: Path) -> None:
    ctl = programs / "spice-sessionctl"
    before = machine.written()
    said = machine.do(ctl, "install")
    assert f"wrote {UNIT}\n" in said
    assert "systemctl enable --now spice-sessiond.service" in said
    assert f"ExecStart={programs}/spice-sessiond " in machine.do("cat", UNIT)
    machine.do("systemd-analyze", "verify", "--man=no", UNIT)
    agent = machine.do("cat", "/etc/spice-sessiond/config.toml.d/10-program.toml")
    assert f'stream.agent = ["{programs}/spice-session-agent"]' in agent
    sockets = ("spice-sessiond.socket", "spice-sessiond-agent.socket", "spice-sessiond-kms.socket")
    units = ("spice-sessiond.service", *sockets)
    machine.do("systemctl", "--root=/", "enable", units[0])
    refused = machine.run(ctl, "uninstall")
    assert refused.returncode == Exit.FAILED
    assert "is enabled" in refused.stderr
    machine.do("systemctl", "--root=/", "disable", *units)
    machine.do(ctl, "uninstall")
    assert machine.written() == before


def test_the_debian_package_is_not_overwritten(machine: Machine, programs: Path, deb: Path) -> None:
    machine.do("dpkg", "--install", "--force-depends", deb)
    before = machine.written()
    refused = machine.run(programs / "spice-sessionctl", "install")
    assert refused.returncode == Exit.FAILED
    assert HELPER in refused.stderr
    own = machine.run("/usr/bin/spice-sessionctl", "install")
    assert own.returncode == Exit.FAILED
    assert "package" in own.stderr
    assert machine.written() == before
