"""Finding a display: a made-up /proc and /run, and real X servers with real cookies."""

import array
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from Xlib import Xatom
from Xlib.display import Display

from agent.capture.x11 import access, proof
from agent.stream import discover
from agent.stream.discover import NoDisplayError, open_session_display
from agent.stream.places import Places
from sessiond.wire.link import Candidate, Config
from tests.agent.stream.cookies import RIGHT, WRONG, record, write
from tests.agent.stream.test_xauthority import BAD, make_bad
from tests.fixtures.xserver import Xvfb

UID = os.getuid()
VT = 7


@pytest.fixture(scope="module")
def xserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvfb]:
    cookies = write(tmp_path_factory.mktemp("server") / "auth", record())
    with Xvfb(64, 48, args=["-auth", cookies]) as server:
        yield server


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("home", "proc/net", "sockets", "run"):
        (tmp_path / name).mkdir(parents=True)
    folders = {name: tmp_path / name for name in ("proc", "sockets", "run")}
    return Places(UID, str(tmp_path / "home"), socket.gethostname(), **folders)


def link_socket(places: Places, xserver: Xvfb) -> None:
    """Let the server's socket be found in the made-up folder."""
    name = f"X{xserver.display[1:]}"
    (places.sockets / name).symlink_to(f"/tmp/.X11-unix/{name}")  # noqa: S108


@pytest.fixture
def real(places: Places, xserver: Xvfb) -> Places:
    link_socket(places, xserver)
    return places


@pytest.fixture
def home_cookie(places: Places) -> str:
    return write(Path(places.home) / ".Xauthority", record())


def process(places: Places, pid: int, cgroup: str = "", **environ: str) -> None:
    folder = places.proc / str(pid)
    folder.mkdir()
    (folder / "cgroup").write_text(f"0::{cgroup}\n")
    (folder / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environ.items()))


def config(*candidates: Candidate, pids: tuple[int, ...] = ()) -> Config:
    return Config("c1", UID, vt=VT, candidates=candidates, pids=pids)


def rule_of(config: Config, places: Places) -> str:
    opened = open_session_display(config, places)
    with closing(opened.capture):
        assert opened.capture.size == (64, 48)
        return opened.rule


def refusal(config: Config, places: Places) -> tuple[str, str]:
    with pytest.raises(NoDisplayError) as caught:
        open_session_display(config, places)
    return caught.value.reason, str(caught.value)


@pytest.fixture
def vt(xserver: Xvfb) -> Iterator[None]:
    """Let the server say that it is on VT 3."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/tmp/.X11-unix/X{xserver.display[1:]}")  # noqa: S108
        with access.granted(sock, access.Cookie(b"MIT-MAGIC-COOKIE-1", RIGHT)):
            display = Display(xserver.display)
        root, atom = display.screen().root, display.intern_atom(proof.VT)
        root.change_property(atom, Xatom.INTEGER, 32, array.array("I", [3]))
        display.sync()
        yield
        root.delete_property(atom)
        display.sync()
        display.close()


def test_cookie_from_root(real: Places, xserver: Xvfb) -> None:
    assert rule_of(config(Candidate("root", xserver.display, "", RIGHT.hex())), real) == "root"


def test_file_that_is_named(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    path = write(tmp_path / "file", record())
    assert rule_of(config(Candidate("helper", xserver.display, path)), real) == "helper"


@pytest.mark.parametrize(
    "where", ["home/.Xauthority", f"run/user/{UID}/gdm/Xauthority", f"run/user/{UID}/xauth_ab",
              "run/sddm/xauth_1", "run/lightdm/me/xauthority"],
)  # fmt: skip
def test_known_file(real: Places, xserver: Xvfb, tmp_path: Path, where: str) -> None:
    write(tmp_path / where, record())
    assert rule_of(config(Candidate("logind", xserver.display)), real) == "logind"


@pytest.mark.parametrize("kind", [*BAD, "wrong"])
def test_bad_cookie_and_the_next(real: Places, xserver: Xvfb, tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, record(WRONG)) if kind == "wrong" else make_bad(tmp_path, kind)
    bad = Candidate("bad", xserver.display, path)
    good = Candidate("good", xserver.display, cookie=RIGHT.hex())
    assert rule_of(config(bad, good), real) == "good"
    reason, text = refusal(config(bad), real)
    assert reason == "display-refused"
    assert BAD.get(kind, "Invalid MIT-MAGIC-COOKIE-1") in text


def test_environment_of_the_sessions_processes(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    path = write(tmp_path / "file", record())
    process(real, 10)
    process(real, 11, DISPLAY=xserver.display, XAUTHORITY=path)
    assert rule_of(config(pids=(9, 10, 11)), real) == "session-process"


def test_environment_of_the_users_processes(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    path = write(tmp_path / "file", record())
    wanted = {"DISPLAY": xserver.display, "XAUTHORITY": path, "XDG_SESSION_ID": "c1"}
    unit = f"/user.slice/user-{UID}.slice/user@{UID}.service/app.slice/x.service"
    process(real, 10, unit, **{**wanted, "XDG_SESSION_ID": "c2"})
    process(real, 11, "/system.slice/x.service", **wanted)
    assert refusal(config(), real)[0] == "no-display-found"  # only the socket, without a cookie
    process(real, 12, unit, **wanted)
    assert rule_of(config(), real) == "user-process"


@pytest.mark.usefixtures("home_cookie")
def test_socket_whose_server_is_of_the_session(real: Places, xserver: Xvfb) -> None:
    assert rule_of(config(pids=(xserver.pid,)), real) == "x11-socket"
    reason, text = refusal(config(), real)
    assert reason == "no-display-found"
    assert f"nothing tells that display {xserver.display} is the session's" in text


@pytest.mark.usefixtures("home_cookie", "vt")
def test_socket_whose_server_is_on_the_sessions_vt(real: Places) -> None:
    opened = open_session_display(replace(config(), vt=3), real)
    with closing(opened.capture):
        assert (opened.rule, opened.vt) == ("x11-socket", 3)


@pytest.mark.usefixtures("home_cookie", "vt")
def test_display_of_another_vt(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    wrong = Candidate("wrong", xserver.display)
    reason, text = refusal(config(wrong), real)
    assert reason == "display-refused"
    assert f"display {xserver.display} is on VT 3, the session on VT 7 (wrong)" in text
    cookies = write(tmp_path / "auth", record())
    with Xvfb(64, 48, args=["-auth", cookies]) as other:
        link_socket(real, other)
        assert rule_of(config(wrong, Candidate("right", other.display)), real) == "right"


@pytest.mark.usefixtures("home_cookie")
def test_xwayland(real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_XWAYLAND", "screen")  # what Xvfb calls its output
    reason, text = refusal(config(Candidate("logind", xserver.display)), real)
    assert reason == "type-unsupported"
    assert "WaylandEnable=false" in text


@pytest.mark.parametrize("display", ["host:0", "unix/:0", ":99999", "", ":5"])
def test_nothing_there(places: Places, display: str) -> None:
    reason, _text = refusal(config(Candidate("logind", display)), places)
    assert reason == "no-display-found"
    assert refusal(config(), places) == (
        "no-display-found", "session c1 has no X display in sight",
    )  # fmt: skip


@pytest.mark.parametrize("is_abstract", [False, True])
def test_server_that_does_not_answer(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch, *, is_abstract: bool
) -> None:
    monkeypatch.setattr(discover, "TIMEOUT", 0.1)
    path = real.server(99)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"\0{path}" if is_abstract else path)
        mute.listen()
        bad = Candidate("mute", ":99")
        reason, text = refusal(config(bad), real)
        assert reason == "display-refused"
        assert "display :99 did not answer in 0.1 s (mute)" in text
        monkeypatch.setattr(discover, "TIMEOUT", 2.0)
        good = Candidate("good", xserver.display, cookie=RIGHT.hex())
        with monkeypatch.context() as patch:
            patch.setattr(discover, "TIMEOUT", 0.3)
            assert rule_of(config(bad, good), real) == "good"


def test_cookie_on_a_dead_mount(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that never returns is left behind."""
    monkeypatch.setattr(discover, "TIMEOUT", 0.3)
    reading, writing = os.pipe()
    monkeypatch.setattr(discover, "read_xauthority", lambda _path, _uid: os.read(reading, 1))
    bad = Candidate("dead", xserver.display, "/net/file")
    good = Candidate("good", xserver.display, cookie=RIGHT.hex())
    try:
        assert rule_of(config(bad, good), real) == "good"
        assert "cookie file /net/file: no answer in 0.3 s (dead)" in refusal(config(bad), real)[1]
    finally:
        os.close(writing)  # lets the threads end
        os.close(reading)


def test_abstract_sockets_are_listed(places: Places) -> None:
    (places.sockets / "X4").touch()
    (places.sockets / "other").touch()
    lines = ["Num RefCount", f"0: 2 0 1 1 1 7 @{places.sockets}/X12", "0: 2 0 1 1 1 8 @/other/X3"]
    (places.proc / "net" / "unix").write_text("\n".join(lines))
    assert places.server_numbers() == [4, 12]


@pytest.mark.skipif(UID != 0, reason="only root can be looked at as somebody else")
def test_server_of_another_user(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = access.connect_server(real.server(int(xserver.display[1:])), 1)
    monkeypatch.setattr(discover, "connect_server", lambda *_: replace(found, uid=4242))
    reason, text = refusal(config(Candidate("logind", xserver.display)), real)
    assert (reason, "is served by uid 4242" in text) == ("display-refused", True)
