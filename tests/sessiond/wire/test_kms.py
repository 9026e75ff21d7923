"""The packets around the KMS helper: there and back, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import ProtocolError
from sessiond.wire.kms import (
    FORMATS,
    MAX_ANSWER,
    MAX_CONTROL,
    MAX_PLANES,
    MAX_SIDE,
    MAX_TEXT,
    Ask,
    Code,
    Failed,
    Grant,
    Kind,
    Plane,
    Ready,
    Refused,
    Serve,
    fourcc,
    pack_answer,
    pack_ask,
    pack_control,
    parse_answer,
    parse_ask,
    parse_from_daemon,
    parse_from_helper,
)

PLANE = Plane(Kind.PRIMARY, 0, 0, 0, 1280, 800, 0, 0, fourcc("XR24"), 5120, 0, output="Virtual-1")
CURSOR = Plane(Kind.CURSOR, 1, -5, 799, 64, 64, 0, 0, fourcc("AR24"), 256, 0, 4, 8)


def test_fourcc_is_the_kernels() -> None:
    assert fourcc("XR24") == 0x34325258  # drm_fourcc.h, DRM_FORMAT_XRGB8888


@pytest.mark.parametrize("message", [Serve(1), Serve(63), Grant(is_given=True), Grant(False)])
def test_from_the_daemon(message: Serve | Grant) -> None:
    assert parse_from_daemon(pack_control(message)) == message
    assert type(parse_from_daemon(pack_control(message))) is type(message)


@pytest.mark.parametrize("message", [Ready("card0", "virtio_gpu"), Failed("no card")])
def test_from_the_helper(message: Ready | Failed) -> None:
    assert parse_from_helper(pack_control(message)) == message


def test_golden_packets() -> None:
    assert pack_control(Serve(3)) == b'{"serve": {"vt": 3}}'
    assert pack_control(Grant(is_given=False)) == b'{"grant": false}'
    assert pack_control(Ready("card0", "x")) == b'{"ready": {"card": "card0", "driver": "x"}}'
    assert pack_control(Failed("no")) == b'{"error": "no"}'


@pytest.mark.parametrize(
    "untrusted",
    [
        b"", b"{", b"[]", b"{}", b'{"grant": 1}', b'{"grant": true, "serve": {"vt": 1}}',
        b'{"serve": {"vt": 0}}', b'{"serve": {"vt": 64}}', b'{"serve": {"vt": true}}',
        b'{"serve": {"vt": "1"}}', b'{"serve": {"vt": 1, "x": 1}}', b"[" * MAX_CONTROL, b"\xff",
        b" " * (MAX_CONTROL + 1),
    ],
)  # fmt: skip
def test_no_daemon_says_that(untrusted: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_from_daemon(untrusted)


@pytest.mark.parametrize(
    "untrusted",
    [
        b'{"ready": {}}', b'{"ready": {"card": "c"}}', b'{"error": 1}', b'{"grant": true}',
        b'{"ready": {"card": 1, "driver": "d"}}', b'{"error": "", "ready": ""}',
    ],
)  # fmt: skip
def test_no_helper_says_that(untrusted: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_from_helper(untrusted)


def test_long_and_strange_texts() -> None:
    told = parse_from_helper(pack_control(Failed("\u20ac\n" * MAX_TEXT)))
    assert isinstance(told, Failed)
    assert told.text.startswith("\u20ac?\u20ac?")
    assert len(told.text.encode()) <= MAX_TEXT
    answer = parse_answer(pack_answer(Refused(Code.OFF, "\u20ac" * MAX_TEXT)), 0)
    assert isinstance(answer, Refused)
    assert set(answer.text) == {"\u20ac"}


@pytest.mark.parametrize("ask", list(Ask))
def test_questions(ask: Ask) -> None:
    assert parse_ask(pack_ask(ask)) is ask


@pytest.mark.parametrize("planes", [[PLANE], [PLANE, CURSOR], [PLANE] * MAX_PLANES])
def test_planes(planes: list[Plane]) -> None:
    buffers = len({plane.buffer for plane in planes})
    packet = pack_answer(planes)
    assert parse_answer(packet, buffers) == tuple(planes)
    assert parse_answer(packet, 0) == tuple(planes)
    assert len(packet) <= MAX_ANSWER


@pytest.mark.parametrize("code", list(Code))
def test_refusals(code: Code) -> None:
    answer = parse_answer(pack_answer(Refused(code, "tty2 is in front")), 0)
    assert answer == Refused(code, "tty2 is in front")


REFUSED = {
    "a cursor alone": [CURSOR._replace(buffer=0)],
    "another buffer": [PLANE._replace(buffer=1)],
    "a buffer of no plane": [PLANE, PLANE],
    "no width": [PLANE._replace(width=0), CURSOR],
    "no height": [PLANE._replace(height=0), CURSOR],
    "too wide": [PLANE._replace(width=MAX_SIDE + 1, pitch=65536), CURSOR],
    "too far right": [PLANE._replace(x=MAX_SIDE - 1279), CURSOR],
    "too far left": [PLANE._replace(x=-1), CURSOR],
    "unknown format": [PLANE._replace(fourcc=fourcc("NV12")), CURSOR],
    "short rows": [PLANE._replace(pitch=5119), CURSOR],
    "short rows from there on": [PLANE._replace(left=1), CURSOR],
    "endless rows": [PLANE._replace(pitch=1 << 31), CURSOR],
    "a cursor far away": [PLANE, CURSOR._replace(x=-(1 << 30))],
    "another kind": [PLANE._replace(kind=3), CURSOR],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("planes", REFUSED.values(), ids=REFUSED)
def test_planes_that_cannot_be(planes: list[Plane]) -> None:
    with pytest.raises(ProtocolError):
        parse_answer(pack_answer(planes), 1 if len(planes) == 1 else 2)


@given(st.binary(max_size=400), st.integers(0, 4))
def test_any_bytes(untrusted: bytes, buffers: int) -> None:
    with contextlib.suppress(ProtocolError):
        answer = parse_answer(untrusted, buffers)
        if not isinstance(answer, Refused):
            assert all(plane.fourcc in FORMATS for plane in answer)
    for parse in (parse_ask, parse_from_daemon, parse_from_helper):
        with contextlib.suppress(ProtocolError):
            parse(untrusted)
