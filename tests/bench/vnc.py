"""A VNC client that looks at nothing: what a VNC server has to do for one viewer.

    python -m tests.bench.vnc PORT

Asks for all of the screen, then for what has changed, as JPEG where the server likes (Tight,
quality 8), always as soon as the last answer has come (RFC 6143).  Prints a line when the first has
come; then one of JSON for each line of its standard input: how many answers with pixels have come
since the last, and their bytes.  Its end ends the process.
"""

import ctypes
import json
import select
import signal
import socket
import struct
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_TIGHT: Final = 7
_QUALITY: Final = -24  # 8 of 0 to 9; -32 is 0
_DESKTOP_SIZE: Final = -223
_RECTANGLE: Final = struct.Struct(">HHHHi")
# 32 bits a pixel, 24 of them used, B, G, R, X.
_PIXELS: Final = struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
_UNPACKED: Final = 12  # bytes; fewer are not compressed


class Viewer:
    """One connection, from its greeting on."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._input = self._socket.makefile("rb")
        self.bytes = 0
        self._greet()

    def fileno(self) -> int:
        """Return what is readable when an answer comes; nothing is read ahead between two."""
        return self._socket.fileno()

    def ask(self, *, whole: bool = False) -> None:
        """Ask for all, or for what is new."""
        self._socket.sendall(struct.pack(">BBHHHH", 3, not whole, 0, 0, *self._size))

    def answer(self) -> int:
        """Read one message; return how many rectangles with pixels it had."""
        kind = self._read(1)[0]
        if kind != 0:
            raise SystemExit(f"vnc: a message of type {kind}")
        (count,) = struct.unpack(">xH", self._read(3))
        return sum(self._rectangle() for _ in range(count))

    def _greet(self) -> None:
        self._socket.sendall(self._read(12))  # the same version
        kinds = self._read(self._read(1)[0])
        if 1 not in kinds:
            raise SystemExit(f"vnc: no security type without a password: {kinds!r}")
        self._socket.sendall(b"\1")
        if self._read(4) != bytes(4):
            raise SystemExit("vnc: refused")
        self._socket.sendall(b"\1")  # share it
        *self._size, length = struct.unpack(">HH16xI", self._read(24))
        self._read(length)
        self._socket.sendall(_PIXELS)
        wanted = (_TIGHT, _QUALITY, _DESKTOP_SIZE)
        self._socket.sendall(struct.pack(f">BxH{len(wanted)}i", 2, len(wanted), *wanted))

    def _rectangle(self) -> int:
        _, _, width, height, encoding = _RECTANGLE.unpack(self._read(_RECTANGLE.size))
        if encoding == _DESKTOP_SIZE:
            return 0
        if encoding != _TIGHT:
            raise SystemExit(f"vnc: encoding {encoding}")
        self._tight(width, height)
        return 1

    def _tight(self, width: int, height: int) -> None:
        control = self._read(1)[0] >> 4
        if control == 8:
            self._read(3)
        elif control == 9:
            self._read(self._compact())
        else:
            self._basic(width, height, has_filter=bool(control & 4))

    def _basic(self, width: int, height: int, *, has_filter: bool) -> None:
        size = width * height * 3
        if has_filter and self._read(1)[0] == 1:  # a palette
            colours = self._read(1)[0] + 1
            self._read(3 * colours)
            size = height * (-(-width // 8) if colours == 2 else width)
        self._read(size if size < _UNPACKED else self._compact())

    def _compact(self) -> int:
        length = 0
        for shift in (0, 7, 14):
            byte = self._read(1)[0]
            length |= (byte & (0x7F if shift < 14 else 0xFF)) << shift
            if not byte & 0x80:
                break
        return length

    def _read(self, size: int) -> bytes:
        data = self._input.read(size)
        if len(data) != size:
            raise SystemExit("vnc: the server has left")
        self.bytes += size
        return data


def main() -> None:
    """View until standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    viewer = Viewer(int(sys.argv[1]))
    viewer.ask(whole=True)
    frames, was = 0, viewer.bytes
    viewer.answer()
    print("{}", flush=True)
    viewer.ask()
    while True:
        # The file object holds nothing then: an answer comes only when it was asked for.
        ready, _, _ = select.select([viewer, sys.stdin], [], [])
        if sys.stdin in ready:
            if not sys.stdin.readline():
                return
            print(json.dumps({"frames": frames, "bytes": viewer.bytes - was}), flush=True)
            frames, was = 0, viewer.bytes
        else:
            frames += viewer.answer() > 0
            viewer.ask()


if __name__ == "__main__":
    main()
