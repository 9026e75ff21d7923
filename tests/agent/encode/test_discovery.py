"""Encoders by entry point, good ones and broken ones."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.encode import GROUP, choose_encoder, find_encoders
from agent.encode.jpeg import JpegEncoder
from sessiond.errors import EncoderError

GOOD = """
from agent.encode.base import Encoder
class Fast(Encoder):
    name = "{name}"
    codec = 3
    rank = {rank}
    options = {{}}
    def __init__(self, options): pass
    def encode(self, frame): return b""
class Unfinished(Encoder): pass
class Other: pass
"""


@contextmanager
def capture_log() -> Iterator[list[str]]:
    messages = list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("agent.encode")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def plug_in(directory: Path, name: str, code: str, target: str = "Fast") -> str:
    """Put an installed distribution into DIRECTORY; return the directory as an option's value."""
    (directory / f"{name}.py").write_text(code)
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}:{target}\n")
    return str(directory)


def names(directory: str) -> list[str]:
    return [encoder.name for encoder in find_encoders([directory])]


def test_our_own_needs_no_installation() -> None:
    assert JpegEncoder in find_encoders()


def test_higher_rank_comes_first(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_high", GOOD.format(name="h264", rank=1 << 30))
    assert names(directory) == ["h264", "jpeg"]


def test_lower_rank_comes_last(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_low", GOOD.format(name="slow", rank=0))
    assert names(directory) == ["jpeg", "slow"]


def test_name_that_is_taken(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_double", GOOD.format(name="jpeg", rank=9))
    assert find_encoders([directory]) == [JpegEncoder]


@pytest.mark.parametrize(
    ("name", "code", "target", "complaint"),
    [
        (
            "broken_1",
            "import no_such_module",
            "Fast",
            "cannot be loaded: No module named 'no_such_module'",
        ),
        ("broken_2", "", "Fast", "cannot be loaded: module 'broken_2' has no attribute 'Fast'"),
        ("broken_3", "def", "Fast", "cannot be loaded: "),
        ("broken_4", "raise ValueError('no driver')", "Fast", "cannot be loaded: no driver"),
        ("broken_5", GOOD, "Other", "is not an Encoder class"),
        ("broken_6", GOOD, "Unfinished", "has no name, no codec, no rank, no options"),
        ("broken_7", "Fast = 1", "Fast", "is not an Encoder class"),
    ],
)
def test_broken_is_logged_and_skipped(
    tmp_path: Path, name: str, code: str, target: str, complaint: str
) -> None:
    directory = plug_in(tmp_path, name, code.format(name="x", rank=1), target)
    with capture_log() as messages:
        assert names(directory) == ["jpeg"]
    assert len(messages) == 1
    assert messages[0].startswith(f"encoder plug-in {name}:{target} {complaint}")


def test_first_that_the_host_decodes() -> None:
    assert choose_encoder([JpegEncoder], [1, 2, 99]) is JpegEncoder


@pytest.mark.parametrize("codecs", [[], [2], [99, 3]])
def test_nothing_that_the_host_decodes(codecs: list[int]) -> None:
    with pytest.raises(EncoderError, match=r"^no encoder for the codecs that the host decodes"):
        choose_encoder([JpegEncoder], codecs)


@pytest.mark.parametrize("place", ["path", "option", "archive"])
def test_plug_in_is_found_wherever_it_is_installed(tmp_path: Path, place: str) -> None:
    directory = plug_in(tmp_path, f"plug_in_{place}", GOOD.format(name="h264", rank=9))
    if place == "archive":
        directory = shutil.make_archive(str(tmp_path / "archive"), "zip", directory)
    if place != "option":
        sys.path.insert(0, directory)
    found = find_encoders([directory] if place == "option" else [])
    assert [encoder.name for encoder in found] == ["h264", "jpeg"]


def test_without_plug_ins_nobody_asks_for_distributions() -> None:
    code = (
        "import sys; from agent.encode import find_encoders; find_encoders(['/nonexistent']);"
        "print('importlib.metadata' in sys.modules, sys.path[0])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "False /nonexistent\n"
