"""Starting a program from a thread, while everything else goes on, however long that takes."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from sessiond.errors import StartError
from sessiond.wire.exec_command import NOT_FOUND, PROBLEM, REFUSED

# With vfork(2) the whole interpreter stands still until the program was found and loaded, which
# takes for ever where its file system is dead. (A switch of subprocess, documented there.)
vars(subprocess)["_USE_VFORK"] = False


def popen(
    argv: Sequence[str] | Sequence[bytes],
    streams: tuple[int, int, int],
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    cwd: bytes | None = None,
    *,
    passed: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program as the leader of a session of its own, which has no terminal.

    ``streams`` are descriptors, or what subprocess has for them; ``passed`` are others that it has
    under the same numbers. May block. Raises OSError, and ValueError for words that cannot be a
    program's.
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
        pass_fds=passed,
    )


@contextlib.contextmanager
def start_errors(word: bytes) -> Iterator[None]:
    """Raise StartError for the OSError that a program with this first word cannot be started by."""
    try:
        yield
    except OSError as error:
        name, reason = os.fsdecode(word), error.strerror or error
        if error.filename != word:  # the directory's, or none: it is not the program's fault
            where = f", in {os.fsdecode(error.filename)!r}" if error.filename else ""
            raise StartError(f"cannot start {name!r}{where}: {reason}", PROBLEM) from error
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else REFUSED
        raise StartError(f"cannot run {name!r}: {reason}", code) from error
