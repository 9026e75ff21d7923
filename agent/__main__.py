"""The program ``spice-session-agent``: command line in, exit status out.

0: told to end, or the daemon is gone; 1: cannot go on; 2: wrong command line.
"""

from sessiond.transport import lean  # noqa: F401, I001 (first of all: see there)
# isort: split

import argparse
import asyncio
import logging
import os
import platform
import sys
from collections.abc import Sequence
from typing import Final

from agent.capture import find_backend
from agent.encode import find_encoders
from agent.options import codec_options, parse
from agent.stream.app import StreamApp, StreamConfig
from agent.stream.discover import Opened, open_session_display
from agent.stream.framelog import FrameLog
from agent.stream.link import OpenDisplay
from agent.stream.link_app import codec_maker, run_link
from agent.stream.places import Places
from agent.stream.streamer import Codecs
from sessiond.errors import SessiondError, UsageError
from sessiond.transport.memory import keep_freed
from sessiond.wire.link import Config

log = logging.getLogger("spice-session-agent")

_KEPT: Final = 4 << 20  # bytes; a frame of 1080p takes 0.3 MB in each of its forms


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    logging.basicConfig(format="spice-session-agent: %(message)s", level=logging.INFO)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.debug:
            logging.getLogger().setLevel(logging.DEBUG)
        _COMMANDS[options.command](options)
    except SessiondError as error:
        log.error("%s", error)  # noqa: TRY400 (the traceback is for developers)
        log.debug("traceback", exc_info=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 0  # before the loop took the signal over
    return 0


def _spare_uname() -> None:
    """Let the processor have no name: python-xlib starts uname(1) for it, and does not use it."""
    vars(platform.uname())["processor"] = ""


def _stream(options: argparse.Namespace) -> None:
    _spare_uname()
    keep_freed(_KEPT)
    encoders = find_encoders(options.plugins_dir)
    framerate, values = codec_options(options.codec_option, encoders)
    open_capture = find_backend(options.capture)
    categories = options.log_categories.split(":")
    frames = FrameLog(options.log_file, binary=options.log_binary, frames="frames" in categories)
    try:
        if options.link_fd is not None:
            make_codecs = codec_maker(encoders, options.codec_option)
            asyncio.run(run_link(options.link_fd, _display_opener(options), make_codecs, frames))
            return
        config = StreamConfig(
            port=options.port,
            open_capture=lambda: open_capture(options.display),
            codecs=Codecs(encoders, values, framerate),
        )
        asyncio.run(_run(config, frames))
    finally:
        frames.close()


def _display_opener(options: argparse.Namespace) -> OpenDisplay:
    """Return what opens the display that the command line names, or else finds the session's."""
    if options.display or options.capture != "x11":
        open_capture = find_backend(options.capture)
        return lambda _config: Opened(open_capture(options.display), "option", options.display)
    places = Places.real(os.environ)
    return lambda config: open_session_display(config, places)


def _placeholder(options: argparse.Namespace) -> None:
    from agent.capture.placeholder import PlaceholderCapture, parse_size  # noqa: PLC0415 (fonts)

    size = parse_size(options.size)

    def open_picture(_config: Config) -> Opened:
        return Opened(PlaceholderCapture(size, options.text), "placeholder", "")

    frames = FrameLog("", binary=False, frames=False)
    make_codecs = codec_maker(find_encoders())
    asyncio.run(run_link(options.link_fd, open_picture, make_codecs, frames))


def _qrexec(options: argparse.Namespace) -> None:
    from agent.qrexec.main import qrexec  # noqa: PLC0415 (only for who runs commands)

    qrexec(options)


def _qrexec_client(options: argparse.Namespace) -> None:
    from agent.qrexec.client_main import qrexec_client  # noqa: PLC0415 (likewise)

    qrexec_client(options)


_COMMANDS: Final = {
    "stream": _stream,
    "placeholder": _placeholder,
    "qrexec": _qrexec,
    "qrexec-client": _qrexec_client,
}


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
