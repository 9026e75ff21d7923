"""The programs come without TLS and other large libraries; whoever wants them later has them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.parts

SCRIPT = """
import sys
import {program}
assert sys.modules.keys().isdisjoint({{"_ssl", "_hashlib", "gi"}})
import asyncio
assert asyncio.run(asyncio.sleep(0, "works")) == "works"
import hashlib, ssl
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert ssl.OPENSSL_VERSION
"""


@pytest.mark.parametrize("program", ["agent.__main__", "sessiond.__main__"])
def test_what_is_not_in_a_program(program: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT.format(program=program)], check=True)


def test_what_it_hid_can_be_imported() -> None:
    code = "import sessiond.__main__, importlib.util as it; assert bool(it.find_spec('gi')) == {}"
    found = importlib.util.find_spec("gi") is not None
    subprocess.run([sys.executable, "-c", code.format(found)], check=True)


def test_after_asyncio_it_changes_nothing() -> None:
    code = "import asyncio, sys; import sessiond.transport.lean; assert sys.modules.get('ssl')"
    subprocess.run([sys.executable, "-c", code], check=True)
