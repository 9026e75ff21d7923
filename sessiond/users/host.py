"""The host channel: commands in the QEMU guest agent's format, from the machine's host.

There may be a host at any time or never, and it may go at any byte; the next one finds nothing of
it. What is done for it is ``desk``'s, what it is asked ``asks``'.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from sessiond.model import UserAgent
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort
from sessiond.users.asks import Asks
from sessiond.users.audit import Audit
from sessiond.users.budget import Budget
from sessiond.users.commands import Commands
from sessiond.users.conversation import Conversation
from sessiond.users.desk import Desk
from sessiond.users.place import find_place
from sessiond.users.server import UserAgents
from sessiond.wire import rpc
from sessiond.wire.qga import Answer, encode_event

log = logging.getLogger(__name__)

TOLD_EVERY: Final = 10.0  # seconds, in which the loss of events is told once


class HostChannel:
    """Serves the host from ``start`` to ``close``, at ``place``: see ``place.find_place``.

    ``spawn`` runs a coroutine in a task that somebody owns, and that does not outlive us.
    ``may_run(user)`` says whether the host may run commands as a user.
    """

    def __init__(
        self,
        place: str,
        poller: EdgePoller,
        agents: UserAgents,
        commands: Commands,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        *,
        may_run: Callable[[str], bool],
    ) -> None:
        self._poller = poller
        self._place = find_place(place, poller, self._begin)
        self._audit = Audit()
        self._desk = Desk(agents, commands, self._audit, spawn, may_run)
        self._asks = Asks(agents, self._audit)
        self._talk: Conversation | None = None
        self._lost = Budget(0, TOLD_EVERY, _tell_lost)

    def start(self) -> None:
        """Serve whoever is there, now or later. Raises SessiondError if nobody ever can be."""
        self._place.open()

    def close(self) -> None:
        """Serve nobody any more; a second call does nothing."""
        self._place.close()
        if self._talk:
            self._talk.close()
            self._talk = None
        self._asks.drop("the daemon ends")
        self._audit.close()
        self._lost.close()

    def tell(self, event: str, data: Mapping[str, Any], user: str | None = None) -> None:
        """Tell the host of an event, if it wants to know and reads what it is told.

        ``user`` is the one whom the event is about.
        """
        if self._talk and self._talk.switches.events:
            line = encode_event(event, data, time.time(), user)
            if not self._talk.put(line):
                self._lost.take()

    def ask(self, agent: UserAgent, call: rpc.Call, answer: Callable[[rpc.Result], None]) -> None:
        """Ask the host for a user's agent; ``answer`` is called once, unless the agent goes.

        That is an error unless the host has switched requests on.
        """
        self._asks.ask(self._talk, agent, call, answer)

    def _begin(self, port: OpenPort) -> None:
        self._talk = Conversation(port, self._poller, self._desk, self)

    # From the conversation.

    def on_answer(self, answer: Answer) -> None:
        """Take the host's answer to what it was asked."""
        self._asks.on_answer(answer)

    def on_room(self) -> None:
        """Take note that what a host that is gone had asked for is done."""
        if self._talk:
            self._talk.go_on()

    def on_end(self, talk: Conversation, reason: str) -> None:
        """Wait for the next host."""
        log.debug("the host channel: %s", reason)
        self._talk = None
        self._asks.drop("the host has gone")
        self._place.open_again(has_worked=talk.was_heard)


def _tell_lost(count: int) -> None:
    log.warning("%d events were not told to the host, which does not read them", count)
