"""What users' agents run for others: commands, by ids of ours, from their start to their end.

The daemon hands descriptors over and hears of the end; no byte of a command's passes it. What
asks for a command has asked the policy before (``policy``), and says for whom it is: each start,
each end and each refusal is a line of the journal.

On ``agent.sock`` a command is started by a call whose arguments have its ``id``, and which answers
``{"pid": P}``, or ``{"error-code": 127, "text": T}`` where nothing runs. It has ended with the
notice COMMAND_EXITED, ``{"id", "code", "signal"}``, or with its agent.
"""

import asyncio
import contextlib
import functools
import itertools
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import CommandError, NoAgentError, StartError
from sessiond.model import Ending, TerminalSize, UserAgent
from sessiond.transport.passing import Passed
from sessiond.users.audit import RUN, Action, Audit, Way, executed
from sessiond.users.policy import Origin, Question
from sessiond.users.server import UserAgents

MOST: Final = 1024  # at one time; each costs the daemon a kilobyte
# As one user, by who asks: the host has nearly as many as an agent takes.
MOST_OF_USER: Final = {Origin.HOST: 64, Origin.QREXEC: 250, Origin.LOCAL: 64}
# Of local callers: each is watched, by one of the 512 rules of a connection that a bus takes
# (dbus-daemon(1), max_match_rules_per_connection).
MOST_LOCAL: Final = 384
GRACE: Final = 2.0  # seconds from SIGHUP to SIGKILL
_LONGEST: Final = 64.0  # seconds from one SIGKILL to the next, for an agent that was busy
MAX_SHOWN: Final = 4096  # characters of a command's words that are kept
PROBLEM: Final = 125  # the exit code for all but what the agent says is refused or missing
_CODES: Final = (125, 126, 127)
_MAX_PID: Final = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_WAYS: Final = {
    Origin.HOST: Way.FROM_HOST,
    Origin.QREXEC: Way.FROM_QREXEC,
    Origin.LOCAL: Way.LOCAL,
}
_UNKNOWN: Final = Ending(-1)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be run as ``question.user``.

    ``command`` and ``arguments``, to which the id is added, are the agent's own. ``words`` tell
    the journal what it is: the program or service first.
    """

    question: Question
    words: Sequence[str]
    command: str
    arguments: Mapping[str, Any]


class Run:
    """One that was started; ``ended`` is done when it has ended, and not to be cancelled."""

    def __init__(self, runs: "Runs", number: int, agent: UserAgent, job: Job) -> None:
        self._loop = asyncio.get_running_loop()
        self._runs = runs
        self._timer: asyncio.TimerHandle | None = None
        self.id = number
        self.agent = agent
        self.origin = job.question.origin
        self.argv = _shown(job.words)
        self.has_terminal = "terminal" in job.arguments
        self.pid = 0
        self.started = time.time()
        self.ended: asyncio.Future[Ending] = self._loop.create_future()

    def end(self) -> None:
        """Let it end: by SIGHUP, and after 2 seconds by SIGKILL. A second call does nothing."""
        if not self._timer and not self.ended.done():
            self._runs.signal_nowait(self, signal.SIGHUP)
            self._timer = self._loop.call_later(GRACE, self._kill_on, GRACE)

    def _kill_on(self, delay: float) -> None:
        self._runs.signal_nowait(self, signal.SIGKILL)
        delay = min(2 * delay, _LONGEST)
        self._timer = self._loop.call_later(delay, self._kill_on, delay)

    def settle(self, ending: Ending) -> None:
        """Take that it has ended."""
        self.forget()
        if not self.ended.done():
            self.ended.set_result(ending)

    def forget(self) -> None:
        """Do nothing more about it."""
        if self._timer:
            self._timer.cancel()


class Runs:
    """Has users' agents run jobs, and knows what runs."""

    def __init__(self, agents: UserAgents, audit: Audit) -> None:
        self._loop = asyncio.get_running_loop()
        self._agents = agents
        self._audit = audit
        self._numbers = itertools.count(1)
        self._runs: dict[int, Run] = {}

    async def start(self, job: Job, passed: Passed) -> Run:
        """Have the user's agent start it; ``passed`` are its descriptors, closed when passed on.

        Raises NoAgentError, CommandError, and StartError with what the agent says.
        """
        number = next(self._numbers)
        action = self._action(job, number)
        try:
            with contextlib.closing(passed):
                run = await self._start(job, number, passed)
        except NoAgentError:
            self._audit.note(action, outcome="no agent")
            raise
        except StartError as error:
            self._audit.note(action, outcome=f"not started, {error.exit_code}")
            raise
        except CommandError as error:
            self._audit.note(action, error)
            raise
        except asyncio.CancelledError:
            self._audit.note(action, outcome="unfinished")
            raise
        self._audit.note(action, outcome=f"started, pid {run.pid}")
        run.ended.add_done_callback(functools.partial(self._note_end, action))
        return run

    def refuse(self, job: Job, outcome: str) -> None:
        """Tell the journal of one that is not to be started."""
        self._audit.note(self._action(job, next(self._numbers)), outcome=outcome)

    async def signal(self, number: int, what: int) -> None:
        """Send a signal to the one of that number. Raises CommandError, NoAgentError."""
        await self._call_signal(self._run_of(number), what)

    async def resize(self, number: int, size: TerminalSize) -> None:
        """Set the size of the terminal of that one. Raises CommandError, NoAgentError."""
        run = self._run_of(number)
        arguments = {"columns": size.columns, "rows": size.rows}
        await self._call(run, "resize-command", arguments)

    def signal_nowait(self, run: Run, number: int) -> None:
        """Send a signal, if the agent is still there."""
        with contextlib.suppress(NoAgentError):
            self._call_signal(run, number).add_done_callback(lambda _: None)  # whatever comes of it

    def on_exited(self, agent: UserAgent, untrusted: Mapping[str, Any]) -> None:
        """Take what an agent tells: that a command has ended, if it is one of its own."""
        untrusted_id = untrusted.get("id")
        run = self._runs.get(untrusted_id) if type(untrusted_id) is int else None
        if run and run.agent is agent:
            del self._runs[run.id]
            run.settle(_ending(untrusted))

    def on_gone(self, agent: UserAgent) -> None:
        """Take that an agent is gone, and what it ran with it."""
        for number, run in list(self._runs.items()):
            if run.agent is agent:
                del self._runs[number]
                run.settle(_UNKNOWN)

    def close(self) -> None:
        """Do nothing more. The agents end what they run when they lose us."""
        for run in self._runs.values():
            run.forget()
        self._runs.clear()

    async def _start(self, job: Job, number: int, passed: Passed) -> Run:
        agent = self._agents.find(job.question.user)
        self._check_room(agent, job.question.origin)
        run = self._runs[number] = Run(self, number, agent, job)
        try:
            value = await self._agents.call(
                agent.name, job.command, {**job.arguments, "id": number}, passed
            )
            run.pid = _pid(value)
        except BaseException as error:
            self._runs.pop(number, None)
            if not isinstance(error, StartError):
                # Perhaps it was started all the same, or will be.
                self.signal_nowait(run, signal.SIGKILL)
            raise
        return run

    def _check_room(self, agent: UserAgent, origin: Origin) -> None:
        of_user = sum(
            run.agent.uid == agent.uid and run.origin is origin for run in self._runs.values()
        )
        if of_user >= MOST_OF_USER[origin]:
            raise StartError(f"{of_user} commands of user '{agent.name}' run already", PROBLEM)
        local = sum(run.origin is Origin.LOCAL for run in self._runs.values())
        if origin is Origin.LOCAL and local >= MOST_LOCAL:
            raise StartError(f"{local} commands of local callers run already", PROBLEM)
        if len(self._runs) >= MOST:
            raise StartError(f"{MOST} commands run already", PROBLEM)

    def _run_of(self, number: int) -> Run:
        run = self._runs.get(number)
        if not run:
            raise CommandError("it has ended")
        return run

    def _call_signal(self, run: Run, number: int) -> "asyncio.Future[object]":
        return self._call(run, "signal-command", {"signal": int(number)})

    def _call(
        self, run: Run, command: str, arguments: Mapping[str, int]
    ) -> "asyncio.Future[object]":
        if self._agents.agents.get(run.agent.uid) is not run.agent:
            raise NoAgentError(run.agent.name)
        return self._agents.call(run.agent.name, command, {"id": run.id, **arguments})

    def _action(self, job: Job, number: int) -> Action:
        it = job.question
        arguments = {"path": job.words[0] if job.words else "", "arg": list(job.words[1:])}
        return Action(
            *(_WAYS[it.origin], it.user, RUN, number, {}, self._loop.time()),
            caller=it.caller,
            executed=executed(arguments),
        )

    def _note_end(self, action: Action, ended: "asyncio.Future[Ending]") -> None:
        ending = ended.result()
        if ending == _UNKNOWN:
            outcome = "lost"
        elif ending.signal:
            outcome = f"killed by signal {ending.signal}"
        else:
            outcome = f"exit code {ending.code}"
        self._audit.note(action, outcome=outcome)


def _pid(untrusted: object) -> int:
    """Return the pid that an agent has answered. Raises StartError."""
    match untrusted:
        case {"pid": int(pid)} if 0 < pid <= _MAX_PID:
            return pid
        case {"error-code": int(code), "text": str(text)} if code in _CODES:
            raise StartError(text[:MAX_SHOWN], code)
    raise StartError("the user's agent has answered nonsense", PROBLEM)


def _ending(untrusted: Mapping[str, Any]) -> Ending:
    match untrusted:
        case {"code": int(code), "signal": 0} if 0 <= code <= 255:
            return Ending(code)
        case {"signal": int(number)} if 0 < number <= signal.SIGRTMAX:
            return Ending(-1, number)
    return _UNKNOWN


def _shown(words: Sequence[str]) -> tuple[str, ...]:
    """Return the first words, as many as are worth keeping."""
    shown, left = list[str](), MAX_SHOWN
    for word in words:
        if not left or len(word) > left:
            shown.append(f"{word[:left]}...")
            break
        shown.append(word)
        left = max(0, left - len(word) - 1)
    return tuple(shown)
