"""The file of ``-l``."""

import re
from pathlib import Path

import pytest

from agent.stream.framelog import FrameLog
from sessiond.errors import UsageError

FRAME = bytes(range(18))


def test_nothing_is_logged_without_a_path() -> None:
    frames = FrameLog("", binary=True, frames=True)
    frames.frame(1, 1, FRAME)
    frames.close()
    frames.close()


def test_line_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "log"
    frames = FrameLog(str(path), binary=False, frames=False)
    frames.frame(640, 480, FRAME)
    assert re.fullmatch(r"\d{16}: Frame of 18 bytes, 640x480\n", path.read_text())
    frames.frame(640, 480, FRAME)
    frames.close()
    assert path.read_text().count("\n") == 2


def test_hex_dump(tmp_path: Path) -> None:
    path = tmp_path / "log"
    frames = FrameLog(str(path), binary=False, frames=True)
    frames.frame(640, 480, FRAME)
    frames.close()
    assert path.read_text().splitlines()[1:] == [
        "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f",
        "10 11",
    ]


def test_frames_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    frames = FrameLog(str(path), binary=True, frames=True)
    frames.frame(1, 1, FRAME)
    frames.frame(1, 1, b"end")
    frames.close()
    assert path.read_bytes() == FRAME + b"end"


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "none/log"
    with pytest.raises(UsageError, match=f"^log file {path} cannot be written: No such file"):
        FrameLog(str(path), binary=False, frames=False)


@pytest.mark.parametrize("binary", [False, True])
def test_full_disk_ends_the_log_and_not_the_stream(
    caplog: pytest.LogCaptureFixture, *, binary: bool
) -> None:
    frames = FrameLog("/dev/full", binary=binary, frames=False)
    frames.frame(1, 1, FRAME)
    frames.frame(1, 1, FRAME)
    frames.close()
    assert caplog.messages == ["log file: No space left on device; no more frames are logged"]
