"""What users' agents ask the host: under ids of ours, each for a limited time.

The host learns who asks from us alone.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sessiond.errors import CommandError
from sessiond.model import UserAgent
from sessiond.users.audit import Action, Audit, Way
from sessiond.users.conversation import Conversation
from sessiond.users.server import UserAgents
from sessiond.wire import rpc
from sessiond.wire.qga import MAX_TEXT, Answer, encode_request

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class _Pending:
    agent: UserAgent
    number: int
    answer: Callable[[rpc.Result], None]
    timer: asyncio.TimerHandle
    action: Action


class Asks:
    """Those that the host has not answered yet; how many one agent may have is its connection's."""

    def __init__(self, agents: UserAgents, audit: Audit) -> None:
        self._loop = asyncio.get_running_loop()
        self._agents = agents
        self._audit = audit
        self._pending: dict[str, _Pending] = {}
        # The host's own ids are its own; this is none of them.
        self._prefix = f"spice-sessiond-{os.urandom(8).hex()}-"
        self._last = 0

    def ask(
        self,
        talk: Conversation | None,
        agent: UserAgent,
        call: rpc.Call,
        answer: Callable[[rpc.Result], None],
    ) -> None:
        """Pass a call on to the host that is there; ``answer`` gets an error if there is none."""
        now = self._loop.time()
        action = Action(Way.TO_HOST, agent.name, call.command, call.id, call.arguments, now)
        self._last += 1
        key = f"{self._prefix}{self._last}"
        error = self._send(talk, agent, call, key)
        if error:
            self._audit.note(action, error)
            answer(rpc.Result(call.id, error=error))
            return
        timer = self._loop.call_later(ANSWER_WITHIN, self._give_up, key)
        self._pending[key] = _Pending(agent, call.id, answer, timer, action)

    def _send(
        self, talk: Conversation | None, agent: UserAgent, call: rpc.Call, key: str
    ) -> CommandError | None:
        if not talk or not talk.switches.requests:
            return CommandError("the host takes no requests")
        line = encode_request(call.command, call.arguments, id=key, user=agent.name)
        if len(line) > MAX_TEXT:
            return CommandError(f"the request is over {MAX_TEXT} bytes")
        return None if talk.put(line) else CommandError("the host does not read")

    def on_answer(self, answer: Answer) -> None:
        """Hand the host's answer to who waits for it."""
        key = answer.id if isinstance(answer.id, str) else ""
        pending = self._pending.get(key)
        if not pending:
            log.debug("the host's answer is dropped: nobody waits for it")
            return
        if answer.user not in {None, pending.agent.name}:
            error = CommandError("the host's answer is for another user")
            self._settle(key, None, error)
            return
        self._settle(key, answer.value, answer.error)

    def drop(self, why: str) -> None:
        """Answer all with an error: the host that was asked is not there any more."""
        for key in list(self._pending):
            self._settle(key, None, CommandError(why))

    def _give_up(self, key: str) -> None:
        text = f"the host did not answer within {ANSWER_WITHIN:g} s"
        self._settle(key, None, CommandError(text))

    def _settle(self, key: str, value: object, error: CommandError | None) -> None:
        it = self._pending.pop(key)
        it.timer.cancel()
        if self._agents.agents.get(it.agent.uid) != it.agent:
            self._audit.note(it.action, outcome="dropped: the agent has gone")
            return
        self._audit.note(it.action, error)
        it.answer(rpc.Result(it.number, value, error))
