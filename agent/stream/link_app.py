"""The composition root of an agent that the daemon started: a link, and a display behind it."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence

from agent.encode.base import Encoder
from agent.options import codec_options
from agent.stream.framelog import FrameLog
from agent.stream.link import LinkSession, OpenDisplay, adopt_link
from agent.stream.streamer import Codecs
from sessiond.transport.edge import EdgePoller

log = logging.getLogger(__name__)


def codec_maker(
    encoders: Sequence[type[Encoder]], assignments: Sequence[str] = ()
) -> Callable[[Sequence[str]], Codecs]:
    """Return what makes codecs of the daemon's options; those of the command line come first.

    Of the daemon's, a name that no encoder here knows is logged and left out: its configuration
    may be older than what is installed, or for other encoders.
    """

    def make(more: Sequence[str]) -> Codecs:
        options = [*assignments, *more]
        framerate, values = codec_options(options, encoders, on_unknown=log.warning)
        return Codecs(encoders, values, framerate)

    return make


async def run_link(
    fd: int,
    open_display: OpenDisplay,
    make_codecs: Callable[[Sequence[str]], Codecs],
    frames: FrameLog,
) -> None:
    """Serve the link ``fd`` until its end, SIGTERM or SIGINT.

    Raises UsageError for a descriptor that is no link, and what makes going on impossible.
    """
    port = adopt_link(fd)
    poller = EdgePoller()
    session = LinkSession(port, poller, open_display, make_codecs, frames)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, session.end)
    try:
        await session.ended
    finally:
        session.close()
        poller.close()
