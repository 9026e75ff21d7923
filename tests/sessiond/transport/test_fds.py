"""One owner for each descriptor."""

import os

import pytest

from sessiond.transport.fds import OwnedFd


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


@pytest.fixture
def number() -> int:
    return os.eventfd(0)


def test_close_closes_once(number: int) -> None:
    fd = OwnedFd(number)
    assert fd.fileno() == number
    assert is_open(number)
    fd.close()
    assert not is_open(number)
    other = os.eventfd(0)  # takes the number that is free now
    fd.close()
    assert is_open(other)
    os.close(other)


def test_no_number_after_close(number: int) -> None:
    fd = OwnedFd(number)
    fd.close()
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()


def test_with_closes(number: int) -> None:
    with OwnedFd(number) as fd:
        assert fd.fileno() == number
    assert not is_open(number)


def test_collection_closes(number: int) -> None:
    fd = OwnedFd(number)
    del fd
    assert not is_open(number)
