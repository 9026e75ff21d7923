"""Which displays are tried, in which order."""

import pytest

from agent.stream.evidence import (
    Attempt,
    display_number,
    distinct,
    from_candidates,
    from_environments,
    from_sockets,
    parse_environ,
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


def test_sockets() -> None:
    found = list(from_sockets([7, 1, 7], ["/a", "/a"]))
    assert [(a.display, a.xauthority) for a in found] == [
        (":1", "/a"), (":1", ""), (":7", "/a"), (":7", ""),
    ]  # fmt: skip
    assert all(attempt.needs_proof for attempt in found)


def test_nothing_is_tried_twice() -> None:
    attempts = [
        Attempt("a", ":1"), Attempt("b", ":1.0"), Attempt("c", ":1", needs_proof=True),
        Attempt("d", ":1", "/x"), Attempt("e", ":1", cookie="00"),
    ]  # fmt: skip
    assert [attempt.rule for attempt in distinct(attempts)] == ["a", "d", "e"]
