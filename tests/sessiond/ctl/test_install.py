"""``install`` and ``uninstall`` in a root of the test's own: what was there, is, and is left."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond import config, data
from sessiond.ctl import install
from sessiond.ctl.__main__ import main
from sessiond.ctl.datafiles import data_files
from sessiond.ctl.outcome import Exit
from sessiond.errors import InstallError

NOBODY = 65534
UNIT = "lib/systemd/system/spice-sessiond.service"
BUS = "dbus-1/system.d/org.spice_space.Sessiond1.conf"

Tree = dict[str, tuple[int, bytes]]


@pytest.fixture
def root() -> Iterator[Path]:
    """Return a root that everybody can read, with a little of a system in it."""
    with tempfile.TemporaryDirectory(prefix="root-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "etc/xdg/autostart").mkdir(parents=True)
        (place / "etc/xdg/autostart/other.desktop").write_text("another's\n")
        yield place


def tree(root: Path) -> Tree:
    """Return the mode of everything below, and what is in the files."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode, path.read_bytes() if path.is_file() else b""
        )
        for path in root.rglob("*")
    }  # fmt: skip


def run(command: str, root: Path, *options: str) -> int:
    return main([command, "--root", str(root), *options])


def test_what_is_put_there_is_taken_away_exactly(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(root)
    old = os.umask(0o077)
    try:
        assert run("install", root) == Exit.OK
    finally:
        os.umask(old)
    wrote = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    after = tree(root)
    fresh = {f"/{name}" for name in after.keys() - before.keys() if (root / name).is_file()}
    assert fresh == wrote | {str(install.LIST)}
    modes = {oct(after[name][0] & 0o7777) for name in after.keys() - before.keys()}
    assert modes == {oct(0o644), oct(0o755)}
    assert run("uninstall", root) == Exit.OK
    assert wrote == {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert tree(root) == before


@pytest.mark.parametrize(
    ("prefix", "unit", "policy", "activation"),
    [
        ("/usr", "/usr/lib/systemd/system", "/usr/share", "/usr/share"),
        ("/usr/local", "/usr/local/lib/systemd/system", "/etc", "/usr/local/share"),
        ("/opt/spice", "/etc/systemd/system", "/etc", "/usr/local/share"),
    ],
)
def test_files_go_where_they_are_read(prefix: str, unit: str, policy: str, activation: str) -> None:
    found = {str(file.target) for file in data_files(Path(prefix), Path("/usr/bin"))}
    assert {
        f"{unit}/spice-sessiond.service",
        f"{unit}/spice-sessiond.socket",
        f"{unit}/spice-sessiond-agent.socket",
        f"{unit}/spice-sessiond-kms.socket",
        f"{unit}/spice-sessiond-kms@.service",
        f"{unit}/spice-session-agent@.service",
        f"{unit.removesuffix('system')}user/spice-session-agent.service",
        f"{policy}/{BUS}",
        f"{activation}/dbus-1/system-services/org.spice_space.Sessiond1.service",
        "/usr/share/polkit-1/actions/org.spice_space.Sessiond1.policy",
        "/etc/xdg/autostart/spice-session-agent.desktop",
        "/etc/xdg/autostart/spice-session-helper.desktop",
        "/etc/xdg/autostart/spice-session-indicator.desktop",
        "/usr/share/gdm/greeter/autostart/spice-session-helper.desktop",
        f"{prefix}/share/man/man8/spice-sessiond.8",
        f"{prefix}/share/man/man8/spice-sessiond-kms.8",
        f"{prefix}/share/bash-completion/completions/spice-sessionctl",
    } <= found
    assert any(name.endswith("udev/rules.d/60-spice-sessiond.rules") for name in found)


def test_nothing_of_the_data_is_left_out() -> None:
    """Every file is put somewhere, but what is for distributions or for readers."""
    placed = {file.target.name for file in data_files(Path("/usr"), Path("/usr/bin"))}
    names = ("dbus", "docs/man", "packaging", "systemd", "systemd/user")
    folders = [data.TREE / name for name in names]
    there = {path.name for folder in folders for path in folder.iterdir() if path.is_file()}
    presets = {"90-spice-sessiond.preset", "90-spice-session-agent.preset"}
    unplaced = {"README.md", "deb.sh", "config.toml", "exec.toml", *presets}
    assert there - placed - {"spice-session-helper-greeter.desktop"} == unplaced


def test_programs_are_named_with_their_whole_path() -> None:
    files = {file.target.name: file for file in data_files(Path("/usr/local"), Path("/opt/v/bin"))}
    unit = files["spice-sessiond.service"].content.decode()
    assert "\nExecStart=/opt/v/bin/spice-sessiond $" in unit
    assert "\nSockets=spice-sessiond.socket " in unit
    assert "\nRuntimeDirectory=spice-sessiond\n" in unit
    for name in ("spice-session-agent.service", "spice-session-agent@.service"):
        assert "\nExecStart=/opt/v/bin/spice-session-agent user\n" in files[name].content.decode()
    entry = files["spice-session-helper.desktop"].content.decode()
    assert "\nExec=/opt/v/bin/spice-session-helper\n" in entry
    assert "\nTryExec=/opt/v/bin/spice-session-helper\n" in entry


def test_the_daemon_is_told_of_an_agent_that_it_would_not_find(tmp_path: Path) -> None:
    files = {file.target: file.content for file in data_files(Path("/usr"), Path("/opt/v/bin"))}
    [target] = [target for target in files if target.is_relative_to("/etc/spice-sessiond")]
    assert target.match(f"{config.CONFIG_FILE}.d/*.toml")
    file = tmp_path / "config.toml"
    file.write_bytes(files[target])
    loaded = config.load(["--config", str(file)])
    assert loaded.texts("stream.agent") == ("/opt/v/bin/spice-session-agent",)
    usual = [file.target for file in data_files(Path("/usr"), Path("/usr/local/bin"))]
    assert target not in usual


def test_a_folder_that_no_unit_can_name() -> None:
    with pytest.raises(InstallError, match="/opt/my programs"):
        data_files(Path("/usr"), Path("/opt/my programs"))


def test_a_file_of_somebody_else_is_in_the_way(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = root / "etc/xdg/autostart/spice-session-helper.desktop"
    other.write_text("the package's\n")
    before = tree(root)
    assert run("install", root) == Exit.FAILED
    [said] = capsys.readouterr().err.splitlines()
    assert str(other) in said
    assert "nothing was changed" in said
    assert tree(root) == before


def test_a_link_is_not_followed(root: Path) -> None:
    (root / "etc/xdg/autostart/spice-session-helper.desktop").symlink_to("/nowhere")
    before = tree(root)
    assert run("install", root) == Exit.FAILED
    assert tree(root) == before


@pytest.mark.parametrize("place", ["usr/share", "etc/xdg/autostart/.other.new"])
def test_what_fails_in_the_middle_leaves_nothing_behind(
    root: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder is to be, and a folder where a file is to be."""
    in_the_way = root / place.replace("other", "spice-session-helper.desktop")
    in_the_way.parent.mkdir(exist_ok=True)
    if in_the_way.suffix:
        in_the_way.mkdir()
    else:
        in_the_way.touch()
    before = tree(root)
    assert run("install", root) == Exit.FAILED
    assert str(in_the_way) in capsys.readouterr().err
    assert tree(root) == before


def test_an_interrupted_installation_is_done_again(root: Path) -> None:
    (root / "etc/xdg/autostart/.spice-session-helper.desktop.new").write_text("[Desk")
    assert run("install", root) == Exit.OK
    assert run("uninstall", root) == Exit.OK
    assert {path.name for path in root.rglob("*") if path.is_file()} == {"other.desktop"}


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_rights(
    root: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Read by root: the tree may lie where nobody else can read it.
    files = data_files(Path("/usr/local"), Path("/usr/local/bin"))
    monkeypatch.setattr(install, "data_files", lambda *_: files)
    if command == "uninstall":
        assert run("install", root) == Exit.OK
    if os.geteuid() != 0:
        pytest.skip("to be root and somebody else takes root")
    before = tree(root)
    os.seteuid(NOBODY)
    try:
        status = run(command, root)
    finally:
        os.seteuid(0)
    assert status == Exit.DENIED
    assert "not permitted: cannot" in capsys.readouterr().err
    assert tree(root) == before


def test_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(root)
    assert run("install", root) == Exit.OK
    once = tree(root)
    assert run("install", root) == Exit.OK
    assert tree(root) == once
    capsys.readouterr()
    assert run("install", root, "--prefix=/opt/spice") == Exit.OK
    assert f"removed /usr/local/{UNIT}" in capsys.readouterr().out.splitlines()
    assert not (root / "usr/local/lib").exists()
    assert run("uninstall", root) == Exit.OK
    assert tree(root) == before


def test_what_was_changed_since_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("install", root) == Exit.OK
    changed = root / "usr/local" / UNIT
    changed.write_text("[Service]\n")
    (root / "etc" / BUS).unlink()
    linked = root / "etc/xdg/autostart/spice-session-helper.desktop"
    linked.rename(root / "copy")
    linked.symlink_to(root / "copy")
    assert run("install", root) == Exit.FAILED
    assert str(changed) in capsys.readouterr().err
    assert run("uninstall", root) == Exit.OK
    said = capsys.readouterr().out.splitlines()
    assert f"kept, for it was changed /usr/local/{UNIT}" in said
    assert any(line.split() == ["was", "gone", f"/etc/{BUS}"] for line in said)
    assert changed.read_text() == "[Service]\n"
    assert linked.is_symlink()
    assert not (root / "usr/local/share").exists()


def test_what_dpkg_has_put_there_since_is_kept(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    assert run("install", root, "--prefix=/usr") == Exit.OK
    theirs = [f"/{UNIT}", "/etc/xdg/autostart/spice-session-helper.desktop"]
    listed = root / "var/lib/dpkg/info/spice-sessiond.list"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(["/.", "/lib", "/lib/systemd", *theirs, ""]))
    capsys.readouterr()
    assert run("uninstall", root) == Exit.OK
    said = capsys.readouterr().out.splitlines()
    kept = [line.split()[-1] for line in said if line.startswith("kept, for it is the Debian pa")]
    assert kept == [theirs[1], f"/usr/{UNIT}"]
    for name in theirs:
        assert (root / name.lstrip("/")).is_file()
    assert not (root / "usr" / UNIT).with_suffix(".socket").exists()
    assert not (root / "var/lib/spice-sessiond").exists()


@pytest.mark.parametrize("link", ["var", "usr/local", "etc/xdg/autostart"])
def test_a_link_that_leads_out_of_the_root(
    root: Path, link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As /var/run -> /run is in many a root: of this machine it is another folder."""
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / link, ignore_errors=True)
    (root / link).symlink_to(tmp_path)
    before = tree(root)
    assert run("install", root) == Exit.FAILED
    [said] = capsys.readouterr().err.splitlines()
    assert f" leads out of {root}, to {tmp_path}" in said
    assert tree(root) == before
    assert not list(tmp_path.iterdir())


def test_a_link_that_leads_out_of_the_root_since(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", root, "--prefix=/opt/spice") == Exit.OK
    away = tmp_path / "spice"
    (root / "opt/spice").rename(away)
    (root / "opt/spice").symlink_to(away)
    before, outside = tree(root), tree(away)
    assert run("uninstall", root) == Exit.FAILED
    assert f"leads out of {root}" in capsys.readouterr().err
    assert tree(root) == before
    assert run("install", root) == Exit.OK
    assert "kept: " in capsys.readouterr().out
    assert tree(away) == outside


def test_a_link_within_the_root_is_followed(root: Path) -> None:
    (root / "srv").mkdir()
    (root / "var").symlink_to("srv")
    before = tree(root)
    assert run("install", root) == Exit.OK
    assert (root / "srv/lib/spice-sessiond/installed.json").is_file()
    assert run("uninstall", root) == Exit.OK
    assert tree(root) == before


def test_while_it_is_enabled_nothing_is_taken_away(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", root) == Exit.OK
    wants = root / "etc/systemd/system/sockets.target.wants"
    wants.mkdir(parents=True)
    link = wants / "spice-sessiond.socket"
    link.symlink_to(f"/usr/local/{Path(UNIT).with_name(link.name)}")
    before = tree(root)
    assert run("uninstall", root) == Exit.FAILED
    assert "systemctl disable --now spice-sessiond.service" in capsys.readouterr().err
    assert tree(root) == before
    # dpkg's unit of that name is another.
    listed = root / "var/lib/dpkg/info/spice-sessiond.list"
    listed.parent.mkdir(parents=True)
    listed.write_text(f"/{Path(UNIT).with_name(link.name)}\n")
    assert run("uninstall", root) == Exit.FAILED
    link.unlink()
    link.symlink_to(f"/{Path(UNIT).with_name(link.name)}")
    assert run("uninstall", root) == Exit.OK


@pytest.mark.parametrize(
    ("link", "unit"),
    [
        ("user/graphical-session.target.wants/spice-session-agent.service", "user/%s.service"),
        ("system/multi-user.target.wants/spice-session-agent@alice.service", "system/%s@.service"),
    ],
)
def test_users_agents_may_be_enabled_too(
    root: Path, link: str, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", root) == Exit.OK
    place = root / "etc/systemd" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(f"/usr/local/lib/systemd/{unit % 'spice-session-agent'}")
    assert run("uninstall", root) == Exit.FAILED
    assert f"{Path(unit % 'spice-session-agent').name} is enabled" in capsys.readouterr().err
    place.unlink()
    assert run("uninstall", root) == Exit.OK


def test_nothing_to_take_away(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("uninstall", root) == Exit.FAILED
    assert "nothing is installed here" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["", "[]", '{"files": {}}', '{"files": 1, "folders": []}'])
def test_a_list_that_is_none(root: Path, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = root / "var/lib/spice-sessiond/installed.json"
    listed.parent.mkdir(parents=True)
    listed.write_text(broken)
    for command in ("install", "uninstall"):
        assert run(command, root) == Exit.FAILED
        assert str(listed) in capsys.readouterr().err


def test_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("install", root, "--json=short") == Exit.OK
    said = json.loads(capsys.readouterr().out)
    assert {"Done": "wrote", "Path": f"/usr/local/{UNIT}"} in said["Files"]
    assert said["Next"] == []  # of another root nothing runs here


def test_programs_are_those_beside_this_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = root / "bin"
    programs.mkdir()
    monkeypatch.setattr("sys.argv", [str(programs / "spice-sessionctl")])
    with pytest.raises(InstallError, match="no spice-sessiond in"):
        install._own_programs()
    (programs / "spice-sessiond").touch()
    assert install._own_programs() == programs.resolve()
    for theirs in (programs, root):
        theirs.chmod(0o1777)
        assert install._own_programs() == programs.resolve()
        theirs.chmod(0o777)
        with pytest.raises(InstallError, match=f"others can change .* owns {theirs.resolve()}$"):
            install._own_programs()
        theirs.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(programs, NOBODY, NOBODY)
        with pytest.raises(InstallError, match="others can change"):
            install._own_programs()
        os.chown(programs, 0, 0)
    root.chmod(0o700)
    with pytest.raises(InstallError, match="cannot reach"):
        install._own_programs()
