"""The commands ``stream`` and ``placeholder``: their options in, and out when they have ended."""

import argparse
import asyncio
import os
import platform
from dataclasses import replace
from typing import Final

from agent.encode import find_encoders
from agent.options import codec_options
from agent.stream.app import StreamApp, StreamConfig
from agent.stream.choice import AUTO, checked_names
from agent.stream.discover import open_session_display
from agent.stream.framelog import FrameLog
from agent.stream.link import OpenDisplay
from agent.stream.link_app import codec_maker, run_link
from agent.stream.named import named_opener
from agent.stream.opened import Opened
from agent.stream.places import Places
from agent.stream.streamer import Codecs
from sessiond.errors import SessiondError
from sessiond.transport.memory import keep_freed
from sessiond.wire.link import Config

_OF_NO_SESSION: Final = ("pattern", "kms")  # displays that are not to be found, but given
_KEPT: Final = 4 << 20  # bytes; a frame of 1080p takes 0.3 MB in each of its forms


def stream(options: argparse.Namespace) -> None:
    """Stream until told to end. Raises SessiondError."""
    _spare_uname()
    keep_freed(_KEPT)
    encoders = find_encoders(options.plugins_dir)
    framerate, values = codec_options(options.codec_option, encoders)
    wanted = checked_names([name for name in options.codec.split(",") if name], encoders)
    categories = options.log_categories.split(":")
    frames = FrameLog(options.log_file, binary=options.log_binary, frames="frames" in categories)
    try:
        if options.link_fd is not None:
            make_codecs = codec_maker(encoders, options.codec_option, wanted)
            asyncio.run(run_link(options.link_fd, _display_opener(options), make_codecs, frames))
            return
        open_named = named_opener(options, os.environ)
        config = StreamConfig(
            port=options.port,
            open_capture=lambda: open_named().capture,
            codecs=Codecs(encoders, values, framerate, wanted or (AUTO,)),
        )
        asyncio.run(_run(config, frames))
    finally:
        frames.close()


def placeholder(options: argparse.Namespace) -> None:
    """Show one sentence until the link's end. Raises SessiondError."""
    from agent.capture.placeholder import PlaceholderCapture, parse_size  # noqa: PLC0415 (fonts)

    size = parse_size(options.size)

    def open_picture(_config: Config) -> Opened:
        return Opened(
            PlaceholderCapture(size, options.text), "placeholder", "", backend="placeholder"
        )

    frames = FrameLog("", binary=False, frames=False)
    make_codecs = codec_maker(find_encoders(), wanted=("mjpeg",))  # of one picture
    asyncio.run(run_link(options.link_fd, open_picture, make_codecs, frames))


def _spare_uname() -> None:
    """Let the processor have no name: python-xlib starts uname(1) for it, and does not use it."""
    vars(platform.uname())["processor"] = ""


def _display_opener(options: argparse.Namespace) -> OpenDisplay:
    """Return what opens the display that the command line names, or else finds the session's."""
    if options.display or options.capture in _OF_NO_SESSION:
        open_named = named_opener(options, os.environ)
        return lambda _config: open_named()
    places = Places.real(os.environ)

    def open_session(config: Config) -> Opened:
        if options.capture:
            config = replace(config, capture=(options.capture,))
        return open_session_display(config, places)

    return open_session


async def _run(config: StreamConfig, frames: FrameLog) -> None:
    try:
        await StreamApp(config, frames).run()
    except BaseExceptionGroup as group:
        # A TaskGroup wraps what its only task raised. (Raised from within ``except*`` it would
        # be wrapped again.)
        if isinstance(group.exceptions[0], SessiondError):
            raise group.exceptions[0] from None
        raise
