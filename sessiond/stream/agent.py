"""One agent as the supervisor sees it: a process, its link, and what may still come from it.

An agent that breaks the link's rules, or sends a frame without credit, is killed; its end is the
only thing that anybody else hears of it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sessiond.errors import ProtocolError
from sessiond.model import Reason
from sessiond.stream.kms import NOT_READ, KmsHelper
from sessiond.stream.launch import AgentProcess
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.transport.channel import Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort
from sessiond.wire.device import Type, parse_format
from sessiond.wire.link import (
    Activate,
    Config,
    Credit,
    DeviceMessage,
    Failed,
    Line,
    Pause,
    Ready,
    Stats,
    ToAgent,
    Unavailable,
)
from sessiond.wire.link_state import AgentLink, State

log = logging.getLogger(__name__)

_AGENT_REASONS: Final = frozenset({
    Reason.NO_DISPLAY_FOUND, Reason.DISPLAY_REFUSED, Reason.AGENT_CRASHED, Reason.AGENT_TIMEOUT,
    Reason.ENCODER_FAILED, Reason.TYPE_UNSUPPORTED, Reason.PAUSED_BY_USER,
})  # fmt: skip
STOPPED: Final = "stopped"  # the reason of an end that we asked for
_SHOWN: Final = (State.STREAMING, State.SYNCED, State.WAITING)
READY_TIMEOUT: Final = 20.0  # seconds to find and open a display, candidate after candidate
_NEWS: Final = 1.2  # times what was told, or a part of it: less of a change is not told
_LINE_INTERVAL: Final = 0.5  # seconds from one LINE to the next
_MAX_RATE: Final = 0.999e9  # bytes/s; LINE tells no more
_MAX_UNSENT: Final = 1 << 20  # bytes of ours that an agent has not read: it hangs


@dataclass(frozen=True, slots=True)
class Exit:
    """How an agent ended: its own words if it had any, else its status."""

    status: int
    failed: Failed | None
    was_ready: bool
    was_asked: bool  # we stopped it

    @property
    def reason(self) -> str:
        """The code of why it ended; an agent may only use those that are its own."""
        if self.was_asked:
            return STOPPED
        if self.failed and self.failed.reason in _AGENT_REASONS:
            return self.failed.reason
        return Reason.AGENT_CRASHED

    @property
    def words(self) -> str:
        """Its own words, or how its process ended."""
        if self.failed:
            return self.failed.text
        if self.status < 0:
            return f"killed by signal {-self.status}"
        return f"exit status {self.status}"

    @property
    def sentence(self) -> str:
        """Why it has ended, for who asks what is wrong with the session."""
        own = self.failed and self.failed.reason == self.reason
        return self.failed.text if self.failed and own else f"The agent ended: {self.words}."


class AgentListener(Protocol):
    """Who hears of an agent."""

    def on_ready(self, agent: "Agent", ready: Ready) -> None:
        """Its display is open."""

    def on_message(self, agent: "Agent", message: DeviceMessage) -> None:
        """A message for the host; its data is only valid until this returns."""

    def on_stats(self, agent: "Agent", stats: Stats) -> None:
        """What its stream has done."""

    def on_unavailable(self, agent: "Agent") -> None:
        """Its stream has nothing to capture, or has again."""

    def on_exit(self, agent: "Agent", end: Exit) -> None:
        """It has ended; the last call."""


@dataclass(frozen=True, slots=True)
class AgentStart:
    """What is needed to start one: for which session, by which command, with which words.

    ``helper`` is what shows the agent the graphics card, if that is what it captures; ``there`` is
    else what was there to be captured (``ways.Signs``).
    """

    key: str
    command: Sequence[str]
    env: Mapping[str, str]
    config: Config
    helper: KmsHelper | None = None
    there: frozenset[str] = frozenset()

    def close(self) -> None:
        """Give up what no agent was started with."""
        if self.helper:
            self.helper.close()


class Agent:
    """A started agent; lives until ``on_exit``."""

    def __init__(self, start: AgentStart, poller: EdgePoller, listener: AgentListener) -> None:
        """Start the process and send CONFIG. Raises OSError."""
        self.key = start.key
        self.there = start.there
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._helper = start.helper
        more = {"--kms-fd": start.helper.agents_end} if start.helper else {}
        self._process = AgentProcess(start.command, start.env, self._on_exit, more)
        self._link = AgentLink()
        self._unsent = bytearray()
        self._credits = 0
        self._codecs: tuple[int, ...] = ()
        self._told_rate = 0.0
        self._line_due = 0.0
        self._failed: Failed | None = None
        self._was_asked = False
        self._is_ending = False
        self.ready: Ready | None = None
        self.stats: Stats | None = None  # the newest since its stream has this codec
        self.unavailable = ""  # why its stream has nothing to capture
        self._codec = 0
        port = OpenPort(self._process.link, f"link of {start.key}", waits_for_host=False)
        self._channel = Channel(port, poller, self)
        self._deadline = self._loop.call_later(READY_TIMEOUT, self._give_up)
        self._send(start.config)
        if start.helper:
            start.helper.on_lost = self._on_helper_lost

    @property
    def is_kms(self) -> bool:
        """Whether it captures what a KMS helper shows it."""
        return self._helper is not None

    @property
    def _is_users(self) -> bool:
        """Whether it runs as the session's user, who may pause it anyway."""
        return not self.is_kms and self.key != PLACEHOLDER

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_stopping(self) -> bool:
        """Whether its end is near: it was told to end, or its link is over."""
        return self._was_asked or self._is_ending

    @property
    def is_active(self) -> bool:
        """Whether it is the one that is shown."""
        return self._link.state in _SHOWN

    @property
    def serial(self) -> int:
        """Of its newest ACTIVATE."""
        return self._link.serial

    def activate(
        self, serial: int, codecs: Sequence[int], *, quality: bool, rate: float = 0.0
    ) -> None:
        """Show it from now on; it must be ready. ``rate`` is as for ``tell_line``."""
        self._credits = 0
        self.unavailable = ""
        self._codecs = tuple(codecs)
        if self._helper:
            self._helper.grant()  # before it asks
        self._send(Activate(serial, self._codecs, quality))
        self._line_due = 0.0
        self.tell_line(rate)
        self.give_credit()

    def tell_line(self, rate: float) -> None:
        """Say what the way to the host takes, in bytes/s, 0 for not known; if that is news."""
        now, told, rate = self._loop.time(), self._told_rate, min(rate, _MAX_RATE)
        if now >= self._line_due and not told / _NEWS <= rate <= told * _NEWS:
            self._told_rate, self._line_due = rate, now + _LINE_INTERVAL
            self._send(Line(rate))

    def give_credit(self) -> None:
        """Let one more frame come."""
        self._credits += 1
        self._send(Credit())

    def pause(self) -> None:
        """Show it no more; from here on it sees nothing new of the graphics card."""
        self._revoke()
        if self.is_active:
            self._send(Pause())

    def stop(self) -> None:
        """End it; ``on_exit`` follows within ``launch.KILL_AFTER`` seconds."""
        self._was_asked = True
        self._deadline.cancel()
        self._revoke()
        self._process.stop()

    # From the link.

    def on_bytes(self, data: memoryview) -> None:
        """Hear the agent, until it breaks the rules."""
        if self._is_ending:
            return
        try:
            for message in self._link.receive(data):
                self._handle(message)
        except ProtocolError as error:
            self._break(f"broke the link's rules: {error}")

    def on_writable(self) -> None:
        """Go on writing."""
        self._flush()

    def on_lost(self, reason: str) -> None:
        """Its end is near; the process tells the rest."""
        log.debug("agent %d: link: %s", self.pid, reason)
        self._end()

    def _handle(self, message: Ready | Stats | Failed | DeviceMessage | object) -> None:
        match message:
            case DeviceMessage():
                self._relay(message)
            case Ready():
                self._deadline.cancel()
                self.ready = message
                self._listener.on_ready(self, message)
            case Stats():
                self.stats = message
                self._listener.on_stats(self, message)
            case Unavailable():
                self.unavailable = message.text
                self._listener.on_unavailable(self)
            case Failed(reason, text):
                if reason == Reason.PAUSED_BY_USER and not self._is_users:
                    raise ProtocolError("a pause that only the session's user may order")
                is_unread = self._helper and reason == Reason.DISPLAY_REFUSED
                self._failed = _unread(text) if is_unread else message
                self._end()  # by itself, or else by force

    def _relay(self, message: DeviceMessage) -> None:
        if message.type is Type.DATA:
            if not self._credits:
                raise ProtocolError("a frame without credit")
            self._credits -= 1
        elif message.type is Type.FORMAT:
            codec = parse_format(message.data).codec
            if codec not in self._codecs:
                raise ProtocolError(f"codec {codec}, which the host does not decode")
            if codec != self._codec:
                self._codec, self.stats = codec, None
        self._listener.on_message(self, message)

    def _end(self) -> None:
        self._is_ending = True
        self._deadline.cancel()
        self._revoke()
        self._process.expect_end()

    def _revoke(self) -> None:
        if self._helper:
            self._helper.revoke()

    def _on_helper_lost(self, why: str) -> None:
        """Let it end, as it does when its socket to the helper has."""
        if not self._is_ending:
            self._failed = _unread(why)
            self._end()

    def _send(self, message: ToAgent) -> None:
        log.debug("to agent %d: %s", self.pid, type(message).__name__)
        self._unsent += self._link.send(message)
        if len(self._unsent) > _MAX_UNSENT:
            self._break("does not read its link")
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            count = self._channel.write_nowait(memoryview(bytes(self._unsent)))
            if not count:
                return
            del self._unsent[:count]

    def _give_up(self) -> None:
        text = f"the agent did not find a display within {READY_TIMEOUT:g} s"
        self._failed = Failed("agent-timeout", text)
        self._kill()

    def _break(self, why: str) -> None:
        log.warning("agent %d %s", self.pid, why)
        self._failed = Failed("agent-crashed", f"the agent {why}")
        self._kill()

    def _kill(self) -> None:
        self._is_ending = True
        self._revoke()
        self._process.kill()

    def _on_exit(self, status: int) -> None:
        self._deadline.cancel()
        self._channel.read_rest()  # its last words may have come with its end
        self._channel.close()
        if self._helper:
            self._helper.read_rest()  # what it has said is the cause, and the agent's words follow
            self._helper.close()
            if self._helper.error:
                self._failed = _unread(self._helper.error)
        end = Exit(status, self._failed, self.ready is not None, self._was_asked)
        self._listener.on_exit(self, end)


def _unread(why: str) -> Failed:
    """Return that the card cannot be read; ``why`` is a clause."""
    return Failed(Reason.DISPLAY_REFUSED, f"{NOT_READ}: {why.rstrip('.')}.")


StartAgent = Callable[[AgentStart], Agent]
