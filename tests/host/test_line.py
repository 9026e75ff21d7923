"""The slow line in a relay, and what is made of the pictures that came over it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.newest import Arrival, freshness
from tests.fixtures.relay import Line, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE: Final = 1000.0  # bytes/s


def test_a_line_is_busy_for_as_long_as_its_bytes_take() -> None:
    line = Line(RATE)
    assert line.wait(7.0) == 0
    line.take(7.0, 500)
    assert line.wait(7.0) == pytest.approx(0.5, abs=Line.LATE)
    assert line.wait(7.2) == pytest.approx(0.3, abs=Line.LATE)
    assert line.wait(8.0) == 0


def test_who_comes_late_loses_little_of_the_line() -> None:
    line = Line(RATE)
    now = 1.0
    for _ in range(100):
        line.take(now, 20)
        now += line.wait(now) + Line.LATE / 2  # woken late each time
    assert 100 * 20 / (now - 1.0) == pytest.approx(RATE, rel=0.01)


def test_rest_is_not_saved_up() -> None:
    line = Line(RATE)
    line.take(1.0, 10)
    line.take(100.0, 1000)
    assert line.wait(100.0) == pytest.approx(1.0, abs=2 * Line.LATE)


def test_a_relay_with_a_rate_loses_nothing_and_keeps_to_it() -> None:
    rate = 200_000
    data = bytes(range(250)) * 400
    with (
        socket.create_server(("127.0.0.1", 0)) as host,
        Relay(host.getsockname()[1], rate=rate) as relay,
        socket.create_connection(("127.0.0.1", _port(relay)), timeout=10) as client,
        host.accept()[0] as served,
    ):
        sender = threading.Thread(target=served.sendall, args=(data,), daemon=True)
        sender.start()
        began = _first_byte(client)
        rest = b"".join(_pieces(client, len(data) - 1))
        took = time.monotonic() - began
        sender.join()
    assert data[:1] + rest == data
    assert took > 0.8 * len(data) / rate  # a lower bound alone: a busy machine may be slower


def _port(relay: Relay) -> int:
    return int(relay.uri.rpartition(":")[2])


def _first_byte(client: socket.socket) -> float:
    assert client.recv(1)
    return time.monotonic()


def _pieces(client: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        piece = client.recv(size)
        assert piece
        size -= len(piece)
        yield piece


def test_freshness_is_of_the_moments_when_pictures_came() -> None:
    seen = [
        Arrival(at=1.0, number=1, taken=0.1, age=0.3, size=1000),
        Arrival(at=1.5, number=2, taken=0.2, age=0.9, size=2000),
        Arrival(at=3.0, number=5, taken=0.3, age=0.4, size=4000),
    ]
    found = freshness(seen)
    assert (found.frames, found.taken, found.median, found.worst) == (3, 0.2, 0.4, 0.9)
    assert found.longest == 1.5
    assert found.rate == 3000  # the first frame's own way is not in the time
