"""The program ``spice-session-agent qrexec``."""

import argparse
import contextlib
import os
import signal
from pathlib import Path

from agent.qrexec.agent import Agent
from agent.qrexec.ends import open_stdio
from agent.qrexec.process import SIGNALS, Surroundings
from agent.qrexec.starter import ForkServer, Here
from agent.qrexec.watch import EndedError, Watch
from sessiond.transport.vchan import Vchan


def qrexec(options: argparse.Namespace) -> None:
    """Be an agent until told to end. Raises SessiondError."""
    open_stdio()
    transport = Vchan.from_environment(os.environ)
    surroundings = Surroundings(transport, dict(os.environb))
    early = None if options.no_fork_server else ForkServer.fork(surroundings)
    with Watch(SIGNALS - {signal.SIGUSR1}) as watch, contextlib.suppress(EndedError):
        starter = early or Here(surroundings, watch)
        Agent(transport, starter, Path(options.agent_socket), watch).run()
