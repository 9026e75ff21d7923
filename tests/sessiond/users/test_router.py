"""Who does a command: the table of cases."""

from typing import Any

import pytest

from sessiond.errors import CommandError, NoAgentError
from sessiond.users.router import OF_AGENTS, Forward, Local, route
from sessiond.wire.qga import Request

CONNECTED = ("alice", "bob")
NOT_FOUND = "CommandNotFound"
GENERIC = "GenericError"


def no_agent(user: str) -> tuple[str, str]:
    return GENERIC, f"no agent connected for user '{user}'"


# command, arguments, user -> who does it, or the error's class and how its text begins
CASES: list[tuple[str, dict[str, Any], str | None, Local | Forward | tuple[str, str]]] = [
    # Nobody is named: ours, known or not.
    ("guest-ping", {}, None, Local("guest-ping", {})),
    ("guest-sync", {"id": 1}, None, Local("guest-sync", {"id": 1})),
    ("guest-info", {}, None, Local("guest-info", {})),
    ("virtagent-list-users", {}, None, Local("virtagent-list-users", {})),
    ("guest-nope", {}, None, Local("guest-nope", {})),
    ("query-displays", {}, None, Local("query-displays", {})),
    # An argument names nobody but where a user is asked for.
    ("guest-ping", {"username": "bob"}, None, Local("guest-ping", {"username": "bob"})),
    # Somebody is: theirs, whatever it is.
    ("guest-ping", {}, "alice", Forward("alice", "guest-ping", {})),
    ("guest-exec", {"path": "x"}, "bob", Forward("bob", "guest-exec", {"path": "x"})),
    ("guest-exec-status", {"pid": 1}, "bob", Forward("bob", "guest-exec-status", {"pid": 1})),
    ("virtagent-list-users", {}, "bob", Forward("bob", "virtagent-list-users", {})),
    ("guest-nope", {}, "alice", Forward("alice", "guest-nope", {})),
    # But what we ask of an agent for others is nobody else's to ask.
    ("run-command", {}, "alice", (NOT_FOUND, "The command run-command has not been found")),
    ("serve-command", {}, "alice", (NOT_FOUND, "The command serve-command has not been found")),
    ("signal-command", {}, "alice", (NOT_FOUND, "The command signal-command has not been found")),
    ("signal-command", {}, "carol", no_agent("carol")),
    ("signal-command", {}, None, Local("signal-command", {})),
    # What is no command's name is not for an agent.
    ("", {}, "alice", (NOT_FOUND, "The command  has not been found")),
    ("x" * 255, {}, "alice", Forward("alice", "x" * 255, {})),
    ("x" * 256, {}, "alice", (NOT_FOUND, "The command xxx")),
    ("x" * 256, {}, None, Local("x" * 256, {})),
    # Somebody who is not there.
    ("guest-ping", {}, "carol", no_agent("carol")),
    ("guest-exec", {}, "root", no_agent("root")),
    ("guest-ping", {}, "Alice", no_agent("Alice")),
    ("guest-nope", {}, "carol", no_agent("carol")),
    # Commands that need a user, by either way of naming one.
    ("virtagent-query-displays", {}, "alice", Local("virtagent-query-displays", {}, "alice")),
    (
        "virtagent-query-displays",
        {"username": "alice"},
        None,
        Local("virtagent-query-displays", {"username": "alice"}, "alice"),
    ),
    (
        "virtagent-connect-display",
        {"display": ":0", "username": "bob"},
        "bob",
        Local("virtagent-connect-display", {"display": ":0", "username": "bob"}, "bob"),
    ),
    (
        "virtagent-query-screens",
        {"display": ":0"},
        "bob",
        Local("virtagent-query-screens", {"display": ":0"}, "bob"),
    ),
    ("virtagent-query-screens", {}, "carol", no_agent("carol")),
    ("virtagent-query-screens", {"username": "carol"}, None, no_agent("carol")),
    ("virtagent-query-screens", {}, None, (GENERIC, "no user is named")),
    ("virtagent-query-displays", {}, None, (GENERIC, "no user is named")),
    ("virtagent-connect-display", {"display": ":0"}, None, (GENERIC, "no user is named")),
    (
        "virtagent-query-displays",
        {"username": 1},
        None,
        (GENERIC, "Invalid parameter type for 'username', expected: string"),
    ),
    (
        "virtagent-query-displays",
        {"username": None},
        "alice",
        (GENERIC, "Invalid parameter type for 'username', expected: string"),
    ),
    (
        "virtagent-query-displays",
        {"username": "bob"},
        "alice",
        (GENERIC, "Parameter 'username' names another user"),
    ),
    # Done as a user only.
    ("guest-exec", {"path": "x"}, None, (NOT_FOUND, "Command guest-exec has been disabled")),
    (
        "guest-exec-status",
        {"pid": 1},
        None,
        (NOT_FOUND, "Command guest-exec-status has been disabled"),
    ),
    (
        "virtagent-watch-terminal",
        {"path": "/dev/pts/1"},
        None,
        (NOT_FOUND, "Command virtagent-watch-terminal has been disabled"),
    ),
]


@pytest.mark.parametrize(("command", "arguments", "user", "expected"), CASES)
def test_table(
    command: str,
    arguments: dict[str, Any],
    user: str | None,
    expected: Local | Forward | tuple[str, str],
) -> None:
    request = Request(command, arguments, user=user)
    if isinstance(expected, tuple):
        with pytest.raises(CommandError) as caught:
            route(request, CONNECTED)
        assert caught.value.cls == expected[0]
        assert str(caught.value).startswith(expected[1])
        assert isinstance(caught.value, NoAgentError) == str(caught.value).startswith("no agent")
    else:
        assert route(request, CONNECTED) == expected


@pytest.mark.parametrize("command", OF_AGENTS)
def test_root_is_asked_where_its_agent_is_allowed_and_there(command: str) -> None:
    found = route(Request(command, {"a": 1}), ("root",), "root")
    assert found == Forward("root", command, {"a": 1})


def test_root_is_not_asked_for_another() -> None:
    assert route(Request("guest-ping"), ("root",), "root") == Local("guest-ping", {})
    with pytest.raises(NoAgentError):
        route(Request("guest-exec", user="alice"), ("root",), "root")


@pytest.mark.parametrize("command", ["guest-ping", "guest-exec", "virtagent-query-displays"])
def test_without_any_agent_nobody_is_waited_for(command: str) -> None:
    with pytest.raises(NoAgentError):
        route(Request(command, user="alice"), ())
