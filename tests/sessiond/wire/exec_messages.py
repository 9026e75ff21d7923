"""qrexec's worked examples, channels in any state, three ways to feed them, and any message."""

from collections.abc import Callable, Iterator
from typing import Final

from hypothesis import strategies as st

from sessiond.wire.exec import (
    MAX_CHUNK,
    OLDEST_VERSION,
    VERSION,
    Chunk,
    Connect,
    Exec,
    ExitCode,
    Hello,
    JustExec,
    OnControl,
    OnData,
    Place,
    Refuse,
    Stream,
    Terminated,
    ToAgent,
    ToDaemon,
    Trigger,
    pack,
)
from sessiond.wire.exec_control import Control, ControlRole
from sessiond.wire.exec_data import Data, DataRole

PLACE: Final = Place(43, 1024)
CALL: Final = Trigger(b"qubes.Test+x", b"target_domain", b"SOCKET12")

# Most of these were said by, or to, the agent of qubes-core-qrexec.
HELLOS: Final = {
    2: "000300000400000002000000",
    3: "000300000400000003000000",
    4: "000300000400000004000000",
}
TO_AGENT: Final[dict[str, tuple[str, ToAgent]]] = {
    "exec": (
        (
            "00020000270000002b000000000400006e6f626f64793a515542455352504320746573742e4563686f20646f6d"
            "5800"
        ),
        Exec(PLACE, b"nobody:QUBESRPC test.Echo domX"),
    ),
    "just": (
        "01020000140000002b000000000400006e6f626f64793a7472756500",
        JustExec(PLACE, b"nobody:true"),
    ),
    "connect": (
        (
            "02020000280000002b00000001040000534f434b45543132000000000000000000000000000000000000000000"
            "000000"
        ),
        Connect(Place(43, 1025), b"SOCKET12"),
    ),
    "refused": (
        "0302000020000000534f434b45543132000000000000000000000000000000000000000000000000",
        Refuse(b"SOCKET12"),
    ),
}
TRIGGERS: Final[dict[int, tuple[str, Trigger]]] = {
    2: (
        (
            "100200008000000071756265732e5465737400000000000000000000000000000000000000000000000000"
            "00000000000000000000000000000000000000000000000000000000007461726765745f646f6d61696e00"
            "000000000000000000000000000000000000534f434b455431320000000000000000000000000000000000"
            "00000000000000"
        ),
        Trigger(b"qubes.Test", b"target_domain", b"SOCKET12"),
    ),
    3: (
        (
            "120200006d0000007461726765745f646f6d61696e00000000000000000000000000000000000000000000"
            "0000000000000000000000000000000000000000000000000000000000534f434b45543132000000000000"
            "00000000000000000000000000000000000071756265732e546573742b7800"
        ),
        CALL,
    ),
    4: (
        (
            "13020000ad0000000000000000000000000000000000000000000000000000000000000000000000000000"
            "00000000000000000000000000000000000000000000000000000000007461726765745f646f6d61696e00"
            "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
            "00000000000000534f434b4554000000000000000000000000000000000000000000000000000071756265"
            "732e546573742b7800"
        ),
        Trigger(b"qubes.Test+x", b"target_domain", b"SOCKET"),
    ),
}
TERMINATED: Final = ("11020000080000002b00000000040000", Terminated(PLACE))
FROM_CLIENT: Final[dict[str, tuple[str, OnData]]] = {
    "stdin": ("9001000006000000646174612031", Chunk(Stream.STDIN, b"data 1")),
    "stdin's end": ("9001000000000000", Chunk(Stream.STDIN, b"")),
}
FROM_SERVICE: Final[dict[str, tuple[str, OnData]]] = {
    "stdout": ("91010000020000006869", Chunk(Stream.STDOUT, b"hi")),
    "stderr": ("92010000020000006572", Chunk(Stream.STDERR, b"er")),
    "stdout's end": ("9101000000000000", Chunk(Stream.STDOUT, b"")),
    "stderr's end": ("9201000000000000", Chunk(Stream.STDERR, b"")),
    "exit 3": ("930100000400000003000000", ExitCode(3)),
    "exit 137": ("930100000400000089000000", ExitCode(137)),
}


def control(role: ControlRole, version: int = VERSION) -> Control:
    """Return a control channel whose peer speaks ``version`` at most, after the HELLOs."""
    channel = Control(role)
    channel.send_hello()
    list(channel.receive(pack(Hello(version))))
    return channel


def data(role: DataRole, version: int = VERSION) -> Data:
    """Return a data channel likewise."""
    channel = Data(role)
    channel.send_hello()
    list(channel.receive(pack(Hello(version))))
    return channel


Feed = Callable[[bytes], Iterator[bytes]]


def whole(message: bytes) -> Iterator[bytes]:
    """All at once."""
    yield message


def byte_by_byte(message: bytes) -> Iterator[bytes]:
    """As slowly as can be."""
    for at in range(len(message)):
        yield message[at : at + 1]


def with_a_tail(message: bytes) -> Iterator[bytes]:
    """With the beginning of what comes next, whose type is not known yet."""
    yield message + message[:7]


FEEDS: Final = (whole, byte_by_byte, with_a_tail)

_U32 = st.integers(0, 2**32 - 1)
_TEXT = st.binary(min_size=1, max_size=300).map(lambda text: text.replace(b"\0", b"_"))
_PLACES = st.builds(Place, _U32, _U32)


def _name(size: int, least: int = 0) -> st.SearchStrategy[bytes]:
    some = st.binary(min_size=least, max_size=size - 1)
    return some.map(lambda name: name.replace(b"\0", b"."))


ANY_TO_AGENT: Final[st.SearchStrategy[OnControl]] = st.one_of(
    st.builds(Exec, _PLACES, _TEXT),
    st.builds(JustExec, _PLACES, _TEXT),
    st.builds(Connect, _PLACES, _name(32)),
    st.builds(Refuse, _name(32)),
)


def any_to_daemon(version: int) -> st.SearchStrategy[ToDaemon]:
    """Return what an agent may say in this version."""
    is_old = version == OLDEST_VERSION
    return st.one_of(
        st.builds(
            Trigger,
            _name(64, least=1) if is_old else _TEXT,
            _name(32) if is_old else _name(64),
            _name(32),
            _name(64) if version == VERSION else st.just(b""),
        ),
        st.builds(Terminated, _PLACES),
    )


_CHUNKS = st.one_of(st.binary(max_size=300), st.just(b"x" * MAX_CHUNK))
ANY_FROM_SERVICE: Final[st.SearchStrategy[OnData]] = st.one_of(
    st.builds(Chunk, st.sampled_from([Stream.STDOUT, Stream.STDERR]), _CHUNKS),
    st.builds(ExitCode, st.integers(-(2**31), 2**31 - 1)),
)
ANY_FROM_CLIENT: Final[st.SearchStrategy[OnData]] = st.builds(Chunk, st.just(Stream.STDIN), _CHUNKS)


def splits(draw: st.DataObject, stream: bytes) -> Iterator[bytes]:
    """Cut ``stream`` into pieces of any size."""
    at = 0
    while at < len(stream):
        size = draw.draw(st.integers(1, len(stream) - at))
        yield stream[at : at + size]
        at += size
