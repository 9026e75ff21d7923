"""The host's end of the command channel: start commands in the guest, collect what they say.

The other end, and the framing, is ``tests.vm.commander``. One thread reads the channel for as long
as it is open; any thread may start commands, and several may run at a time.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from tests.vm.commander import Decoder, Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# What a command may say; a test that prints more is broken.
MAX_OUTPUT: Final = 256 << 20
# A guest under emulation, on a noisy machine, may take this long for what usually takes a second.
PATIENCE: Final = 60.0

Stream = Literal["stdout", "stderr"]


class GuestError(Exception):
    """Root of what can go wrong with a guest.

    GuestError
    |-- GuestGoneError      QEMU or the commander has ended; nothing more will come
    |-- NotStartedError     no such program, user or directory in the guest, or another boot since
    |-- CommandFailedError  a checked command ended with another status than 0 (``.completed``)
    `-- GuestTimeoutError   something has not happened in time (also a TimeoutError)
    """


class GuestGoneError(GuestError):
    """The channel is closed."""


class NotStartedError(GuestError):
    """The command was not started in the guest."""


class GuestTimeoutError(GuestError, TimeoutError):
    """It did not happen in time."""


class CommandFailedError(GuestError):
    """A checked command has failed."""

    def __init__(self, completed: Completed) -> None:
        super().__init__(completed.describe())
        self.completed = completed


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. ``status`` is negative for the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def describe(self) -> str:
        """Tell the command, its status and all that it said, for an error message."""
        said = f"{shlex.join(self.argv)}: status {self.status}"
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            if text:
                said += f"\n--- {name}\n{text.rstrip()}"
        return said


class Process:
    """A command in the guest, running or ended. Made by ``Channel.start``."""

    def __init__(self, channel: Channel, number: int, argv: tuple[str, ...]) -> None:
        self.argv = argv
        self._channel = channel
        self._number = number
        self._output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._status: int | None = None
        self._refusal: str | None = None

    @property
    def maybe_status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._status

    def output(self, stream: Stream = "stdout") -> bytes:
        """Return what it has said so far."""
        with self._channel.changed:
            return bytes(self._output[stream])

    def wait(self, timeout: float = PATIENCE, *, check: bool = False) -> Completed:
        """Wait for its end.

        Raises GuestTimeoutError (it still runs), NotStartedError, GuestGoneError.

        With ``check``, raises CommandFailedError for a status other than 0.
        """
        self._wait_until(lambda: self._status is not None, "end", timeout)
        assert self._status is not None
        completed = Completed(self.argv, self._status, self._text("stdout"), self._text("stderr"))
        if check and completed.status != 0:
            raise CommandFailedError(completed)
        return completed

    def wait_for_output(
        self, wanted: str, stream: Stream = "stdout", timeout: float = PATIENCE
    ) -> str:
        """Wait until it has said ``wanted``; return all that it has said on that stream.

        Raises GuestTimeoutError, NotStartedError, GuestGoneError; and GuestError when it ends
        without having said it.
        """
        sought = wanted.encode()

        def said_or_ended() -> bool:
            return sought in self._output[stream] or self._status is not None

        self._wait_until(said_or_ended, f"say {wanted!r}", timeout)
        if sought not in self._output[stream]:
            raise GuestError(f"ended without saying {wanted!r}: {self.wait().describe()}")
        return self._text(stream)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to its process group; no error if it has ended."""
        self._channel.send(Frame({"op": "signal", "id": self._number, "signal": int(number)}))

    def on_output(self, stream: Stream, data: bytes) -> None:
        """For the channel's reader, with its lock held."""
        if len(self._output[stream]) + len(data) <= MAX_OUTPUT:
            self._output[stream] += data

    def on_end(self, status: int | None, refusal: str | None) -> None:
        """For the channel's reader, with its lock held."""
        self._status, self._refusal = status, refusal

    def _text(self, stream: Stream) -> str:
        return self._output[stream].decode(errors="surrogateescape")

    def _wait_until(self, done: Callable[[], bool], what: str, timeout: float) -> None:
        self._channel.wait_until(
            lambda: done() or self._refusal is not None,
            lambda: f"{shlex.join(self.argv)} did not {what}{self._last_words()}",
            timeout,
        )
        if self._refusal is not None:
            raise NotStartedError(f"{shlex.join(self.argv)}: {self._refusal}")

    def _last_words(self) -> str:
        said = self._text("stdout") + self._text("stderr")
        return f"; it has said:\n{said[-4000:].rstrip()}" if said else ""


class Channel:
    """The command channel, over a connected stream socket that it owns. A context manager."""

    def __init__(self, connection: socket.socket, epitaph: Callable[[], str]) -> None:
        """Serve ``connection``; ``epitaph`` adds the host's view to the text of each fault."""
        self.changed = threading.Condition()
        self._connection = connection
        self._epitaph = epitaph
        self._sending = threading.Lock()
        self._processes: dict[int, Process] = {}
        self._started = 0
        self.boots = 0  # how often the guest has said that it takes commands
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, name="guest channel", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Whoever waits gets GuestGoneError."""
        with contextlib.suppress(OSError):  # the other end was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()

    def wait_ready(self, timeout: float, *, boots: int = 1) -> None:
        """Wait for the commander's first word after that many boots.

        Raises GuestTimeoutError, GuestGoneError.
        """
        self.wait_until(
            lambda: self.boots >= boots, lambda: "the guest did not start its commander", timeout
        )

    def start(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
    ) -> Process:
        """Start a command as ``user``, in their home or ``cwd``; it leads its own process group.

        Returns at once; a command that cannot be started is told by the process's ``wait``.
        """
        with self.changed:
            self._started += 1
            process = Process(self, self._started, tuple(argv))
            self._processes[self._started] = process
            header = {
                "op": "start",
                "id": self._started,
                "argv": list(argv),
                "user": user,
                "env": dict(env or {}),
                "cwd": cwd,
            }
        self.send(Frame(header, stdin))
        return process

    def send(self, frame: Frame) -> None:
        """Write a whole frame. Raises GuestGoneError."""
        try:
            with self._sending:
                self._connection.sendall(frame.encode())
        except OSError as error:
            raise GuestGoneError(f"the guest is gone ({error}); {self._epitaph()}") from error

    def wait_until(
        self, done: Callable[[], bool], fault: Callable[[], str], timeout: float
    ) -> None:
        """Wait for ``done``, which is asked after each frame, with the lock held."""
        with self.changed:
            came = self.changed.wait_for(lambda: done() or self._is_closed, timeout)
            if done():
                return
            text = fault()
        if came:
            raise GuestGoneError(f"{text}: the guest is gone; {self._epitaph()}")
        raise GuestTimeoutError(f"{text} within {timeout:g} s; {self._epitaph()}")

    def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := self._connection.recv(1 << 20):
                frames = decoder.feed(data)
                with self.changed:
                    for frame in frames:
                        self._on_frame(frame)
                    self.changed.notify_all()
        except OSError:
            pass  # reset when QEMU is killed: the same end
        finally:
            with self.changed:
                self._is_closed = True
                self.changed.notify_all()

    def _on_frame(self, frame: Frame) -> None:
        header = frame.header
        match header["event"]:
            case "ready":
                self.boots += 1
                for process in self._processes.values():
                    if process.maybe_status is None:
                        process.on_end(None, "the guest has booted anew since")
            case "output":
                self._processes[header["id"]].on_output(header["stream"], frame.payload)
            case "exit":
                self._processes[header["id"]].on_end(header["status"], None)
            case "failed":
                self._processes[header["id"]].on_end(None, header["error"])
