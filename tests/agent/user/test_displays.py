"""Displays on demand: real X servers with real cookies, and who else may listen there."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from Xlib import X
from Xlib.display import Display
from Xlib.ext import randr

from agent.capture.x11 import access
from agent.stream import bounded
from agent.stream.places import Places
from agent.user import displays as module
from agent.user.displays import Displays
from sessiond.errors import CommandError
from sessiond.transport.edge import EdgePoller
from tests.agent.capture.x11.test_backend import xrandr
from tests.agent.stream.cookies import RIGHT, WRONG, record, write
from tests.agent.stream.test_discover import link_socket, process
from tests.fixtures.child import ROOT
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

UID = os.getuid()
needs_root = pytest.mark.skipif(UID != 0, reason="takes root")


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


@pytest.fixture
def real(places: Places, xserver: Xvfb) -> Places:
    link_socket(places, xserver)
    return places


@pytest.fixture
def home_cookie(places: Places) -> str:
    return write(Path(places.home) / ".Xauthority", record())


class Watched:
    """Displays, and how often they have said that they changed."""

    def __init__(self, places: Places, environ: Mapping[str, str], poller: EdgePoller) -> None:
        self.count = 0
        self.signal = Signal()
        self.displays = Displays(places, environ, poller, self._changed)

    def _changed(self) -> None:
        self.count += 1
        self.signal.happened()

    async def names(self) -> dict[object, object]:
        return {it["display"]: it["connected"] for it in await self.displays.query()}

    async def refusal(self, name: str) -> str:
        with pytest.raises(CommandError) as caught:
            await self.displays.connect(name)
        return str(caught.value)


@asynccontextmanager
async def watch(places: Places, **environ: str) -> AsyncIterator[Watched]:
    poller = EdgePoller()
    watched = Watched(places, environ, poller)
    try:
        yield watched
    finally:
        watched.displays.close()
        poller.close()


@contextmanager
def client(xserver: Xvfb) -> Iterator[Display]:
    """Yield another program's connection to the display."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/tmp/.X11-unix/X{xserver.display[1:]}")  # noqa: S108
        with access.granted(sock, access.Cookie(b"MIT-MAGIC-COOKIE-1", RIGHT)):
            display = Display(xserver.display)
        yield display
        display.close()


@in_loop
async def test_what_there_is(real: Places, xserver: Xvfb) -> None:
    (real.sockets / "X7").touch()
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(real.server(8))
    async with watch(real) as it:
        assert await it.names() == {xserver.display: False}


@pytest.mark.parametrize("is_abstract", [False, True])
@in_loop
async def test_who_listens_and_does_not_answer(places: Places, *, is_abstract: bool) -> None:
    """It is listed: nothing is said to it. An abstract one is found where the kernel lists it."""
    path = places.server(9)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"\0{path}" if is_abstract else path)
        mute.listen(0)
        (places.proc / "net" / "unix").write_text(f"0: 2 0 10000 1 1 7 @{path}\n")
        async with watch(places) as it:
            assert await it.names() == {":9": False}
            assert await it.names() == {}  # the first look has taken the only room


@needs_root
@in_loop
async def test_whose_it_is(real: Places, xserver: Xvfb) -> None:
    """One of root's is the user's where the user's own $DISPLAY says so."""
    theirs = replace(real, uid=4242)
    async with watch(theirs) as it:
        assert await it.names() == {}
    async with watch(theirs, DISPLAY=xserver.display) as it:
        assert await it.names() == {xserver.display: False}


@contextmanager
def another_user_at(path: str) -> Iterator[None]:
    """Let uid 4242 listen there."""
    code = (
        "import os, socket, sys; os.setresuid(4242, 4242, 4242); sock = socket.socket(1); "
        "sock.bind(sys.argv[1]); sock.listen(); print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        yield


@needs_root
@in_loop
async def test_another_users(places: Places) -> None:
    places.sockets.chmod(0o777)
    for folder in places.sockets.parents:
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):  # noqa: S108
            folder.chmod(folder.stat().st_mode | 0o011)
    with another_user_at(places.server(5)):
        async with watch(places, DISPLAY=":5") as it:
            assert await it.names() == {}
            assert await it.refusal(":5") == "display ':5' is served by uid 4242"


@pytest.mark.parametrize(
    "name", ["", "0", ":", ":0x", "host:0", "localhost:10.0", ":99999", ":0;", ":\u0663", "x" * 999]
)
@in_loop
async def test_no_name_of_a_display(places: Places, name: str) -> None:
    async with watch(places) as it:
        assert "is not a display of this machine" in await it.refusal(name)
        with pytest.raises(CommandError, match="is not a display of this machine"):
            await it.displays.screens(name)


@in_loop
async def test_no_such_display(real: Places, xserver: Xvfb) -> None:
    async with watch(real) as it:
        assert await it.refusal(":7") == "there is no display ':7'"
        with pytest.raises(CommandError, match=f"^display '{xserver.display}' is not connected$"):
            await it.displays.screens(xserver.display)


@pytest.mark.parametrize(
    "where", ["environment", "home", "gdm", "server", "process", "process without a file"]
)
@in_loop
async def test_where_the_cookie_is(real: Places, xserver: Xvfb, tmp_path: Path, where: str) -> None:
    file, environ = tmp_path / "file", {}
    match where:
        case "environment":
            environ = {"XAUTHORITY": str(file)}
        case "home":
            file = Path(real.home) / ".Xauthority"
        case "gdm":
            file = real.runtime / "gdm" / "Xauthority"
        case "server":
            process(real, xserver.pid, command=f"Xorg {xserver.display} -auth {file}")
        case "process":
            process(real, 10, DISPLAY=":1", XAUTHORITY="/nonexistent")
            process(real, 11, DISPLAY=f"{xserver.display}.0", XAUTHORITY=str(file))
        case _:
            file = Path(real.home) / ".Xauthority"
            process(real, 11, DISPLAY=xserver.display)
    write(file, record())
    async with watch(real, **environ) as it:
        await it.displays.connect(xserver.display)
        assert await it.names() == {xserver.display: True}


@in_loop
async def test_a_wrong_cookie_and_the_next(real: Places, xserver: Xvfb, tmp_path: Path) -> None:
    wrong = write(tmp_path / "wrong", record(WRONG))
    right = write(tmp_path / "run/sddm/xauth_1", record())
    async with watch(real, XAUTHORITY=wrong) as it:
        await it.displays.connect(xserver.display)
    write(Path(right), record(WRONG))
    async with watch(real, XAUTHORITY=wrong) as it:
        refusal = await it.refusal(xserver.display)
        assert f"display {xserver.display} cannot be opened: " in refusal
        assert "MIT-MAGIC-COOKIE-1" in refusal
        assert await it.names() == {xserver.display: False}


@in_loop
async def test_a_server_that_does_not_answer(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(places.server(9))
        mute.listen()
        async with watch(places) as it:
            assert await it.refusal(":9") == "display :9 did not answer in 0.1 s"


@in_loop
async def test_without_a_cookie(places: Places) -> None:
    with Xvfb(64, 48) as open_server:
        link_socket(places, open_server)
        async with watch(places) as it:
            await it.displays.connect(open_server.display)


@contextmanager
def a_server_that_says(places: Places, number: int, words: bytes) -> Iterator[None]:
    """Let a server of ours answer each client so, and say no more."""
    code = (
        "import socket, sys; sock = socket.socket(1); sock.bind(sys.argv[1]); sock.listen(); "
        "print(flush=True); heard = []\n"
        "while True:\n"
        "    heard.append(sock.accept()[0])\n"
        "    if heard[-1].recv(100): heard[-1].sendall(bytes.fromhex(sys.argv[2]))\n"
    )
    argv = [sys.executable, "-c", code, places.server(number), words.hex()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout
            other.stdout.readline()
            yield
        finally:
            other.kill()


@pytest.mark.parametrize("words", ["01000b0000000000", "01000b0000000a00" + 40 * "ff"])
@in_loop
async def test_a_server_that_talks_nonsense(places: Places, words: str) -> None:
    with a_server_that_says(places, 9, bytes.fromhex(words)):
        async with watch(places) as it:
            assert "display :9 cannot be opened: unpack requires" in await it.refusal(":9")
            assert await it.names() == {":9": False}


@asynccontextmanager
async def in_the_servers_place(it: Watched, name: str) -> AsyncIterator[socket.socket]:
    """Let what is connected to the display be ours: yield the server's end."""
    connected = it.displays._connected[name]
    loop, number = asyncio.get_running_loop(), connected._connection.fileno()
    ours, servers = socket.socketpair()
    loop.remove_reader(number)
    os.dup2(ours.fileno(), number)
    ours.close()
    loop.add_reader(number, connected._drain)
    with servers:
        yield servers


# An answer to nothing that was asked: python-xlib fails, and would never read again.
NONSENSE = bytes([1, 0, 0xFF, 0xFF]) + bytes(28)


@in_loop
async def test_nonsense_between_questions(places: Places) -> None:
    with Xvfb(64, 48) as server:
        link_socket(places, server)
        async with watch(places) as it:
            await it.displays.connect(server.display)
            async with in_the_servers_place(it, server.display) as servers:
                servers.sendall(NONSENSE)
                await it.signal.until(lambda: it.count > 0)
            assert await it.names() == {server.display: False}
            await it.displays.connect(server.display)


@in_loop
async def test_nonsense_for_an_answer(places: Places) -> None:
    with Xvfb(64, 48) as server:
        link_socket(places, server)
        async with watch(places) as it:
            await it.displays.connect(server.display)
            async with in_the_servers_place(it, server.display) as servers:
                asking = asyncio.get_running_loop().create_task(it.displays.screens(server.display))
                await asyncio.to_thread(servers.recv, 1)
                servers.sendall(NONSENSE)
                with pytest.raises(CommandError, match="sends nonsense: "):
                    await asking
            assert await it.names() == {server.display: False}


@pytest.mark.usefixtures("home_cookie")
@in_loop
async def test_one_connection_whoever_asks(real: Places, xserver: Xvfb) -> None:
    async with watch(real) as it:
        names = (xserver.display, f"{xserver.display}.0", xserver.display)
        await asyncio.gather(*(it.displays.connect(name) for name in names))
        await it.displays.connect(xserver.display)
        assert len(it.displays._connected) == 1
        first = it.displays._connected[xserver.display]
        await it.displays.connect(xserver.display)
        assert it.displays._connected[xserver.display] is first


@pytest.mark.usefixtures("home_cookie")
@in_loop
async def test_more_than_may_be_connected(
    real: Places, xserver: Xvfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTED", 1)
    with Xvfb(64, 48) as other:
        link_socket(real, other)
        async with watch(real) as it:
            await it.displays.connect(xserver.display)
            text = "1 displays of this user are connected already"
            assert await it.refusal(other.display) == text
            await it.displays.connect(xserver.display)


@pytest.mark.parametrize("has_randr", [True, False])
@in_loop
async def test_screens(places: Places, *, has_randr: bool) -> None:
    arguments = [] if has_randr else ["-extension", "RANDR"]
    with Xvfb(320, 200, args=arguments) as server:
        link_socket(places, server)
        async with watch(places) as it:
            await it.displays.connect(server.display)
            if has_randr:
                xrandr(server.display, "--output", "screen", "--primary")
            asked = [it.displays.screens(server.display) for _ in range(3)]
            for screens in await asyncio.gather(*asked):
                assert screens == [
                    {
                        "output": "screen", "x": 0, "y": 0, "width": 320, "height": 200,
                        "primary": True,
                    }
                ]  # fmt: skip
            if has_randr:
                switch_off(server)
                assert await it.displays.screens(server.display) == []


def switch_off(server: Xvfb) -> None:
    """Let the one output show nothing."""
    display = Display(server.display)
    resources = display.screen().root.xrandr_get_screen_resources()
    how = {"x": 0, "y": 0, "mode": X.NONE, "rotation": randr.Rotate_0, "outputs": []}
    display.xrandr_set_crtc_config(resources.crtcs[0], resources.config_timestamp, **how)
    display.close()


@pytest.mark.usefixtures("home_cookie")
@in_loop
async def test_events_that_come_to_everybody(real: Places, xserver: Xvfb) -> None:
    """They are read and dropped: the loop is not awake for them for ever."""
    async with watch(real) as it:
        await it.displays.connect(xserver.display)
        drained = Signal()
        connection = it.displays._connected[xserver.display]._connection
        drain = connection.drain

        count_of = [0]

        def count() -> None:
            drain()
            count_of[0] += 1
            drained.happened()

        connection.drain = count  # type: ignore[method-assign]
        with client(xserver) as other:
            code = other.display.info.max_keycode
            other.change_keyboard_mapping(code, [(0x61,)])
            other.sync()
            await drained.until(lambda: count_of[0] > 0)
        [screen] = await it.displays.screens(xserver.display)
        assert (screen["width"], screen["height"]) == (64, 48)


@in_loop
async def test_a_server_that_goes(places: Places) -> None:
    with Xvfb(64, 48) as server:
        link_socket(places, server)
        async with watch(places) as it:
            await it.displays.connect(server.display)
            server.kill()
            await it.signal.until(lambda: it.count > 0)
            assert await it.names() == {}
            with pytest.raises(CommandError, match="is not connected"):
                await it.displays.screens(server.display)
            assert await it.refusal(server.display) == f"there is no display '{server.display}'"


@in_loop
async def test_a_server_that_stops_answering(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Xvfb(64, 48) as server:
        link_socket(places, server)
        async with watch(places) as it:
            await it.displays.connect(server.display)
            monkeypatch.setattr(bounded, "TIMEOUT", 0.2)
            server.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(CommandError, match=r"did not answer in 0\.2 s"):
                    await it.displays.screens(server.display)
                await it.signal.until(lambda: it.count > 0)
                with pytest.raises(CommandError, match="is not connected"):
                    await it.displays.screens(server.display)
            finally:
                server.process.send_signal(signal.SIGCONT)


@in_loop
async def test_sockets_that_come_and_go(places: Places) -> None:
    async with watch(places) as it:
        (places.sockets / "other").touch()
        (places.sockets / "X3").touch()
        (places.sockets / "X4").touch()
        await it.signal.until(lambda: it.count > 0)
        assert it.count == 1  # for both, and not for what is no display
        (places.sockets / "X3").unlink()
        await it.signal.until(lambda: it.count > 1)


def test_nothing_of_x_is_loaded_before() -> None:
    code = """if True:
    import sys
    import agent.__main__, agent.user.main, agent.user.call
    heavy = {"Xlib", "PIL", "dbus_fast", "dbus_next", "systemd", "ssl", "sysv_ipc"}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
