"""The daemon as a qrexec agent: what the host asks for is done by users' agents.

It talks to qrexec's daemon on the control channel, one after the other; the commands that it is
asked for are ``qrexec_commands``'s, the calls that it is told of ``qrexec_callers``'s.
"""

import asyncio
import functools
import logging
import os
from typing import Final, NoReturn

from sessiond.errors import ChannelError
from sessiond.transport.backoff import Backoff
from sessiond.transport.duplex import Duplex, Transport, wait_readable
from sessiond.transport.objects import Spawn
from sessiond.users.audit import Action, Audit, Way
from sessiond.users.policy import Origin, Question, Verdict
from sessiond.users.qrexec_callers import Caller, Callers
from sessiond.users.qrexec_commands import Commands, Decide
from sessiond.users.qrexec_control import ControlLink
from sessiond.users.runs import Runs
from sessiond.wire.exec import (
    CONTROL_PORT,
    Connect,
    Exec,
    JustExec,
    Place,
    Refuse,
    Terminated,
    Trigger,
)

log = logging.getLogger(__name__)

NO_DOMAIN: Final = -1
"""The domain of who is no qrexec agent."""

_DAEMON: Final = 0  # its domain


class Qrexec:
    """Serves one daemon after the other, from ``start`` to ``close``.

    Calls from inside come to the socket ``callers``, "" for none. ``decide`` is the policy;
    ``spawn`` runs a coroutine in a task that somebody owns, and that does not outlive us.
    """

    def __init__(
        self,
        transport: Transport,
        callers: str,
        runs: Runs,
        audit: Audit,
        *,
        decide: Decide,
        spawn: Spawn,
    ) -> None:
        self._transport = transport
        self._audit = audit
        self._decide = decide
        self._spawn = spawn
        self._commands = Commands(transport, runs, decide, spawn)
        self._callers = Callers(callers, self._call, self._on_end, spawn) if callers else None
        self._link: ControlLink | None = None
        self._was_met = False  # the daemon that is, or was, there

    def start(self) -> None:
        """Wait for a daemon."""
        self._spawn(self._serve())

    def close(self) -> None:
        """Hang up on the daemon and on callers; a second call does nothing."""
        if self._callers:
            self._callers.close()
        if self._link:
            self._link.close()
            self._link = None

    async def _serve(self) -> NoReturn:
        backoff, complaint = Backoff(), ""
        while True:
            try:
                is_well = await self._serve_one()
                complaint = ""
            except ChannelError as error:
                is_well = False
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("qrexec waits: %s", complaint)
            if is_well:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.delay())

    async def _serve_one(self) -> bool:
        """Serve a daemon to its end; return whether it was one. Raises ChannelError."""
        self._was_met = False
        self._link = ControlLink(await self._wait_for_daemon(), self)
        try:
            fault = await self._link.ended
        finally:
            self.close()
        if fault:
            log.warning("the qrexec daemon is let go: %s", fault)
        else:
            log.info("the qrexec daemon has gone")
        return self._was_met and not fault

    async def _wait_for_daemon(self) -> Duplex:
        with self._transport.listen(_DAEMON, CONTROL_PORT) as listener:
            log.debug("waiting for a qrexec daemon")
            while not (daemon := listener.accept()):
                await wait_readable(listener)
        return daemon

    # What the daemon says.

    def on_hello(self, link: ControlLink) -> None:
        """Take note that the daemon is there."""
        self._was_met = True
        if self._callers:
            self._callers.open()
        log.info("a qrexec daemon has connected, which speaks version %d", link.version)

    def on_request(self, link: ControlLink, request: Exec | JustExec) -> None:
        """Have a command run; its end is told to who has asked for it, and to no later daemon."""
        on_end = functools.partial(link.tell_end, Terminated(request.place))
        self._commands.begin(request, on_end)

    def on_answer(self, answer: Connect | Refuse) -> None:
        """Pass on what the daemon says to a call."""
        match answer:
            case Refuse() if self._callers:
                self._callers.refuse(answer)
            case Connect() if self._callers:
                self._callers.connect(answer)
            case Connect():
                self._on_end(answer.place)

    # What callers say.

    async def _call(self, caller: Caller, call: Trigger) -> bool:
        """Pass a call on to the daemon; return whether it may be. Raises LocalProtocolError."""
        service = os.fsdecode(call.service)
        # It is asked as if the caller had it run as themselves: nobody else in here is concerned.
        question = Question(Origin.LOCAL, caller.user, service, caller.user)
        now, outcome = asyncio.get_running_loop().time(), ""
        if call.source and caller.uid:
            outcome = "refused: only root may call in another domain's name"
        elif self._decide(question) is not Verdict.ALLOW:
            outcome = "refused by the policy"
        if self._link and not outcome:
            await self._link.call(call)
        action = Action(Way.TO_HOST, caller.user, f"qrexec {service}", None, {}, now)
        self._audit.note(action, outcome=outcome or "passed on")
        return not outcome

    def _on_end(self, place: Place) -> None:
        if self._link:
            self._link.tell_end(Terminated(place))
