"""What is built once for all tests here, and a machine to install it on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.packaging.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("agent", "sessiond", "dbus", "systemd", "packaging", "docs")  # of a wheel
FILES: Final = ("README.md", "LICENSE", "pyproject.toml")
DEBIAN_PYTHON: Final = "/usr/bin/python3"


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Return a folder that everybody can read, as what is installed has to be."""
    with tempfile.TemporaryDirectory(prefix="packaging-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def deb(place: Path) -> Path:
    """Return the Debian package."""
    folder = place / "build/deb"  # whose parent is not there either, as in a fresh clone
    _check([ROOT / "packaging/deb.sh", folder])
    [package] = folder.glob("*.deb")
    return package


@pytest.fixture(scope="session")
def unpacked(deb: Path, place: Path) -> Path:
    """Return the package's files, unpacked."""
    _check(["dpkg-deb", "--extract", deb, place / "unpacked"])
    return place / "unpacked"


@pytest.fixture(scope="session")
def wheel(place: Path) -> Path:
    """Return what pip builds, of a copy of the tree, in which it leaves its traces."""
    source = place / "source"
    source.mkdir()
    for name in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    _check(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--wheel-dir", place, source),
        ],
        env=os.environ | constraints,
    )
    [built] = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def programs(wheel: Path, place: Path) -> Path:
    """Return the folder of the programs in a virtual environment on Debian's own packages."""
    _check([DEBIAN_PYTHON, "-m", "venv", "--system-site-packages", place / "venv"])
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    _check([place / "venv/bin/python", *install])
    return place / "venv/bin"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine to install something on."""
    if os.geteuid() != 0:
        pytest.skip("to install something takes root")
    skin = tmp_path / "skin"
    skin.mkdir()
    machine = Machine(skin)
    yield machine
    machine.close()


def _check(command: list[str | Path], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
