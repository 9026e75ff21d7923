"""A fork server from its first moment on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[3]
_PROGRAM: Final = """
import os, signal, socket
from agent.qrexec import lifeline
from agent.qrexec.process import Job, Surroundings
from agent.qrexec.starter import ForkServer
from sessiond.wire.exec import Exec, Place

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    for _ in range(5):
        server = ForkServer.fork(Surroundings(None, {}))
        os.kill(server.pid, number)
        peer, its = socket.socketpair()
        line = server.start(Job(Exec(Place(43, 1024), b"nobody"), its))
        assert isinstance(lifeline.hear(line), lifeline.Begun), number
        peer.close()
        server.close()
"""


def test_what_ends_a_group_does_not_end_one_that_has_just_begun() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], cwd=_ROOT, timeout=60, check=True)
