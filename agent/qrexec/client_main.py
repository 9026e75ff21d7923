"""The program ``spice-session-agent qrexec-client``: command line in, exit status out."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from agent.qrexec.client import Call, call
from agent.qrexec.ends import open_stdio
from sessiond.errors import SessiondError, StartError, UsageError
from sessiond.transport.vchan import Vchan
from sessiond.wire.exec import UNKNOWN_EXIT
from sessiond.wire.exec_command import PROBLEM


def qrexec_client(options: argparse.Namespace) -> NoReturn:
    """Call a service, and exit with its status. Raises UsageError."""
    open_stdio()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = Call(
        target=os.fsencode(options.target),
        service=os.fsencode(options.service),
        source=os.fsencode(options.source_qube),
        program=[os.fsencode(argument) for argument in options.program],
        prefix=os.fsencode(options.prefix_data),
        one_socket=options.use_stdin_socket,
        filter_stdout=options.filter_stdout,
        filter_stderr=options.filter_stderr,
        path=Path(options.agent_socket),
    )
    try:
        remote = call(request, Vchan.from_environment(os.environ))
        # A process has only so many: 256 is not to be taken for 0.
        status = remote if remote in range(UNKNOWN_EXIT) else UNKNOWN_EXIT
    except UsageError:
        raise
    except SessiondError as error:
        sys.stderr.write(f"{error}\n")
        status = error.exit_code if isinstance(error, StartError) else PROBLEM
    sys.exit(status)
