"""The command ``user``: who it runs as, one at a time, and then the agent itself."""

import argparse
import asyncio
import gc
import os
from typing import Final

from agent.qrexec.ends import open_stdio
from agent.qrexec.process import Surroundings
from agent.qrexec.starter import ForkServer
from agent.stream.places import Places
from agent.user.app import Settings, UserApp
from agent.user.identity import become
from agent.user.runtime import SOCKET, Lock, made_before, runtime_folder
from sessiond.errors import UsageError

_MAX_ADDRESS: Final = 107  # bytes; unix(7): 108 with a path's final NUL


def user(options: argparse.Namespace) -> None:
    """Be a user's agent until told to end. Raises SessiondError."""
    open_stdio()
    if options.username is not None:
        become(options.username)
    path = options.socket
    if not path or "\0" in path or len(os.fsencode(path)) > _MAX_ADDRESS:
        raise UsageError(f"--socket {path!r} is not the path of a socket")
    folder = runtime_folder(os.environ)
    lock = Lock(folder, *made_before(folder))
    environ = dict(os.environ)
    gc.freeze()  # so that its memory stays ours, too, where it can
    starter = ForkServer.fork(Surroundings(None, dict(os.environb)))
    settings = Settings(path, folder / SOCKET, Places.real(environ), environ, starter)
    try:
        asyncio.run(UserApp(settings).run())
    finally:
        starter.close()
        lock.close()
