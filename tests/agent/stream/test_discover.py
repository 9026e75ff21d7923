"""Finding a display: a made-up /proc and /run, and real X servers with real cookies."""

import array
import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from Xlib import Xatom
from Xlib.display import Display

from agent.capture.x11 import access, proof, server
from agent.stream import bounded, reach
from agent.stream.discover import open_session_display
from agent.stream.opened import NoDisplayError
from agent.stream.places import Places
from sessiond.wire.link import Candidate, Config
from tests.agent.stream.cookies import RIGHT, WRONG, record, write
from tests.agent.stream.test_xauthority import BAD, make_bad
from tests.fixtures import systemd1
from tests.fixtures.bus import PrivateBus
from tests.fixtures.deadmount import dead_mount
from tests.fixtures.loop import in_loop
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

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


def process(places: Places, pid: int, cgroup: str = "", command: str = "", **environ: str) -> None:
    folder = places.proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
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


@contextmanager
def on_vt(xserver: Xvfb, number: int) -> Iterator[None]:
    """Let the server say that it is on this VT."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/tmp/.X11-unix/X{xserver.display[1:]}")  # noqa: S108
        with access.granted(sock, access.Cookie(b"MIT-MAGIC-COOKIE-1", RIGHT)):
            display = Display(xserver.display)
        root, atom = display.screen().root, display.intern_atom(proof.VT)
        root.change_property(atom, Xatom.INTEGER, 32, array.array("I", [number]))
        display.sync()
        try:
            yield
        finally:
            root.delete_property(atom)
            display.sync()
            display.close()


@pytest.fixture
def vt(xserver: Xvfb) -> Iterator[None]:
    with on_vt(xserver, 3):
        yield


@pytest.fixture
def other(real: Places, tmp_path: Path) -> Iterator[Xvfb]:
    """Return a second server, with the same cookie."""
    with Xvfb(64, 48, args=["-auth", write(tmp_path / "other", record())]) as server:
        link_socket(real, server)
        yield server


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
def test_display_of_another_vt(real: Places, xserver: Xvfb, other: Xvfb) -> None:
    wrong = Candidate("wrong", xserver.display)
    reason, text = refusal(config(wrong), real)
    assert reason == "display-refused"
    assert f"display {xserver.display} is on VT 3, the session on VT 7 (wrong)" in text
    assert rule_of(config(wrong, Candidate("right", other.display)), real) == "right"


def test_xwayland_by_its_extension(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it says since 23.1; older ones are known by their outputs (``test_wayland``)."""
    monkeypatch.setattr(proof, "_XWAYLAND", "RANDR")
    reason, text = refusal(config(Candidate("root", xserver.display, "", RIGHT.hex())), real)
    assert reason == "type-unsupported"
    assert "capture.order" in text


@pytest.mark.usefixtures("vt")
def test_startx(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    """The server is a process of the console's session; its own file says 0 for any display."""
    own = write(tmp_path / ".serverauth.2712", record(family=256, address=b"vm", number=b"0"))
    process(real, xserver.pid, command=f"Xorg :0 vt3 -keeptty -auth {own}")
    console = replace(config(pids=(xserver.pid,)), vt=3, needs_proof=True)
    assert rule_of(console, real) == "session-server"
    assert refusal(replace(console, vt=4), real)[0] == "no-display-found"
    assert refusal(replace(console, vt=0), real)[0] == "no-display-found"


@pytest.mark.usefixtures("home_cookie")
def test_console_shows_only_what_is_on_its_vt(real: Places, xserver: Xvfb) -> None:
    """Not what somebody has forwarded to it, or started on it without a screen."""
    process(real, 10, DISPLAY=xserver.display)
    process(real, 11, DISPLAY="localhost:10.0")
    console = replace(config(Candidate("logind", xserver.display)), needs_proof=True)
    for pids in ((10, 11), (10, 11, xserver.pid)):
        reason, text = refusal(replace(console, pids=pids), real)
        assert reason == "no-display-found"
        assert f"nothing tells that display {xserver.display} is on VT {VT}" in text
    with on_vt(xserver, 3):
        reason, text = refusal(replace(console, pids=(10, 11)), real)
        assert reason == "no-display-found"
        assert f"display {xserver.display} is on VT 3, the session on VT {VT}" in text
    with on_vt(xserver, VT):
        assert rule_of(replace(console, pids=(10, 11)), real) == "logind"


@pytest.mark.usefixtures("home_cookie")
def test_server_on_the_vt_before_one_that_was_started_in_the_session(
    real: Places, xserver: Xvfb, other: Xvfb
) -> None:
    process(real, 10, DISPLAY=xserver.display)
    it = config(pids=(10, xserver.pid, other.pid))
    with on_vt(other, VT):
        opened = open_session_display(it, real)
        with closing(opened.capture):
            assert (opened.rule, opened.display) == ("session-server", other.display)
    assert rule_of(it, real) == "session-process"


@pytest.mark.parametrize("what", ["pid", "vt", "nothing"])
@in_loop
async def test_environment_of_the_users_manager(
    real: Places, xserver: Xvfb, tmp_path: Path, what: str
) -> None:
    path = write(tmp_path / "file", record())
    real.runtime.mkdir(parents=True)
    pids = (xserver.pid,) if what == "pid" else ()
    variables = [f"DISPLAY={xserver.display}", f"XAUTHORITY={path}"]
    with PrivateBus() as bus, on_vt(xserver, 3) if what == "vt" else nullcontext():
        socket_path = bus.address.removeprefix("unix:path=").partition(",")[0]
        (real.runtime / "bus").symlink_to(socket_path)
        async with systemd1.user_manager(bus.address, variables):
            it = replace(config(pids=pids), vt=3)
            if what == "nothing":
                assert (await asyncio.to_thread(refusal, it, real))[0] == "no-display-found"
            else:
                assert await asyncio.to_thread(rule_of, it, real) == "user-manager"


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
    monkeypatch.setattr(bounded, "TIMEOUT", 0.1)
    path = real.server(99)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"\0{path}" if is_abstract else path)
        mute.listen()
        bad = Candidate("mute", ":99")
        reason, text = refusal(config(bad), real)
        assert reason == "display-refused"
        assert "display :99 did not answer in 0.1 s (mute)" in text
        monkeypatch.setattr(bounded, "TIMEOUT", 2.0)
        good = Candidate("good", xserver.display, cookie=RIGHT.hex())
        with monkeypatch.context() as patch:
            patch.setattr(bounded, "TIMEOUT", 0.3)
            assert rule_of(config(bad, good), real) == "good"


def test_cookie_on_a_dead_mount(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that never returns is left behind."""
    monkeypatch.setattr(bounded, "TIMEOUT", 0.3)
    reading, writing = os.pipe()
    monkeypatch.setattr(reach, "read_xauthority", lambda _path, _uid: os.read(reading, 1))
    bad = Candidate("dead", xserver.display, "/net/file")
    good = Candidate("good", xserver.display, cookie=RIGHT.hex())
    try:
        assert rule_of(config(bad, good), real) == "good"
        assert "cookie file /net/file: no answer in 0.3 s (dead)" in refusal(config(bad), real)[1]
    finally:
        os.close(writing)  # lets the threads end
        os.close(reading)


@pytest.mark.skipif(UID != 0, reason="only root can mount")
def test_mount_that_is_really_dead(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a cookie file nor a socket's name on it holds us up for longer than its time."""
    monkeypatch.setattr(bounded, "TIMEOUT", 0.3)
    good = Candidate("good", xserver.display, cookie=RIGHT.hex())
    with dead_mount() as mount:
        (real.sockets / "X64999").symlink_to(mount / "X")
        cookie = Candidate("cookie", xserver.display, str(mount / "file"))
        server = Candidate("server", ":64999")
        assert rule_of(config(cookie, server, good), real) == "good"
        reason, text = refusal(config(cookie), real)
        assert reason == "display-refused"
        assert f"cookie file {mount}/file: no answer in 0.3 s (cookie)" in text
        assert (
            "socket of display :64999: no answer in 0.3 s (server)"
            in refusal(config(server), real)[1]
        )
        # What was found before the search hung counts.
        write(Path(real.home) / ".Xauthority", record())
        with on_vt(xserver, VT):
            assert rule_of(config(pids=(xserver.pid,)), real) == "session-server"


def test_screen_that_is_too_large(real: Places, other: Xvfb, tmp_path: Path) -> None:
    good = Candidate("good", other.display, cookie=RIGHT.hex())
    with Xvfb(8200, 100, args=["-auth", write(tmp_path / "auth", record())]) as large:
        link_socket(real, large)
        bad = Candidate("bad", large.display, cookie=RIGHT.hex())
        reason, text = refusal(config(bad), real)
        assert reason == "display-refused"
        assert "has a screen of 8200x100 pixels; at most 8192x8192 can be shown (bad)" in text
        assert rule_of(config(bad, good), real) == "good"


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
    found = server.connect_server(real.server(int(xserver.display[1:])), 1)
    monkeypatch.setattr(reach, "connect_server", lambda *_: replace(found, uid=4242))
    reason, text = refusal(config(Candidate("logind", xserver.display)), real)
    assert (reason, "is served by uid 4242" in text) == ("display-refused", True)
