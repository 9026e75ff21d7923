"""The decoders that are fuzzed: where each is, and where its fuzzing begins."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.fuzz.helper import seeds as helper
from tests.fuzz.qga import seeds as qga
from tests.fuzz.qrexec import seeds as qrexec
from tests.fuzz.wayland import seeds as wayland

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Subject:
    """A decoder: the ``modules`` that it is made of are what is instrumented and measured.

    ``seeds`` and ``tokens`` are libFuzzer's corpus and dictionary; an input has at most
    ``max_input`` bytes. ``runs`` are enough to reach what can be reached, several times over.
    """

    modules: tuple[str, ...]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]
    max_input: int
    runs: int


SUBJECTS: Final = {
    "helper": Subject(
        ("sessiond.wire.helper",), helper.SEEDS, helper.TOKENS, helper.MAX_INPUT, runs=210_000
    ),
    "qga": Subject(
        tuple(
            f"sessiond.wire.{name}" for name in ("qga", "qga_json", "qga_splitter", "strictjson")
        ),
        *(qga.SEEDS, qga.TOKENS, qga.MAX_INPUT),
        runs=8_000,
    ),
    "qrexec": Subject(
        (
            "sessiond.wire.exec",
            "sessiond.wire.exec_channel",
            "sessiond.wire.exec_command",
            "sessiond.wire.exec_control",
            "sessiond.wire.exec_data",
        ),
        *(qrexec.SEEDS, qrexec.TOKENS, qrexec.MAX_INPUT),
        runs=25_000,
    ),
    "wayland": Subject(
        ("sessiond.wire.wayland",),
        *(wayland.SEEDS, wayland.TOKENS, wayland.MAX_INPUT),
        runs=20_000,
    ),
}


def load_check(name: str) -> Callable[[bytes], str]:
    """Import the subject's invariant, and with it the decoder; return what checks one input."""
    check: Callable[[bytes], str] = importlib.import_module(f"tests.fuzz.{name}.invariant").check
    return check
