"""qrexec's command lines: who runs what, and which service is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import StartError
from sessiond.wire.exec_command import PROBLEM, CommandLine, ServiceCall, parse_command_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"nobody:true", CommandLine(b"nobody", b"true")),
        (b"user:nogui:ls -l", CommandLine(b"user", b"ls -l", nogui=True)),
        (b"user:echo a:b  c", CommandLine(b"user", b"echo a:b  c")),
        (b"user:nogui:nogui:x", CommandLine(b"user", b"nogui:x", nogui=True)),
        (b":true", CommandLine(b"", b"true")),
        (b"user:", CommandLine(b"user", b"")),
        (b"user:nogui", CommandLine(b"user", b"nogui")),
        (b"user:QUBESRPC", CommandLine(b"user", b"QUBESRPC")),
        (b"user:qubesrpc a b", CommandLine(b"user", b"qubesrpc a b")),
        (b"us\xe9r:\xff", CommandLine(b"us\xe9r", b"\xff")),
    ],
)
def test_command(line: bytes, expected: CommandLine) -> None:
    assert parse_command_line(line) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"test.Echo domX", ServiceCall(b"test.Echo", b"domX")),
        (b"test.Echo+ domX", ServiceCall(b"test.Echo+", b"domX")),
        (b"test.Echo+a+b domX", ServiceCall(b"test.Echo+a+b", b"domX")),
        (b"s d name dom0", ServiceCall(b"s", b"d", b"name", b"dom0")),
        (b"s+x d keyword adminvm", ServiceCall(b"s+x", b"d", b"keyword", b"adminvm")),
        (b"s" * 255 + b" d", ServiceCall(b"s" * 255, b"d")),
        (b"s+" + b"a" * 60000 + b" d", ServiceCall(b"s+" + b"a" * 60000, b"d")),
    ],
)
@pytest.mark.parametrize("prefix", [b"u:", b"u:nogui:"])
def test_call_of_a_service(text: bytes, expected: ServiceCall, prefix: bytes) -> None:
    line = parse_command_line(prefix + b"QUBESRPC " + text)
    call = line.command
    assert isinstance(call, ServiceCall)
    assert (call.full_name, call.source) == (expected.full_name, expected.source)
    assert (call.target_type, call.target) == (expected.target_type, expected.target)
    assert call.text == text
    assert line.nogui is (prefix == b"u:nogui:")


@pytest.mark.parametrize(
    ("full_name", "name", "argument", "descriptor"),
    [
        (b"a.B", b"a.B", None, b"a.B+"),
        (b"a.B+", b"a.B", b"", b"a.B+"),
        (b"a.B+c", b"a.B", b"c", b"a.B+c"),
        (b"a.B+c+d", b"a.B", b"c+d", b"a.B+c+d"),
    ],
)
def test_names(full_name: bytes, name: bytes, argument: bytes | None, descriptor: bytes) -> None:
    call = ServiceCall(full_name, b"d")
    assert (call.name, call.argument, call.descriptor) == (name, argument, descriptor)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no colon",
        b"u:QUBESRPC ",
        b"u:QUBESRPC s",
        b"u:QUBESRPC s ",
        b"u:QUBESRPC  s d",
        b"u:QUBESRPC + d",
        b"u:QUBESRPC +a d",
        b"u:QUBESRPC s  d",
        b"u:QUBESRPC s d ",
        b"u:QUBESRPC s d name",
        b"u:QUBESRPC s d name ",
        b"u:QUBESRPC s d name a b",
        b"u:QUBESRPC s d other a",
        b"u:QUBESRPC " + b"s" * 256 + b" d",
        b"u:QUBESRPC s+" + b"a" * 65000 + b" d",
    ],
)
def test_what_cannot_be_parsed(line: bytes) -> None:
    with pytest.raises(StartError) as raised:
        parse_command_line(line)
    assert raised.value.exit_code == PROBLEM


@given(
    st.lists(st.sampled_from([b"u", b":", b"nogui:", b"QUBESRPC ", b" ", b"+", b"name", b"\xff"]))
)
def test_any_line_is_a_command_or_a_problem(parts: list[bytes]) -> None:
    line = b"".join(parts)
    try:
        parsed = parse_command_line(line)
    except StartError:
        return
    command = parsed.command
    if isinstance(command, ServiceCall):
        assert command.name
        assert command.source
        assert b" " not in command.full_name + command.source + command.target_type + command.target
        assert bool(command.target_type) is bool(command.target)
        command = b"QUBESRPC " + command.text
    assert parsed.user + b":" + b"nogui:" * parsed.nogui + command == line
