"""The composition root of an agent that the daemon started: a link, and a display behind it."""

import asyncio
import logging
import signal
from collections.abc import Sequence

from agent.encode.base import Encoder
from agent.options import codec_options
from agent.stream.choice import checked_names
from agent.stream.framelog import FrameLog
from agent.stream.link import LinkSession, MakeCodecs, OpenDisplay, adopt_link
from agent.stream.streamer import Codecs
from sessiond.transport.edge import EdgePoller
from sessiond.wire.link import Config

log = logging.getLogger(__name__)


def codec_maker(
    encoders: Sequence[type[Encoder]],
    assignments: Sequence[str] = (),
    wanted: tuple[str, ...] = (),
) -> MakeCodecs:
    """Return what makes codecs as the daemon wishes; options of the command line come first.

    ``wanted``, if there are any, are taken in place of the daemon's codecs. Of the daemon's words,
    a name that no encoder here knows is logged: its configuration may be older than what is
    installed, or for other encoders.
    """

    def make(config: Config) -> Codecs:
        options = [*assignments, *config.codec_options]
        framerate, values = codec_options(options, encoders, on_unknown=log.warning)
        codecs = wanted or checked_names(config.codecs, encoders, on_unknown=log.warning)
        return Codecs(encoders, values, framerate, codecs)

    return make


async def run_link(
    fd: int,
    open_display: OpenDisplay,
    make_codecs: MakeCodecs,
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
