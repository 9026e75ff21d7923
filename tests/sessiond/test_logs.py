"""Where log lines go: to the journal when stderr is the journal's, to stderr when it is not."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd.journal import JournalHandler

from sessiond import logs

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging
from sessiond import logs
logs.set_up(debug=DEBUG)
log = logging.getLogger("sessiond.test")
log.info("shown: %s", "3", extra=dict.fromkeys(logs.FIELDS, "x"))
log.debug("a detail")
"""


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def run(*, debug: bool, stream: str = "") -> str:
    env = {name: text for name, text in os.environ.items() if name != "JOURNAL_STREAM"}
    if stream:
        env["JOURNAL_STREAM"] = stream
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("DEBUG", str(debug))],
        cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stderr


def test_stderr() -> None:
    assert run(debug=False) == "spice-sessiond: shown: 3\n"


def test_debug_tells_more() -> None:
    assert run(debug=True) == "spice-sessiond: shown: 3\nspice-sessiond: a detail\n"


def test_journal_of_another_descriptor_is_not_ours() -> None:
    # A variable inherited through somebody who redirected stderr: systemd.exec(5).
    assert run(debug=False, stream="1:1") == "spice-sessiond: shown: 3\n"


@pytest.mark.parametrize("debug", [False, True])
def test_journal(
    root_logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    debug: bool,
) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        info = os.fstat(stderr.fileno())
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        logs.set_up(debug=debug)
    handler = root_logger.handlers[-1]
    assert isinstance(handler, JournalHandler)
    assert root_logger.level == (logging.DEBUG if debug else logging.INFO)


def test_fields_reach_the_journal() -> None:
    sent = list[dict[str, object]]()
    handler = JournalHandler(
        sender_function=lambda text, /, **fields: sent.append({"MESSAGE": text, **fields})
    )
    record = logging.LogRecord("sessiond.test", logging.INFO, __file__, 1, "shown", (), None)
    for name in logs.FIELDS:
        setattr(record, name, f"its {name}")
    handler.emit(record)
    [entry] = sent
    assert entry["MESSAGE"] == "shown"
    assert {name: entry[name] for name in logs.FIELDS} == {
        name: f"its {name}" for name in logs.FIELDS
    }
