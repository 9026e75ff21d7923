"""Sizes and modes of real terminals."""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.model import TerminalSize
from sessiond.transport.terminal import (
    DEFAULT_SIZE,
    MOST,
    RawMode,
    end_of_input,
    is_terminal,
    own_window_size,
    set_window_size,
    window_size,
)
from tests.fixtures.pseudo import Pseudo
from tests.fixtures.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pseudo() -> Iterator[Pseudo]:
    with Pseudo() as pseudo:
        yield pseudo


@pytest.mark.parametrize("size", [(1, 1), (500, 1000), (MOST, MOST)])
def test_a_size_is_the_same_at_both_ends(pseudo: Pseudo, size: tuple[int, int]) -> None:
    wanted = TerminalSize(*size)
    set_window_size(pseudo.master, wanted)
    assert window_size(pseudo.master) == window_size(pseudo.slave) == wanted
    assert os.get_terminal_size(pseudo.slave) == size


def test_no_size(pseudo: Pseudo) -> None:
    """Of a terminal that has none, and of what is no terminal."""
    reader, writer = os.pipe()
    try:
        assert window_size(pseudo.slave) is None
        assert window_size(reader) is None
        assert own_window_size((reader, pseudo.slave)) == DEFAULT_SIZE
        set_window_size(pseudo.slave, TerminalSize(20, 10))
        assert own_window_size((reader, pseudo.slave)) == TerminalSize(20, 10)
        with pytest.raises(OSError, match="ioctl"):
            set_window_size(reader, DEFAULT_SIZE)
    finally:
        os.close(reader)
        os.close(writer)


def modes(fd: int) -> list[Any]:
    return termios.tcgetattr(fd)


def test_every_byte_comes_through_while_it_is_raw(pseudo: Pseudo) -> None:
    data = bytes(range(256))
    with RawMode(pseudo.slave):
        os.write(pseudo.master, data)
        assert os.read(pseudo.slave, 1000) == data
        os.write(pseudo.slave, data)
        assert os.read(pseudo.master, 1000) == data  # with no echo of the others before


def test_modes_are_put_back_as_they_were(pseudo: Pseudo) -> None:
    strange = modes(pseudo.slave)
    strange[3] &= ~termios.ECHO
    strange[6][termios.VERASE], strange[6][termios.VMIN] = b"\b", b"\7"
    termios.tcsetattr(pseudo.slave, termios.TCSANOW, strange)
    before = modes(pseudo.slave)
    raw = RawMode(pseudo.slave)
    for _ in range(2):
        raw.enter()
        assert modes(pseudo.slave) != before
        raw.leave()
        assert modes(pseudo.slave) == before
    with pytest.raises(ZeroDivisionError), raw:
        _ = 1 / 0
    assert modes(pseudo.slave) == before


def test_no_raw_mode_of_what_is_no_terminal() -> None:
    with open(os.devnull, "rb") as file, pytest.raises(OSError, match="ioctl"):
        RawMode(file.fileno())


def test_a_terminal_that_goes_meanwhile(pseudo: Pseudo) -> None:
    with RawMode(pseudo.slave):
        assert is_terminal(pseudo.slave)
        os.close(pseudo.master)
        pseudo.master = -1
    assert is_terminal(pseudo.slave)  # it was one
    with open(os.devnull, "rb") as file:
        assert not is_terminal(file.fileno())


def test_an_end_is_typed_where_lines_are_read(pseudo: Pseudo) -> None:
    assert end_of_input(pseudo.master) == b"\4"
    os.write(pseudo.master, b"line" + end_of_input(pseudo.master))
    assert os.read(pseudo.slave, 100) == b"line"
    os.write(pseudo.master, end_of_input(pseudo.master))
    assert os.read(pseudo.slave, 100) == b""
    Screen(pseudo.master).wait(b"line")


@pytest.mark.parametrize("character", [b"\x1a", b"\0"])
def test_another_end_or_none(pseudo: Pseudo, character: bytes) -> None:
    other = modes(pseudo.slave)
    other[6][termios.VEOF] = character
    termios.tcsetattr(pseudo.slave, termios.TCSANOW, other)
    assert end_of_input(pseudo.master) == character.strip(b"\0")


def test_no_end_where_every_key_counts(pseudo: Pseudo) -> None:
    with RawMode(pseudo.slave):
        assert end_of_input(pseudo.master) == b""
    assert end_of_input(0 if not os.isatty(0) else -1) == b""
