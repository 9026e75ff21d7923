"""A JPEG picture of which only the strips that changed are encoded anew.

With a restart marker behind every row of MCUs, the entropy-coded segment of a row depends on its
own pixels alone: encoded as a picture of its own, it gives byte for byte the segment that it has in
the whole. So a picture is kept as its header and one segment a strip.

Where a compressor cannot write restart markers, strips are encoded one by one, each at the cost of
a call, and so they are higher.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from agent.capture.base import BAND, Frame
from agent.encode import segments
from agent.encode.compress import MCU, Compressor
from sessiond.errors import EncoderError

_ALONE: Final = 32  # pixel rows: by Pillow a 1080p frame costs 5 % more; with 16, 15 %
_MIN_SHARE: Final = 256  # pixel rows; less of them is sooner done than another thread has begun


class StripPicture:
    """One picture as JPEG, kept while it changes from frame to frame.

    ``quality`` as libjpeg counts it, ``subsampling`` as Compressor does. Large changes are encoded
    by ``threads`` threads, the caller's among them. Raises EncoderError.
    """

    def __init__(
        self, compressor: type[Compressor], quality: int, subsampling: int, *, threads: int = 1
    ) -> None:
        self._compressors = [compressor(quality, subsampling) for _ in range(threads)]
        self._restarts = self._compressors[0].restarts
        self._mcu = MCU[subsampling]
        self.rows = self._mcu[1] if self._restarts else _ALONE  # pixels a strip
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "strips")  # has none until it must
        self._size = (0, 0)
        self._parts: list[bytes] = []  # the header, then each segment and what follows it
        self._jpeg = b""

    def is_brief(self, frame: Frame) -> bool:
        """Tell whether so little of FRAME changed that one thread is enough for it."""
        return (
            frame.changed is not None
            and (frame.width, frame.height) == self._size
            and len(frame.changed) * BAND < _MIN_SHARE
        )

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
            self._renew(frame, strips)
            self._size = size
            self._jpeg = b"".join(self._parts)
        return self._jpeg

    def _all(self, frame: Frame) -> list[int]:
        return list(range(-(-frame.height // self.rows)))

    def _touched(self, frame: Frame) -> list[int]:
        count = len(self._all(frame))
        touched = set[int]()
        for band in frame.changed or ():
            first = band * BAND
            touched.update(range(first // self.rows, -(-(first + BAND) // self.rows)))
        return sorted(strip for strip in touched if strip < count)

    def _renew(self, frame: Frame, strips: list[int]) -> None:
        count = len(self._all(frame))
        if len(strips) == count:
            self._parts = [b""] * (1 + 2 * count)
            self._parts[2::2] = segments.markers(count)
        shares = _shares(strips, min(len(self._compressors), len(strips) * self.rows // _MIN_SHARE))
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
            return self._encode_share(self._compressors[0], frame, shares[0])
        others = [
            self._pool.submit(self._encode_share, compressor, frame, share)
            for compressor, share in zip(self._compressors[1:], shares[1:], strict=False)
        ]
        try:
            done = self._encode_share(self._compressors[0], frame, shares[0])
        finally:
            wait(others)  # until then they read the frame's pixels, which are only lent
        for other in others:
            done += other.result()
        return done

    def _encode_share(
        self, compressor: Compressor, frame: Frame, strips: list[int]
    ) -> list[tuple[bytes, range]]:
        runs = _runs(strips) if self._restarts else (range(n, n + 1) for n in strips)
        return [(compressor.compress(frame, self._rows(frame, run)), run) for run in runs]

    def _rows(self, frame: Frame, run: range) -> range:
        return range(run.start * self.rows, min(run.stop * self.rows, frame.height))


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
