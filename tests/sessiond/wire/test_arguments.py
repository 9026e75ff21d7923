"""The arguments of commands, in the QEMU guest agent's words."""

from typing import Any

import pytest

from sessiond.errors import CommandError
from sessiond.wire.arguments import Argument, Kind, check

SPEC = {
    "path": Argument(Kind.STR),
    "pid": Argument(Kind.INT),
    "arg": Argument(Kind.STRINGS, is_optional=True),
    "show": Argument(Kind.BOOL, is_optional=True),
    "arguments": Argument(Kind.OBJECT, is_optional=True),
    "capture-output": Argument(Kind.CAPTURE, is_optional=True),
}
LEAST: dict[str, Any] = {"path": "ls", "pid": 1}

RIGHT: dict[str, dict[str, Any]] = {
    "least": {},
    "smallest": {"pid": -(2**63)},
    "greatest": {"pid": 2**63 - 1},
    "empty": {"path": "", "arg": [], "arguments": {}},
    "all": {
        "arg": ["a", ""],
        "show": False,
        "arguments": {"x": [1]},
        "capture-output": True,
    },
    **{mode: {"capture-output": mode} for mode in ("none", "stdout", "stderr", "separated")},
    "merged": {"capture-output": "merged"},
    "no capture": {"capture-output": False},
}
TYPE = "Invalid parameter type for"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "float": ({"pid": 1.0}, f"{TYPE} 'pid', expected: integer"),
    "true as 1": ({"pid": True}, f"{TYPE} 'pid', expected: integer"),
    "digits": ({"pid": "1"}, f"{TYPE} 'pid', expected: integer"),
    "null": ({"pid": None}, f"{TYPE} 'pid', expected: integer"),
    "too great": ({"pid": 2**63}, f"{TYPE} 'pid', expected: integer"),
    "too small": ({"pid": -(2**63) - 1}, f"{TYPE} 'pid', expected: integer"),
    "no string": ({"path": ["ls"]}, f"{TYPE} 'path', expected: string"),
    "no array": ({"arg": "a"}, f"{TYPE} 'arg', expected: array"),
    "object for array": ({"arg": {}}, f"{TYPE} 'arg', expected: array"),
    "no strings": ({"arg": ["a", 1, None]}, f"{TYPE} 'arg[1]', expected: string"),
    "1 as true": ({"show": 1}, f"{TYPE} 'show', expected: boolean"),
    "null for none": ({"show": None}, f"{TYPE} 'show', expected: boolean"),
    "no object": ({"arguments": []}, f"{TYPE} 'arguments', expected: object"),
    "number": (
        {"capture-output": 1},
        f"{TYPE} 'capture-output', expected: GuestExecCaptureOutput",
    ),
    "no mode": (
        {"capture-output": "both"},
        "Parameter 'capture-output' does not accept value 'both'",
    ),
    "unexpected": ({"z": 1}, "Parameter 'z' is unexpected"),
    "first the known": ({"z": 1, "show": 2}, f"{TYPE} 'show', expected: boolean"),
    "by the table's order": ({"arg": 1, "pid": "x"}, f"{TYPE} 'pid', expected: integer"),
    "long name": ({"z" * 1000: 1}, f"Parameter '{'z' * 200}' is unexpected"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    arguments = {**LEAST, **RIGHT[name]}
    assert check(arguments, SPEC) == arguments


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    wrong, words = WRONG[name]
    with pytest.raises(CommandError) as caught:
        check({**LEAST, **wrong}, SPEC)
    assert (str(caught.value), caught.value.cls) == (words, "GenericError")


@pytest.mark.parametrize("name", ["path", "pid"])
def test_missing(name: str) -> None:
    arguments = {other: value for other, value in LEAST.items() if other != name}
    for extra in ({}, {"z": 1}):
        with pytest.raises(CommandError, match=f"^Parameter '{name}' is missing$"):
            check({**arguments, **extra}, SPEC)


def test_no_arguments_at_all() -> None:
    assert check({}, {}) == {}
    with pytest.raises(CommandError, match=r"^Parameter 'a\.b' is unexpected$"):
        check({"a.b": {}}, {})
