"""A program for the guest: it has the graphics card read as the daemon has, and says what it got.

    reader.py VT POLLS

Root's; what it says is JSON, of ``main``. The package has to be installed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import sys
from pathlib import Path

# Where the package has the project's modules; in a checkout they are found without it.
sys.path.insert(0, "/usr/share/spice-sessiond")

from sessiond.kms.card import Card
from sessiond.transport import rights
from sessiond.wire.kms import (
    MAX_ANSWER,
    MAX_CONTROL,
    Ask,
    Grant,
    Refused,
    Serve,
    pack_ask,
    pack_control,
    parse_answer,
)

HELPERS = "/run/spice-sessiond/kms.sock"
CARD = "/dev/dri/card0"
NAMED = Path("/sys/kernel/debug/dri/0/gem_names")  # with how many handles each buffer has
DMA_BUFS = Path("/sys/kernel/debug/dma_buf/bufinfo")
GEM_FLINK = 3 << 30 | 8 << 16 | ord("d") << 8 | 0x0A  # linux, drm.h


class Reader:
    """The daemon's end of a helper and the agent's, in one."""

    def __init__(self, vt: int) -> None:
        others = helpers()
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.connect(HELPERS)
        self.agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self.control, [pack_control(Serve(vt))], [theirs.fileno()])
        self.said = self.control.recv(MAX_CONTROL).decode()
        (self.helper,) = helpers() - others

    def grant(self, *, is_given: bool) -> None:
        self.control.send(pack_control(Grant(is_given)))

    def ask(self, what: Ask = Ask.PIXELS) -> tuple[str, int]:
        """Ask once; return why there is nothing, or "", and how many buffers came."""
        self.agent.send(pack_ask(what))
        select.select([self.agent], [], [])
        data, fds, _ = rights.receive(self.agent, MAX_ANSWER, 64)
        for fd in fds:
            os.close(fd)
        answer = parse_answer(data, len(fds))
        return (answer.code.name if isinstance(answer, Refused) else ""), len(fds)

    def held(self) -> dict[str, object]:
        """Return what the helper has open, and how many handles the screen's buffers have."""
        self.ask(Ask.LOOK)  # it has closed what it answered before with
        folder = f"/proc/{self.helper}/fd"
        return {
            "descriptors": sorted(os.readlink(f"{folder}/{name}") for name in os.listdir(folder)),
            "handles": [row.split()[::2] for row in NAMED.read_text().splitlines()[1:]],
            "exported": DMA_BUFS.read_text().rpartition("\nTotal ")[2],
        }


def name_buffers() -> None:
    """Give the buffers on the screen names, for the kernel lists only the handles of those."""
    card = Card(CARD)
    with card.opened(card.screen().framebuffers) as buffers:
        for buffer in buffers.values():
            fcntl.ioctl(card._fd, GEM_FLINK, struct.pack("=II", buffer.handle, 0))
    card.close()


def helpers() -> set[int]:
    """Return the pids of all helpers."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if b"spice-sessiond-kms" in command:
                found.add(int(folder.name))
    return found


def main() -> None:
    """Say how it went without leave, with it, after POLLS more, and without it again."""
    vt, polls = map(int, sys.argv[1:])
    name_buffers()
    reader = Reader(vt)
    told: dict[str, object] = {"said": reader.said, "before": reader.ask()}
    reader.grant(is_given=True)
    told["granted"] = reader.ask()
    told["held"] = reader.held()
    told["polls"] = sorted({reader.ask() for _ in range(polls)})
    told["still held"] = reader.held()
    reader.grant(is_given=False)
    told["after"] = reader.ask()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
