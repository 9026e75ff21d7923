"""A connection to a Wayland compositor: the socket, its descriptors, memory that both see.

What the bytes mean is ``sessiond.wire.wayland``'s. Nothing here waits without a limit but ``wait``,
which also looks at who wants to wake it.
"""

import contextlib
import fcntl
import math
import mmap
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from sessiond.errors import DisplayError, ProtocolError
from sessiond.transport import rights
from sessiond.transport.passing import Outgoing, Passed, close_aside
from sessiond.wire.wayland import CALLBACK, MAX_DESCRIPTORS, REGISTRY, Client, Listener, Proxy

CHUNK: Final = 16 << 10  # bytes that are read at one time; what a frame tells is some 200
MAX_UNSENT: Final = 256 << 10  # bytes; a compositor that reads nothing is no more waited for
MAX_UNREAD: Final = 256 << 10  # bytes of what a compositor may have said before it hung up

# Nobody can make the memory smaller beneath us, which would end us by SIGBUS (fcntl(2)).
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Connection:
    """A client of the compositor at ``name``, from ``sock``, which is ours, until ``close``.

    Every call but ``close`` raises DisplayError when the compositor has gone, breaks the protocol
    or refuses what we asked.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self.client = Client()
        self.name = name
        self._sock = sock
        self._outgoing = Outgoing()
        self._problem = ""

    @classmethod
    def open(cls, path: str, timeout: float) -> "Connection":
        """Connect to the socket ``path``, for which the kernel has ``timeout`` seconds."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise DisplayError(f"no compositor answers at {path}: {error}") from None
        return cls(sock, path)

    def registry(self, on: dict[str, Listener]) -> Proxy:
        """Ask for the globals."""
        return self.client.make(self.client.display, "get_registry", REGISTRY, on=on)

    def flush(self) -> None:
        """Send what the socket takes now; the rest goes with the next call of any kind."""
        with self.translated():
            self._flush()

    def round_trip(self, timeout: float) -> None:
        """Wait until the compositor has done all that was asked and told all that it had to."""
        done = list[int]()
        with self.translated():
            self.client.make(self.client.display, "sync", CALLBACK, on={"done": done.append})
        if not self.wait_until(lambda: bool(done), timeout):
            raise DisplayError(f"the compositor at {self.name} did not answer in {timeout:g} s")

    def wait_until(self, is_done: Callable[[], bool], timeout: float) -> bool:
        """Hear the compositor until ``is_done``; False if it is not after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not is_done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.wait(-1, left)
        return True

    def wait(self, wake_fd: int, timeout: float | None = None) -> bool:
        """Wait until the compositor says something, and hear it; return whether it did.

        Returns as well when ``wake_fd`` is readable (-1: nobody's) and after ``timeout`` seconds.
        """
        with self.translated():
            self._flush()
            poll = select.poll()
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            if wake_fd >= 0:
                poll.register(wake_fd, select.POLLIN)
            ready = dict(poll.poll(None if timeout is None else math.ceil(1000 * timeout)))
            # One read, however much there is: who wakes us is looked at again before the next.
            if ready.get(self._sock.fileno(), 0) & ~select.POLLOUT:
                return self._receive()
        return False

    def read(self) -> None:
        """Hear what has come, without waiting."""
        with self.translated():
            self._flush()
            self._receive()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what the client's objects raise into DisplayError."""
        try:
            yield
        except ProtocolError as error:
            raise DisplayError(f"the compositor at {self.name}: {error}") from error
        except (OSError, EOFError) as error:
            raise DisplayError(f"the compositor at {self.name} {self._last_words()}") from error

    def close(self) -> None:
        """Hang up. Does not raise."""
        self._outgoing.clear()
        self._sock.close()

    def _receive(self) -> bool:
        try:
            received = rights.receive(self._sock, CHUNK, MAX_DESCRIPTORS)
        except BlockingIOError:
            return False
        if received.fds:
            close_aside(received.fds)
            raise ProtocolError("it sends descriptors, for which nobody asked")
        if not received.data:
            raise EOFError
        for event in self.client.receive(received.data):
            event.dispatch()
        return True

    def _flush(self) -> None:
        if not (self.client.has_outgoing or self._outgoing):
            return
        for piece in self.client.take():
            passed = Passed(piece.fds) if piece.fds else None
            self._outgoing.add(piece.data, passed, self._on_refused)
        with contextlib.suppress(BlockingIOError):
            while self._outgoing and not self._problem:
                self._outgoing.send(self._sock, CHUNK)
        if self._problem:
            raise DisplayError(self._problem)
        if len(self._outgoing) > MAX_UNSENT:
            raise DisplayError(f"the compositor at {self.name} reads nothing of what we send")

    def _on_refused(self, error: OSError) -> None:
        self._problem = f"the kernel hands no memory to the compositor at {self.name}: {error}"

    def _last_words(self) -> str:
        """Return why it hung up, which may still be unread."""
        try:
            with contextlib.suppress(OSError, EOFError):
                for _ in range(MAX_UNREAD // CHUNK):
                    self._receive()
        except ProtocolError as error:
            return f"hung up: {error}"
        return "has gone away"


def shared_memory(size: int) -> tuple[int, memoryview]:
    """Return ``size`` bytes of zeros, and a descriptor of them that is the caller's.

    The memory lives as long as somebody holds the view or a part of it, or has it mapped from the
    descriptor. Raises DisplayError when there is no memory.
    """
    fd = -1
    try:
        fd = os.memfd_create("spice-session-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd, memoryview(mmap.mmap(fd, size))
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        if fd >= 0:
            os.close(fd)
        raise DisplayError(f"no shared memory of {size} bytes: {error}") from error
