"""Encodes by Pillow. It writes restart markers since 10.2."""

import os
from typing import Any, Final, cast

import PIL
from PIL import Image, JpegImagePlugin

from agent.capture.base import Frame
from agent.encode.compress import Compressor
from sessiond.errors import EncoderError
from sessiond.transport.fds import OwnedFd

CAN_RESTART: Final = tuple(map(int, PIL.__version__.split(".")[:2])) >= (10, 2)

# Pillow maps four-byte pixels without a copy only as RGBX, and then believes the blue byte to be
# red. "BGR" makes its JPEG writer swap them row by row, on their way into libjpeg, where it has
# to touch them anyway; the usual way, a conversion to RGB, costs a second picture in memory.
# The table is Pillow's own, the same since 9.4; nothing else in this process writes JPEG.
JpegImagePlugin.RAWMODE["RGBX"] = "BGR"


class PillowCompressor(Compressor):
    """Has a file in memory: while Pillow writes to a real one, other threads of Python may run.

    While it writes to any other object, they may not.
    """

    restarts = CAN_RESTART

    def __init__(self, quality: int, subsampling: int) -> None:
        self._options = {"quality": quality, "subsampling": subsampling}
        if self.restarts:
            self._options["restart_marker_rows"] = 1
        self._fd = OwnedFd(os.memfd_create("jpeg", os.MFD_CLOEXEC))

    def compress(self, frame: Frame, rows: range) -> bytes:
        pixels = cast("bytes", frame.pixels[rows.start * frame.stride :])  # any buffer serves
        size = (frame.width, len(rows))
        fd = self._fd.fileno()
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", frame.stride, 1)
            image.save(cast("Any", self), "JPEG", **self._options)
        except (OSError, ValueError) as error:
            raise EncoderError(f"JPEG of {frame.width}x{frame.height}: {error}") from error
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_CUR), 0)

    def fileno(self) -> int:
        """Tell Pillow where to write."""
        return self._fd.fileno()

    def flush(self) -> None:
        """Pillow asks for it; nothing waits here."""
