"""Who may change what: polkit is asked about the sender of each call that changes something.

Root always may. Without polkit on the bus only root may. A session's own user may do to it what
``Access.check`` is told of by ``owner``.
"""

import asyncio
import itertools
import logging
from typing import Any, Final

from sessiond.errors import BusCallError, RequestError
from sessiond.transport.bus import NO_REPLY, Bus, Call
from sessiond.transport.bus_match import DRIVER
from sessiond.transport.dbus import Variant
from sessiond.transport.objects import Caller

log = logging.getLogger(__name__)

SWITCH: Final = "org.spice-space.sessiond1.switch"
PAUSE: Final = "org.spice-space.sessiond1.pause"
RESTART: Final = "org.spice-space.sessiond1.restart"
SETTINGS: Final = "org.spice-space.sessiond1.settings"
RELOAD: Final = "org.spice-space.sessiond1.reload"
QUERY_DISPLAYS: Final = "org.spice-space.sessiond1.query-displays"
CONNECT_DISPLAY: Final = "org.spice-space.sessiond1.connect-display"
RUN_COMMAND: Final = "org.spice-space.sessiond1.run-command"

LIMIT: Final = 5.0  # seconds for an answer that asks nobody
INTERACTIVE_LIMIT: Final = 120.0  # seconds for a person to type a password
MOST_ASKED: Final = 8  # questions about one user at a time: the calls that wait are limited

# polkit's D-Bus interface, org.freedesktop.PolicyKit1.Authority.
_POLKIT: Final = "org.freedesktop.PolicyKit1"
_AUTHORITY: Final = "org.freedesktop.PolicyKit1.Authority"
_AUTHORITY_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_ALLOW_INTERACTION: Final = 1  # CheckAuthorizationFlags

_DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"
_LIMITS: Final = "org.freedesktop.DBus.Error.LimitsExceeded"
_ASK_INTERACTIVELY: Final = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
_ABSENT: Final = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
)


class Access:
    """Asks on one bus, where the callers and polkit are."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._numbers = itertools.count(1)
        self._asked: list[int] = []  # about whom, now

    async def check(self, caller: Caller, action: str, *, owner: int | None = None) -> int:
        """Return the caller's uid if it may, else raise RequestError with a standard error's name.

        ``owner`` is the uid of who may without being asked, beside root.
        """
        uid = await self.uid_of(caller)
        if uid in {0, owner}:
            return uid
        if self._asked.count(uid) >= MOST_ASKED:
            raise RequestError(_LIMITS, f"uid {uid} has {MOST_ASKED} questions open")
        self._asked.append(uid)
        try:
            is_allowed, is_challenge = await self._ask(caller, action)
        except BusCallError as error:
            log.debug("polkit was asked about %s: %s", action, error)
            if error.name in _ABSENT:
                raise RequestError(_DENIED, "polkit is not there: only root may do that") from None
            why = "did not answer in time" if error.name == NO_REPLY else "could not be asked"
            raise RequestError(_DENIED, f"polkit {why} about {action}") from None
        finally:
            self._asked.remove(uid)
        if is_allowed:
            return uid
        if is_challenge and not caller.is_interactive:
            raise RequestError(_ASK_INTERACTIVELY, f"a password is needed for {action}")
        raise RequestError(_DENIED, f"polkit does not allow {action} to uid {uid}")

    async def uid_of(self, caller: Caller) -> int:
        """Return the caller's uid, as the bus knows it. Raises RequestError for who has left."""
        call = Call(DRIVER, "/org/freedesktop/DBus", DRIVER, "GetConnectionUnixUser", "s",
                    [caller.name])  # fmt: skip
        try:
            [uid] = await self._bus.call(call, limit=LIMIT)
        except BusCallError:
            raise RequestError(_DENIED, "who asked has left the bus") from None
        return int(uid)

    async def _ask(self, caller: Caller, action: str) -> tuple[bool, bool]:
        cancellation = f"sessiond-{next(self._numbers)}"
        subject = ["system-bus-name", {"name": Variant("s", caller.name)}]
        flags = _ALLOW_INTERACTION if caller.is_interactive else 0
        limit = INTERACTIVE_LIMIT if caller.is_interactive else LIMIT
        body: list[Any] = [subject, action, {}, flags, cancellation]
        try:
            [answer] = await self._bus.call(
                _authority("CheckAuthorization", "(sa{sv})sa{ss}us", body), limit=limit
            )
        except (asyncio.CancelledError, BusCallError):
            # Nobody waits for it any more: the password's window goes.
            self._bus.call_nowait(
                _authority("CancelCheckAuthorization", "s", [cancellation]), lambda _answer: None
            )
            raise
        is_allowed, is_challenge, _details = answer
        return bool(is_allowed), bool(is_challenge)


def _authority(member: str, signature: str, body: list[Any]) -> Call:
    return Call(_POLKIT, _AUTHORITY_PATH, _AUTHORITY, member, signature, body)
