"""The link's messages: every field is checked, every size has a limit."""

import json
import math
from contextlib import suppress
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import HEADER_SIZE, Header, MessageBuffer
from sessiond.wire.device import Type
from sessiond.wire.link import (
    MAX_BODY,
    MAX_FRAME,
    MAX_TEXT,
    Activate,
    Candidate,
    Config,
    Credit,
    Failed,
    Line,
    LinkType,
    Pause,
    Ready,
    Serial,
    Stats,
    ToAgent,
    ToDaemon,
    Unavailable,
    check_from_agent,
    check_from_daemon,
    pack,
    parse_from_agent,
    parse_from_daemon,
)

TO_AGENT: list[ToAgent] = [
    Config("c1", 1000),
    Config(
        "3", 1000, 7, "seat0", (Candidate("logind", ":0", "/run/x", "00ff"),), (1, 2**31 - 1),
        ("framerate=30",), codecs=("vp8", "jpeg"), capture=("wlroots", "mutter"),
    ),
    Activate(1, (1, 2)),
    Activate(2**40, (), quality=True),
    Credit(),
    Line(0.0),
    Line(1.25e6),
    Pause(),
]  # fmt: skip
TO_DAEMON: list[ToDaemon] = [
    Ready("logind", ":0", 1920, 1080, 7),
    Ready("session's socket", "wayland-1", 1920, 1080, 7, "wlroots"),
    Stats(30, 9_000_000, 2, 5.5, "jpeg"),
    Stats(30, 9_000_000, 2, 5.5, "jpeg", 70),
    Stats(30, 90_000, 2, 5.5, "vp8", 0, "libvpx", "the host takes only 0.2 MB/s"),
    Failed("no-display-found", "nothing answers"),
    Serial(7),
    Unavailable("all outputs are off"),
    Unavailable(""),
]


@pytest.mark.parametrize("message", TO_AGENT, ids=str)
def test_agent_understands_the_daemon(message: ToAgent) -> None:
    [(header, body)] = MessageBuffer(check_from_daemon).feed(pack(message))
    assert parse_from_daemon(header, body) == message


@pytest.mark.parametrize("message", TO_DAEMON, ids=str)
def test_daemon_understands_an_agent(message: ToDaemon) -> None:
    [(header, whole)] = MessageBuffer(check_from_agent).feed_whole(pack(message))
    assert parse_from_agent(header, whole) == message


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        (LinkType.CONFIG, 2, "type 0x8000"),
        (LinkType.CREDIT, 2, "type 0x8002"),
        (Type.CAPABILITIES, 1, "type 0x1"),
        (Type.START_STOP, 2, "type 0x4"),
        (Type.NOTIFY_ERROR, 4, "type 0x5"),
        (LinkType.LINE, 12, "type 0x8008"),
        (0x800A, 0, "type 0x800a"),
        (Type.DATA, MAX_FRAME + 1, "frame of"),
        (Type.FORMAT, 11, "Wrong size"),
        (LinkType.STATS, MAX_BODY + 1, "STATS with"),
        (LinkType.UNAVAILABLE, MAX_BODY + 1, "UNAVAILABLE with"),
    ],
)
def test_header_that_no_agent_may_send(kind: int, size: int, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        check_from_agent(Header(kind, size))


@pytest.mark.parametrize(("kind", "size"), [(LinkType.READY, 2), (LinkType.CONFIG, MAX_BODY + 1)])
def test_header_that_the_daemon_does_not_send(kind: int, size: int) -> None:
    with pytest.raises(ProtocolError):
        check_from_daemon(Header(kind, size))


STATS = asdict(Stats(0, 0, 0, 0.0))
READY = asdict(Ready("r", ":0", 1, 1))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (LinkType.READY, "not json"),
        (LinkType.READY, "[" * 60_000),
        (LinkType.READY, "[]"),
        (LinkType.READY, {}),
        (LinkType.READY, READY | {"more": 1}),
        (LinkType.READY, READY | {"width": -1}),
        (LinkType.READY, READY | {"width": 65536}),
        (LinkType.READY, READY | {"width": True}),
        (LinkType.READY, READY | {"width": "1"}),
        (LinkType.READY, READY | {"vt": 64}),
        (LinkType.READY, READY | {"rule": "x" * (MAX_TEXT + 1)}),
        (LinkType.READY, READY | {"rule": None}),
        (LinkType.READY, READY | {"backend": 1}),
        (LinkType.READY, READY | {"backend": "x" * (MAX_TEXT + 1)}),
        (LinkType.READY, {k: v for k, v in READY.items() if k != "backend"}),
        (LinkType.SERIAL, {"serial": 2**63}),
        (LinkType.SERIAL, {"serial": 1.5}),
        (LinkType.UNAVAILABLE, {}),
        (LinkType.UNAVAILABLE, {"text": None}),
        (LinkType.UNAVAILABLE, {"text": "x" * (MAX_TEXT + 1)}),
        (LinkType.STATS, {k: v for k, v in STATS.items() if k != "why"}),
        (LinkType.STATS, STATS | {"encode_ms": -1}),
        (LinkType.STATS, STATS | {"encode_ms": math.nan}),
        (LinkType.STATS, STATS | {"encoder": 1}),
        (LinkType.STATS, STATS | {"why": "x" * (MAX_TEXT + 1)}),
    ],
)
def test_body_that_breaks_the_link(kind: LinkType, body: object) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with pytest.raises(ProtocolError, match=kind.name):
        parse_from_agent(*with_header(kind, data))


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": [{}]},
        {"candidates": [{"rule": "", "display": "", "xauthority": "", "cookie": 1}]},
        {"candidates": 1},
        {"pids": [0]},
        {"pids": list(range(1, 5000))},
        {"uid": 2**32},
        {"codecs": ["vp8"] * 17},
        {"codecs": "auto"},
        {"capture": ["x11"] * 17},
        {"capture": "x11"},
        {"capture": [None]},
    ],
)
def test_config_that_the_daemon_cannot_mean(change: dict[str, object]) -> None:
    _, body = next(MessageBuffer(check_from_daemon).feed(pack(Config("1", 0))))
    data = json.dumps(json.loads(body) | change).encode()
    with pytest.raises(ProtocolError, match="CONFIG"):
        parse_from_daemon(Header(LinkType.CONFIG, len(data)), data)


@pytest.mark.parametrize("rate", ["-1", "1e9", "NaN", "true", '"1"', "null"])
def test_line_that_the_daemon_cannot_mean(rate: str) -> None:
    data = f'{{"rate":{rate}}}'.encode()
    with pytest.raises(ProtocolError, match=r"LINE\.rate"):
        parse_from_daemon(Header(LinkType.LINE, len(data)), data)


def test_text_for_a_log_has_no_control_characters() -> None:
    data = json.dumps({"reason": "a\nb", "text": "\x1b[31mred"}).encode()
    message = parse_from_agent(*with_header(LinkType.FAILED, data))
    assert message == Failed("a?b", "?[31mred")


def test_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="CONFIG"):
        pack(Config("1", 0, codec_options=("x" * MAX_BODY,)))


@given(st.sampled_from(sorted(set(LinkType))), st.binary(max_size=200))
def test_garbage_raises_nothing_else(kind: LinkType, body: bytes) -> None:
    _, data = with_header(kind, body)
    with suppress(ProtocolError):
        for header, whole in MessageBuffer(check_from_agent).feed_whole(data):
            parse_from_agent(header, whole)
    with suppress(ProtocolError):
        for header, found in MessageBuffer(check_from_daemon).feed(data):
            parse_from_daemon(header, found)


def with_header(kind: LinkType, body: bytes) -> tuple[Header, bytes]:
    header = Header(kind, len(body))
    return header, header.pack() + body


def test_device_message_goes_on_as_it_came() -> None:
    data = Header(Type.CURSOR_MOVE, 8).pack() + bytes(8)
    [(header, whole)] = MessageBuffer(check_from_agent).feed_whole(data)
    message = parse_from_agent(header, whole)
    assert (message.TYPE if hasattr(message, "TYPE") else message.data) == data
    assert len(data) == HEADER_SIZE + 8
