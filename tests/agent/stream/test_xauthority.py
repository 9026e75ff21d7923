"""Cookie files, good and bad."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.capture.x11.access import Cookie
from agent.stream.xauthority import (
    NoXauthorityError,
    XauthorityError,
    choose_cookie,
    parse_cookie,
    read_xauthority,
)
from sessiond.wire.xauth import MAX_FILE, parse
from tests.agent.stream.cookies import LOCAL, MAGIC, RIGHT, WRONG, record, write

UID = os.getuid()
# As the program xauth writes them.
X_LOCAL = ("01000002766d00013100124d49542d4d414749432d434f4f4b49452d310010"
           "000102030405060708090a0b0c0d0e0f")  # fmt: skip
X_INET6 = ("0006001000000000000000000000000000000001000130001358444d2d415554484f52495a4154494f4e"
           "2d310010000102030405060708090a0b0c0d0e0f")  # fmt: skip


def test_what_xauth_writes() -> None:
    local, inet6 = parse(bytes.fromhex(X_LOCAL + X_INET6))
    assert (local.family, local.address, local.number) == (LOCAL, b"vm", b"1")
    assert (local.name, local.data) == (MAGIC, RIGHT)
    assert (inet6.family, inet6.name) == (6, b"XDM-AUTHORIZATION-1")
    assert record(family=LOCAL, address=b"vm", number=b"1").hex() == X_LOCAL


def test_good_file(tmp_path: Path) -> None:
    path = write(tmp_path / "good", record(), record(name=b"OTHER"))
    assert [entry.data for entry in read_xauthority(path, UID)] == [RIGHT]


def make_bad(folder: Path, kind: str) -> str:
    """Make a file that must be refused and return its path."""
    path = folder / kind
    if kind == "device":
        return "/dev/zero"
    _MAKERS[kind](path)
    return str(path)


def make_huge(path: Path) -> None:
    write(path, record())
    os.truncate(path, 1 << 30)


_MAKERS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "link": lambda path: path.symlink_to(write(path.parent / "target", record())),
    "folder": Path.mkdir,
    "huge": make_huge,
    "unknown": lambda path: write(path, record(name=b"XXX-" + MAGIC)),
    "torn": lambda path: write(path, record(), record()[:-1]),
    "empty": write,
}


BAD = {
    "fifo": "is not a regular file",
    "link": "Too many levels of symbolic links",
    "folder": "is not a regular file",
    "device": "is not a regular file",
    "huge": f"has over {MAX_FILE} bytes",
    "unknown": "holds no authorisation of a known kind",
    "torn": "ends within a record",
    "empty": "holds no authorisation of a known kind",
}


@pytest.mark.parametrize(("kind", "complaint"), BAD.items())
def test_bad_file(tmp_path: Path, kind: str, complaint: str) -> None:
    path = make_bad(tmp_path, kind)
    with pytest.raises(XauthorityError) as caught:
        read_xauthority(path, UID)
    assert complaint in str(caught.value)
    assert path in str(caught.value)


def test_largest_file(tmp_path: Path) -> None:
    filler = record(b"x" * (MAX_FILE - 2 * len(record(b"")) - 16))
    path = write(tmp_path / "large", record(), filler)
    assert os.stat(path).st_size == MAX_FILE
    assert len(read_xauthority(path, UID)) == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NoXauthorityError, match="No such file"):
        read_xauthority(str(tmp_path / "none"), UID)


@pytest.mark.skipif(UID != 0, reason="only root makes files of others")
def test_owner(tmp_path: Path) -> None:
    path = write(tmp_path / "other", record())
    read_xauthority(path, 4242)  # root's
    os.chown(path, 4242, -1)
    read_xauthority(path, 4242)
    with pytest.raises(XauthorityError, match="belongs to uid 4242"):
        read_xauthority(path, UID)


@pytest.mark.parametrize("path", ["", "relative", "/a\nb", "/a\0b", "/" + 255 * "x"])
def test_odd_path(path: str) -> None:
    with pytest.raises(XauthorityError, match="is not an absolute path"):
        read_xauthority(path, UID)


def test_choice() -> None:
    entries = list(parse(b"".join([
        record(b"inet", family=0, address=b"\x7f\0\0\1", number=b"3"),
        record(b"xdm", name=b"XDM-AUTHORIZATION-1"),
        record(b"renamed", family=LOCAL, address=b"old", number=b"5"),
        record(b"wild", number=b"4"),
        record(b"other", family=LOCAL, address=b"old", number=b"4"),
        record(b"local", family=LOCAL, address=b"host", number=b"4"),
        record(b"second", family=LOCAL, address=b"host", number=b"4"),
    ])))  # fmt: skip

    def chosen(number: int, host: str = "host") -> bytes | None:
        cookie = choose_cookie(entries, number, host)
        return cookie.data if cookie else None

    assert chosen(4) == b"local"
    assert chosen(4, "elsewhere") == b"wild"
    assert chosen(5) == b"renamed"
    assert chosen(3) is None


def test_choice_from_a_servers_own_file() -> None:
    """Startx numbers every display 0; the server takes whatever its file holds."""
    entries = list(parse(b"".join([
        record(b"xdm", name=b"XDM-AUTHORIZATION-1"),
        record(b"inet", family=0, address=b"\x7f\0\0\1", number=b"0"),
        record(b"startx", family=LOCAL, address=b"host", number=b"0"),
    ])))  # fmt: skip

    def chosen(number: int, *more: bytes) -> bytes | None:
        both = [*entries, *parse(b"".join(more))]
        cookie = choose_cookie(both, number, "host", is_servers_own=True)
        return cookie.data if cookie else None

    assert chosen(0) == chosen(1) == b"startx"
    assert chosen(1, record(b"exact", number=b"1")) == b"exact"
    assert choose_cookie(entries, 1, "host") is None


def test_secrets_are_not_shown() -> None:
    assert "000102" not in repr(parse_cookie(RIGHT.hex()))
    assert repr(RIGHT) not in repr(list(parse(record())))


def test_cookie_of_roots() -> None:
    assert parse_cookie(WRONG.hex()) == Cookie(MAGIC, WRONG)
    with pytest.raises(XauthorityError, match="not hexadecimal"):
        parse_cookie("xyz")
