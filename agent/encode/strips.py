"""A JPEG picture of which only the strips that changed are encoded anew.

With a restart marker behind every strip of MCU rows, the entropy-coded segment of a strip depends
on its own pixels alone: encoded as a picture of its own, it gives byte for byte the segment that
it has in the whole. So a picture is kept as its header and one segment a strip.

Pillow writes restart markers since 10.2. Before it, strips are encoded one by one, each at the
cost of a call, and so they are higher.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, cast

import PIL
from PIL import Image, JpegImagePlugin

from agent.capture.base import BAND, Frame
from agent.encode import segments
from sessiond.errors import EncoderError
from sessiond.transport.fds import OwnedFd

CAN_RESTART: Final = tuple(map(int, PIL.__version__.split(".")[:2])) >= (10, 2)
_ALONE: Final = 2  # bands a strip: a whole picture at 1080p costs 5 % more; with one band, 15 %
_MIN_SHARE: Final = 256  # pixel rows; less of them is sooner done than another thread has begun
_MCU: Final = ((8, 8), (16, 8), (16, 16))  # pixels; by Pillow's number of a subsampling

# Pillow maps four-byte pixels without a copy only as RGBX, and then believes the blue byte to be
# red. "BGR" makes its JPEG writer swap them row by row, on their way into libjpeg, where it has
# to touch them anyway; the usual way, a conversion to RGB, costs a second picture in memory.
# The table is Pillow's own, the same since 9.4; nothing else in this process writes JPEG.
JpegImagePlugin.RAWMODE["RGBX"] = "BGR"


class _Sink:
    """A file in memory: while Pillow writes to a real file, other threads of Python may run.

    While it writes to any other object, they may not.
    """

    def __init__(self) -> None:
        self._fd = OwnedFd(os.memfd_create("jpeg", os.MFD_CLOEXEC))

    def encode(self, image: Image.Image, options: dict[str, int]) -> bytes:
        """Return IMAGE as JPEG."""
        fd = self._fd.fileno()
        os.lseek(fd, 0, os.SEEK_SET)
        image.save(cast("Any", self), "JPEG", **options)
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_CUR), 0)

    def fileno(self) -> int:
        """Tell Pillow where to write."""
        return self._fd.fileno()

    def flush(self) -> None:
        """Pillow asks for it; nothing waits here."""


class StripPicture:
    """One picture as JPEG, kept while it changes from frame to frame.

    ``quality`` as libjpeg counts it, ``subsampling`` as Pillow does: 0 is 4:4:4, 1 is 4:2:2, 2 is
    4:2:0. Large changes are encoded by ``threads`` threads, the caller's among them. Without
    ``can_restart`` each strip is encoded alone.
    """

    def __init__(
        self, quality: int, subsampling: int, *, threads: int = 1, can_restart: bool = CAN_RESTART
    ) -> None:
        self._mcu = _MCU[subsampling]
        self._can_restart = can_restart
        self.rows = BAND if can_restart else _ALONE * BAND  # pixels a strip
        self._options = {"quality": quality, "subsampling": subsampling}
        if can_restart:
            self._options["restart_marker_rows"] = self.rows // self._mcu[1]
        self._sinks = [_Sink() for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "strips")  # has none until it must
        self._size = (0, 0)
        self._parts: list[bytes] = []  # the header, then each segment and what follows it
        self._jpeg = b""

    def encode(self, frame: Frame) -> bytes:
        """Return FRAME as a JPEG picture. Raises EncoderError.

        What did not change since the frame of the call before is not looked at.
        """
        size = (frame.width, frame.height)
        if max(size) > segments.MAX_SIDE:
            raise EncoderError(f"JPEG of {size[0]}x{size[1]}: a side is over {segments.MAX_SIDE}")
        is_whole = frame.changed is None or size != self._size
        strips = self._all(frame) if is_whole else self._touched(frame)
        if strips:
            self._size = (0, 0)  # should this fail, the next frame begins anew
            try:
                self._renew(frame, strips)
            except (OSError, ValueError) as error:
                raise EncoderError(f"JPEG of {size[0]}x{size[1]}: {error}") from error
            self._size = size
            self._jpeg = b"".join(self._parts)
        return self._jpeg

    def _all(self, frame: Frame) -> list[int]:
        return list(range(-(-frame.height // self.rows)))

    def _touched(self, frame: Frame) -> list[int]:
        return sorted({band * BAND // self.rows for band in frame.changed or ()})

    def _renew(self, frame: Frame, strips: list[int]) -> None:
        count = len(self._all(frame))
        if len(strips) == count:
            self._parts = [b""] * (1 + 2 * count)
            self._parts[2::2] = segments.markers(count)
        shares = _shares(strips, min(len(self._sinks), len(strips) * self.rows // _MIN_SHARE))
        for jpeg, run in self._encode_shares(frame, shares):
            header, found = segments.split(jpeg, len(run))
            self._parts[1 + 2 * run.start : 1 + 2 * run.stop : 2] = found
            if not self._parts[0]:
                self._parts[0] = self._header(header, frame)

    def _header(self, header: bytes, frame: Frame) -> bytes:
        width, height = self._mcu
        interval = -(-frame.width // width) * (self.rows // height)
        return segments.header_of(header, frame.height, interval)

    def _encode_shares(self, frame: Frame, shares: list[list[int]]) -> list[tuple[bytes, range]]:
        """Encode each share in a thread of its own."""
        if len(shares) == 1:
            return self._encode_share(self._sinks[0], frame, shares[0])
        others = [
            self._pool.submit(self._encode_share, sink, frame, share)
            for sink, share in zip(self._sinks[1:], shares[1:], strict=False)
        ]
        try:
            done = self._encode_share(self._sinks[0], frame, shares[0])
        finally:
            wait(others)  # until then they read the frame's pixels, which are only lent
        for other in others:
            done += other.result()
        return done

    def _encode_share(
        self, sink: _Sink, frame: Frame, strips: list[int]
    ) -> list[tuple[bytes, range]]:
        runs = _runs(strips) if self._can_restart else (range(n, n + 1) for n in strips)
        return [(sink.encode(self._image(frame, run), self._options), run) for run in runs]

    def _image(self, frame: Frame, run: range) -> Image.Image:
        top, bottom = run.start * self.rows, min(run.stop * self.rows, frame.height)
        pixels = cast("bytes", frame.pixels[top * frame.stride :])  # any buffer serves
        size = (frame.width, bottom - top)
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", frame.stride, 1)


def _shares(strips: list[int], count: int) -> list[list[int]]:
    """Cut STRIPS into COUNT lists, or one, of about the same length."""
    each = -(-len(strips) // max(1, count))
    return [strips[at : at + each] for at in range(0, len(strips), each)]


def _runs(strips: list[int]) -> Iterator[range]:
    """Yield the ranges that ascending STRIPS consist of."""
    start = 0
    for at, strip in enumerate(strips, 1):
        if at == len(strips) or strips[at] != strip + 1:
            yield range(strips[start], strip + 1)
            start = at
