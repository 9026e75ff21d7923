"""The floor of relaying: a Python program that takes whole messages and passes them on unread.

    python -m tests.bench.plain BYTES FPS SECONDS

Two children send and receive, over Unix sockets; the program between them reads each message into
one buffer and writes it in pieces of 32 KiB, as they go into a virtio port.  It prints the
milliseconds of its own CPU a message.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from tests.bench.processes import ROOT

PIECE: Final = 32 << 10  # drivers/char/virtio_console.c takes at most that much in one write


def plain_relay_ms(size: int, fps: float, seconds: float) -> float:
    """Run it; return the milliseconds of CPU a message of SIZE bytes."""
    argv = [sys.executable, "-m", "tests.bench.plain", *map(str, (size, fps, seconds))]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=seconds + 30)
    return float(done.stdout)


def feed(out: socket.socket, size: int, fps: float, count: int) -> None:
    """Send COUNT messages, evenly spaced: caches are as cold as they are in life."""
    message = bytes(size)
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / fps - time.monotonic()))
        out.sendall(message)


def drain(source: socket.socket) -> None:
    """Read all that comes."""
    buffer = bytearray(1 << 20)
    while source.recv_into(buffer):
        pass


def relay(source: socket.socket, out: socket.socket, size: int) -> int:
    """Pass on whole messages until the source ends; return how many."""
    message = memoryview(bytearray(size))
    count = 0
    while source.recv_into(message, size, socket.MSG_WAITALL) == size:
        at = 0
        while at < size:
            at += out.send(message[at : at + PIECE])
        count += 1
    return count


def _child(main: Callable[[], None], close: socket.socket) -> None:
    if os.fork() == 0:
        close.close()
        main()
        os._exit(0)


def main() -> None:
    """Start the two children and be the relay between them."""
    size, fps, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    (feeder, source), (out, drainer) = socket.socketpair(), socket.socketpair()
    _child(lambda: feed(feeder, size, fps, max(1, int(fps * seconds))), source)
    feeder.close()
    _child(lambda: drain(drainer), out)
    drainer.close()
    begun = time.process_time_ns()
    count = relay(source, out, size)
    sys.stdout.write(f"{(time.process_time_ns() - begun) / 1e6 / count}\n")


if __name__ == "__main__":
    main()
