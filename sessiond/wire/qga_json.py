r"""JSON as the QEMU guest agent reads it: the value of a text, or what is wrong with it. Pure.

QEMU takes what JSON has not: strings in single quotes, ``\'``, and the bytes C0 80 for U+0000. It
refuses what JSON has: U+FFFE and the other noncharacters, and an exponent after a bare 0. Its whole
numbers are of 64 bits, with or without a sign, and all others are doubles.

Python's own JSON reads what both take, in C; the rest, and all errors, are ``parse_slowly``'s.

Source: QEMU 7.2, qobject/json-parser.c and util/unicode.c.
"""

import json
import re
from typing import Final

from sessiond.errors import CommandError
from sessiond.wire import strictjson

MAX_SHOWN: Final = 200  # characters of a refused text in an error; QEMU shows all of it

# The tokens of a text that has no others: see qga_splitter.
_TOKEN: Final = re.compile(
    rb"""[{}\[\]:,]
    | " [^"\\]* (?: \\. [^"\\]* )* "
    | ' [^'\\]* (?: \\. [^'\\]* )* '
    | -? (?: 0 (?: \.[0-9]+ (?:[eE][-+]?[0-9]+)? )?
           | [1-9][0-9]* (?: \.[0-9]+ )? (?:[eE][-+]?[0-9]+)? )
    | [a-z]+""",
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS: Final = {b"true": True, b"false": False, b"null": None}
_ESCAPES: Final = dict(
    zip((b'"', b"'", b"\\", b"/", b"b", b"f", b"n", b"r", b"t"), "\"'\\/\b\f\n\r\t", strict=True)
)
_PLAIN: Final = re.compile(rb"[^\\]+")
_HEX: Final = re.compile(rb"[0-9a-fA-F]{4}")
_NONCHARACTER: Final = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
    + "]"
)
_ODD: Final = re.compile(r"\\u[dDfF]|" + _NONCHARACTER.pattern)
_ERROR: Final = "JSON parse error, "


def parse(text: bytes) -> object:
    """Return the value of a text that a Splitter has cut. Raises CommandError."""
    try:
        plain = text.decode()
        if not is_odd(plain):
            value: object = DECODER.decode(plain)
            return value
    except ValueError:  # of UnicodeDecodeError the base, too
        pass
    return parse_slowly(text)


def is_odd(text: str) -> bool:
    """Return whether DECODER could take what QEMU does not. It still may refuse what QEMU takes."""
    return not (text.isascii() and "\\u" not in text) and bool(_ODD.search(text))


def parse_slowly(text: bytes) -> object:
    """Do as ``parse``, and find out what is wrong."""
    return _Parser(text).value()


def shown(untrusted: bytes) -> str:
    """Return it for an error: what is no text as U+FFFD, and not too much of it."""
    text = untrusted[: 4 * MAX_SHOWN].decode(errors="replace")
    text = _NONCHARACTER.sub("\ufffd", text)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


class _Parser:
    """Reads a value from a text's tokens. Raises CommandError at the first that is wrong."""

    def __init__(self, text: bytes) -> None:
        self._tokens = _TOKEN.finditer(text)

    def value(self) -> object:
        """Return the value that the next token begins."""
        return self._value(self._pop())

    def _pop(self) -> bytes:
        token = next(self._tokens, None)
        return token[0] if token else b""

    def _value(self, token: bytes) -> object:
        match token[:1]:
            case b"{":
                return self._object()
            case b"[":
                return self._array()
            case b'"' | b"'":
                return _string(token)
            case b"" | b"}" | b"]" | b":" | b",":
                raise CommandError(f"{_ERROR}expecting value")
        if token[:1].islower():
            return _keyword(token)
        return _number(token.decode())

    def _object(self) -> dict[str, object]:
        members: dict[str, object] = {}
        token = self._pop()
        while token != b"}":
            key = self._value(token)
            if not isinstance(key, str):
                raise CommandError(f"{_ERROR}key is not a string in object")
            if self._pop() != b":":
                raise CommandError(f"{_ERROR}missing : in object pair")
            value = self.value()
            if key in members:
                raise CommandError(f"{_ERROR}duplicate key")
            members[key] = value
            token = self._after_comma(b"}", "dict")
        return members

    def _array(self) -> list[object]:
        items: list[object] = []
        token = self._pop()
        while token != b"]":
            items.append(self._value(token))
            token = self._after_comma(b"]", "list")
        return items

    def _after_comma(self, end: bytes, kind: str) -> bytes:
        """Return what follows the comma, or ``end``."""
        token = self._pop()
        if token == end:
            return end
        if token != b",":
            raise CommandError(f"{_ERROR}expected separator in {kind}")
        token = self._pop()
        if token == end:
            raise CommandError(f"{_ERROR}expecting value")
        return token


def _keyword(token: bytes) -> bool | None:
    try:
        return _KEYWORDS[token]
    except KeyError:
        raise CommandError(f"{_ERROR}invalid keyword '{shown(token)}'") from None


def _number(digits: str) -> int | float:
    try:
        if digits.lstrip("-").isdigit():
            return strictjson.integer(digits)
        return strictjson.fraction(digits)
    except ValueError:
        raise CommandError(f"{_ERROR}number out of range") from None  # QEMU answers it with inf


def _string(token: bytes) -> str:
    """Return the text of a string, which still has its quotes."""
    end = len(token) - 1
    position = 1
    pieces = []
    while position < end:
        if plain := _PLAIN.match(token, position, end):
            piece, position = _utf8(plain[0]), plain.end()
        elif token[position + 1 : position + 2] == b"u":
            piece, position = _unicode(token, position)
        else:
            piece, position = _escape(token[position + 1 : position + 2]), position + 2
        pieces.append(piece)
    return "".join(pieces)


def _utf8(piece: bytes) -> str:
    try:
        text = piece.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        text = "\ufffe"
    if _NONCHARACTER.search(text):
        raise CommandError(f"{_ERROR}invalid UTF-8 sequence in string")
    return text


def _escape(letter: bytes) -> str:
    try:
        return _ESCAPES[letter]
    except KeyError:
        raise CommandError(f"{_ERROR}invalid escape sequence in string") from None


def _unicode(token: bytes, begin: int) -> tuple[str, int]:
    """Return the character that is escaped there, by one number or by two, and its end."""
    end = begin + 6
    code = _hex4(token, begin + 2)
    if 0xD800 <= code <= 0xDBFF and token[end : end + 2] == b"\\u":
        second = _hex4(token, end + 2)
        if 0xDC00 <= second <= 0xDFFF:
            code = 0x10000 + ((code & 0x3FF) << 10) + (second & 0x3FF)
            end += 6
    if code < 0 or 0xD800 <= code <= 0xDFFF or _NONCHARACTER.match(chr(code)):
        text = shown(token[begin:end])
        raise CommandError(f"{_ERROR}{text} is not a valid Unicode character")
    return chr(code), end


def _hex4(token: bytes, begin: int) -> int:
    digits = _HEX.match(token, begin)
    return int(digits[0], 16) if digits else -1


def _fraction(digits: str) -> float:
    if digits.lstrip("-")[1] in "eE" and digits.lstrip("-")[0] == "0":
        raise ValueError("an exponent after a bare 0: two tokens")
    return strictjson.fraction(digits)


DECODER: Final = json.JSONDecoder(
    object_pairs_hook=strictjson.members,
    parse_int=strictjson.integer,
    parse_float=_fraction,
    parse_constant=strictjson.no_constant,
)
"""Reads, in C, what is not odd; raises ValueError for the rest, RecursionError for great depth."""
