"""Every action that the host causes, and every request to the host, as one line of the journal.

And every command that others have run in a user's session: a line at its start and one at its end.
Never content: no input, no output, no environment, no words of an error. What others have written
is made harmless and short; there is no flood of it, and no line is missing without being counted.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from sessiond.errors import CommandError
from sessiond.users.budget import Budget

log = logging.getLogger(__name__)

PERIOD: Final = 10.0  # seconds
LINES: Final = 200  # a period, of each kind
MAX_VALUE: Final = 256  # characters of each name, path and id
MAX_ARGUMENTS: Final = 1024  # characters of a command's arguments together

EXEC: Final = "guest-exec"
RUN: Final = "run"  # what the journal calls a command that is no request of the host's


class Way(Enum):
    """Who asks whom."""

    FROM_HOST = "host-to-guest"
    TO_HOST = "guest-to-host"
    FROM_QREXEC = "qrexec-to-guest"
    LOCAL = "local"


class Kind(Enum):
    """What has a budget of its own: pings hide no commands, and no user what the host does."""

    EXEC = "commands that were run"
    FROM_HOST = "other requests of the host"
    TO_HOST = "requests of users' agents"
    FROM_QREXEC = "commands by qrexec"
    LOCAL = "commands of local callers"


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked for. ``user`` is "" for nobody; ``started`` is the loop's time in seconds.

    ``caller`` is the name of a local caller. ``executed`` has the program and its arguments in the
    journal's words, of what is too long to be kept in its own.
    """

    way: Way
    user: str
    command: str
    id: object
    arguments: Mapping[str, Any]
    started: float
    caller: str = ""
    executed: tuple[str, str] | None = None

    @property
    def kind(self) -> Kind:
        """Whose budget the line is taken from."""
        if self.way is Way.FROM_HOST:
            return Kind.EXEC if self.is_run else Kind.FROM_HOST
        return _KINDS[self.way]

    @property
    def is_run(self) -> bool:
        """Whether it is a command that is run as a user."""
        return self.way is not Way.TO_HOST and self.command in {EXEC, RUN}


_KINDS: Final = {
    Way.TO_HOST: Kind.TO_HOST,
    Way.FROM_QREXEC: Kind.FROM_QREXEC,
    Way.LOCAL: Kind.LOCAL,
}


class Audit:
    """Writes the lines, a limited number in a period, and at its end how many more there were."""

    def __init__(self, period: float = PERIOD) -> None:
        self._loop = asyncio.get_running_loop()
        self._budgets = {
            kind: Budget(LINES, period, functools.partial(_tell_suppressed, kind)) for kind in Kind
        }

    def note(self, action: Action, error: CommandError | None = None, outcome: str = "ok") -> None:
        """Log that an action has ended: with an ``error``, or with this ``outcome``."""
        if self._budgets[action.kind].take():
            _write(action, error, outcome, self._loop.time() - action.started)

    def close(self) -> None:
        """Say what there is left to say."""
        for budget in self._budgets.values():
            budget.close()


def clean(untrusted: str) -> str:
    """Return a text that can neither break a line nor hide in one, and is not long."""
    text = untrusted[:MAX_VALUE]
    if not text.isprintable():  # control and format characters, line ends, lone surrogates
        text = "".join(
            it if it.isprintable() else it.encode("unicode_escape").decode() for it in text
        )[:MAX_VALUE]
    return text if len(untrusted) <= MAX_VALUE else f"{text}..."


def _tell_suppressed(kind: Kind, count: int) -> None:
    log.info("%d suppressed: %s", count, kind.value)


def _write(action: Action, error: CommandError | None, outcome: str, seconds: float) -> None:
    outcome = clean(error.cls) if error else outcome
    fields: dict[str, object] = {
        "DIRECTION": action.way.value,
        "COMMAND": clean(action.command),
        "COMMAND_USER": clean(action.user),
        "COMMAND_ID": "" if action.id is None else clean(json.dumps(action.id)),
        "OUTCOME": outcome,
        "DURATION_MS": round(seconds * 1000),
    }
    what = fields["COMMAND"] or "no request"
    if action.is_run:
        path, words = action.executed or executed(action.arguments)
        fields |= {"EXEC_PATH": path, "EXEC_ARGUMENTS": words}
        what = f"{what} {path} {words}"
    if action.caller:
        fields["CALLER"] = clean(action.caller)
    log.info("%s -> %s: %s, id %s: %s, %d ms", *_ends(action), what, fields["COMMAND_ID"] or "none",
             outcome, fields["DURATION_MS"], extra=fields)  # fmt: skip


def _ends(action: Action) -> tuple[str, str]:
    """Return who asks whom."""
    user = clean(action.user) or "daemon"
    match action.way:
        case Way.FROM_HOST:
            return "host", user
        case Way.TO_HOST:
            return user, "host"
        case Way.FROM_QREXEC:
            return "qrexec", user
        case Way.LOCAL:
            return clean(action.caller), user


def executed(arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Return the path and the arguments of a command that is run: untrusted, so of any type."""
    untrusted_words = arguments.get("arg", [])
    words = untrusted_words if isinstance(untrusted_words, list) else [untrusted_words]
    told, left = list[str](), MAX_ARGUMENTS
    for index, word in enumerate(words):
        said = _quoted(word)
        left -= len(said) + 1
        if left < 0:
            told.append(f"and {len(words) - index} more")
            break
        told.append(said)
    return _quoted(arguments.get("path")), f"[{' '.join(told)}]"


def _quoted(untrusted: object) -> str:
    if not isinstance(untrusted, str):
        return "(no text)"
    # As Python writes it there is no character in it that cannot be printed.
    text = repr(untrusted[:MAX_VALUE])
    return text if len(untrusted) <= MAX_VALUE else f"{text}..."
