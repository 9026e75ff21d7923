"""The program ``spice-session-agent pty``: a command on a terminal of its own, brought to ours.

For commands that come without one: from the host, another domain, a service or a script.
"""

import argparse
import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from agent.qrexec.ends import open_stdio
from agent.terminal.begin import begin, open_terminal
from agent.terminal.popen import start_errors
from sessiond.errors import StartError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import own_window_size
from sessiond.transport.terminal_relay import KILLED, Relay

if TYPE_CHECKING:
    import subprocess


def pty(options: argparse.Namespace) -> NoReturn:
    """Run it, and exit with its status."""
    open_stdio()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # to end of it, as others do
    argv = [os.fsencode(word) for word in (options.program, *options.arguments)]
    try:
        with start_errors(argv[0]):
            terminal = open_terminal(options.size or own_window_size())
            process = begin(terminal, argv, os.environb)
            status = asyncio.run(_relay(process, terminal.master))
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        status = error.exit_code
    sys.exit(status)


async def _relay(process: "subprocess.Popen[bytes]", master: OwnedFd) -> int:
    """Return the exit status: the command's, or ours if we leave before all of it is written.

    Then its terminal is hung up, with us, and nobody waits for it. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    with OwnedFd(os.pidfd_open(process.pid)) as pidfd, Relay(master) as relay:
        loop.add_reader(pidfd.fileno(), ended.set)
        relay.left.add_done_callback(lambda _: ended.set())
        await ended.wait()
        loop.remove_reader(pidfd.fileno())
        if not relay.left.done():
            await relay.drain()
        if relay.left.done():
            return relay.left.result()
    status = process.wait()
    return status if status >= 0 else KILLED - status
