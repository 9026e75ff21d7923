"""Encoders by entry point, good ones and broken ones."""

import logging
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from agent.encode import _OWN, GROUP, find_encoders
from agent.encode.base import Encoder
from agent.encode.jpeg import JpegEncoder

ROOT: Final = Path(__file__).parents[3]

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


OWN: Final = ["jpeg", "vp8", "vp9", "h264", "h265"]


def names(directory: str) -> list[str]:
    return [encoder.name for encoder in find_encoders([directory])]


def test_our_own_need_no_installation() -> None:
    assert [encoder.name for encoder in find_encoders(["/nonexistent"])] == OWN


def test_directory_that_cannot_be_looked_into() -> None:
    """As one that is another user's; this one's name is too long for anybody."""
    assert [encoder.name for encoder in find_encoders(["/" + "x" * 300])] == OWN


def test_our_own_are_declared_for_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {GROUP: _OWN}
    assert {name: f"{kind.__module__}:{kind.__name__}" for name, kind in kinds().items()} == _OWN


def kinds() -> dict[str, type[Encoder]]:
    return {kind.name: kind for kind in find_encoders(["/nonexistent"]) if kind.name in OWN}


def test_higher_rank_comes_first(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_high", GOOD.format(name="better", rank=1 << 30))
    assert names(directory) == ["better", *OWN]


def test_lower_rank_comes_last(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_low", GOOD.format(name="slow", rank=-9))
    assert names(directory) == [*OWN, "slow"]


def test_name_that_is_taken(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_double", GOOD.format(name="jpeg", rank=9))
    assert find_encoders([directory]) == find_encoders()
    assert find_encoders()[0] is JpegEncoder


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
        assert names(directory) == OWN
    assert len(messages) == 1
    assert messages[0].startswith(f"encoder plug-in {name}:{target} {complaint}")


@pytest.mark.parametrize("place", ["path", "option", "archive"])
def test_plug_in_is_found_wherever_it_is_installed(tmp_path: Path, place: str) -> None:
    directory = plug_in(tmp_path, f"plug_in_{place}", GOOD.format(name="better", rank=9))
    if place == "archive":
        directory = shutil.make_archive(str(tmp_path / "archive"), "zip", directory)
    if place != "option":
        sys.path.insert(0, directory)
    found = find_encoders([directory] if place == "option" else [])
    assert [encoder.name for encoder in found] == ["better", *OWN]


@pytest.mark.parts
@pytest.mark.parametrize("members", ["", *(f"{name} = {value}" for name, value in _OWN.items())])
def test_without_plug_ins_nobody_asks_for_distributions(tmp_path: Path, members: str) -> None:
    info = tmp_path / "spice_sessiond-0.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n[{GROUP}]\n{members}\n")
    code = (
        "import sys; sys.path.append(sys.argv[1]); from agent.encode import find_encoders;"
        "find_encoders(['/nonexistent']);"
        "print('importlib.metadata' in sys.modules, 'av' in sys.modules, sys.path[0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout == "False False /nonexistent\n"


def test_plug_in_beside_our_own(tmp_path: Path) -> None:
    directory = plug_in(tmp_path, "plug_in_beside", GOOD.format(name="better", rank=9))
    table = tmp_path / "plug_in_beside-1.0.dist-info" / "entry_points.txt"
    ours = "\n".join(f"{name} = {value}" for name, value in _OWN.items())
    table.write_text(f"{table.read_text()}{ours}\n[other]\nx = y:z\n")
    assert names(directory) == ["better", *OWN]


@pytest.mark.parts
def test_jpeg_needs_nothing_of_the_video_codecs() -> None:
    code = (
        "import sys; sys.modules['av'] = None;"
        "from agent.capture.base import Frame; from agent.encode import find_encoders;"
        "jpeg, *others = find_encoders();"
        "data = jpeg({'quality': 80}).encode(Frame(16, 16, 64, memoryview(bytes(1024)), 0));"
        "print(data[:2].hex(), bool(jpeg.missing()), all(other.missing() for other in others))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "ffd8 False True\n"
