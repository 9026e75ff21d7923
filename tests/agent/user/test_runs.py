"""What the daemon has an agent run, where that cannot be; ``tests/commands`` has the rest."""

from __future__ import annotations

import threading

import pytest

from agent.user.runs import Runs
from sessiond.errors import CommandError
from sessiond.transport.passing import Passed
from tests.fixtures.loop import in_loop


def test_kernel_that_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing runs, and the agent goes on."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    @in_loop
    async def test() -> None:
        runs = Runs({}, None, lambda _event, _data: None)
        wanted = {"id": 1, "argv": ["true"], "service": "", "session": {}, "env": {}, "cwd": ""}
        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", refuse)
            answer = await runs.run(wanted, Passed(()))
        assert answer == {
            "error-code": 125,
            "text": "cannot start it: Resource temporarily unavailable",
        }
        with pytest.raises(CommandError, match="no such command"):
            runs.signal({"id": 1, "signal": 9})

    test()
