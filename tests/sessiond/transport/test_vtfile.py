"""The VT in front: from the kernel's own file where there is one, and from stand-ins."""

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.transport.edge import EdgePoller
from sessiond.transport.vtfile import VtFile
from tests.fixtures.loop import in_loop, turns

ACTIVE = Path("/sys/class/tty/tty0/active")
needs_vts = pytest.mark.skipif(not ACTIVE.exists(), reason="this kernel has no virtual consoles")


class CountingPoller(EdgePoller):
    """Counts how often the loop was woken for it."""

    wake_ups = 0

    def _dispatch(self) -> None:
        self.wake_ups += 1
        super()._dispatch()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Let a test fail that leaves a descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    # Fewer is no fault of ours: what an earlier test forgot may be collected just now.
    assert set(os.listdir("/proc/self/fd")) <= before


def number_in_front() -> int:
    match = re.fullmatch(r"tty(\d+)\n", ACTIVE.read_text(encoding="ascii"))
    assert match
    return int(match[1])


def refuse(number: int) -> None:
    raise AssertionError(f"told of VT {number}")


@needs_vts
@pytest.mark.usefixtures("descriptors")
@in_loop
async def test_real_file_is_read_and_stays_silent() -> None:
    poller = CountingPoller()
    vt = VtFile(str(ACTIVE), poller, refuse)
    assert vt.number == number_in_front()
    await turns(5)  # the state at registration may count as a change
    woken = poller.wake_ups
    await turns(200)
    assert poller.wake_ups == woken <= 1
    vt.close()
    poller.close()


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"tty1\n", 1),
        (b"tty63\n", 63),
        (b"tty7", 7),
        (b"", 0),
        (b"tty\n", 0),
        (b"ttyS0\n", 0),
        (b"tty123\n", 0),
        (b"\xfftty1\n", 0),
        (b"tty1\ntty2\n", 0),
        (b"tty1\n" * 100, 0),
    ],
)
def test_fake_file(tmp_path: Path, content: bytes, number: int) -> None:
    (tmp_path / "active").write_bytes(content)

    async def read() -> int:
        poller = EdgePoller()
        vt = VtFile(str(tmp_path / "active"), poller, refuse)
        vt.close()
        vt.close()
        poller.close()
        return vt.number

    assert asyncio.run(read()) == number


@pytest.mark.usefixtures("descriptors")
@in_loop
async def test_nothing_there() -> None:
    poller = EdgePoller()
    vt = VtFile("/nonexistent/active", poller, refuse)
    assert vt.number == 0
    vt.close()
    poller.close()


@in_loop
async def test_only_another_number_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "active", list[int]()
    path.write_bytes(b"tty1\n")
    poller = StandInPoller()
    vt = VtFile(str(path), poller, told.append)
    assert stat.S_ISREG(os.stat(path).st_mode)
    for content in (b"tty1\n", b"tty2\n", b"tty2\n", b"", b"tty7\n"):
        path.write_bytes(content)
        poller.change()
    assert told == [2, 0, 7]
    assert vt.number == 7
    vt.close()
    assert not poller._handlers
    poller.close()


class StandInPoller(EdgePoller):
    """Changes when told to: only sysfs has files that can be waited for."""

    def watch_priority(self, fd: int, handler: object) -> None:
        assert callable(handler)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        del self._handlers[fd]

    def change(self) -> None:
        [handler] = self._handlers.values()
        handler(0)
