"""What root may tell of displays: from command lines, from files that are root's alone."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.displays import candidates as module
from sessiond.displays.candidates import (
    MAX_COOKIE_FILE,
    XServer,
    candidates,
    compositors,
    parse_arguments,
    session_pids,
    signs,
)
from sessiond.model import Session
from sessiond.wire.link import MAX_PIDS, Candidate

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and "CI" not in os.environ, reason="only root can own root's files"
)
NOBODY = 65534
WITHOUT_PROCESSES = 61234
COOKIE = bytes(range(16))
RECORD = bytes.fromhex(
    "01000002766d00013000124d49542d4d414749432d434f4f4b49452d310010000102030405060708090a0b0c0d0e0f"
)
NAME = "/run/lightdm/root/:0"
LIGHTDM = (
    "/usr/lib/xorg/Xorg :0 -seat seat0 -auth /var/run/lightdm/root/:0 -nolisten tcp vt7 -novtswitch"
)
GDM = (
    "/usr/lib/xorg/Xorg vt2 -displayfd 3 -auth /run/user/1000/gdm/Xauthority -nolisten tcp"
    " -background none -noreset -keeptty -novtswitch -verbose 3"
)
SDDM = (
    "/usr/lib/xorg/Xorg -nolisten tcp -auth /run/sddm/{6fd7} -background none -noreset"
    " -displayfd 17 -seat seat0 vt1"
)
STARTX = "/usr/lib/xorg/Xorg -nolisten tcp :0 vt3 -keeptty -auth /home/u/.serverauth.2712"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (LIGHTDM, XServer(":0", 7, "/var/run/lightdm/root/:0")),
        (GDM, XServer("", 2, "/run/user/1000/gdm/Xauthority")),
        (SDDM, XServer("", 1, "/run/sddm/{6fd7}")),
        (STARTX, XServer(":0", 3, "/home/u/.serverauth.2712")),
        ("X :1.0 vt07", XServer(":1.0", 7, "")),
        ("/usr/libexec/Xorg.bin :12", XServer(":12", 0, "")),
        ("Xorg -auth", XServer("", 0, "")),
        ("Xorg", XServer("", 0, "")),
        ("Xorg :0x :123456 vt123 vtx novt1", XServer("", 0, "")),
        ("/usr/bin/Xwayland :0 -auth /x", None),
        ("/usr/bin/Xvfb :99", None),
        ("vim Xorg :0 vt7", None),
    ],
)  # fmt: skip
def test_command_line(command: str, expected: XServer | None) -> None:
    assert parse_arguments(command.split()) == expected


@pytest.mark.parametrize("argv", [[], [""]])
def test_no_command_line(argv: list[str]) -> None:
    assert parse_arguments(argv) is None


@pytest.fixture
def cookie_file(tmp_path: Path) -> Path:
    """LightDM's cookie below a root directory of the test's own."""
    file = tmp_path / NAME[1:]
    file.parent.mkdir(parents=True)
    for folder in (tmp_path / "run", tmp_path / "run/lightdm", file.parent):
        folder.chmod(0o755)
    file.write_bytes(RECORD)
    file.chmod(0o600)
    return file


def cookie(root: Path, path: str = NAME, display: str = ":0") -> str:
    """Return what is found; fail when a descriptor is left open."""
    before = set(os.listdir("/proc/self/fd"))
    try:
        return module._root_cookie(path, display, root=str(root))
    finally:
        assert set(os.listdir("/proc/self/fd")) <= before


@needs_root
@pytest.mark.usefixtures("cookie_file")
def test_cookie_that_is_roots_alone(tmp_path: Path) -> None:
    assert cookie(tmp_path) == COOKIE.hex()
    assert cookie(tmp_path, f"/var{NAME}") == COOKIE.hex()  # Debian links /var/run to /run
    assert cookie(tmp_path, display=":1") == ""


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def _link(file: Path) -> None:
    other = file.with_name("other")
    file.rename(other)
    file.symlink_to(other)


def _link_folder(file: Path) -> None:
    folder = file.parent
    folder.rename(folder.with_name("moved"))
    folder.symlink_to("moved")


REFUSED: dict[str, Callable[[Path], object]] = {
    "writable by its group": lambda file: file.chmod(0o620),
    "writable by all": lambda file: file.chmod(0o602),
    "a user's": lambda file: os.chown(file, NOBODY, NOBODY),
    "in a folder that a group may write": lambda file: file.parent.chmod(0o775),
    "in a folder that all may write": lambda file: file.parent.chmod(0o1777),
    "below a folder that a group may write": lambda file: file.parents[1].chmod(0o775),
    "in a user's folder": lambda file: os.chown(file.parent, NOBODY, NOBODY),
    "below a user's folder": lambda file: os.chown(file.parents[2], NOBODY, NOBODY),
    "a link": _link,
    "below a link": _link_folder,
    "a FIFO": lambda file: _replace(file, os.mkfifo),
    "a folder": lambda file: _replace(file, Path.mkdir),
    "missing": Path.unlink,
    "too big": lambda file: file.write_bytes(RECORD * (MAX_COOKIE_FILE // len(RECORD) + 1)),
    "cut": lambda file: file.write_bytes(RECORD[:-1]),
    "empty": lambda file: file.write_bytes(b""),
}


@needs_root
@pytest.mark.parametrize("how", REFUSED)
def test_cookie_is_refused_when_it_is(how: str, tmp_path: Path, cookie_file: Path) -> None:
    REFUSED[how](cookie_file)
    assert cookie(tmp_path) == ""


@needs_root
def test_largest_file(tmp_path: Path, cookie_file: Path) -> None:
    cookie_file.write_bytes(RECORD * (MAX_COOKIE_FILE // len(RECORD)))
    assert cookie(tmp_path) == COOKIE.hex()


@pytest.mark.parametrize(
    "path",
    [
        "", "run/x", "/home/u/.Xauthority", "/srv/x", "/run/user/1000/gdm/Xauthority",
        "/run/lightdm/../lightdm/root/:0", "/run/", "/run", "/runs/x", "/run/lightdm/root/:0/x",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("cookie_file")
def test_path_that_is_not_looked_at(path: str, tmp_path: Path) -> None:
    assert cookie(tmp_path, path) == ""


def session(**facts: str | int) -> Session:
    base: dict[str, str | int] = {"id": "3", "path": "/s/3", "uid": 1000, "gid": 1000, "vt": 7}
    return Session(**{**base, **facts})  # type: ignore[arg-type]


def put_processes(folder: Path, text: str) -> None:
    scope = folder / "user.slice/user-1000.slice/session-3.scope"
    scope.mkdir(parents=True)
    (scope / "cgroup.procs").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("12\n7\n", (12, 7)),
        ("0\n0\n7\n", (7,)),  # processes of another pid namespace are 0
        ("seven\n", ()),
        ("\ufffd\n", ()),
        ("".join(f"{pid}\n" for pid in range(1, 2 * MAX_PIDS)), tuple(range(1, MAX_PIDS + 1))),
    ],
)
def test_session_pids(text: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    put_processes(tmp_path, text)
    it = session(scope="session-3.scope")
    assert session_pids(it, [str(tmp_path)]) == expected


@pytest.mark.parametrize(
    ("leader", "expected"),
    [(7, (7, 12, 3)), (12, (12, 7, 3)), (3, (3, 12, 7)), (0, (12, 7, 3)), (99, (12, 7, 3))],
)
def test_leader_is_first_among_session_pids(
    leader: int, expected: tuple[int, ...], tmp_path: Path
) -> None:
    put_processes(tmp_path, "12\n0\n7\n3\n")
    it = session(scope="session-3.scope", leader=leader)
    assert session_pids(it, [str(tmp_path)]) == expected


def test_leader_is_among_them_whatever_the_limit(tmp_path: Path) -> None:
    put_processes(tmp_path, "".join(f"{pid}\n" for pid in range(1, 2 * MAX_PIDS)))
    it = session(scope="session-3.scope", leader=2 * MAX_PIDS - 1)
    pids = session_pids(it, [str(tmp_path)])
    assert (len(pids), pids[0], pids[1]) == (MAX_PIDS, 2 * MAX_PIDS - 1, 1)


def test_session_pids_from_the_first_hierarchy_that_has_it(tmp_path: Path) -> None:
    put_processes(tmp_path / "second", "2\n")
    put_processes(tmp_path / "third", "3\n")
    roots = [str(tmp_path / name) for name in ("first", "second", "third")]
    assert session_pids(session(scope="session-3.scope"), roots) == (2,)


@pytest.mark.parametrize("scope", ["", "session-4.scope"])
def test_no_session_pids(scope: str, tmp_path: Path) -> None:
    put_processes(tmp_path, "2\n")
    assert session_pids(session(scope=scope), [str(tmp_path)]) == ()


@pytest.mark.parametrize(
    ("display", "servers", "expected"),
    [
        ("", [], ()),
        (":0", [], (Candidate("logind", ":0"),)),
        ("host:0", [], ()),
        (":0", [XServer(":0", 7, "")],
         (Candidate("x-server", ":0"), Candidate("logind", ":0"))),
        ("", [XServer(":0", 1, ""), XServer("", 7, ""), XServer(":2", 0, "")], ()),
    ],
)  # fmt: skip
def test_candidates(
    display: str,
    servers: list[XServer],
    expected: tuple[Candidate, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_root_servers", lambda _: servers)
    assert candidates(session(display=display)) == expected


def process(proc: Path, pid: str, command: bytes, program: str = "/usr/lib/xorg/Xorg",
            uids: str = "0\t0\t0\t0") -> None:  # fmt: skip
    (proc / pid).mkdir()
    (proc / pid / "cmdline").write_bytes(command)
    (proc / pid / "status").write_text(f"Name:\tx\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n")
    (proc / pid / "exe").symlink_to(program)


def test_servers_of_root_alone(tmp_path: Path) -> None:
    process(tmp_path, "7", b"/usr/lib/xorg/Xorg\0:0\0vt7\0")
    process(tmp_path, "8", b"sh\0", "/bin/sh")
    process(tmp_path, "6", b"Xorg\0:1\0vt8\0", "/usr/lib/xorg/Xorg (deleted)")
    (tmp_path / "x").mkdir()
    (tmp_path / "9").mkdir()  # ended in between
    found = module._root_servers(tmp_path)
    assert sorted(found, key=lambda it: it.vt) == [XServer(":0", 7, ""), XServer(":1", 8, "")]


FORGED = {
    "a user's server": ("/usr/lib/xorg/Xorg", "1000\t1000\t1000\t1000"),
    "a set-user-ID program with a server's arguments": ("/usr/bin/su", "1000\t0\t0\t0"),
    "a set-user-ID server": ("/usr/lib/xorg/Xorg", "1000\t0\t0\t0"),
    "another program of root's": ("/usr/bin/sleep", "0\t0\t0\t0"),
}


@pytest.mark.parametrize(("program", "uids"), FORGED.values(), ids=FORGED.keys())
def test_whose_arguments_are_not_roots_word(tmp_path: Path, program: str, uids: str) -> None:
    """Else a user would name a cookie that only root can read, and be given it."""
    process(tmp_path, "7", b"Xorg\0:0\0vt7\0-auth\0/run/lightdm/root/:0\0", program, uids)
    assert module._root_servers(tmp_path) == []


def test_a_compositor_is_one_that_listens_where_its_user_has_it(tmp_path: Path) -> None:
    (tmp_path / "1000").mkdir()
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "1000" / "wayland-1.lock"))
        other.listen()
        sock.bind(str(tmp_path / "1000" / "wayland-1"))
        assert not compositors(1000, str(tmp_path)), "it does not listen yet"
        sock.listen()
        assert compositors(1000, str(tmp_path)) == (os.fstat(sock.fileno()).st_ino,)
        assert not compositors(100, str(tmp_path))
        assert not compositors(1000)
    assert (tmp_path / "1000" / "wayland-1").is_socket()
    assert not compositors(1000, str(tmp_path)), "what a killed one leaves there"


def test_what_a_users_agent_could_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_root_servers", lambda _proc: [])
    session = Session(id="3", path="/3", uid=WITHOUT_PROCESSES, gid=1, type="tty", vt=3)
    assert not signs(session, ())
    assert not signs(session, (os.getpid(),))
    assert signs(replace(session, display=":0"), ()) == {"display :0 by logind"}
    monkeypatch.setattr(module, "compositors", lambda uid: (5, uid))
    assert signs(session, ()) == {"compositor 5", f"compositor {WITHOUT_PROCESSES}"}
    monkeypatch.setattr(module, "compositors", lambda _uid: ())
    monkeypatch.setattr(module, "_SERVERS", {Path("/proc/self/comm").read_text().strip()})
    assert signs(session, (os.getpid(),)) == {f"X server {os.getpid()}"}, "by its name"
