"""Calls are compared round by round, and an error that is answered is not taken for a quick one."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.host import WINDOW, Turn, _calls, _Client, _ratios
from tests.bench.processes import BenchError

GOOD = b'{"return": {}, "id": 1}\n'
BAD = b'{"error": {"class": "GenericError", "desc": "no"}, "id": 1}\n'
PING = b'{"execute": "guest-ping", "id": 1}'
CALLS = 100


def turn(call_us: float, *, cpu_us: float) -> Turn:
    spent = int(1e3 * call_us)
    return Turn(CALLS * call_us / 1e6, int(CALLS * cpu_us * 1e3), CALLS, [spent] * CALLS)


@pytest.fixture
def answered(tmp_path: Path) -> Iterator[Callable[[bytes], _Client]]:
    """Give a client of a peer that answers each request with this line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        threads = []

        def serve(line: bytes) -> None:
            peer, _ = listener.accept()
            with peer:
                while data := peer.recv(1 << 16):
                    peer.sendall(line * data.count(b"\n"))

        clients = []

        def start(line: bytes) -> _Client:
            threads.append(threading.Thread(target=serve, args=(line,)))
            threads[-1].start()
            clients.append(_Client(tmp_path / "socket"))
            return clients[-1]

        yield start
        for client in clients:
            client.__exit__()
        for thread in threads:
            thread.join()


def test_each_call_is_counted(answered: Callable[[bytes], _Client]) -> None:
    client = answered(GOOD)
    assert len(client.ping(PING, 0.01)) > 0
    assert client.stream(PING, 0.01) >= WINDOW


def test_errors_end_the_measuring(answered: Callable[[bytes], _Client]) -> None:
    client = answered(BAD)
    with pytest.raises(BenchError):
        client.ping(PING, 0.01)
    with pytest.raises(BenchError):
        client.stream(PING, 0.01)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    ours = [(turn(4 * k, cpu_us=6 * k), turn(2 * k, cpu_us=5 * k)) for k in (10, 10, 30)]
    theirs = [(turn(k, cpu_us=2 * k), turn(k, cpu_us=k)) for k in (10, 10, 30)]
    found = _ratios(ours, theirs)
    assert found.latency == pytest.approx(4)
    assert found.cpu == pytest.approx(3)
    assert found.pipelined_time == pytest.approx(2)
    assert found.pipelined_cpu == pytest.approx(5)
    calls = _calls(theirs)
    assert (calls.median_us, calls.p99_us, calls.cpu_us) == (10, 30, 20)
    assert calls.pipelined_per_second == pytest.approx(1e5)
