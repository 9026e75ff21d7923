"""The Debian package: what is in it, that it runs, and what it leaves behind."""

from __future__ import annotations

import gzip
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sessiond import __version__

if TYPE_CHECKING:
    from tests.packaging.machine import Machine

ROOT: Final = Path(__file__).parents[2]
PRIVATE: Final = "usr/share/spice-sessiond"
PACKAGES: Final = {  # Debian's names of what pyproject.toml requires
    "argcomplete": "python3-argcomplete",
    "dbus-next": "python3-dbus-fast | python3-dbus-next",
    "Pillow": "python3-pil",
    "python-xlib": "python3-xlib",
    "rich": "python3-rich",
    "systemd-python": "python3-systemd",
    "sysv_ipc": "python3-sysv-ipc",
}
SCRIPTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SOCKETS: Final = "spice-sessiond-agent.socket spice-sessiond-kms.socket spice-sessiond.socket"
SERVICE: Final = "spice-sessiond.service"
COMPLETE: Final = """\
source /usr/share/bash-completion/completions/spice-sessionctl
COMP_LINE="spice-sessionctl unin" COMP_POINT=21 COMP_TYPE=9
_python_argcomplete spice-sessionctl
echo "${COMPREPLY[@]}"
"""
UNITS: Final = "usr/lib/systemd/system"
HELPER: Final = "/etc/xdg/autostart/spice-session-helper.desktop"
OVERWRITTEN: Final = """\
mkdir /var/lib/spice-sessiond
hash() { sha256sum "$1" | cut -d " " -f 1; }
printf '{"files": {"%s": "%s", "%s": "%s"}, "folders": ["/var/lib/spice-sessiond"]}' \
    "$1" "$(hash "$1")" "$2" "$(hash "$2")" > /var/lib/spice-sessiond/installed.json
"""
SYSTEMD: Final = ("deb-systemd-invoke", "systemctl", "udevadm")


def field(deb: Path, name: str) -> list[str]:
    done = subprocess.run(
        ["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split(", ")


def files(folder: Path) -> dict[str, Path]:
    """Return the files below by their names, as on a system where /lib is /usr/lib."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(folder)) for path in paths}
    return {re.sub(r"^lib/", "usr/lib/", name): path for path, name in names.items()}


def test_lintian_has_no_complaint(deb: Path) -> None:
    done = subprocess.run(
        ["lintian", "--fail-on", "error,warning", deb], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_needs_what_the_modules_need(deb: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split("[<>=]", it)[0] for it in project["dependencies"]}
    assert required == PACKAGES.keys()
    assert set(PACKAGES.values()) <= set(field(deb, "Depends"))
    assert "python3:any (>= 3.11~)" in field(deb, "Depends")


def test_it_takes_the_place_of_the_older_agent_and_of_nothing_else(deb: Path) -> None:
    assert field(deb, "Conflicts") == field(deb, "Replaces") == ["spice-streaming-agent"]
    assert field(deb, "Architecture") == ["all"]
    assert field(deb, "Version") == [__version__]


def test_owners_and_modes(deb: Path) -> None:
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True)
    path = deb.with_suffix(".tar")
    path.write_bytes(data.stdout)
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert {(it.uid, it.gid) for it in members} == {(0, 0)}
    assert {it.mode for it in members if it.isdir()} == {0o755}
    programs = {f"./usr/bin/{name}" for name in SCRIPTS}
    programs.add("./usr/share/python3/runtime.d/spice-sessiond.rtupdate")
    assert {it.name for it in members if it.isfile() and it.mode == 0o755} == programs
    assert {it.mode for it in members if it.isfile() and it.name not in programs} == {0o644}
    assert not [it for it in members if not it.isfile() and not it.isdir()]


def test_modules_are_nobody_elses(unpacked: Path) -> None:
    """All of them, and nothing beside them, in a folder that no other Python program searches."""
    packaged = {
        str(path.relative_to(unpacked / PRIVATE)) for path in (unpacked / PRIVATE).rglob("*.py")
    }
    there = {
        str(path.relative_to(ROOT)) for name in ("agent", "sessiond")
        for path in (ROOT / name).rglob("*.py")
    }  # fmt: skip
    assert packaged == there
    assert {path.name for path in (unpacked / PRIVATE).iterdir()} == {"agent", "sessiond"}
    python = {path for path in unpacked.rglob("*") if path.suffix in {".py", ".pyc"}}
    assert {path for path in python if not path.is_relative_to(unpacked / PRIVATE)} == set()


def test_data_files_are_those_of_an_installation_by_hand(unpacked: Path, tmp_path: Path) -> None:
    """What ``spice-sessionctl install --prefix=/usr`` puts there, and what is Debian's own."""
    # Debian's Python, as of the package: its argcomplete makes the completion.
    command = ("/usr/bin/python3", "-m", "sessiond.ctl", "install", "--prefix=/usr")
    subprocess.run([*command, "--root", tmp_path], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    by_hand = files(tmp_path)
    del by_hand["var/lib/spice-sessiond/installed.json"]
    packaged = files(unpacked)
    for name, path in by_hand.items():
        if "/man/" in name:
            assert gzip.decompress(packaged.pop(f"{name}.gz").read_bytes()) == path.read_bytes()
        elif path.suffix == ".desktop":  # which the package leaves to PATH
            words = packaged.pop(name).read_bytes()
            assert path.read_bytes() == words.replace(b"Exec=", b"Exec=/usr/bin/")
        else:
            assert packaged.pop(name).read_bytes() == path.read_bytes(), name
    config = packaged["etc/spice-sessiond/config.toml"].read_bytes()
    assert config == (ROOT / "packaging/config.toml").read_bytes()
    rest = {name for name in packaged if not name.startswith((PRIVATE, "usr/share/doc/"))}
    assert rest == {
        "etc/spice-sessiond/config.toml",
        "etc/spice-sessiond/exec.toml",
        "usr/lib/systemd/system-preset/90-spice-sessiond.preset",
        "usr/lib/systemd/user-preset/90-spice-session-agent.preset",
        "usr/share/python3/runtime.d/spice-sessiond.rtupdate",
        *(f"usr/bin/{name}" for name in SCRIPTS),
    }


@pytest.mark.parametrize("program", SCRIPTS)
def test_program_runs_and_sees_nothing_of_who_calls_it(
    unpacked: Path, program: str, tmp_path: Path
) -> None:
    for name in ("sessiond", "agent", "asyncio", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the caller has got in')\n")
    surroundings = {"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}

    def run(option: str) -> str:
        done = subprocess.run(
            [unpacked / "usr/bin" / program, option],
            cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("--version") == f"{program} {__version__}\n"
    assert run("--help").startswith(f"usage: {program} ")


def test_package_is_installed_upgraded_and_purged(machine: Machine, deb: Path) -> None:
    before = machine.written()
    # This machine has what the modules need, and not all that a guest's system has.
    install = ("dpkg", "--install", "--force-depends", deb)
    machine.do(*install)
    assert machine.do("spice-sessiond", "--version") == f"spice-sessiond {__version__}\n"
    assert machine.do("find", f"/{PRIVATE}/sessiond/__pycache__", "-name", "daemon.*.pyc")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from sessiond.bus import contract as it;"
    code += "assert it.find_contract()"
    machine.do("/usr/bin/python3", "-I", "-c", code, f"/{PRIVATE}")
    assert machine.do("bash", "-c", COMPLETE).split() == ["uninstall"]
    for unit in f"{SOCKETS} {SERVICE}".split():
        assert machine.do("systemctl", "--root=/", "is-enabled", unit) == "enabled\n"
    once = machine.written()
    machine.do(*install)
    assert machine.written() == once
    machine.do("dpkg", "--remove", "spice-sessiond")
    # Not even the older names are taken any more.
    assert not machine.do("find", "/etc/systemd", "-lname", "*spice-sessiond*")
    machine.do(*install)
    assert machine.written() == once
    machine.do("dpkg", "--purge", "spice-sessiond")
    assert machine.written() == before


def test_what_pip_has_installed_has_to_go_first(
    machine: Machine, deb: Path, programs: Path
) -> None:
    before = machine.written()
    machine.do(programs / "spice-sessionctl", "install")
    once = machine.written()
    refused = machine.run("dpkg", "--install", "--force-depends", deb)
    assert refused.returncode != 0
    assert "First, as root: spice-sessionctl uninstall\n" in refused.stderr
    assert machine.written() == once
    machine.do(programs / "spice-sessionctl", "uninstall")
    machine.do("dpkg", "--install", "--force-depends", deb)
    packaged = machine.written()
    # As a package without that question has done: files of one name, and some the same.
    machine.do("sh", "-euc", OVERWRITTEN, "sh", f"/{UNITS}/{SERVICE}", HELPER)
    said = machine.do("/usr/bin/spice-sessionctl", "uninstall")
    for name in (f"/{UNITS}/{SERVICE}", HELPER):
        assert f"kept, for it is the Debian package's {name}\n" in said
    assert machine.written() == packaged
    machine.do("dpkg", "--purge", "spice-sessiond")
    assert machine.written() == before


def test_upgrade_leaves_the_sockets_alone(machine: Machine, deb: Path, tmp_path: Path) -> None:
    """What the maintainer scripts ask of a running systemd, noted by programs of its names."""
    bin_folder, said = tmp_path / "bin", tmp_path / "said"
    bin_folder.mkdir()
    for name in SYSTEMD:
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {said}\n')
        program.chmod(0o755)
    machine.do("mkdir", "-p", "/run/systemd/system", "/run/udev")
    udev = "import socket; socket.socket(socket.AF_UNIX).bind('/run/udev/control')"
    machine.do("/usr/bin/python3", "-c", udev)
    path = f"PATH={bin_folder}:/usr/sbin:/usr/bin:/sbin:/bin"

    def ask(*command: str | Path) -> list[str]:
        machine.do("env", path, "dpkg", *command)
        lines = machine.do("cat", said).splitlines()
        machine.do("rm", said)
        words = ("deb-systemd-invoke ", "udevadm trigger")
        return [line.removeprefix(words[0]) for line in lines if line.startswith(words)]

    trigger = "udevadm trigger --subsystem-match=virtio-ports --attr-match=name=org.spice-space.*"
    assert ask("--install", "--force-depends", deb) == [
        f"start {SOCKETS}", f"start {SERVICE}", trigger
    ]  # fmt: skip
    assert ask("--install", "--force-depends", deb) == [
        f"start {SOCKETS}", f"restart {SERVICE}", trigger
    ]  # fmt: skip
    first, *_, last = ask("--remove", "spice-sessiond")
    assert set(first.split()) == {"stop", SERVICE, *SOCKETS.split()}
    assert last == trigger
