"""What may block has threads that nobody waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Final

import pytest

from sessiond.transport.aside import run_aside

HANGS: Final = """
import asyncio, threading
from sessiond.transport.aside import run_aside

async def main():
    for _ in range(40):
        run_aside(threading.Event().wait)
    print(await run_aside(lambda: "ends"))

asyncio.run(main())
"""


@pytest.mark.parts
def test_what_never_returns_keeps_neither_others_nor_the_programs_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")


def test_what_it_raises_is_the_futures() -> None:
    def fail() -> None:
        raise KeyError("nobody")

    async def main() -> None:
        with pytest.raises(KeyError, match="nobody"):
            await run_aside(fail)
        assert await run_aside(lambda: 0) == 0

    asyncio.run(main())


def test_nobody_is_told_whose_loop_has_ended() -> None:
    go = threading.Event()

    async def main() -> None:
        assert not run_aside(go.wait).done()

    asyncio.run(main())
    go.set()
    wait_aside()  # what it raises would fail this test


def test_nobody_is_told_who_waits_no_more() -> None:
    faults = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: faults.append(what))
        run_aside(lambda: None).cancel()
        wait_aside()
        await asyncio.sleep(0)  # its call from the thread is next

    asyncio.run(main())
    assert faults == []


def wait_aside() -> None:
    for thread in threading.enumerate():
        if thread.name == "aside":
            thread.join()


def test_kernel_that_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who has all the processes that they may have."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", refuse)
            with pytest.raises(BlockingIOError, match="temporarily unavailable"):
                await run_aside(lambda: 0)
        assert await run_aside(lambda: 0) == 0

    asyncio.run(main())
