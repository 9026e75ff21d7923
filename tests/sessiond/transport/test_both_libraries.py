"""The tests of the bus and of logind once more, with the D-Bus library that is not the default."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sessiond.transport.dbus import LIBRARY

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[3]
TESTS = [
    "tests/sessiond/bus",
    "tests/sessiond/logind",
    "tests/sessiond/transport/test_dbus.py",
    "tests/sessiond/transport/test_objects.py",
]
OTHER = {"dbus_fast": "dbus_next", "dbus_next": "dbus_fast"}[LIBRARY]


@pytest.mark.skipif("SPICE_SESSIOND_DBUS" in os.environ, reason="one library was asked for")
@pytest.mark.skipif(not importlib.util.find_spec(OTHER), reason=f"{OTHER} is not installed")
def test_other_library_does_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT, env={**os.environ, "SPICE_SESSIOND_DBUS": OTHER},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
