"""An agent with a part to play, for one session; for every other it becomes the real one.

Run by its source (``python -c``), for it runs as other users, who may not read this file. Its
arguments are a JSON object and then what the daemon gives an agent. The object's members:
``session``, ``real`` (the real agent's command), ``format`` and ``frame`` (whole messages in
hexadecimal), and ``part``:

- "deaf": after PAUSE it goes on writing frames, for ever;
- "flood": it writes frames without waiting for credit;
- "garbage": it writes what is no message;
- "half": it dies by SIGKILL in the middle of a frame.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator

HEADER = struct.Struct("<BBHI")  # version, padding, type, size of the body
ACTIVATE, CREDIT, PAUSE, READY, SERIAL = 0x8001, 0x8002, 0x8003, 0x8004, 0x8007
RHYTHM = 0.01  # seconds between the frames of one that is deaf


def messages(link: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield the daemon's messages, and (0, b"") whenever there was none for a while."""
    data = b""
    while True:
        if not select.select([link], [], [], RHYTHM)[0]:
            yield 0, b""
            continue
        piece = link.recv(1 << 16)
        if not piece:
            return
        data += piece
        while len(data) >= HEADER.size:
            _, _, kind, size = HEADER.unpack_from(data)
            if len(data) < HEADER.size + size:
                break
            body, data = data[HEADER.size : HEADER.size + size], data[HEADER.size + size :]
            yield kind, body


class Player:
    """Plays a part on a link."""

    def __init__(self, link: socket.socket, part: str, format_: bytes, frame: bytes) -> None:
        self.link, self.part, self.format, self.frame = link, part, format_, frame

    def run(self) -> None:
        """Play until the daemon hangs up."""
        self.tell(READY, rule="rogue", display=":0", width=640, height=480, vt=0, backend="")
        is_paused = False
        for kind, body in messages(self.link):
            if kind == ACTIVATE:
                self.begin(json.loads(body)["serial"])
            if kind in {ACTIVATE, PAUSE}:
                is_paused = kind == PAUSE
            elif kind == CREDIT or is_paused:
                self.write(self.frame)

    def begin(self, serial: int) -> None:
        """Begin a stream, and misbehave if that is the part."""
        self.tell(SERIAL, serial=serial)
        self.write(self.format)
        if self.part == "flood":
            self.write(3 * self.frame)
        elif self.part == "garbage":
            self.write(b"GET / HTTP/1.0\r\n\r\n")
        elif self.part == "half":
            self.write(self.frame[: len(self.frame) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, kind: int, **members: object) -> None:
        """Send a message of the link's own."""
        body = json.dumps(members).encode()
        self.write(HEADER.pack(1, 0, kind, len(body)) + body)

    def write(self, data: bytes) -> None:
        """Send all of it with plain writes, which /proc counts."""
        while data:
            data = data[os.write(self.link.fileno(), data) :]


def main() -> None:
    """Play, or become the real agent: the link's first message, CONFIG, names the session."""
    options = json.loads(sys.argv[1])
    arguments = sys.argv[2:]
    link = socket.socket(fileno=int(arguments[-1]))
    config = link.recv(1 << 16, socket.MSG_PEEK)
    if json.loads(config[HEADER.size :])["session"] != options["session"]:
        os.execv(options["real"][0], [*options["real"], *arguments])
    format_, frame = (bytes.fromhex(options[name]) for name in ("format", "frame"))
    Player(link, options["part"], format_, frame).run()


if __name__ == "__main__":
    main()
