"""The settings of one service."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.qrexec.service_config import MAX_SIZE, ServiceConfig, load, parse
from sessiond.errors import StartError
from sessiond.wire.exec_command import PROBLEM, ServiceCall

FLAGS = ["wait-for-session", "skip-service-descriptor", "exit-on-client-eof", "exit-on-service-eof"]


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", ServiceConfig()),
        ("\n# only words\n#\n", ServiceConfig()),
        ("wait-for-session = true\n", ServiceConfig(wait_for_session=True)),
        ("wait-for-session=1", ServiceConfig(wait_for_session=True)),
        ("wait-for-session\t= \t0 # comment\r\n", ServiceConfig()),
        ("wait-for-session = false#comment\n", ServiceConfig()),
        ("force-user = 'x'\n", ServiceConfig(force_user=b"x")),
        ("force-user = 'a # b' \n", ServiceConfig(force_user=b"a # b")),
        ("skip-service-descriptor = true\n", ServiceConfig(skip_descriptor=True)),
        ("exit-on-client-eof = true\n", ServiceConfig(exit_on_client_eof=True)),
        ("exit-on-service-eof = 1\n", ServiceConfig(exit_on_service_eof=True)),
        (
            "\n# all\nforce-user = 'u'\nwait-for-session = 1 # now\nexit-on-client-eof = 0\n",
            ServiceConfig(wait_for_session=True, force_user=b"u"),
        ),
    ],
)
def test_right_settings(text: str, config: ServiceConfig) -> None:
    assert parse(text.encode(), "x") == config


@pytest.mark.parametrize(
    "line",
    [
        "wait-for-session = 00", "wait-for-session = 01", "wait-for-session = 2",
        "wait-for-session = -1", "wait-for-session = ", "wait-for-session = \"a\"",
        "wait-for-session = 'true'", "wait-for-session", "wait-for-session true",
        "wait-for-session = True", "wait-for-session = truely", "wait-for-session = 1 1",
        "Wait-for-session = 1", "wait_for_session = 1", "wait-for-sessions = 1",
        " wait-for-session = 1", "\twait-for-session = 1", " ", "\t", " # blank",
        "[section]", "= 1", "1 = 1", "'wait-for-session' = 1", "a.b = 1", "unknown = 1",
        "force-user = x", "force-user = \"x\"", "force-user = ''", "force-user = '''x'''",
        "force-user = 'x", "force-user = 1", "force-user = true", "force-user = 'a\0b'",
        "# a\0", "wait-for-session = 1 # a\0", "skip-service-descriptor = 'x'",
        "force-user = 'x'\nforce-user = 'x'",
        "wait-for-session = 1\nwait-for-session = 1",
        "wait-for-session = 0\rwait-for-session = 0",
    ],
)  # fmt: skip
def test_wrong_settings(line: str) -> None:
    with pytest.raises(StartError, match=r"^name:\d: not a line") as caught:
        parse(f"# first\n{line}\n".encode(), "name")
    assert caught.value.exit_code == PROBLEM


@pytest.mark.parametrize("flag", FLAGS)
def test_one_key_cannot_stand_twice(flag: str) -> None:
    with pytest.raises(StartError):
        parse(f"{flag} = 1\n{flag} = 1\n".encode(), "name")


@given(
    st.binary(max_size=80) | st.text("wait-for-user='0tuefals# \n\t[", max_size=60).map(str.encode)
)
def test_any_bytes_are_settings_or_an_error(text: bytes) -> None:
    with contextlib.suppress(StartError):
        assert isinstance(parse(text, "name"), ServiceConfig)


def call(name: str) -> ServiceCall:
    return ServiceCall(name.encode(), b"dom")


def directories(root: Path) -> list[bytes]:
    for name in "ab":
        (root / name).mkdir()
    return [os.fsencode(root / name) for name in "ab"]


def write(path: Path) -> None:
    path.write_text(f"force-user = '{path.name}'\n", encoding="utf-8")


def test_settings_of_the_call_are_before_those_of_the_service(tmp_path: Path) -> None:
    places = directories(tmp_path)
    assert load(call("s+x"), places) == ServiceConfig()
    write(tmp_path / "b" / "s")
    assert load(call("s+x"), places).force_user == b"s"
    write(tmp_path / "a" / "s+")
    assert load(call("s+x"), places).force_user == b"s"
    assert load(call("s"), places).force_user == b"s+"
    write(tmp_path / "b" / "s+x")
    assert load(call("s+x"), places).force_user == b"s+x"


def test_only_the_first_file_counts(tmp_path: Path) -> None:
    places = directories(tmp_path)
    write(tmp_path / "b" / "s+x")
    (tmp_path / "a" / "s+x").write_text("wait-for-session = 1\n", encoding="utf-8")
    assert load(call("s+x"), places) == ServiceConfig(wait_for_session=True)


@pytest.mark.parametrize("target", ["/dev/null/none", "/nonexistent", "/"])
def test_file_that_cannot_be_read(tmp_path: Path, target: str) -> None:
    places = directories(tmp_path)
    (tmp_path / "a" / "s+").symlink_to(target)
    write(tmp_path / "b" / "s+")
    with pytest.raises(StartError) as caught:
        load(call("s"), places)
    assert caught.value.exit_code == PROBLEM


def test_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null/none")
    with pytest.raises(StartError) as caught:
        load(call("s"), [os.fsencode(tmp_path / "link")])
    assert caught.value.exit_code == PROBLEM


def test_file_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(StartError, match=f"is over {MAX_SIZE} bytes"):
        load(call("s"), [os.fsencode(tmp_path)])


@pytest.mark.parametrize("argument", ["x" * 255, "../../s", "a/b"])
def test_argument_that_is_in_no_files_name(tmp_path: Path, argument: str) -> None:
    write(tmp_path / "s")
    (tmp_path / "s+..").mkdir()
    assert load(call(f"s+{argument}"), [os.fsencode(tmp_path)]).force_user == b"s"
