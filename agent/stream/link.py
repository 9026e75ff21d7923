"""The link to the daemon, from the agent's end: told what to show, says how it goes."""

import asyncio
import enum
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from agent.capture.base import Capture, Cursor, EndedError
from agent.encode.base import Encoder
from agent.stream.framelog import FrameLog
from agent.stream.opened import ENDED, REFUSED, NoDisplayError, Opened
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from agent.stream.streamer import Codecs, Streamer
from sessiond.errors import DisplayError, EncoderError, ProtocolError, SessiondError, UsageError
from sessiond.transport.channel import READ_SIZE, Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.port import OpenPort
from sessiond.wire import device
from sessiond.wire.link import (
    MAX_FRAME,
    MAX_TEXT,
    Activate,
    Config,
    Credit,
    Failed,
    Line,
    LinkType,
    Pause,
    Ready,
    Serial,
    Stats,
    ToAgent,
    ToDaemon,
    Unavailable,
    pack,
)
from sessiond.wire.link_state import DaemonLink

log = logging.getLogger(__name__)

CONFIG_TIMEOUT: Final = 10.0  # seconds for the daemon's first word
OPEN_TIMEOUT: Final = 12.0  # seconds for the display; discovery gives up before, if it can
LAST_WORDS: Final = 1.0  # seconds for FAILED to leave
STATS_INTERVAL: Final = 1.0  # seconds
CLOSE_TIMEOUT: Final = 0.5  # seconds for the display's thread
ENCODER_FAILED: Final = "encoder-failed"

OpenDisplay = Callable[[Config], Opened]
"""Opens the session's display; runs in the display's thread. Raises DisplayError."""
MakeCodecs = Callable[[Config], Codecs]
"""Returns the codecs as the daemon wishes them. Raises UsageError."""


class State(enum.Enum):
    """What the daemon has told us, and what came of it."""

    NEW = enum.auto()
    OPENING = enum.auto()
    PAUSED = enum.auto()
    ACTIVE = enum.auto()
    ENDING = enum.auto()  # FAILED is on its way, or nothing more


# What the daemon may say in each state.
ALLOWED: Final[dict[State, frozenset[type[ToAgent]]]] = {
    State.NEW: frozenset({Config}),
    State.OPENING: frozenset(),
    State.PAUSED: frozenset({Activate, Pause}),
    State.ACTIVE: frozenset({Activate, Credit, Line, Pause}),
    State.ENDING: frozenset({Activate, Credit, Line, Pause}),  # it does not know yet; ignored
}


def adopt_link(fd: int) -> OpenPort:
    """Take over the inherited descriptor ``fd``. Raises UsageError if it is no stream socket."""
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError) as error:
        raise UsageError(f"--link-fd {fd} is not a socket: {error}") from None
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise UsageError(f"--link-fd {fd} is not a stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return OpenPort(OwnedFd(sock.detach()), f"link {fd}", waits_for_host=False)


@dataclass(slots=True)
class _Stats:
    """What was done since the last STATS; ``skipped`` and ``encode_time`` as they were then.

    ``who`` encoded is its name, its implementation and why it is this one.
    """

    frames: int = 0
    size: int = 0
    skipped: int = 0
    encode_time: float = 0.0
    who: tuple[str, str, str] = ("", "", "")


def _reason(error: DisplayError) -> str:
    if isinstance(error, NoDisplayError):
        return error.reason
    return ENDED if isinstance(error, EndedError) else REFUSED


def _packed(message: ToDaemon) -> tuple[LinkType, bytes]:
    return message.TYPE, pack(message)


class LinkSession:
    """Serves one link from CONFIG until its end, which is the agent's.

    ``ended`` resolves when the daemon is gone, and raises what makes going on impossible; FAILED
    has told the daemon by then, if it could be told.
    """

    def __init__(
        self,
        port: OpenPort,
        poller: EdgePoller,
        open_display: OpenDisplay,
        make_codecs: MakeCodecs,
        frames: FrameLog,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.state = State.NEW
        self._open_display = open_display
        self._make_codecs = make_codecs
        self._frames = frames
        self._link = DaemonLink()
        self._channel = Channel(port, poller, self)
        # A frame in one write, so that the daemon wakes up once for it.
        self._sender = Sender(partial(self._channel.write_nowait, size=READ_SIZE), "daemon")
        self._screen: Screen | None = None
        self._opened: Opened | None = None
        self._size = (0, 0)
        self._codecs: Codecs | None = None
        self._streamer: Streamer | None = None
        self._error: SessiondError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stats = _Stats()
        self._stats_due = 0.0
        self._limit(CONFIG_TIMEOUT, self._on_no_config)

    def close(self) -> None:
        """Close link and display; a second call does nothing."""
        self._unlimit()
        if self._streamer:
            self._streamer.close()
            self._streamer = None
        self._channel.close()
        if self._screen:
            self._screen.close(CLOSE_TIMEOUT)
            self._screen = None

    def end(self) -> None:
        """End without an error."""
        self._end(None)

    # From the link.

    def on_bytes(self, data: memoryview) -> None:
        """Act on what the daemon sent."""
        try:
            for message in self._link.receive(data):
                log.debug("from the daemon: %s", message.TYPE.name)
                if type(message) not in ALLOWED[self.state]:
                    raise ProtocolError(f"{message.TYPE.name} in state {self.state.name}")  # noqa: TRY301
                if self.state is not State.ENDING:
                    self._handle(message)
        except ProtocolError as error:
            # Nothing more can be agreed on; the daemon sees the link's end.
            self._end(ProtocolError(f"the daemon broke the protocol: {error}"))

    def on_writable(self) -> None:
        """Go on writing."""
        self._sender.flush()
        if self._error and self._sender.is_empty:
            self._end(self._error)

    def on_lost(self, reason: str) -> None:
        """End: without the daemon an agent has nothing to do."""
        log.debug("the link is gone: %s", reason)
        self._end(self._error)

    # From the screen.

    def on_opened(self, description: str) -> None:
        """Tell the daemon, and wait to be shown."""
        if self.state is not State.OPENING:
            return
        assert self._opened  # noqa: S101 (set by the thread that says so)
        assert self._screen  # noqa: S101
        assert self._codecs  # noqa: S101 (as in every configured session)
        self._unlimit()
        opened = self._opened
        log.info("capturing %s (%s, %s)", description, opened.backend, opened.rule)
        self._streamer = Streamer(
            self._screen, self._codecs, self._frames, self._sender,
            pack=device.pack, fail=lambda text: self._fail(ENCODER_FAILED, EncoderError(text)),
            max_frame=MAX_FRAME, on_frame=self._count, on_absence=self._tell_absence,
        )  # fmt: skip
        self._streamer.pipeline.withhold()
        self._streamer.pipeline.told_rate = 0.0  # how fast frames leave us says nothing of the host
        self.state = State.PAUSED
        self._send(
            Ready(opened.rule, opened.display, *self._size, vt=opened.vt, backend=opened.backend)
        )

    def on_changed(self) -> None:
        """Capture when it is time."""
        if self._streamer:
            self._streamer.on_changed()

    def on_unavailable(self, reason: str) -> None:
        """Say why, where there is no picture and that lasts."""
        log.info("%s", f"nothing to capture: {reason}" if reason else "capturing is possible")
        if self._streamer:
            self._streamer.on_unavailable(reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Send the new shape."""
        if self._streamer:
            self._streamer.on_cursor(cursor)

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Send the new place."""
        if self._streamer:
            self._streamer.on_pointer(position)

    def on_failed(self, error: DisplayError) -> None:
        """End, telling why."""
        self._fail(_reason(error), error)

    def _handle(self, message: ToAgent) -> None:
        match message:
            case Config():
                self._configure(message)
            case Activate():
                self._activate(message)
            case Credit():
                self._running().pipeline.add_credit()
            case Line():
                self._running().pipeline.told_rate = message.rate
            case Pause():
                self._pause()

    def _configure(self, config: Config) -> None:
        self.state = State.OPENING
        try:
            self._codecs = self._make_codecs(config)
        except UsageError as error:
            self._fail(ENCODER_FAILED, error)
            return

        def open_display() -> Capture:
            opened = self._open_display(config)
            self._opened, self._size = opened, opened.capture.size
            return opened.capture

        self._limit(OPEN_TIMEOUT, self._on_no_display)
        self._screen = Screen(open_display, self)
        self._screen.start()

    def _activate(self, message: Activate) -> None:
        self._pause()
        self.state = State.ACTIVE
        try:
            self._running().start(message.codecs)
        except EncoderError as error:
            self._fail(ENCODER_FAILED, error)
        else:
            self._send(Serial(message.serial))

    def _pause(self) -> None:
        self._running().stop()
        self._running().pipeline.withhold()
        self.state = State.PAUSED

    def _running(self) -> Streamer:
        assert self._streamer  # noqa: S101 (there is one in PAUSED and ACTIVE)
        return self._streamer

    def _count(self, encoder: Encoder, size: int) -> None:
        streamer, stats = self._running(), self._stats
        pipeline = streamer.pipeline
        stats.frames += 1
        stats.size += size
        now = self._loop.time()
        who = (encoder.name, encoder.implementation, streamer.why)
        if now < self._stats_due and who == stats.who:
            return
        self._stats_due = now + STATS_INTERVAL
        seconds = pipeline.encode_time - stats.encode_time
        self._sender.put(*_packed(Stats(
            stats.frames, stats.size, pipeline.skipped - stats.skipped,
            round(1000 * seconds / stats.frames, 3), encoder.name, encoder.quality,
            encoder.implementation, streamer.why[:MAX_TEXT],
        )))  # fmt: skip
        self._stats = _Stats(skipped=pipeline.skipped, encode_time=pipeline.encode_time, who=who)

    def _tell_absence(self, reason: str) -> None:
        self._send(Unavailable(reason[:MAX_TEXT]))

    def _on_no_config(self) -> None:
        self._end(ProtocolError(f"the daemon said nothing in {CONFIG_TIMEOUT:g} s"))

    def _on_no_display(self) -> None:
        text = f"the display did not answer in {OPEN_TIMEOUT:g} s"
        self._fail(REFUSED, DisplayError(text))

    def _fail(self, reason: str, error: SessiondError) -> None:
        """Say why, and end when that is said."""
        if self.state is State.ENDING:
            return
        self.state = State.ENDING
        self._error = error
        if self._streamer:
            self._streamer.stop()
        self._limit(LAST_WORDS, lambda: self._end(error))
        self._send(Failed(reason, str(error)[:MAX_TEXT]))
        if self._sender.is_empty:
            self._end(error)

    def _send(self, message: ToDaemon) -> None:
        self._sender.put(*_packed(message))
        self._sender.flush()

    def _end(self, error: SessiondError | None) -> None:
        self.state = State.ENDING
        if self.ended.done():
            return
        self.close()
        if error:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    def _limit(self, seconds: float, call: Callable[[], None]) -> None:
        self._unlimit()
        self._timer = self._loop.call_later(seconds, call)

    def _unlimit(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
