"""A screen's picture as the video coders take it: planes of Y, U and V, 4:2:0, limited range.

They are kept from frame to frame, and only what changed is converted.
"""

import functools
from typing import Any, Final, NamedTuple, cast

from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from agent.capture.base import BAND, Frame
from agent.encode.recipes import colours
from sessiond.errors import EncoderError

_MOST_BANDS: Final = 20  # one by one; more cost as much as the whole


class Planes:
    """The picture of one size. ``picture`` may be another object after each ``update``."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.picture = VideoFrame(width, height, "yuv420p")
        self._is_empty = True
        self._converters = dict[int, _Converter]()  # by the number of rows

    def update(self, frame: Frame) -> None:
        """Take over what ``frame`` says that it changed. Raises EncoderError."""
        if frame.stride < 4 * frame.width or len(frame.pixels) < self._needed(frame):
            raise EncoderError(f"video of {frame.width}x{frame.height}: not enough pixels")
        changed = None if self._is_empty else frame.changed
        if changed is None or len(changed) > _MOST_BANDS:
            self._is_empty = False
            whole = self._convert(frame, 0, self.size[1])
            if whole.width == self.size[0]:
                self.picture = whole
            else:
                self._put(whole, 0)
            return
        for band in changed:
            first = band * BAND
            if first < self.size[1]:
                rows = min(BAND, self.size[1] - first)
                self._put(self._convert(frame, first, rows), first)

    def _needed(self, frame: Frame) -> int:
        return (frame.height - 1) * frame.stride + 4 * frame.width

    def _convert(self, frame: Frame, first: int, rows: int) -> VideoFrame:
        if rows not in self._converters:
            self._converters[rows] = _Converter(self.size[0], rows, colours(self.size[1]).matrix)
        return self._converters[rows].convert(frame, first)

    def _put(self, part: VideoFrame, first: int) -> None:
        for number, source in enumerate(part.planes):
            top = first // 2 if number else first
            target = self.picture.planes[number]
            _copy(_Rows.of(source), _Rows.of(target, top), target.width, source.height)


class _Converter:
    """Converts pieces of one size, which saves most of the time that a small one takes.

    The result is wider by a column where the width is odd: libswscale 6 (FFmpeg 5.1) gives the last
    of an odd number of columns colours of its own.
    """

    def __init__(self, width: int, rows: int, matrix: str) -> None:
        self._bytes = 4 * width  # of a row
        self._is_odd = width % 2 == 1
        self._source = VideoFrame(width + self._is_odd, rows, "bgr0")
        self._reformatter = VideoReformatter()
        self._how = {"dst_colorspace": matrix, "interpolation": "AREA", **_one_thread()}

    def convert(self, frame: Frame, first: int) -> VideoFrame:
        target = _Rows.of(self._source.planes[0])
        source = _Rows(frame.pixels[first * frame.stride :], frame.stride)
        _copy(source, target, self._bytes, self._source.height)
        if self._is_odd:
            for end in range(self._bytes, len(target.memory), target.stride):
                target.memory[end : end + 4] = target.memory[end - 4 : end]
        # PyAV's types say less than it takes.
        return self._reformatter.reformat(self._source, format="yuv420p", **cast("Any", self._how))


@functools.cache
def _one_thread() -> dict[str, int]:
    """Return what keeps newer PyAVs from a thread a processor for each converter.

    For a band those cost more than it does.
    """
    one = {"threads": 1}
    try:
        VideoReformatter().reformat(VideoFrame(2, 2, "bgr0"), format="yuv420p", **one)
    except TypeError:
        return {}
    return one


class _Rows(NamedTuple):
    """Memory in rows of ``stride`` bytes."""

    memory: memoryview
    stride: int

    @classmethod
    def of(cls, plane: VideoPlane, first: int = 0) -> "_Rows":
        """Return the rows of PLANE from FIRST on."""
        return cls(memoryview(plane)[first * plane.line_size :], plane.line_size)


def _copy(source: _Rows, target: _Rows, width: int, rows: int) -> None:
    """Copy the first WIDTH bytes of so many rows."""
    if source.stride == target.stride:
        size = (rows - 1) * source.stride + width
        target.memory[:size] = source.memory[:size]
        return
    for row in range(rows):
        begin, at = row * source.stride, row * target.stride
        target.memory[at : at + width] = source.memory[begin : begin + width]
