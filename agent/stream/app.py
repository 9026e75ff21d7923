"""The composition root of ``agent stream``: a screen, a port, and a session between them."""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from agent.capture.base import Capture, Cursor
from agent.stream.framelog import FrameLog
from agent.stream.screen import Screen
from agent.stream.session import StreamSession
from agent.stream.streamer import Codecs
from sessiond.errors import DisplayError, PortError
from sessiond.transport.backoff import Backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort, open_port

log = logging.getLogger(__name__)

OPEN_TIMEOUT: Final = 10.0  # seconds that a display may take to answer
CLOSE_TIMEOUT: Final = 0.5  # seconds for the display's thread, of the one second that we have
STEADY: Final = 10.0  # seconds after which an opening of the port counts as a success


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What the command line asks for."""

    port: str
    open_capture: Callable[[], Capture]
    codecs: Codecs


class StreamApp:
    """Streams until it is told to end; ``run`` raises what makes that impossible.

    The port is opened again, with growing delays, whenever the host is lost. The display is
    not: an agent belongs to one session, and ends with its display.
    """

    def __init__(self, config: StreamConfig, frames: FrameLog) -> None:
        self._config = config
        self._frames = frames
        self._session: StreamSession | None = None
        self._opened = asyncio.Event()
        self._error: DisplayError | None = None
        self._task: asyncio.Task[NoReturn] | None = None
        self._unavailable = ""

    async def run(self) -> None:
        """Stream until SIGTERM or SIGINT. Raises PortError (at the start) or DisplayError."""
        loop = asyncio.get_running_loop()
        screen = Screen(self._config.open_capture, self)
        poller = EdgePoller()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._task = tasks.create_task(self._serve(screen, poller), name="serve")
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self._task.cancel)
        finally:
            if self._session:
                self._session.close()
            screen.close(CLOSE_TIMEOUT)
            poller.close()
        if self._error:
            raise self._error

    async def _serve(self, screen: Screen, poller: EdgePoller) -> NoReturn:
        port = open_port(self._config.port)  # a wrong path is an error at once
        screen.start()
        try:
            await asyncio.wait_for(self._opened.wait(), OPEN_TIMEOUT)
        except TimeoutError:
            raise DisplayError(f"the display did not answer in {OPEN_TIMEOUT:g} s") from None
        log.info("port %s is open; waiting for the host", self._config.port)
        backoff = Backoff()
        while True:
            self._session = StreamSession(port, poller, screen, self._config.codecs, self._frames)
            began = asyncio.get_running_loop().time()
            reason = await self._session.lost
            if asyncio.get_running_loop().time() - began > STEADY:
                backoff.reset()
            log.warning("port %s: %s; opening it again", self._config.port, reason)
            port = await self._reopen(backoff)

    async def _reopen(self, backoff: Backoff) -> OpenPort:
        complaint = ""
        while True:
            await asyncio.sleep(backoff.delay())
            try:
                return open_port(self._config.port)
            except PortError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s; trying again", complaint)

    # From the screen.

    def on_opened(self, description: str) -> None:
        """Let the port be served."""
        log.info("capturing %s", description)
        self._opened.set()

    def on_changed(self) -> None:
        """Tell the session."""
        if self._session:
            self._session.on_changed()

    def on_unavailable(self, reason: str) -> None:
        """Tell the operator, and the session."""
        if reason:
            log.warning("nothing to capture: %s", reason)
        else:
            log.info("capturing again")
        if self._session:
            self._session.on_unavailable(reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Tell the session."""
        if self._session:
            self._session.on_cursor(cursor)

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Tell the session."""
        if self._session:
            self._session.on_pointer(position)

    def on_failed(self, error: DisplayError) -> None:
        """End: without its display an agent has nothing to do."""
        self._error = error
        if self._task:
            self._task.cancel()
