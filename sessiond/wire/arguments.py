"""The arguments of a command: which there are, and of what kind. Pure.

Wrong ones are told in the QEMU guest agent's words, and in its order: what is missing or of a
wrong kind, by the table's order, then what is not in the table.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import CommandError

_MIN_INT: Final = -(1 << 63)
_MAX_INT: Final = (1 << 63) - 1
_MODES: Final = ("none", "stdout", "stderr", "separated", "merged")  # QEMU 8.0's, of capture-output
_MAX_SHOWN: Final = 200  # characters of the host's own words in an error


class Kind(enum.Enum):
    """What a value may be; each is what ``check`` returns, too."""

    INT = "integer"  # int, of 64 bits with a sign
    BOOL = "boolean"  # bool
    STR = "string"  # str
    STRINGS = "array"  # list[str]
    OBJECT = "object"  # dict[str, Any]
    CAPTURE = "GuestExecCaptureOutput"  # bool, or str: one of _MODES


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command."""

    kind: Kind
    is_optional: bool = False


def check(arguments: Mapping[str, Any], spec: Mapping[str, Argument]) -> dict[str, Any]:
    """Return the arguments that are there. Raises CommandError for the first that is wrong."""
    checked: dict[str, Any] = {}
    for name, argument in spec.items():
        if name in arguments:
            checked[name] = _check(name, arguments[name], argument.kind)
        elif not argument.is_optional:
            raise CommandError(f"Parameter '{name}' is missing")
    if len(checked) != len(arguments):
        unexpected = next(name for name in arguments if name not in spec)
        raise CommandError(f"Parameter '{unexpected[:_MAX_SHOWN]}' is unexpected")
    return checked


def _check(name: str, untrusted: object, kind: Kind) -> object:
    if not _HAS_KIND[kind](untrusted):
        raise CommandError(f"Invalid parameter type for '{name}', expected: {kind.value}")
    if isinstance(untrusted, list):
        for number, item in enumerate(untrusted):
            _check(f"{name}[{number}]", item, Kind.STR)
    if kind is Kind.CAPTURE and isinstance(untrusted, str) and untrusted not in _MODES:
        mode = untrusted[:_MAX_SHOWN]
        raise CommandError(f"Parameter '{name}' does not accept value '{mode}'")
    return untrusted


_HAS_KIND: Final[Mapping[Kind, Callable[[object], bool]]] = {
    Kind.INT: lambda value: type(value) is int and _MIN_INT <= value <= _MAX_INT,
    Kind.BOOL: lambda value: isinstance(value, bool),
    Kind.STR: lambda value: isinstance(value, str),
    Kind.STRINGS: lambda value: isinstance(value, list),
    Kind.OBJECT: lambda value: isinstance(value, dict),
    Kind.CAPTURE: lambda value: isinstance(value, bool | str),
}
