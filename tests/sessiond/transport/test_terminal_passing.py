"""A terminal's master on its way, and what else may come instead."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import SessiondError
from sessiond.transport.rights import DATA
from sessiond.transport.terminal_passing import receive_master, send_master
from tests.fixtures.pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pseudo() -> Iterator[Pseudo]:
    with Pseudo() as pseudo:
        yield pseudo


def test_it_is_the_same_terminal(pair: Pair, pseudo: Pseudo) -> None:
    send_master(pair[0], pseudo.master)
    with receive_master(pair[1]) as master:
        assert not os.get_inheritable(master.fileno())
        os.write(pseudo.slave, b"said\n")
        assert os.read(master.fileno(), 100) == b"said\r\n"


def test_both_have_it(pair: Pair, pseudo: Pseudo) -> None:
    """It is hung up when the last one lets it go."""
    send_master(pair[0], pseudo.master)
    with receive_master(pair[1]):
        os.close(pseudo.master)
        pseudo.master = -1
        assert select.select([pseudo.slave], [], [], 0)[0] == []
    assert os.read(pseudo.slave, 1) == b""


def send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([data], [rights] if fds else [])


def assert_all_closed(reader: int) -> None:
    """Assert that the pipe's other end is nobody's any more, soon."""
    assert select.select([reader], [], [], 20)[0], "somebody still has it"
    os.close(reader)


@pytest.mark.parametrize("count", [2, 3, 8, 9, 253])
def test_too_many_descriptors(pair: Pair, pseudo: Pseudo, count: int) -> None:
    """All are closed, those for which there is no room as well."""
    reader, writer = os.pipe()
    send(pair[0], DATA, [pseudo.master, *[writer] * (count - 1)])
    os.close(writer)
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])
    assert_all_closed(reader)


def test_another_kind_of_descriptor(pair: Pair, pseudo: Pseudo) -> None:
    reader, writer = os.pipe()
    send(pair[0], DATA, [writer])
    os.close(writer)
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])
    assert_all_closed(reader)
    send(pair[0], DATA, [pseudo.slave])  # not its master
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])


def test_a_byte_without_a_descriptor(pair: Pair) -> None:
    send(pair[0], DATA, [])
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])


def test_credentials_are_no_descriptor(pair: Pair) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    send(pair[0], DATA, [])
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])


def test_nothing_has_come(pair: Pair) -> None:
    with pytest.raises(SessiondError, match="no terminal has come"):
        receive_master(pair[1])
    pair[0].close()
    with pytest.raises(SessiondError, match="no terminal"):
        receive_master(pair[1])


def test_who_is_to_take_it_has_gone(pair: Pair, pseudo: Pseudo) -> None:
    pair[1].close()
    with pytest.raises(SessiondError, match="nobody takes it"):
        send_master(pair[0], pseudo.master)


def test_who_is_to_take_it_reads_nothing(pair: Pair, pseudo: Pseudo) -> None:
    pair[0].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            pair[0].send(bytes(1 << 16))
    pair[0].setblocking(True)
    with pytest.raises(SessiondError, match="nobody takes it"):
        send_master(pair[0], pseudo.master)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ],
)
def test_other_sockets(pseudo: Pseudo, family: int, kind: int) -> None:
    """Some would take the byte, and drop the descriptor without a word."""
    with socket.socket(family, kind) as sock, pytest.raises(SessiondError, match="no Unix stream"):
        send_master(sock, pseudo.master)


def test_a_socket_that_is_not_connected(pseudo: Pseudo) -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(SessiondError, match="nobody takes"):
        send_master(sock, pseudo.master)


def test_it_does_not_become_blocking_or_not(pair: Pair, pseudo: Pseudo) -> None:
    """Who shares it decides that."""
    before = fcntl.fcntl(pseudo.master, fcntl.F_GETFL)
    send_master(pair[0], pseudo.master)
    with receive_master(pair[1]):
        assert fcntl.fcntl(pseudo.master, fcntl.F_GETFL) == before
