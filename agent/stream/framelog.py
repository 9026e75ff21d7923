"""The file of ``-l``: what the upstream agent's option of that name writes.

As text, a line a frame with the time in microseconds, and with ``--log-categories=frames`` a hex
dump of it; with ``--log-binary`` the frames alone, one after the other (for MJPEG a film that
players open).
"""

import logging
import time
from pathlib import Path
from typing import BinaryIO

from sessiond.errors import UsageError

log = logging.getLogger(__name__)


class FrameLog:
    """Writes to ``path``; an empty path logs nothing."""

    def __init__(self, path: str, *, binary: bool, frames: bool) -> None:
        self._binary = binary
        self._frames = frames
        self._file: BinaryIO | None = None
        if path:
            try:
                self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115 (closed by close)
            except OSError as error:
                raise UsageError(f"log file {path} cannot be written: {error.strerror}") from error

    def frame(self, width: int, height: int, data: bytes) -> None:
        """Log one encoded frame."""
        if self._file is None:
            return
        try:
            self._file.write(data if self._binary else self._text(width, height, data))
        except OSError as error:
            log.warning("log file: %s; no more frames are logged", error.strerror)
            self.close()

    def close(self) -> None:
        """End the log."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _text(self, width: int, height: int, data: bytes) -> bytes:
        now = time.time_ns() // 1000
        text = f"{now}: Frame of {len(data)} bytes, {width}x{height}\n"
        if self._frames:
            rows = (data[at : at + 16].hex(" ") for at in range(0, len(data), 16))
            text += "\n".join(rows) + "\n"
        return text.encode()
