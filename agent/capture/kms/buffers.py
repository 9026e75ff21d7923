"""The card's buffers, mapped to be read."""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd

# linux, include/uapi/linux/dma-buf.h: DMA_BUF_IOCTL_SYNC and its flags.
_SYNC: Final = 1 << 30 | 8 << 16 | ord("b") << 8
_BEGIN_READ: Final = struct.pack("=Q", 1)
_END_READ: Final = struct.pack("=Q", 1 | 1 << 2)

_KEPT: Final = 8  # buffers not seen for a while; compositors take turns with two to four


class Buffer:
    """A buffer in our memory, to be read only. Raises DisplayError if it cannot be.

    It is unmapped when neither the object nor a view of its pixels is left.
    """

    def __init__(self, fd: OwnedFd) -> None:
        self._fd = fd
        try:
            size = os.lseek(fd.fileno(), 0, os.SEEK_END)
            self._map = mmap.mmap(fd.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise DisplayError(f"a buffer of the screen cannot be mapped: {error}") from None
        self.pixels = memoryview(self._map)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read what is written until now, and not the half of what is being written.

        Raises DisplayError.
        """
        self._sync(_BEGIN_READ)
        try:
            yield
        finally:
            self._sync(_END_READ)

    def _sync(self, flags: bytes) -> None:
        while True:
            try:
                fcntl.ioctl(self._fd.fileno(), _SYNC, flags)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue
                # Ordinary shared memory needs none.
                if error.errno != errno.ENOTTY:
                    raise DisplayError(f"a buffer of the screen cannot be read: {error}") from None
            return


class Buffers:
    """Keeps the last few that were seen mapped: mapping one anew costs more than reading it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Buffer] = {}  # the one that was seen last comes last

    def take(self, fds: Sequence[OwnedFd]) -> list[Buffer]:
        """Return the buffers of ``fds``, which are ours from now on. Raises DisplayError."""
        found = []
        for fd in fds:
            # The kernel has one inode for each buffer (dma-buf.c), whoever exports it, and for as
            # long as we have it mapped no other can get its number.
            status = os.fstat(fd.fileno())
            key = (status.st_dev, status.st_ino)
            buffer = self._known.pop(key, None)
            if buffer:
                fd.close()
            else:
                buffer = Buffer(fd)
            self._known[key] = buffer
            found.append(buffer)
        for key in list(self._known)[: -max(_KEPT, len(found))]:
            del self._known[key]
        return found

    def forget(self) -> None:
        """Give all of them back."""
        self._known.clear()
