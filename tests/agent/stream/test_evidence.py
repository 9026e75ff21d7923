"""Which displays are tried, in which order."""

import pytest

from agent.stream.evidence import (
    Attempt,
    Proof,
    display_number,
    distinct,
    from_candidates,
    from_environments,
    from_servers,
    from_sockets,
    is_compositor,
    parse_authority,
    parse_environ,
    parse_manager,
    session_of,
    socket_number,
)
from sessiond.wire.link import Candidate


@pytest.mark.parametrize(
    ("display", "number"),
    [(":0", 0), (":12.1", 12), (":65535", 65535), (":65536", None), ("host:0", None),
     ("unix:0", None), (":0\n", None), ("", None), (":", None), (":-1", None), (":٣", None),
     ("unix/:0", None), (":0.", None), (":123456", None)],
)  # fmt: skip
def test_display(display: str, number: int | None) -> None:
    assert display_number(display) == number


def test_socket() -> None:
    assert [socket_number(name) for name in ("X3", "X", "Y1", "X1_", "x1")] == [
        3, None, None, None, None,
    ]  # fmt: skip


def test_compositor() -> None:
    names = ("wayland-0", "wayland-12", "wayland-0.lock", "wayland-", "wayland-x", "xwayland-0")
    assert [name for name in names if is_compositor(name)] == ["wayland-0", "wayland-12"]


@pytest.mark.parametrize(
    ("path", "session"),
    [("/user.slice/user-1000.slice/session-3.scope", "3"),
     ("/user.slice/user-1000.slice/session-c1.scope/nested", "c1"),
     ("/user.slice/user-1000.slice/user@1000.service/app.slice/session-x.service", ""),
     ("/system.slice/x.service", ""), ("/", ""), ("", "")],
)  # fmt: skip
def test_session_of(path: str, session: str) -> None:
    assert session_of(f"0::{path}\n") == session
    assert session_of(f"1:name=systemd:{path}\n0::/\n") == session


@pytest.mark.parametrize(
    ("command", "file"),
    [("Xorg :0 vt3 -keeptty -auth /home/u/.serverauth.1 -noreset", "/home/u/.serverauth.1"),
     ("Xorg -auth", ""), ("Xorg :0 vt3", ""), ("Xwayland -auth /a -auth /b", "/a"), ("", "")],
)  # fmt: skip
def test_authority(command: str, file: str) -> None:
    assert parse_authority(command.replace(" ", "\0").encode() + b"\0") == file


@pytest.mark.parametrize(
    ("answer", "found"),
    [('{"type":"as","data":["DISPLAY=:1","PATH=/","XAUTHORITY=/a=b","WAYLAND_DISPLAY=w"]}',
      {"DISPLAY": ":1", "XAUTHORITY": "/a=b"}),
     ('{"type":"as","data":["DISPLAY=:1\\n","DISPLAY",7,null,["DISPLAY=:2"]]}', {"DISPLAY": ""}),
     ('{"type":"as","data":[]}', {}), ('{"type":"as","data":7}', {}), ('{"type":"as"}', {}),
     ("[]", {}), ("", {}), ("Failed to get property", {}), ("[" * 100_000, {}), ("\xff", {})],
)  # fmt: skip
def test_manager(answer: str, found: dict[str, str]) -> None:
    assert parse_manager(answer.encode("latin-1")) == found


def test_environ() -> None:
    environ = (
        b"LD_PRELOAD=/x\0DISPLAY=:1\0DISPLAY=:2\0XAUTHORITY=/a=b\0PATH=/\0odd\0LANG=a\nb\0"
        b"XDG_SESSION_ID=c1\0PYTHONPATH=/p\0\xff\xfe=1\0"
    )
    assert parse_environ(environ) == {
        "DISPLAY": ":1",
        "XAUTHORITY": "/a=b",
        "XDG_SESSION_ID": "c1",
    }
    assert parse_environ(b"") == {}


def test_candidates() -> None:
    candidates = (
        Candidate("root", ":1", "/ignored", "00"),
        Candidate("helper", ":2", "/file"),
        Candidate("logind", ":3"),
    )
    assert list(from_candidates(candidates, ["/known"])) == [
        Attempt("root", ":1", cookie="00"),
        Attempt("helper", ":2", "/file"),
        Attempt("logind", ":3", "/known"),
        Attempt("logind", ":3"),
    ]


def test_environments() -> None:
    environments: tuple[dict[str, str], ...] = (
        {},
        {"DISPLAY": "localhost:10"},
        {"DISPLAY": ":1", "XAUTHORITY": "/a"},
        {"DISPLAY": ":1"},
    )
    assert list(from_environments("r", environments, ["/known"])) == [
        Attempt("r", ":1", "/a"),
        Attempt("r", ":1", "/known"),
        Attempt("r", ":1"),
    ]


def test_environment_that_needs_proof() -> None:
    found = list(from_environments("r", [{"DISPLAY": ":1"}], [], proof=Proof.SERVER))
    assert found == [Attempt("r", ":1", proof=Proof.SERVER)]


def test_servers() -> None:
    found = list(from_servers([(1, "/own"), (2, "")], ["/known"]))
    assert [(a.display, a.xauthority, a.is_servers_own) for a in found] == [
        (":1", "/own", True), (":1", "/known", False), (":1", "", False),
        (":2", "/known", False), (":2", "", False),
    ]  # fmt: skip
    assert all(attempt.proof is Proof.VT for attempt in found)


def test_sockets() -> None:
    found = list(from_sockets([7, 1, 7], ["/a", "/a"]))
    assert [(a.display, a.xauthority) for a in found] == [
        (":1", "/a"), (":1", ""), (":7", "/a"), (":7", ""),
    ]  # fmt: skip
    assert all(attempt.proof is Proof.SERVER for attempt in found)


def test_nothing_is_tried_twice() -> None:
    attempts = [
        Attempt("a", ":1"), Attempt("b", ":1.0"), Attempt("c", ":1", proof=Proof.SERVER),
        Attempt("d", ":1", "/x"), Attempt("e", ":1", cookie="00"),
        Attempt("f", ":1", "/x", is_servers_own=True),
    ]  # fmt: skip
    assert [attempt.rule for attempt in distinct(attempts)] == ["a", "d", "e", "f"]


def test_easier_terms_are_another_try() -> None:
    proofs = (Proof.VT, Proof.VT, Proof.SERVER, Proof.VT, Proof.NONE, Proof.SERVER)
    attempts = [Attempt(str(place), ":1", proof=proof) for place, proof in enumerate(proofs)]
    assert [attempt.rule for attempt in distinct(attempts)] == ["0", "2", "4"]
