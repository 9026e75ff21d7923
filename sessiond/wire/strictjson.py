"""JSON that every reader of it takes. Pure.

Python's own takes and makes more: NaN, Infinity, 1e999, a member named twice, half of a surrogate
pair, brackets without end. Any of them, passed on, makes a stricter peer hang up.
"""

import json
import math
import re
from typing import Any, Final, NoReturn

MAX_NESTING: Final = 32
"""Brackets within brackets. What libvirt reads with, json-c, goes no deeper by itself."""

# QEMU's numbers: whole ones are of 64 bits, with or without a sign, and all others doubles.
_MIN_INTEGER: Final = -(1 << 63)
_MAX_INTEGER: Final = (1 << 64) - 1

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
# As json writes it; what is not in the group is a backslash, or a whole pair.
_LONE: Final = re.compile(
    r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(\\ud[89a-f][0-9a-f]{2})"
)


def decode(text: str) -> object:
    """Return the value. Raises ValueError; also for what nests deeper than MAX_NESTING."""
    try:
        value: object = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("brackets without end") from None
    if is_deep(value, text):
        raise ValueError("too many brackets in brackets")
    if _SURROGATE.search(text) and _has_lone(value):
        raise ValueError("half of a surrogate pair")
    return value


def encode(value: object) -> str:
    """Return the text, in ASCII and on one line; half a surrogate pair becomes U+FFFD.

    Raises ValueError for NaN and the infinities, TypeError for what is no value of JSON.
    """
    text = _ENCODER.encode(value)
    if "\\ud" in text and _has_lone(value):
        return _LONE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
    return text


def _has_lone(value: object) -> bool:
    """Return whether a text in VALUE has half a pair; it is quicker than to look for one."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def is_deep(value: object, text: str, begin: int = 0, end: int | None = None) -> bool:
    """Return whether ``value``, read from that part of ``text``, nests deeper than MAX_NESTING."""
    brackets = text.count("{", begin, end) + text.count("[", begin, end)
    return brackets > MAX_NESTING and _is_deep(value, MAX_NESTING)


def integer(digits: str) -> int | float:
    """Return the number as QEMU has it. Raises ValueError beyond the doubles."""
    if len(digits) < 19:  # of 64 bits whatever they are
        return int(digits)
    number = fraction(digits)
    if abs(number) > 1e20:  # so many digits that Python would not convert them
        return number
    return exact if _MIN_INTEGER <= (exact := int(digits)) <= _MAX_INTEGER else number


def fraction(digits: str) -> float:
    """Return the number. Raises ValueError beyond the doubles."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number beyond the doubles")
    return number


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError for a member named twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member named twice")
    return found


def no_constant(name: str) -> NoReturn:
    """Raise ValueError: NaN and Infinity are Python's own."""
    raise ValueError(name)


def _is_deep(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(part, levels - 1) for part in inner)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=members,
    parse_int=integer,
    parse_float=fraction,
    parse_constant=no_constant,
)
_ENCODER: Final = json.JSONEncoder(allow_nan=False)
