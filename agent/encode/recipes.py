"""How FFmpeg's coders have to be asked: real time, one thread, no frame kept back. Pure.

Measured with libvpx 1.12 and 1.15, x264 164, x265 3.5 and 4.1, at 1920x1080. An option that a
coder does not know is ignored without a word, so a new one needs a look at what it does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# ITU-T H.264, 7.3.2.4: an access unit delimiter. A parser that is not told where pictures end
# knows so only by what follows; spice-gtk's needs two of them, or it shows each picture one late.
# It still shows the second of a stream only with the third, which the repetitions provide.
_DELIMITERS: Final = b"\0\0\0\1\x09\xf0" * 2


@dataclass(frozen=True, slots=True)
class Colours:
    """What makes the planes, by libswscale's word, and what a stream says of it, by FFmpeg's."""

    matrix: str
    said: str

    def options(self) -> dict[str, str]:
        """Return what makes a coder say it."""
        return {
            "colorspace": self.said, "color_primaries": self.said, "color_trc": self.said,
            "color_range": "tv",
        }  # fmt: skip


_SD: Final = Colours("ITU601", "smpte170m")
_HD: Final = Colours("ITU709", "bt709")
_SD_HEIGHT: Final = 576  # pixels


def colours(height: int) -> Colours:
    """Return what GStreamer takes a stream of that height for which says nothing, as VP8 does."""
    return _SD if height <= _SD_HEIGHT else _HD


@dataclass(frozen=True, slots=True)
class Recipe:
    """One of FFmpeg's coders, by ``coder``, its name there.

    ``knob`` is the option that the one number, which people may choose, goes to. A coder with a
    ``bit_rate`` spends it by the frames' times; the others care for quality alone.
    """

    coder: str
    options: Mapping[str, str]
    knob: str
    bit_rate: int = 0  # bits a second
    has_colours: bool = True  # the stream can say which matrix made it
    tail: bytes = b""  # behind each frame
    device: Path | None = None  # there is no use in trying without it


def _vpx(coder: str, rate: int, **options: str) -> Recipe:
    return Recipe(
        coder,
        {
            "deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0",
            "minrate": str(rate), "maxrate": str(rate), "bufsize": str(rate // 5),
            **{name.replace("_", "-"): value for name, value in options.items()},
        },
        "qmin",
        rate,
        has_colours=coder != "libvpx",
    )  # fmt: skip


# Their frames' times fit it to any other: half as much, or forty times.
_VPX_RATE: Final = 1_000_000

# cpu-used: of the fixed speeds (below zero) the fastest that still searches for what moved, so
# that scrolling costs a third. static-thresh: what looks like noise is not encoded again.
_VP8 = {"qmax": "56", "cpu_used": "-6", "static_thresh": "2000"}
# tune-content: what scrolls costs half, but with a coarser qmax a picture at rest stays blurred.
_VP9 = {
    "qmax": "48", "cpu_used": "8", "tune_content": "screen", "row_mt": "0", "tile_columns": "0",
}  # fmt: skip

VP8: Final = (_vpx("libvpx", _VPX_RATE, **_VP8),)
VP9: Final = (_vpx("libvpx-vp9", _VPX_RATE, **_VP9),)

_NVIDIA: Final = Path("/dev/nvidiactl")
_NVENC: Final = {
    "preset": "p1", "tune": "ull", "rc": "constqp", "delay": "0", "zerolatency": "1", "bf": "0",
    "forced-idr": "1",
}  # fmt: skip
_X26: Final = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
_X264: Final = "repeat-headers=1:scenecut=0:keyint=infinite:min-keyint=1:sliced-threads=0"
_X265: Final = "repeat-headers=1:scenecut=0:keyint=-1:pools=none:frame-threads=1:log-level=none"

H264: Final = (
    Recipe("h264_nvenc", _NVENC, "qp", tail=_DELIMITERS, device=_NVIDIA),
    Recipe("libx264", {**_X26, "x264-params": _X264}, "crf", tail=_DELIMITERS),
)
H265: Final = (
    Recipe("hevc_nvenc", _NVENC, "qp", device=_NVIDIA),
    Recipe("libx265", {**_X26, "x265-params": _X265}, "crf"),
)
