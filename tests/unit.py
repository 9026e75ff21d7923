"""The rule of the unit suite, as a plug-in: no test starts a program.

A test that does is marked ``parts``, alone or with its whole module. One that is not fails here,
however it, a fixture of it or the code under test came to that, and whoever hid the error.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

FORBIDDEN: Final = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen",
})  # fmt: skip

_done = list[str]()


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in FORBIDDEN:
        _done.append(f"{event}{arguments!r:.200}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Look back when the last that is the test's has been done."""
    yield
    done = list(_done)
    _done.clear()
    if done:
        pytest.fail(f"mark {item.nodeid} as one of the parts: it did {done}", pytrace=False)


platform.processor()  # which Hypothesis asks once, of a program
sys.addaudithook(_watch)
