"""The program ``spice-session-agent``: command line in, exit status out.

0: told to end; 1: cannot go on; 2: wrong command line.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from agent.capture import find_backend
from agent.encode import find_encoders
from agent.options import codec_options, parse
from agent.stream.app import StreamApp, StreamConfig
from agent.stream.framelog import FrameLog
from agent.stream.session import Codecs
from sessiond.errors import SessiondError, UsageError

log = logging.getLogger("spice-session-agent")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    logging.basicConfig(format="spice-session-agent: %(message)s", level=logging.INFO)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.debug:
            logging.getLogger().setLevel(logging.DEBUG)
        _stream(options)
    except SessiondError as error:
        log.error("%s", error)  # noqa: TRY400 (the traceback is for developers)
        log.debug("traceback", exc_info=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 0  # before the loop took the signal over
    return 0


def _stream(options: argparse.Namespace) -> None:
    encoders = find_encoders(options.plugins_dir)
    framerate, values = codec_options(options.codec_option, encoders)
    open_capture = find_backend(options.capture)
    config = StreamConfig(
        port=options.port,
        open_capture=lambda: open_capture(options.display),
        codecs=Codecs(encoders, values, framerate),
    )
    categories = options.log_categories.split(":")
    frames = FrameLog(options.log_file, binary=options.log_binary, frames="frames" in categories)
    try:
        asyncio.run(_run(config, frames))
    finally:
        frames.close()


async def _run(config: StreamConfig, frames: FrameLog) -> None:
    try:
        await StreamApp(config, frames).run()
    except BaseExceptionGroup as group:
        # A TaskGroup wraps what its only task raised. (Raised from within ``except*`` it would
        # be wrapped again.)
        if isinstance(group.exceptions[0], SessiondError):
            raise group.exceptions[0] from None
        raise


if __name__ == "__main__":
    sys.exit(main())
