"""Starting a program from a thread, while everything else goes on, however long that takes."""

import subprocess
from collections.abc import Mapping, Sequence

# With vfork(2) the whole interpreter stands still until the program was found and loaded, which
# takes for ever where its file system is dead. (A switch of subprocess, documented there.)
vars(subprocess)["_USE_VFORK"] = False


def popen(
    argv: Sequence[str] | Sequence[bytes],
    streams: tuple[int, int, int],
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    cwd: bytes | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program as the leader of a session of its own, which has no terminal.

    ``streams`` are descriptors, or what subprocess has for them. May block. Raises OSError, and
    ValueError for words that cannot be a program's.
    """
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
