"""Where the daemon's words go: systemd's journal with fields where it listens, stderr elsewhere."""

import logging
import os
import sys
from typing import Final

from systemd.journal import JournalHandler

FIELDS: Final = (
    "SESSION", "SESSION_USER", "AGENT_PID", "REASON",
    # of what the host, users' agents and others have asked for (sessiond.users.audit)
    "DIRECTION", "CALLER", "COMMAND", "COMMAND_USER", "COMMAND_ID", "OUTCOME", "DURATION_MS",
    "EXEC_PATH", "EXEC_ARGUMENTS",
)  # fmt: skip
"""What ``extra`` of a log call may hold; each becomes a field of the journal's entry."""


def set_up(*, debug: bool) -> None:
    """Configure logging for the process."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    root.addHandler(_handler())


def _handler() -> logging.Handler:
    # JOURNAL_STREAM says that stderr goes to the journal (systemd.exec(5)); then entries can be
    # sent there with their fields.
    if _is_journal(os.environ.get("JOURNAL_STREAM", "")):
        journal: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER="spice-sessiond")
        journal.setFormatter(logging.Formatter("%(message)s"))
        return journal
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("spice-sessiond: %(message)s"))
    return handler


def _is_journal(stream: str) -> bool:
    info = os.fstat(sys.stderr.fileno())
    return stream == f"{info.st_dev}:{info.st_ino}"
