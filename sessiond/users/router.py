"""Who does a command of the host's: we, or a user's agent. Pure: no I/O, no state.

A user that is named (``wire.qga``) has the command done by their agent, all but what only we and
the agent can do together; nobody is waited for who is not connected.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import CommandError, NoAgentError
from sessiond.wire.qga import Request
from sessiond.wire.rpc import MAX_NAME

COMMAND_NOT_FOUND: Final = "CommandNotFound"

WITH_AGENT: Final = frozenset(
    {"virtagent-query-displays", "virtagent-query-screens", "virtagent-connect-display"}
)
"""Done by us with what the user's agent says: it alone does not know the sessions."""

OF_AGENTS: Final = (
    "guest-exec",
    "guest-exec-status",
    "virtagent-unwatch-terminal",
    "virtagent-watch-terminal",
)
"""Done by agents alone, as their user."""

OF_DAEMON: Final = frozenset({
    "run-command", "serve-command", "signal-command", "resize-command",
})  # fmt: skip
"""What we ask of agents for others, and nobody else may: they belong to who has asked us."""


@dataclass(frozen=True, slots=True)
class Local:
    """We do it; ``user`` is the one it is about, "" for nobody."""

    command: str
    arguments: Mapping[str, Any]
    user: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """The agent of ``user`` does it."""

    user: str
    command: str
    arguments: Mapping[str, Any]


def route(request: Request, connected: Collection[str], root: str = "") -> Local | Forward:
    """Return who does what.

    ``connected`` are the names of the users whose agents are there; ``root`` is the name of root's
    agent, "" where it is not there or not allowed. Raises NoAgentError, or CommandError for what
    is done for nobody.
    """
    command, arguments = request.command, request.arguments
    if command in WITH_AGENT:
        user = _named(request)
        _check(user, connected)
        return Local(command, arguments, user)
    if request.user is not None:
        _check(request.user, connected)
        if command in OF_DAEMON or not 0 < len(command) <= MAX_NAME:
            text = f"The command {command[:MAX_NAME]} has not been found"
            raise CommandError(text, COMMAND_NOT_FOUND)
        return Forward(request.user, command, arguments)
    if command not in OF_AGENTS:
        return Local(command, arguments)
    if not root:
        text = (
            f"Command {command} has been disabled: it is done as a user, who is to be named "
            "(x-virtagent-username, or virtagent-call)"
        )
        raise CommandError(text, COMMAND_NOT_FOUND)
    return Forward(root, command, arguments)


def _named(request: Request) -> str:
    """Return the user by the member or by the argument, which may say the same twice."""
    if "username" not in request.arguments:
        if request.user is None:
            raise CommandError("no user is named: Parameter 'username' is missing")
        return request.user
    by_argument = request.arguments["username"]
    if not isinstance(by_argument, str):
        raise CommandError("Invalid parameter type for 'username', expected: string")
    if request.user not in {None, by_argument}:
        raise CommandError("Parameter 'username' names another user than the request does")
    return by_argument


def _check(user: str, connected: Collection[str]) -> None:
    if user not in connected:
        raise NoAgentError(user)
