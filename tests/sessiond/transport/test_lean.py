"""The programs come without TLS, and whoever wants it later has it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import {program}
assert "_ssl" not in sys.modules
import asyncio
assert asyncio.run(asyncio.sleep(0, "works")) == "works"
import ssl
assert ssl.OPENSSL_VERSION
"""


@pytest.mark.parametrize("program", ["agent.__main__", "sessiond.__main__"])
def test_no_tls_in_a_program(program: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT.format(program=program)], check=True)


def test_after_asyncio_it_changes_nothing() -> None:
    code = "import asyncio, sys; import sessiond.transport.lean; assert sys.modules.get('ssl')"
    subprocess.run([sys.executable, "-c", code], check=True)
