"""The host's commands over qrexec, each from its request to its end.

The data channel is connected here, and handed over to the agent of the command's user: from then on
no byte of it comes by here. Where nothing is started we say so on the channel ourselves. No command
runs elsewhere instead.
"""

import asyncio
import base64
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

from sessiond.errors import (
    ChannelError,
    CommandError,
    NoAnswerError,
    SessiondError,
    StartError,
)
from sessiond.transport.duplex import CONNECT_TIMEOUT, Duplex, Transport
from sessiond.transport.objects import Spawn
from sessiond.transport.passing import Passed
from sessiond.users.audit import clean
from sessiond.users.policy import Origin, Question, Verdict
from sessiond.users.qrexec_refusal import refuse
from sessiond.users.runs import Job, Run, Runs
from sessiond.wire.exec import Exec, JustExec, Place
from sessiond.wire.exec_command import PROBLEM, REFUSED, ServiceCall, parse_command_line

log = logging.getLogger(__name__)

MAX_COMMANDS: Final = 1024  # that run, or are about to
MAX_BEGINNING: Final = 448  # of them, before an agent has them: each may have a descriptor of ours
MAX_BEGINNING_EACH: Final = 256  # of one user
AT_ONCE: Final = 16  # that one agent is asked to begin at a time: it may owe 64 answers

SERVE: Final = "serve-command"

Decide = Callable[[Question], Verdict]


class Commands:
    """Has commands run; see ``Qrexec`` for what it is made with."""

    def __init__(self, transport: Transport, runs: Runs, decide: Decide, spawn: Spawn) -> None:
        self._transport = transport
        self._runs = runs
        self._decide = decide
        self._spawn = spawn
        self._count = 0
        self._beginning = Counter[str]()  # by user
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(AT_ONCE))

    def begin(self, request: Exec | JustExec, on_end: Callable[[], None]) -> None:
        """Have it run, or refused; ``on_end()`` is called when its data channel is not needed."""
        job, fault = _read(request)
        user = job.question.user
        if (
            self._count >= MAX_COMMANDS
            or self._beginning.total() >= MAX_BEGINNING
            or self._beginning[user] >= MAX_BEGINNING_EACH
        ):
            self._runs.refuse(job, "too many commands")
            on_end()
            return
        self._count += 1
        self._beginning[user] += 1
        self._spawn(self._do(request, job, fault, on_end))

    async def _do(
        self,
        request: Exec | JustExec,
        job: Job,
        fault: StartError | None,
        on_end: Callable[[], None],
    ) -> None:
        try:
            if run := await self._begin(request, job, fault):
                await asyncio.shield(run.ended)
        except SessiondError as error:
            log.warning("%s: %s", request.place, clean(str(error)))
        finally:
            self._count -= 1
        on_end()

    async def _begin(
        self, request: Exec | JustExec, job: Job, fault: StartError | None
    ) -> Run | None:
        """Return what runs; None where nothing does, which the peer has been told.

        Raises SessiondError where it has not.
        """
        try:
            with await self._connected(request.place) as connection:
                try:
                    self._check(job, fault)
                    return await self._hand_over(job, connection)
                except StartError as error:
                    text = clean(str(error))
                    log.info("%s: not started, %d: %s", request.place, error.exit_code, text)
                    await refuse(connection, request, error.exit_code)
                    return None
        finally:
            user = job.question.user
            self._beginning -= Counter([user])  # which keeps nothing of who has none
            if user not in self._beginning:
                self._turns.pop(user, None)

    def _check(self, job: Job, fault: StartError | None) -> None:
        """Raise StartError for what is not to be run."""
        if fault:
            self._runs.refuse(job, "not understood")
            raise fault
        if self._decide(job.question) is not Verdict.ALLOW:
            self._runs.refuse(job, "refused by the policy")
            raise StartError("the policy does not allow it", REFUSED)

    async def _hand_over(self, job: Job, connection: Duplex) -> Run:
        """Let the user's agent have the channel, and let go of it.

        Raises StartError where the agent has not used it, and NoAnswerError where it may have.
        """
        async with self._turns[job.question.user]:
            try:
                passed = Passed([os.dup(connection.fileno())])
                run = await self._runs.start(job, passed)
            except NoAnswerError:
                raise
            except CommandError as error:
                raise StartError(str(error), PROBLEM) from error
            except OSError as error:
                raise StartError(f"no descriptor is left: {error.strerror}", PROBLEM) from error
        connection.detach().close()  # it is not hung up on
        return run

    async def _connected(self, place: Place) -> Duplex:
        """Return the data channel. Raises ChannelError."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._transport.wait_connected(place.domain, place.port)
        except TimeoutError:
            text = f"nobody serves it within {CONNECT_TIMEOUT:.0f} s"
            raise ChannelError(text) from None


def _read(request: Exec | JustExec) -> tuple[Job, StartError | None]:
    """Return what is asked for, and what is wrong with it."""
    user, service, words, fault = "", "", [os.fsdecode(request.command_line)], None
    try:
        line = parse_command_line(request.command_line)
    except StartError as error:
        fault = error
    else:
        user = os.fsdecode(line.user)
        if isinstance(line.command, ServiceCall):
            service = os.fsdecode(line.command.full_name)
            words = [service, os.fsdecode(line.command.source)]
        else:
            words = [os.fsdecode(line.command)]
    arguments = {
        "domain": request.place.domain,
        "port": request.place.port,
        "command-line": base64.b64encode(request.command_line).decode(),
        "detached": isinstance(request, JustExec),
    }
    return Job(Question(Origin.QREXEC, user, service), words, SERVE, arguments), fault
