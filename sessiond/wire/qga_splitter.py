"""Where the QEMU guest agent's JSON texts begin and end, however their bytes arrive. Pure.

Lines have no meaning. A text ends where its brackets are closed, or, outside of brackets, where a
value ends: two may stand on one line, and one on many.

A byte that no token goes on with ends what is half read, with an error. What follows is skipped up
to something that looks like a beginning: one of ``{}[]:,``, a control character but TAB, FE or FF.
That is how FF makes a peer listen anew, whatever it had heard before.

Source: QEMU 7.2, qobject/json-lexer.c and json-streamer.c. The limits are ours.
"""

import enum
import re
from collections.abc import Iterator
from typing import Final

from sessiond.errors import CommandError
from sessiond.wire.qga_json import shown
from sessiond.wire.strictjson import MAX_NESTING

MAX_TEXT: Final = 1 << 20  # bytes of one text, from its first to its last


class _State(enum.IntEnum):
    """Where in a token the next byte is."""

    START = 0
    RECOVERY = enum.auto()
    DOUBLE = enum.auto()  # in a string of double quotes
    DOUBLE_ESCAPE = enum.auto()
    SINGLE = enum.auto()
    SINGLE_ESCAPE = enum.auto()
    SIGN = enum.auto()
    ZERO = enum.auto()
    DIGITS = enum.auto()
    POINT = enum.auto()
    FRACTION = enum.auto()
    EXPONENT = enum.auto()
    EXPONENT_SIGN = enum.auto()
    EXPONENT_DIGITS = enum.auto()
    KEYWORD = enum.auto()


# What a byte does that leads to none of the states:
_WRONG: Final = -1  # no token goes on with it
_LAST: Final = -2  # the token ends with it
_AFTER: Final = -3  # the token has ended before it
_BEGINS: Final = -4  # nothing more is skipped, from this byte on

_DIGIT: Final = b"0123456789"
_LETTER: Final = b"abcdefghijklmnopqrstuvwxyz"
_STRUCTURE: Final = b"{}[]:,"
_TEXT: Final = bytes(range(0x20, 0xFE))


def _row(default: int, *rules: tuple[bytes, int]) -> tuple[int, ...]:
    """Return what each byte does; of two rules for one, the later holds."""
    row = [default] * 256
    for some, effect in rules:
        for byte in some:
            row[byte] = effect
    return tuple(row)


_ROWS: Final = {
    _State.START: _row(
        _WRONG,
        (b" \t\r\n", _State.START),
        (_STRUCTURE, _LAST),
        (b'"', _State.DOUBLE),
        (b"'", _State.SINGLE),
        (b"-", _State.SIGN),
        (_DIGIT, _State.DIGITS),
        (b"0", _State.ZERO),
        (_LETTER, _State.KEYWORD),
    ),
    _State.RECOVERY: _row(
        _BEGINS, (_TEXT, _State.RECOVERY), (b"\t", _State.RECOVERY), (_STRUCTURE, _BEGINS)
    ),
    _State.DOUBLE: _row(
        _WRONG, (_TEXT, _State.DOUBLE), (b"\\", _State.DOUBLE_ESCAPE), (b'"', _LAST)
    ),
    _State.DOUBLE_ESCAPE: _row(_WRONG, (_TEXT, _State.DOUBLE)),
    _State.SINGLE: _row(
        _WRONG, (_TEXT, _State.SINGLE), (b"\\", _State.SINGLE_ESCAPE), (b"'", _LAST)
    ),
    _State.SINGLE_ESCAPE: _row(_WRONG, (_TEXT, _State.SINGLE)),
    _State.SIGN: _row(_WRONG, (_DIGIT, _State.DIGITS), (b"0", _State.ZERO)),
    _State.ZERO: _row(_AFTER, (_DIGIT, _WRONG), (b".", _State.POINT)),
    _State.DIGITS: _row(
        _AFTER, (_DIGIT, _State.DIGITS), (b".", _State.POINT), (b"eE", _State.EXPONENT)
    ),
    _State.POINT: _row(_WRONG, (_DIGIT, _State.FRACTION)),
    _State.FRACTION: _row(_AFTER, (_DIGIT, _State.FRACTION), (b"eE", _State.EXPONENT)),
    _State.EXPONENT: _row(_WRONG, (_DIGIT, _State.EXPONENT_DIGITS), (b"+-", _State.EXPONENT_SIGN)),
    _State.EXPONENT_SIGN: _row(_WRONG, (_DIGIT, _State.EXPONENT_DIGITS)),
    _State.EXPONENT_DIGITS: _row(_AFTER, (_DIGIT, _State.EXPONENT_DIGITS)),
    _State.KEYWORD: _row(_AFTER, (_LETTER, _State.KEYWORD)),
}


def _change(state: _State) -> re.Pattern[bytes]:
    """Return what finds the next byte that changes something: others need not be looked at."""
    changing = (byte for byte in range(256) if _ROWS[state][byte] != state)
    return re.compile(b"[" + b"".join(b"\\x%02x" % byte for byte in changing) + b"]")


_EFFECTS: Final = tuple(_ROWS[state] for state in _State)
_CHANGES: Final = tuple(_change(state) for state in _State)

# Between brackets whole tokens change nothing, if they are plain: most of a long text.
_DULL: Final = re.compile(
    rb"""(?: [ \t\r\n:,] | "[^"\\\x00-\x1f\xfe\xff]*" | [1-9][0-9]*(?=[ \t\r\n:,}\]]) )*""",
    re.VERBOSE,
)

# How a token of one byte changes the numbers of open braces and brackets.
_OPENED: Final = {ord("{"): (1, 0), ord("}"): (-1, 0), ord("["): (0, 1), ord("]"): (0, -1)}


class Splitter:
    """Cuts what arrives into texts, in whatever pieces; holds at most ``limit`` bytes of one.

    A text over that, or over MAX_NESTING, is an error, and what follows it up to the next line
    feed goes with it.
    """

    def __init__(self, limit: int = MAX_TEXT) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Forget what is half read."""
        self._held = bytearray()  # from the text's first byte on
        self._state: int = _State.START
        self._seen = 0  # bytes of the held ones that are in a token, or between two
        self._token = 0  # where the last token begins
        self._braces = self._brackets = 0
        self._is_skipping = False

    @property
    def is_idle(self) -> bool:
        """Whether the next byte is looked at as if it were the first of all."""
        return self._state == _State.START and not (
            self._braces or self._brackets or self._is_skipping
        )

    def feed(self, data: bytes) -> Iterator[bytes | CommandError]:
        """Add ``data`` and yield each text that it completes, or the error that is to be told."""
        self._held += data
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> bytes | CommandError | None:
        while self._skim():
            if self._seen > self._limit:
                return self._give_up("JSON token size limit exceeded", self._limit)
            if self._state == _State.START:
                self._token = self._seen
            byte = self._held[self._seen]
            effect = _EFFECTS[self._state][byte]
            if effect not in (_AFTER, _BEGINS):
                self._seen += 1
            if effect >= 0:
                self._state = effect
            elif self._seen <= self._limit and (found := self._end_token(effect, byte)) is not None:
                return found
        return None

    def _skim(self) -> bool:
        """Go over what changes nothing; return whether a byte is left that does.

        Also if there are too many of the others.
        """
        if self._is_skipping:
            end = self._held.find(b"\n")
            self._is_skipping = end < 0
            del self._held[: end if end >= 0 else len(self._held)]
        if self._state == _State.START and not self.is_idle:
            dull = _DULL.match(self._held, self._seen)
            self._seen = dull.end() if dull else self._seen
        change = _CHANGES[self._state].search(self._held, self._seen)
        self._seen = change.start() if change else len(self._held)
        del change  # which keeps what is held from being shortened
        if self._state == _State.RECOVERY or self.is_idle:
            self._take()  # it is of no text
        return self._seen < len(self._held) or self._seen > self._limit

    def _end_token(self, effect: int, byte: int) -> bytes | CommandError | None:
        was_start = self._state == _State.START
        self._state = _State.START
        if effect == _BEGINS:
            return None
        if effect == _WRONG:
            self._state = _State.RECOVERY
            stray = self._take()[self._token :].partition(b"\0")[0]  # its end in C
            return CommandError(f"JSON parse error, stray '{shown(stray)}'")
        if was_start:
            braces, brackets = _OPENED.get(byte, (0, 0))
            self._braces += braces
            self._brackets += brackets
        if self._braces + self._brackets > MAX_NESTING:
            return self._give_up("JSON nesting depth limit exceeded", self._seen)
        # QEMU counts the two kinds, and leaves it to the parser to find them mixed up.
        if min(self._braces, self._brackets) < 0 or not (self._braces or self._brackets):
            return self._take()
        return None

    def _take(self) -> bytes:
        """Return what was seen of the text, which has ended."""
        text = bytes(self._held[: self._seen])
        del self._held[: self._seen]
        self._seen = self._braces = self._brackets = 0
        return text

    def _give_up(self, text: str, seen: int) -> CommandError:
        self._seen = seen
        self._take()
        self._state = _State.START
        self._is_skipping = True
        return CommandError(text)
