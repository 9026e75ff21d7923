"""A program that does what its arguments say, in that order; it imports nothing that takes time.

``oN`` and ``eN`` write N bytes to stdout and stderr, ``iN`` reads N from stdin, or to its end if
there are fewer; ``o-``, ``e-`` and ``i-`` close them, ``s`` asks for one socket, ``xN`` exits with
that status.
"""

import os
import signal
import sys


def write(fd: int, size: int) -> None:
    """Write all of it, whoever reads how slowly."""
    data = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
    while data:
        data = data[os.write(fd, data) :]


def read(size: int) -> None:
    """Read all of it."""
    while size and (data := os.read(0, size)):
        size -= len(data)


def do(word: str, numbers: dict[str, int]) -> None:
    """Do what a word says; NUMBERS are the descriptors of the streams."""
    kind, rest = word[0], word[1:]
    if rest == "-":
        os.close(numbers[kind])
    elif kind == "i":
        read(int(rest))
    elif kind == "s":
        os.kill(int(os.environ["QREXEC_AGENT_PID"]), signal.SIGUSR1)
        numbers["o"] = 0
    elif kind == "x":
        os._exit(int(rest))
    else:
        write(numbers[kind], int(rest))


def main() -> None:
    """Do everything."""
    numbers = {"i": 0, "o": 1, "e": 2}
    for word in sys.argv[1:]:
        do(word, numbers)


main()
