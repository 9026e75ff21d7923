"""The host's side of a stream port, as cheap as Python can be, in a process of its own.

    python -m tests.bench.peer PATH [--pty] [--all-codecs]

Listens on the Unix socket PATH, takes one agent, sends CAPABILITIES and START, and reads all
that comes without looking into it.  With --pty PATH is a link to a pseudoterminal instead, for an
agent that can only open a device; what it is sent waits for it there.  START names MJPEG, or all
codecs.  Commands are lines on standard input, each answered by one line of JSON:

* ``mark``: what came since the last mark (a `Tally`);
* ``next``: answered at once; one more line, ``{"ns": when}``, follows when a FORMAT and after it a
  whole DATA message have come;
* ``first``: waits until a whole DATA message has come since the last START;
* ``stop`` and ``start``: sends that message;
* ``keep``: from the next DATA message on, holds the newest whole body (this costs a copy);
* ``kept FILE``: writes that body to FILE and lets go; answers how many bytes it has, 0 for none.

The end of standard input ends the process.  What is made of its answers belongs to
`tests.bench.stage`.
"""

import ctypes
import dataclasses
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
import tty
from pathlib import Path

# spice-protocol 0.14, spice/stream-device.h
HEADER = struct.Struct("<BBHI")
FORMAT, DATA = 2, 3
CAPABILITIES_NONE = bytes.fromhex("010001000100000000")
START_MJPEG = bytes.fromhex("01000400020000000101")
START_ALL = bytes.fromhex("0100040006000000050102030405")
STOP = bytes.fromhex("010004000100000000")

BUFFER_SIZE = 1 << 20  # holds a frame or three: one system call takes what the socket has
MAX_FRAMES = 1 << 17  # half an hour at 60 a second; a tally is taken every few seconds
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclasses.dataclass(slots=True)
class Tally:
    """What came between two marks; times are CLOCK_MONOTONIC nanoseconds."""

    frames: int = 0
    bytes: int = 0
    sizes: list[int] = dataclasses.field(default_factory=list)
    begun_ns: list[int] = dataclasses.field(default_factory=list)
    done_ns: list[int] = dataclasses.field(default_factory=list)
    other: dict[str, int] = dataclasses.field(default_factory=dict)
    closed: bool = False


class Peer:
    """One agent's connection and the commands about it."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._command)
        self._agent = -1  # descriptor
        self._view = memoryview(bytearray(BUFFER_SIZE))
        self._head = bytearray()
        self._left = 0  # bytes of the current message's body still to come
        self._type = -1
        self._tally = Tally()
        self._started_ns = 0
        self._first_ns = 0
        self._asked_first = False
        self._awaited = 0  # the type of the message that brings the answer to ``next`` nearer
        self._is_keeping = False
        self._body: bytearray | None = None
        self._kept = b""
        self._is_over = False

    def listen(self, path: str) -> None:
        """Take the first agent that connects to the Unix socket PATH."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(1)

        def accept() -> None:
            agent, _ = listener.accept()
            self._selector.unregister(listener)
            self._take(agent.detach())

        self._selector.register(listener, selectors.EVENT_READ, accept)

    def open_pty(self, path: str) -> None:
        """Take the agent that opens PATH, which becomes a link to a pty without a discipline."""
        master, slave = os.openpty()
        tty.setraw(slave)  # it stays open here, so that the agent's end is no hang-up
        Path(path).symlink_to(os.ttyname(slave))
        self._take(master)

    def run(self) -> None:
        """Serve until standard input ends."""
        while not self._is_over:
            for key, _ in self._selector.select():
                key.data()

    def _take(self, agent: int) -> None:
        self._agent = agent
        self._selector.register(agent, selectors.EVENT_READ, self._read)
        self._send(CAPABILITIES_NONE + self._start)
        self._started_ns = time.monotonic_ns()

    def _send(self, message: bytes) -> None:
        # A few bytes into an empty queue: they go whole or there is no agent.
        if self._agent >= 0 and os.write(self._agent, message) != len(message):
            sys.exit("peer: the agent takes nothing")

    def _answer(self, answer: object) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def _command(self) -> None:  # noqa: C901 (one flat case for each command)
        # One command is answered before the next is sent, so a line is all there is to read.
        match sys.stdin.readline().split():
            case []:
                self._is_over = True
            case ["mark"]:
                self._answer(dataclasses.asdict(self._tally))
                self._tally = Tally(closed=self._tally.closed)
            case ["first"]:
                self._asked_first = True
                self._maybe_answer_first()
            case ["next"]:
                self._awaited = FORMAT
                self._answer({})
            case ["start"]:
                self._first_ns = 0
                self._send(self._start)
                self._started_ns = time.monotonic_ns()
                self._answer({})
            case ["stop"]:
                self._send(STOP)
                self._answer({})
            case ["keep"]:
                self._is_keeping = True
                self._answer({})
            case ["kept", path]:
                Path(path).write_bytes(self._kept)
                self._answer({"bytes": len(self._kept)})
                self._is_keeping, self._body, self._kept = False, None, b""
            case words:
                self._answer({"error": f"unknown command {words}"})

    def _maybe_answer_first(self) -> None:
        if self._asked_first and (self._first_ns or self._tally.closed):
            self._asked_first = False
            taken_ns = self._first_ns - self._started_ns
            self._answer({"ms": taken_ns / 1e6 if self._first_ns else -1.0})

    def _read(self) -> None:
        try:
            length = os.readv(self._agent, [self._view])
        except ConnectionResetError:
            length = 0
        if not length:
            self._selector.unregister(self._agent)
            self._tally.closed = True
            self._maybe_answer_first()
            return
        now = time.monotonic_ns()
        self._tally.bytes += length
        at = 0
        while at < length:
            take = self._take_body if self._left else self._take_head
            at += take(at, length, now)

    def _take_head(self, at: int, length: int, now: int) -> int:
        taken = min(HEADER.size - len(self._head), length - at)
        self._head += self._view[at : at + taken]
        if len(self._head) == HEADER.size:
            version, _, self._type, self._left = HEADER.unpack(self._head)
            self._head.clear()
            if version != 1:
                sys.exit("peer: the agent's stream is out of step")
            if self._type == DATA:
                self._tally.sizes.append(self._left)
                self._tally.begun_ns.append(now)
                self._body = bytearray() if self._is_keeping else None
            if not self._left:
                self._finish(now)
        return taken

    def _take_body(self, at: int, length: int, now: int) -> int:
        taken = min(self._left, length - at)
        if self._body is not None:
            self._body += self._view[at : at + taken]
        self._left -= taken
        if not self._left:
            self._finish(now)
        return taken

    def _finish(self, now: int) -> None:
        if self._awaited and self._type == self._awaited:
            self._awaited = DATA if self._type == FORMAT else 0
            if not self._awaited:
                self._answer({"ns": now})
        if self._type != DATA:
            name = str(self._type)
            self._tally.other[name] = self._tally.other.get(name, 0) + 1
            return
        self._tally.frames += 1
        self._tally.done_ns.append(now)
        if self._tally.frames > MAX_FRAMES:
            sys.exit("peer: nobody asks for the tally")
        if not self._first_ns:
            self._first_ns = now
            self._maybe_answer_first()
        if self._body is not None:
            self._kept, self._body = bytes(self._body), None


def main() -> None:
    """Listen, say so with a line ``{}``, and serve."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    path, *options = sys.argv[1:]
    peer = Peer(START_ALL if "--all-codecs" in options else START_MJPEG)
    (peer.open_pty if "--pty" in options else peer.listen)(path)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    peer.run()


if __name__ == "__main__":
    main()
