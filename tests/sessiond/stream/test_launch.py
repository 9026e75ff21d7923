"""An agent's process as the kernel shows it: whose it is, what it has, how it ends."""

import asyncio
import json
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sessiond.model import NOBODY
from sessiond.stream import launch
from sessiond.stream.launch import (
    AgentProcess,
    Identity,
    drop_privileges,
    environment,
    identify,
)
from sessiond.transport.fds import OwnedFd
from tests.fixtures.loop import in_loop

pytestmark = [pytest.mark.parts, pytest.mark.usefixtures("no_descriptor_left")]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and "CI" not in os.environ, reason="only root can become somebody else"
)
ROOT = Path(__file__).parents[3]
SOMEBODY = Identity(1, 1, (1, 12, 4321), "daemon", "/usr/sbin")
WITHOUT_ENTRY = 61234

# What the child sees of itself; -I and -S, so that nothing is read that it may not read.
REPORT = """
import json, os, socket, sys
sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--link-fd") + 1]))
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
with open("/proc/self/environ") as file:
    env = dict(pair.split("=", 1) for pair in file.read().split("\\0") if pair)
sock.sendall(json.dumps({
    "status": {name: text.split() for name, text in status.items()}, "fds": fds, "env": env,
    "cwd": os.getcwd(), "sid": os.getsid(0), "pgid": os.getpgid(0), "pid": os.getpid(),
    "argv": sys.argv[1:], "ppid": os.getppid(),
}).encode() + b"\\n")
sock.recv(1)
"""
READY = """
import signal, socket, sys
sock = socket.socket(fileno=int(sys.argv[-1]))
HOW
sock.send(b"x")
while True:
    signal.pause()
"""


class Ended:
    """Waits for an exit status."""

    def __init__(self) -> None:
        self.statuses = list[int]()
        self._future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self._future.set_result(status)

    async def wait(self) -> int:
        return await self._future


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-I", "-S", "-c", code]


def say_hello(how: str = "") -> list[str]:
    return python(READY.replace("HOW", how))


async def read(process: AgentProcess) -> bytes:
    """Return what arrives next on the link; empty at its end."""
    loop, fd = asyncio.get_running_loop(), process.link.fileno()
    arrived = asyncio.Event()
    loop.add_reader(fd, arrived.set)
    await arrived.wait()
    loop.remove_reader(fd)
    return os.read(fd, 1 << 16)


async def report_of(
    command: Sequence[str], env: dict[str, str], more: Mapping[str, OwnedFd] = MappingProxyType({})
) -> dict[str, Any]:
    ended = Ended()
    process = AgentProcess([*command, *python(REPORT)], env, ended, more)
    data = b""
    while not data.endswith(b"\n"):
        piece = await read(process)
        assert piece, "the child ended before its report"
        data += piece
    process.link.close()
    assert await ended.wait() == 0
    report: dict[str, Any] = json.loads(data)
    assert report["pid"] == process.pid
    return report


@needs_root
@in_loop
async def test_child_of_root_is_the_user_alone() -> None:
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as not_for_children:
        os.set_inheritable(not_for_children.fileno(), True)
        report = await report_of(drop_privileges(SOMEBODY), environment(SOMEBODY))
    status = report["status"]
    assert status["Uid"] == ["1"] * 4
    assert status["Gid"] == ["1"] * 4
    assert sorted(map(int, status["Groups"])) == [1, 12, 4321]
    assert status["NoNewPrivs"] == ["1"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0, name


@needs_root
@in_loop
async def test_child_without_any_group_has_only_its_own() -> None:
    nobody = Identity(NOBODY, NOBODY, (), "nobody", "/")
    report = await report_of(drop_privileges(nobody), environment(nobody))
    assert report["status"]["Uid"] == [str(NOBODY)] * 4
    assert report["status"]["Groups"] == []


@in_loop
async def test_what_a_child_has() -> None:
    report = await report_of(drop_privileges(SOMEBODY), environment(SOMEBODY))
    assert report["env"] == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/usr/sbin",
        "USER": "daemon",
        "LOGNAME": "daemon",
        "XDG_RUNTIME_DIR": "/run/user/1",
    }
    link = report["argv"][-1]
    assert report["argv"] == ["--link-fd", link]
    assert set(report["fds"]) == {"0", "1", "2", link}
    assert report["fds"]["0"] == report["fds"]["1"] == "/dev/null"
    assert report["fds"][link].startswith("socket:")
    assert report["cwd"] == "/"
    assert report["sid"] == report["pgid"] == report["pid"]
    assert report["ppid"] == os.getpid()
    assert report["status"]["NoNewPrivs"] == ["1"]


@in_loop
async def test_what_else_a_child_is_given() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given = OwnedFd(theirs.detach())
    with ours:
        report = await report_of([], environment(SOMEBODY), {"--kms-fd": given})
        option, number, link_option, link = report["argv"]
        assert (option, link_option) == ("--kms-fd", "--link-fd")
        assert set(report["fds"]) == {"0", "1", "2", number, link}
        assert ours.recv(1) == b"", "the child had the only other end"


def parent_of_an_agent(command: list[str]) -> str:
    return f"""
import asyncio, os
from sessiond.stream.launch import AgentProcess
async def run():
    process = AgentProcess({command!r}, {{}}, print)
    os.set_blocking(process.link.fileno(), True)
    assert os.read(process.link.fileno(), 1) == b"x"
    os.set_inheritable(process.link.fileno(), True)
    print(process.pid, process.link.fileno(), flush=True)
    await asyncio.Event().wait()
asyncio.run(run())
"""


@needs_root
def test_child_dies_with_its_parent() -> None:
    """Also one that does not look at its link: here a third process keeps the link open."""
    command = [*drop_privileges(SOMEBODY), *say_hello()]
    with subprocess.Popen(
        [sys.executable, "-c", parent_of_an_agent(command)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout
        pid, fd = map(int, parent.stdout.readline().split())
        with (
            OwnedFd(os.pidfd_open(pid)) as child,
            open(f"/proc/{pid}/status", encoding="ascii") as status,
            OwnedFd(_copy_of(parent.pid, fd)),
        ):
            assert f"\nPPid:\t{parent.pid}\n" in status.read()
            parent.kill()
            assert select.select([child.fileno()], [], [], 10)[0], "the child lives on"


def _copy_of(pid: int, fd: int) -> int:
    """Return a descriptor for the same open file as another process's (pidfd_getfd(2))."""
    import ctypes  # noqa: PLC0415 (no other test needs it)

    with OwnedFd(os.pidfd_open(pid)) as pidfd:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd.fileno(), fd, 0)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return int(copy)


@in_loop
async def test_stop_asks_first() -> None:
    ended = Ended()
    process = AgentProcess(say_hello(), {}, ended)
    assert await read(process) == b"x"
    process.stop()
    process.stop()
    assert await ended.wait() == -signal.SIGTERM
    process.stop()
    process.kill()
    process.link.close()
    assert ended.statuses == [-signal.SIGTERM]


@in_loop
async def test_stop_kills_who_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "KILL_AFTER", 0.05)
    ended, loop = Ended(), asyncio.get_running_loop()
    process = AgentProcess(say_hello("signal.signal(signal.SIGTERM, signal.SIG_IGN)"), {}, ended)
    assert await read(process) == b"x"
    turn = asyncio.Event()
    begin = loop.time()
    process.stop()
    loop.call_soon(turn.set)
    await turn.wait()
    assert not ended.statuses  # the loop went on meanwhile
    assert await ended.wait() == -signal.SIGKILL
    assert loop.time() - begin >= 0.05
    process.link.close()


@in_loop
async def test_kill() -> None:
    ended = Ended()
    process = AgentProcess(say_hello("signal.signal(signal.SIGTERM, signal.SIG_IGN)"), {}, ended)
    process.kill()
    assert await ended.wait() == -signal.SIGKILL
    process.link.close()


@in_loop
async def test_exit_status() -> None:
    ended = Ended()
    process = AgentProcess(python("raise SystemExit(7)"), {}, ended)
    assert await ended.wait() == 7
    process.link.close()


@in_loop
async def test_end_of_the_link_is_seen_by_the_child() -> None:
    ended = Ended()
    code = "import os, sys; raise SystemExit(3 if os.read(int(sys.argv[-1]), 1) == b'' else 4)"
    process = AgentProcess(python(code), {}, ended)
    process.link.close()
    assert await ended.wait() == 3


def _refuse(_pid: int) -> int:
    raise OSError("no descriptors left")


@contextmanager
def no_child_left() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@in_loop
async def test_command_that_does_not_exist() -> None:
    before = open_fds()
    with no_child_left(), pytest.raises(FileNotFoundError):
        AgentProcess(["/nonexistent/agent"], {}, Ended())
    assert open_fds() <= before


@in_loop
async def test_no_descriptor_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    monkeypatch.setattr(os, "pidfd_open", _refuse)
    with no_child_left(), pytest.raises(OSError, match="no descriptors left"):
        AgentProcess(say_hello(), {}, Ended())
    assert open_fds() <= before


def test_identity_of_an_account() -> None:
    entry = pwd.getpwnam("daemon")
    found = identify(entry.pw_uid, 4321, "as logind says")
    groups = tuple(os.getgrouplist("daemon", entry.pw_gid))
    assert found == Identity(entry.pw_uid, entry.pw_gid, groups, "daemon", entry.pw_dir)
    assert entry.pw_gid in groups


def test_identity_without_an_entry() -> None:
    found = identify(WITHOUT_ENTRY, 555, "gdm-greeter")
    assert found == Identity(WITHOUT_ENTRY, 555, (555,), "gdm-greeter", "/")


@needs_root
@in_loop
async def test_child_without_an_entry() -> None:
    identity = identify(WITHOUT_ENTRY, 555, "gdm-greeter")
    report = await report_of(drop_privileges(identity), environment(identity))
    assert report["status"]["Uid"] == [str(WITHOUT_ENTRY)] * 4
    assert report["status"]["Groups"] == ["555"]
    assert report["env"]["HOME"] == "/"
    assert report["env"]["XDG_RUNTIME_DIR"] == f"/run/user/{WITHOUT_ENTRY}"


# Runs a command where these accounts are all that there are.
WITH_ACCOUNTS = """
mount --bind "$1" /etc/passwd
mount --bind "$2" /etc/group
shift 2
exec "$@"
"""


@needs_root
def test_an_account_that_is_named_like_a_number_is_not_meant(tmp_path: Path) -> None:
    tmp_path.joinpath("passwd").write_text("4321:x:0:0::/:/bin/sh\n")
    tmp_path.joinpath("group").write_text("4321:x:0:\n4322:x:0:\n")
    accounts = [str(tmp_path / "passwd"), str(tmp_path / "group")]
    drop = drop_privileges(Identity(4321, 4321, (4321, 4322), "somebody", "/"))
    inside = ["unshare", "--mount", "sh", "-euc", WITH_ACCOUNTS, "sh", *accounts]
    show = ["grep", "-E", "^(Uid|Gid|Groups):", "/proc/self/status"]
    done = subprocess.run([*inside, *drop, *show], capture_output=True, text=True, check=True)
    words = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert words["Uid"].split() == words["Gid"].split() == ["4321"] * 4
    assert words["Groups"].split() == ["4321", "4322"]


def test_not_root_keeps_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not [it for it in drop_privileges(SOMEBODY) if "uid" in it or "group" in it]
