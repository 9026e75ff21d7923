"""Bytes between real terminals and pipes, files and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
import socket
import termios
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sessiond.transport.aside import run_aside
from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import RawMode
from sessiond.transport.terminal_pump import Outcome, Pump
from sessiond.transport.terminal_relay import Relay
from tests.fixtures.loop import in_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Ends:
    """A terminal's end, and the other ends of the pipes that are its stdin and stdout."""

    def __init__(self) -> None:
        master, end = map(OwnedFd, os.openpty())
        self.end = end
        self.master = master
        self.stdin, self.typed = map(OwnedFd, os.pipe())
        self.said, self.stdout = map(OwnedFd, os.pipe())

    @contextlib.contextmanager
    def pump(self, stdin: int = -1, stdout: int = -1) -> Iterator[Pump]:
        """Give one, with these or else with the pipes."""
        pump = Pump(
            self.master,
            stdin=stdin if stdin >= 0 else self.stdin.fileno(),
            stdout=stdout if stdout >= 0 else self.stdout.fileno(),
        )
        try:
            yield pump
        finally:
            pump.close()

    def type(self, data: bytes) -> None:
        os.write(self.typed.fileno(), data)

    def say(self, data: bytes) -> None:
        os.write(self.end.fileno(), data)

    async def read(self) -> bytes:
        """Return what who reads at the terminal gets."""
        return await run_aside(lambda: os.read(self.end.fileno(), 1 << 16))

    async def heard(self, size: int) -> bytes:
        """Return so many bytes of what was said."""
        data = b""
        while len(data) < size:
            data += await run_aside(lambda: os.read(self.said.fileno(), 1 << 16))
        return data


@pytest.fixture
def ends() -> Iterator[Ends]:
    # Another test may have left a thread that waits for its next work for ever (transport.drops).
    threads, fds = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    ends = Ends()
    yield ends
    for fd in vars(ends).values():
        fd.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
    del ends
    gc.collect()  # what an error that was raised had to do with
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= fds


def test_both_ways(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        with ends.pump():
            ends.type(b"line\n")
            assert await ends.read() == b"line\n"
            ends.say(b"answer\n")
            assert await ends.heard(14) == b"line\r\nanswer\r\n"

    test()


def test_much_both_ways_at_once(ends: Ends) -> None:
    """Whoever is slow holds up the other, and nothing is lost."""
    data = os.urandom(3 << 20)

    def feed(fd: OwnedFd) -> None:
        with open(fd.fileno(), "wb", closefd=False) as file:
            file.write(data)

    def fetch(fd: OwnedFd) -> bytes:
        with open(fd.fileno(), "rb", closefd=False) as file:
            return file.read(len(data))

    @in_loop
    async def test() -> None:
        with RawMode(ends.end.fileno()), ends.pump():
            feeding = [run_aside(partial(feed, fd)) for fd in (ends.typed, ends.end)]
            fetching = [run_aside(partial(fetch, fd)) for fd in (ends.end, ends.said)]
            await asyncio.gather(*feeding)
            assert await asyncio.gather(*fetching) == [data, data]

    test()


def test_what_others_have_stays_blocking(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        with ends.pump():
            ends.type(b"x\n")
            await ends.heard(3)
            for fd in (ends.stdin, ends.stdout, ends.end):
                assert not fcntl.fcntl(fd.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK

    test()


def test_what_others_have_made_non_blocking(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        for fd in (ends.stdin, ends.stdout):
            os.set_blocking(fd.fileno(), False)
        size = 1 << 18  # more than a pipe takes
        with ends.pump() as pump, RawMode(ends.end.fileno()):
            saying = run_aside(lambda: _write_all(ends.end, bytes(size)))
            assert await ends.heard(size) == bytes(size)
            await saying
            assert not pump.saying.done()
            assert not pump.typing.done()

    test()


def _write_all(fd: OwnedFd, data: bytes) -> None:
    while data:
        data = data[os.write(fd.fileno(), data) :]


def test_end_of_input(ends: Ends) -> None:
    """In the middle of a line, and for one reader after the other."""

    @in_loop
    async def test() -> None:
        with ends.pump():
            ends.type(b"line\nrest")
            ends.typed.close()
            assert [await ends.read() for _ in range(5)] == [b"line\n", b"rest", b"", b"", b""]

    test()


@pytest.mark.parametrize("kind", ["file", "nothing", "socket"])
def test_other_inputs(ends: Ends, tmp_path: Path, kind: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"line\n")
    theirs.shutdown(socket.SHUT_WR)
    (tmp_path / "file").write_bytes(b"line\n")

    @in_loop
    async def test(stdin: int) -> None:
        with ends.pump(stdin=stdin):
            if kind != "nothing":
                assert await ends.read() == b"line\n"
            assert await ends.read() == b""

    with ours, theirs, open(tmp_path / "file", "rb") as file, open(os.devnull, "rb") as nothing:
        inputs = {"file": file.fileno(), "nothing": nothing.fileno(), "socket": ours.fileno()}
        test(inputs[kind])


def test_end_of_input_while_every_key_counts(ends: Ends) -> None:
    """Nothing is typed then; and something once lines are read again."""

    @in_loop
    async def test() -> None:
        raw = RawMode(ends.end.fileno())
        raw.enter()
        with ends.pump():
            ends.type(b"key")
            ends.typed.close()
            assert await ends.read() == b"key"
            raw.leave()
            assert await ends.read() == b""

    test()


def test_our_terminal_goes(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        master, terminal = map(OwnedFd, os.openpty())
        with terminal, ends.pump(stdin=terminal.fileno()) as pump:
            master.close()
            assert await pump.typing is Outcome.LOST

    test()


@pytest.mark.parametrize("is_said", [True, False])
def test_nobody_reads_our_output(ends: Ends, *, is_said: bool) -> None:
    """That is known even where nothing is said."""

    @in_loop
    async def test() -> None:
        with ends.pump() as pump:
            ends.said.close()
            if is_said:
                ends.say(b"x")
            assert await pump.saying is Outcome.LOST

    test()


def test_a_socket_that_nobody_has(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with ours, ends.pump(stdout=ours.fileno()) as pump:
            theirs.shutdown(socket.SHUT_WR)  # it still reads
            ends.say(b"heard")
            assert await run_aside(lambda: theirs.recv(100)) == b"heard"
            theirs.close()
            assert await pump.saying is Outcome.LOST

    test()


def test_all_that_was_said_at_the_end(ends: Ends) -> None:
    """Though somebody still has the terminal; by one who speaks last and is gone."""

    @in_loop
    async def test() -> None:
        with RawMode(ends.end.fileno()), ends.pump() as pump:
            last = os.urandom(4000)
            ends.say(last)
            pump.drain()
            assert await pump.saying is Outcome.DONE
            assert await pump.typing is Outcome.DONE
            assert await ends.heard(len(last)) == last

    test()


def test_who_goes_on_speaking_at_the_end(ends: Ends) -> None:
    """It is not listened to for ever."""

    @in_loop
    async def test(nothing: int) -> None:
        is_over = False

        def speak() -> None:
            with contextlib.suppress(OSError):
                while not is_over:
                    os.write(ends.end.fileno(), bytes(4096))

        with ends.pump(stdout=nothing) as pump:
            speaking = run_aside(speak)
            pump.drain()
            assert await pump.saying is Outcome.DONE
            is_over = True
        await speaking  # to which nobody listens any more

    with open(os.devnull, "wb") as file:
        test(file.fileno())


def test_everybody_has_closed_the_terminal(ends: Ends) -> None:
    @in_loop
    async def test() -> None:
        with ends.pump() as pump:
            ends.say(b"last")
            ends.end.close()
            assert await ends.heard(4) == b"last"
            assert await pump.saying is Outcome.DONE

    test()


def test_kernel_that_has_no_thread(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is time to leave then, and to say why."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    @in_loop
    async def test() -> None:
        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", refuse)
            relay = Relay(ends.master, stdin=ends.stdin.fileno(), stdout=ends.stdout.fileno())
            with relay, pytest.raises(BlockingIOError):
                await relay.left

    test()


@pytest.mark.parametrize("turns", range(5))
def test_terminal_stays_as_it_was_whoever_is_continued_at_the_end(ends: Ends, turns: int) -> None:
    """In whichever of the loop's last turns the signal is heard of."""

    def is_raw(fd: int) -> bool:
        return not termios.tcgetattr(fd)[3] & termios.ICANON

    @in_loop
    async def test() -> None:
        master, window = map(OwnedFd, os.openpty())
        with master, window:
            with Relay(ends.master, stdin=window.fileno(), stdout=ends.stdout.fileno()):
                assert is_raw(window.fileno())
                os.kill(os.getpid(), signal.SIGCONT)
                for _ in range(turns):
                    await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not is_raw(window.fileno())

    test()


def test_a_hang_up_while_nobody_reads(ends: Ends) -> None:
    """The master is let go of at once, even by a thread that waits for ours to be read."""

    @in_loop
    async def test() -> None:
        with ends.pump() as pump, RawMode(ends.end.fileno()):
            os.set_blocking(ends.end.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while True:  # until nothing more is taken anywhere
                    ends.say(bytes(4096))
            os.set_blocking(ends.end.fileno(), True)
            pump.close()
            pump.close()
            with contextlib.suppress(OSError):  # EIO, at that very moment
                assert await ends.read() == b""
            with pytest.raises(OSError, match="Input/output"):
                ends.say(b"x")
            assert not pump.saying.done() or pump.saying.result() is Outcome.DONE
        ends.said.close()
        await pump.saying

    test()
