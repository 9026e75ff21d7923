"""The file of ``-l``: what the upstream agent's option of that name writes.

As text, a line a frame with the time in microseconds, and with ``--log-categories=frames`` a hex
dump of it; with ``--log-binary`` the frames alone, one after the other (for MJPEG a film that
players open).
"""

import time
from pathlib import Path
from typing import BinaryIO

from sessiond.errors import UsageError


class FrameLog:
    """Writes to ``path``; an empty path logs nothing."""

    def __init__(self, path: str, *, binary: bool, frames: bool) -> None:
        self._binary = binary
        self._frames = frames
        self._file: BinaryIO | None = None
        if path:
            try:
                self._file = Path(path).open("wb")  # noqa: SIM115 (closed by close)
            except OSError as error:
                raise UsageError(f"log file {path} cannot be written: {error.strerror}") from error

    def frame(self, width: int, height: int, data: bytes) -> None:
        """Log one encoded frame."""
        if self._file is None:
            return
        if self._binary:
            self._file.write(data)
            return
        now = time.time_ns() // 1000
        self._file.write(f"{now}: Frame of {len(data)} bytes, {width}x{height}\n".encode())
        if self._frames:
            rows = (data[at : at + 16].hex(" ") for at in range(0, len(data), 16))
            self._file.write("\n".join(rows).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Write out what is left."""
        if self._file is not None:
            self._file.close()
