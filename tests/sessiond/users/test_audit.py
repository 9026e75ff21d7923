"""The journal's lines of what was asked for: what they tell, and what they never do."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond import logs
from sessiond.errors import CommandError
from sessiond.users.audit import LINES, MAX_ARGUMENTS, MAX_VALUE, Action, Audit, Way, clean
from sessiond.wire import rpc
from tests.fixtures.loop import in_loop
from tests.sessiond.users.hosting import ME, facts, session, world

NAME = "sessiond.users.audit"


class Lines(logging.Handler):
    """Keeps what the audit writes."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def fields(self, number: int = -1) -> dict[str, Any]:
        """Return the journal fields of a line."""
        record = self.records[number]
        return {name: getattr(record, name) for name in logs.FIELDS if hasattr(record, name)}


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger(NAME), Lines()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def action(command: str = "guest-ping", way: Way = Way.FROM_HOST, **known: Any) -> Action:  # noqa: ANN401 (its members)
    members = {"user": "alice", "id": None, "arguments": {}, "started": 0.0, **known}
    return Action(way, command=command, **members)


def executed(*words: object, path: object = "/bin/sh") -> Action:
    return action("guest-exec", arguments={"path": path, "arg": list(words)})


@in_loop
async def test_line_and_its_fields(lines: Lines) -> None:
    now = asyncio.get_running_loop().time()
    Audit().note(action("guest-ping", id={"a": 1}, started=now - 2))
    [text], fields = lines.texts, lines.fields()
    duration = fields["DURATION_MS"]
    assert duration >= 2000
    assert text == f'host -> alice: guest-ping, id {{"a": 1}}: ok, {duration} ms'
    assert fields == {
        "DIRECTION": "host-to-guest",
        "COMMAND": "guest-ping",
        "COMMAND_USER": "alice",
        "COMMAND_ID": '{"a": 1}',
        "OUTCOME": "ok",
        "DURATION_MS": duration,
    }
    assert lines.records[0].levelno == logging.INFO


@in_loop
async def test_error_is_told_by_its_class_alone(lines: Lines) -> None:
    Audit().note(action(user=""), CommandError("the password is swordfish", "CommandNotFound"))
    assert "host -> daemon: guest-ping, id none: CommandNotFound, " in lines.texts[0]
    assert lines.fields()["OUTCOME"] == "CommandNotFound"
    assert "swordfish" not in str(vars(lines.records[0]))


@in_loop
async def test_request_to_the_host(lines: Lines) -> None:
    Audit().note(action("guest-exec", Way.TO_HOST, id=7, arguments={"path": "hidden"}))
    assert lines.texts[0].startswith("alice -> host: guest-exec, id 7: ok, ")
    assert lines.fields()["DIRECTION"] == "guest-to-host"
    assert "hidden" not in lines.texts[0]


@in_loop
async def test_executed_path_and_arguments_and_nothing_else(lines: Lines) -> None:
    arguments = {"path": "/bin/sh", "arg": ["-c", "it's\n"], "env": ["SECRET=1"],
                 "input-data": "c2VjcmV0"}  # fmt: skip
    Audit().note(action("guest-exec", arguments=arguments))
    fields = lines.fields()
    assert fields["EXEC_PATH"] == "'/bin/sh'"
    assert fields["EXEC_ARGUMENTS"] == """['-c' "it's\\n"]"""
    assert lines.texts[0].startswith(
        """host -> alice: guest-exec '/bin/sh' ['-c' "it's\\n"], id none: ok, """
    )
    assert "SECRET" not in str(vars(lines.records[0]))
    assert "c2VjcmV0" not in str(vars(lines.records[0]))


@pytest.mark.parametrize(
    ("arguments", "path", "words"),
    [
        ({}, "(no text)", "[]"),
        ({"path": 5, "arg": 5}, "(no text)", "[(no text)]"),
        ({"path": "x", "arg": [None, "a"]}, "'x'", "[(no text) 'a']"),
        ({"path": "x", "arg": {"a": "b"}}, "'x'", "[(no text)]"),
    ],
)
@in_loop
async def test_executed_nonsense(
    lines: Lines, arguments: dict[str, Any], path: str, words: str
) -> None:
    Audit().note(action("guest-exec", arguments=arguments))
    assert (lines.fields()["EXEC_PATH"], lines.fields()["EXEC_ARGUMENTS"]) == (path, words)


@in_loop
async def test_long_values_are_cut_and_say_so(lines: Lines) -> None:
    audit = Audit()
    audit.note(action("x" * 1000, user="u" * 1000, id="i" * 1000))
    fields = lines.fields()
    assert fields["COMMAND"] == "x" * MAX_VALUE + "..."
    assert fields["COMMAND_USER"] == "u" * MAX_VALUE + "..."
    assert len(fields["COMMAND_ID"]) == MAX_VALUE + 3
    audit.note(executed("a" * 1000, *["b" * 100] * 50, path="p" * 1000))
    fields = lines.fields()
    assert fields["EXEC_PATH"] == f"'{'p' * MAX_VALUE}'..."
    assert f"'{'a' * MAX_VALUE}'..." in fields["EXEC_ARGUMENTS"]
    assert fields["EXEC_ARGUMENTS"].endswith("and 43 more]")
    assert len(fields["EXEC_ARGUMENTS"]) <= MAX_ARGUMENTS + 20


@given(st.text(max_size=2 * MAX_VALUE))
def test_cleaned_text_is_short_and_printable(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert len(cleaned) <= MAX_VALUE + 3
    if text.isprintable() and len(text) <= MAX_VALUE:
        assert cleaned == text


@pytest.mark.parametrize(
    "text", ["a\nb", "a\x1b[2J", "a\u202eb", "a\ud800", "a\x00", "\x85", "\u2028"]
)
def test_cleaned_text_hides_nothing(text: str) -> None:
    assert clean(text).isascii()
    assert "\\" in clean(text)


@in_loop
async def test_each_kind_has_its_own_limit_and_tells_what_it_left_out(lines: Lines) -> None:
    audit = Audit()
    for _ in range(LINES + 3):
        audit.note(action())
    for _ in range(LINES + 2):
        audit.note(action("guest-exec", Way.TO_HOST))
    for _ in range(LINES + 1):
        audit.note(executed())
    assert len(lines.texts) == 3 * LINES
    audit.close()
    assert lines.texts[3 * LINES :] == [
        "1 suppressed: commands that were run",
        "3 suppressed: other requests of the host",
        "2 suppressed: requests of users' agents",
    ]


@in_loop
async def test_every_request_is_told(tmp_path: Path, lines: Lines) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(b"nonsense\n")
        await client.read()
        await client.ask("guest-ping")
        client.send({"execute": "guest-nope", "id": 4})
        await client.read()
        inner = {"username": ME, "execute": "guest-exec", "arguments": {"path": "id"}}
        client.send({"execute": "virtagent-call", "arguments": inner})
        await agent.answer({"pid": 1})
        await client.read()
        await client.ask("virtagent-query-displays", username="nobody-here")
        agent.send(rpc.Call("host-notify", {}, 9))
        await agent.read()
    assert [text.rsplit(", ", 1)[0] for text in lines.texts] == [
        "host -> daemon: no request, id none: GenericError",
        "host -> daemon: guest-ping, id none: ok",
        "host -> daemon: guest-nope, id 4: CommandNotFound",
        f"host -> {ME}: guest-exec 'id' [], id none: ok",
        "host -> nobody-here: virtagent-query-displays, id none: GenericError",
        f"{ME} -> host: host-notify, id 9: GenericError",
    ]


@in_loop
async def test_what_nobody_waits_for_any_more_is_told(tmp_path: Path, lines: Lines) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        async with await it.client() as client:
            inner = {"username": ME, "execute": "guest-exec", "arguments": {"path": "id"}}
            client.send({"execute": "virtagent-call", "arguments": inner})
            call = await agent.call()
        async with await it.client() as client:
            await client.ask("guest-ping")
            agent.send(rpc.Result(call.id, {"pid": 1}))
            agent.send(rpc.Call("host-notify", {}, 9))
            await agent.read()
    assert any("guest-exec 'id' []" in text and ": ok" in text for text in lines.texts)


@in_loop
async def test_what_the_end_breaks_off_is_told(tmp_path: Path, lines: Lines) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        it.facts = facts(session("1"))
        it.may_activate.clear()
        client.send({"execute": "virtagent-activate-session", "arguments": {"session": "1"}})
        await it.signal.until(lambda: bool(it.activated))
    assert lines.fields()["OUTCOME"] == "unfinished"
