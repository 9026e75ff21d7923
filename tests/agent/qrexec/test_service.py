"""What a call finds: its file, of which kind that is, and its environment."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.qrexec.service import (
    Executable,
    Places,
    TcpService,
    UnixService,
    look_up,
    variables,
)
from agent.qrexec.service_config import ServiceConfig
from sessiond.errors import StartError
from sessiond.wire.exec_command import NOT_FOUND, PROBLEM, ServiceCall
from tests.agent.qrexec.services import Services

if TYPE_CHECKING:
    from pathlib import Path

    from agent.qrexec.service import Service


@pytest.fixture
def own(tmp_path: Path) -> Services:
    return Services(tmp_path)


def find(services: Services, name: str, config: ServiceConfig | None = None) -> Service:
    places = Places([os.fsencode(services.first), os.fsencode(services.second)], [])
    return look_up(ServiceCall(name.encode(), b"dom"), config or ServiceConfig(), places)


def refused(services: Services, name: str, config: ServiceConfig | None = None) -> int:
    with pytest.raises(StartError) as caught:
        find(services, name, config)
    return caught.value.exit_code


def test_full_name_in_any_directory_is_before_the_services(own: Services) -> None:
    assert refused(own, "s+x") == NOT_FOUND
    general = os.fsencode(own.script("s", "", own.first))
    assert find(own, "s+x") == Executable(general, b"x")
    assert find(own, "s") == find(own, "s+") == Executable(general)
    special = os.fsencode(own.script("s+x", "", own.second))
    assert find(own, "s+x") == Executable(special, b"x")
    before = os.fsencode(own.script("s+x", "", own.first))
    assert find(own, "s+x") == Executable(before, b"x")
    assert find(own, "s+y") == Executable(general, b"y")


def test_no_argument_is_an_empty_one_for_the_look_up(own: Services) -> None:
    own.script("s", "")
    path = own.script("s+", "")
    assert find(own, "s") == find(own, "s+") == Executable(os.fsencode(path))


@pytest.mark.parametrize("target", ["/dev/null/none", "/nonexistent", "/", "/etc/passwd"])
def test_what_is_there_and_of_no_use_is_no_reason_to_look_on(own: Services, target: str) -> None:
    (own.first / "s+x").symlink_to(target)
    own.script("s+x", "")
    own.script("s", "")
    assert refused(own, "s+x") == PROBLEM
    assert isinstance(find(own, "s+y"), Executable)


def test_what_is_no_program(own: Services) -> None:
    own.script("s", "").chmod(0o644)
    assert refused(own, "s") == PROBLEM


def test_link_to_a_program(own: Services) -> None:
    own.script(".s", "")
    (own.first / "s").symlink_to("../second/.s")
    assert find(own, "s+x") == Executable(os.fsencode(own.first / "s"), b"x")


@pytest.mark.parametrize("name", ["/bin/sh", "../second/s", ".", "..", "a/b", "../s+x"])
def test_name_that_is_a_path(own: Services, name: str) -> None:
    own.script("s", "")
    assert refused(own, name) == PROBLEM


@pytest.mark.parametrize("argument", ["../../second/s", "a/b", "x" * 300])
def test_argument_that_is_in_no_files_name(own: Services, argument: str) -> None:
    path = own.script("s", "")
    (own.first / "s+..").mkdir()
    assert find(own, f"s+{argument}") == Executable(os.fsencode(path), argument.encode())


def test_places_are_those_of_the_environment_or_qrexecs_own() -> None:
    named = {b"QREXEC_SERVICE_PATH": b"/a::/b:", b"QUBES_RPC_CONFIG_PATH": b""}
    assert Places.of(named) == Places([b"/a", b"/b"], [])
    assert list(Places.of({}).services) == [
        b"/run/qubes-rpc", b"/usr/local/etc/qubes-rpc", b"/etc/qubes-rpc",
    ]  # fmt: skip


def test_socket(own: Services) -> None:
    path = own.second / "s+x"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert find(own, "s+x") == UnixService(os.fsencode(path))


@pytest.mark.parametrize(
    ("link", "call", "place"),
    [
        ("/dev/tcp/127.0.0.1/65534", "s", ("127.0.0.1", 65534)),
        ("/dev/tcp/127.0.0.1/65534", "s+", ("127.0.0.1", 65534)),
        ("/dev/tcp/::1/1", "s", ("::1", 1)),
        ("/dev/tcp/127.0.0.1", "s+65535", ("127.0.0.1", 65535)),
        ("/dev/tcp", "s+127.0.0.1+22", ("127.0.0.1", 22)),
        ("/dev/tcp", "s+++1+22", ("::1", 22)),
        ("/dev/tcp", "s+fe80++1+22", ("fe80::1", 22)),
    ],
)
def test_tcp(own: Services, link: str, call: str, place: tuple[str, int]) -> None:
    (own.second / "s").symlink_to(link)
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    assert find(own, call) == TcpService(family, *place)


@pytest.mark.parametrize(
    ("link", "call"),
    [
        ("/dev/tcp", "s"), ("/dev/tcp", "s+"), ("/dev/tcp", "s+127.0.0.1"), ("/dev/tcp", "s++22"),
        ("/dev/tcp", "s+localhost+22"), ("/dev/tcp", "s+127.0.0.1+"), ("/dev/tcp", "s+127.1+22"),
        ("/dev/tcp/", "s"), ("/dev/tcp/", "s+22"), ("/dev/tcp/", "s++65535"),
        ("/dev/tcp/127.0.0.1", "s"), ("/dev/tcp/127.0.0.1", "s+127.0.0.1+22"),
        ("/dev/tcp/localhost", "s+22"), ("/dev/tcp/::1", "s"),
        ("/dev/tcp/127.0.0.1/22", "s+22"), ("/dev/tcp/127.0.0.1/22/", "s"),
        ("/dev/tcp/127.0.0.1/", "s"), ("/dev/tcpx/127.0.0.1/22", "s"),
        ("/dev/tcp/127.0.0.1", "s+0"), ("/dev/tcp/127.0.0.1", "s+65536"),
        ("/dev/tcp/127.0.0.1", "s+-1"), ("/dev/tcp/127.0.0.1", "s+ssh"),
        ("/dev/tcp/127.0.0.1", "s+022"), ("/dev/tcp/127.0.0.1", "s+1e3"),
    ],
)  # fmt: skip
def test_tcp_place_that_is_none(own: Services, link: str, call: str) -> None:
    (own.second / "s").symlink_to(link)
    assert refused(own, call) == PROBLEM


@pytest.mark.parametrize("field", ["skip_descriptor", "exit_on_client_eof", "exit_on_service_eof"])
def test_settings_for_sockets(own: Services, field: str) -> None:
    """They are ignored for a program, and for a socket there is no user to be had beside them."""
    own.script("program", "")
    (own.second / "socket").symlink_to("/dev/tcp/127.0.0.1/22")
    with_user = ServiceConfig(force_user=b"u", **{field: True})
    assert isinstance(find(own, "program", with_user), Executable)
    assert isinstance(find(own, "socket", ServiceConfig(force_user=b"u")), TcpService)
    assert refused(own, "socket", with_user) == PROBLEM


JUNK = {
    b"QREXEC_SERVICE_ARGUMENT": b"junk", b"QREXEC_REQUESTED_TARGET": b"junk",
    b"QREXEC_REQUESTED_TARGET_KEYWORD": b"junk", b"QREXEC_REQUESTED_TARGET_TYPE": b"junk",
    b"QREXEC_REMOTE_DOMAIN": b"junk", b"QREXEC_SERVICE_FULL_NAME": b"junk",
    b"QREXEC_AGENT_PID": b"1", b"QREXEC_": b"junk",
}  # fmt: skip
KEPT = {b"HOME": b"/h", b"QREXEC_SERVICE_PATH": b"/p"}
PID = {b"QREXEC_AGENT_PID": b"%d" % os.getpid()}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (None, {}),
        (
            ServiceCall(b"s", b"dom"),
            {b"QREXEC_REMOTE_DOMAIN": b"dom", b"QREXEC_SERVICE_FULL_NAME": b"s",
             b"QREXEC_REQUESTED_TARGET_TYPE": b""},
        ),
        (
            ServiceCall(b"s+", b"dom", b"name", b"here"),
            {b"QREXEC_REMOTE_DOMAIN": b"dom", b"QREXEC_SERVICE_FULL_NAME": b"s+",
             b"QREXEC_SERVICE_ARGUMENT": b"", b"QREXEC_REQUESTED_TARGET_TYPE": b"name",
             b"QREXEC_REQUESTED_TARGET": b"here"},
        ),
        (
            ServiceCall(b"s+a+b", b"dom", b"keyword", b"@default"),
            {b"QREXEC_REMOTE_DOMAIN": b"dom", b"QREXEC_SERVICE_FULL_NAME": b"s+a+b",
             b"QREXEC_SERVICE_ARGUMENT": b"a+b", b"QREXEC_REQUESTED_TARGET_TYPE": b"keyword",
             b"QREXEC_REQUESTED_TARGET_KEYWORD": b"@default"},
        ),
    ],
)  # fmt: skip
def test_environment(call: ServiceCall | None, expected: dict[bytes, bytes]) -> None:
    assert variables(KEPT | JUNK, call) == KEPT | PID | expected
