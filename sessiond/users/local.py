"""What local callers have run in users' sessions: theirs freely, others' if polkit lets them.

The policy's rules come before both. Who a caller is, the bus says: by uid, which goes with a name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from sessiond.errors import CommandError, NoAgentError, NoSessionError, RefusedError, RequestError
from sessiond.model import Display, Order, SeatFacts, Session, UserAgent
from sessiond.transport.passing import Passed
from sessiond.users.names import UserNames
from sessiond.users.policy import Origin, Policy, Question, Verdict
from sessiond.users.runs import Job, Run, Runs
from sessiond.users.server import UserAgents

LOOKUP: Final = 10.0  # seconds for the user database
RUN_COMMAND: Final = "run-command"  # of the agent
LOGIN_SHELL: Final = "login shell"  # what the journal calls the command that only the agent knows

_OUTCOMES: Final = {
    NoAgentError: "no agent",
    NoSessionError: "no session",
    RefusedError: "refused by the policy",
    RequestError: "refused by polkit",
}

Ask = Callable[[], Awaitable[None]]
"""Asks polkit about the caller, or raises RequestError."""


class LocalRuns:
    """``policy()``, ``facts()`` and ``opened()``, displays by session, are what is so now."""

    def __init__(
        self,
        runs: Runs,
        agents: UserAgents,
        *,
        policy: Callable[[], Policy],
        facts: Callable[[], SeatFacts],
        opened: Callable[[], Mapping[str, Display]],
    ) -> None:
        self._runs = runs
        self._agents = agents
        self._policy = policy
        self._facts = facts
        self._opened = opened
        self._names = UserNames()

    async def run(self, order: Order, passed: Passed, ask: Ask) -> Run:
        """Have it run. Raises CommandError, StartError, and RequestError as ``ask`` does."""
        caller = await self._name_of(order.uid)
        user = order.user or caller
        try:
            agent = self._agent(order, caller)
            user = agent.name
            await self._check(self._job(order, caller, agent).question, ask)
            self._check_still(agent)
            job = self._job(order, caller, agent)  # polkit may take its time
        except (CommandError, RequestError) as error:
            question = Question(Origin.LOCAL, user, order.service, caller)
            refused = Job(question, _words(order), RUN_COMMAND, {})
            self._runs.refuse(refused, _OUTCOMES.get(type(error), "refused"))
            raise
        return await self._runs.start(job, passed)

    async def _check(self, question: Question, ask: Ask) -> None:
        match self._policy().decide(question):
            case Verdict.DENY:
                raise RefusedError(question.user)
            case Verdict.ASK:
                await ask()
                if self._policy().decide(question) is Verdict.DENY:  # by now
                    raise RefusedError(question.user)
            case Verdict.ALLOW:
                pass

    def _check_still(self, agent: UserAgent) -> None:
        if self._agents.find(agent.name).uid != agent.uid:
            raise NoAgentError(agent.name)  # the name is another user's by now

    async def _name_of(self, uid: int) -> str:
        try:
            async with asyncio.timeout(LOOKUP):
                return await asyncio.shield(self._names.look_up(uid))
        except TimeoutError:
            text = f"the user database does not say within {LOOKUP:g} s who uid {uid} is"
            raise CommandError(text) from None

    def _agent(self, order: Order, caller: str) -> UserAgent:
        """Return the agent of the user that the order is about."""
        if order.user:
            return self._agents.find(order.user)
        uid = order.uid
        if order.session:
            session = self._facts().sessions.get(order.session)
            if not session:
                raise NoSessionError(caller, order.session)
            uid, caller = session.uid, session.user or f"#{session.uid}"
        agent = self._agents.agents.get(uid)
        if not agent:
            raise NoAgentError(caller)
        return agent

    def _job(self, order: Order, caller: str, agent: UserAgent) -> Job:
        if caller == agent.name and order.uid != agent.uid:
            caller = f"#{order.uid}"  # two users of one name are not one user
        session = choose_session(self._facts(), agent, order.session)
        arguments: dict[str, Any] = {
            "argv": list(order.argv),
            "service": order.service,
            "session": _described(session, self._opened()) if session else {},
            "env": dict(order.env),
            "cwd": order.cwd,
        }
        if order.terminal:
            size = order.terminal
            arguments["terminal"] = {"columns": size.columns, "rows": size.rows}
            arguments["login-shell"] = order.is_login_shell
        question = Question(Origin.LOCAL, agent.name, order.service, caller)
        return Job(question, _words(order), RUN_COMMAND, arguments)


def _words(order: Order) -> Sequence[str]:
    if order.is_login_shell:
        return (LOGIN_SHELL,)
    return (order.service, *order.argv) if order.service else order.argv


def choose_session(facts: SeatFacts, agent: UserAgent, session_id: str) -> Session | None:
    """Return a session of the agent's user: that one, or the best that there is.

    Raises NoSessionError.
    """
    own = [it for it in facts.sessions.values() if it.uid == agent.uid]
    if session_id:
        own = [it for it in own if it.id == session_id]
        if not own:
            raise NoSessionError(agent.name, session_id)
    else:
        own = [it for it in own if it.cls.startswith("user") and it.state != "closing"]
    return max(own, key=lambda it: (it.active, bool(it.display), it.since), default=None)


def _described(session: Session, opened: Mapping[str, Display]) -> dict[str, str]:
    display = opened[session.id].name if session.id in opened else session.display
    return {"id": session.id, "type": session.type, "display": display}
