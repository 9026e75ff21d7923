"""A graphics card of memory files with the real KMS helper, in a process of their own.

    python -m tests.bench.card WIDTHxHEIGHT DIRECTORY

Serves one agent after the other (``served``).  The card's buffer holds `PICTURES`, one below the
other, and shows the one whose turn it is by DIRECTORY/painted, the record of
``tests.bench.painting``; a cursor is beside it.  Prints the buffer's path when it is ready.
DIRECTORY/looked is how often the agent of now has looked.  Its ioctls are none: a driver's cost
more.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sessiond.errors import SessiondError
from sessiond.kms.card import Cursor, Output, Screen
from sessiond.kms.drm import Crtc
from sessiond.kms.serve import Console, Helper
from sessiond.wire.kms import MAX_CONTROL, Grant, Ready, Serve, pack_control, parse_from_helper
from tests.bench.processes import BenchError
from tests.fixtures.kms import DEADLINE, Memory, MemoryCard

PAINTED: Final = "painted"
LOOKED: Final = "looked"
PICTURES: Final = 3  # who looks after two beats instead of one shall not see the same again
_SOCKET: Final = "helper"
_ACTIVE: Final = "active"
_VT: Final = 3
_CRTC, _SCREEN, _CURSOR = 31, 41, 42  # numbers of the card's
_CURSOR_SIZE: Final = (64, 64)
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class TurningCard(MemoryCard):
    """Shows one part of its buffer after the other, and counts who looks."""

    def __init__(self, memory: Memory, cursor: Memory, directory: Path) -> None:
        super().__init__()
        self.memory = {_SCREEN: memory, _CURSOR: cursor}
        self.names = {_CRTC: Output(0, "Virtual-1")}
        self._size = (memory.width, memory.height // PICTURES)
        self._painted = os.open(directory / PAINTED, os.O_RDONLY | os.O_CLOEXEC)
        with (directory / LOOKED).open("r+b") as file:
            self._looked = mmap.mmap(file.fileno(), 8)
        self._looks = 0

    def close(self) -> None:
        """Let go of the records."""
        os.close(self._painted)
        self._looked.close()

    def screen(self) -> Screen:
        """Return whose turn it is."""
        width, height = self._size
        count = int.from_bytes(os.pread(self._painted, 8, 0), sys.byteorder)
        crtc = Crtc(_CRTC, _SCREEN, 0, count % PICTURES * height, width, height)
        return Screen((crtc,), (Cursor(_CRTC, _CURSOR, width // 2, height // 2, 0, 0),))

    def outputs(self, screen: Screen) -> Mapping[int, Output]:
        """Count, for each look asks once."""
        self._looks += 1
        struct.pack_into("<Q", self._looked, 0, self._looks)
        return super().outputs(screen)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[int]:
    """Give an agent's socket, which may look for as long as the context lasts.

    Raises BenchError.
    """
    kind = socket.SOCK_SEQPACKET
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with socket.socket(socket.AF_UNIX, kind) as daemon, ours:
        daemon.settimeout(DEADLINE)
        daemon.connect(str(directory / _SOCKET))
        with theirs:
            socket.send_fds(daemon, [pack_control(Serve(_VT))], [theirs.fileno()])
        told = parse_from_helper(daemon.recv(MAX_CONTROL))
        if not isinstance(told, Ready):
            raise BenchError(f"the KMS helper does not begin: {told.text}")
        daemon.send(pack_control(Grant(is_given=True)))
        yield ours.fileno()


def _serve(control: socket.socket, card: TurningCard, active: Path) -> None:
    try:
        Helper(control, lambda: ([card], ""), lambda: Console(str(active)), os.geteuid()).run()
    except SessiondError as error:  # as where an agent is ended before it has read its answer
        print(error, file=sys.stderr)


def main() -> None:
    """Serve until SIGTERM or the parent's death."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    size, folder = sys.argv[1:]
    width, height = map(int, size.split("x"))
    directory = Path(folder)
    (directory / _ACTIVE).write_text(f"tty{_VT}\n")
    for name in (PAINTED, LOOKED):
        (directory / name).write_bytes(bytes(8))
    memory, cursor = Memory((width, PICTURES * height)), Memory(_CURSOR_SIZE, "AR24")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / _SOCKET))
        listener.listen()
        print(f"/proc/{os.getpid()}/fd/{memory.fd}", flush=True)
        while True:
            control, _ = listener.accept()
            card = TurningCard(memory, cursor, directory)
            with control:
                _serve(control, card, directory / _ACTIVE)


if __name__ == "__main__":
    main()
