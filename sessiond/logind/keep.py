"""What of the pauses outlives a restart of the daemon: all, for as long as their sessions do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sessiond.logind.decide import Pause
from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import PAUSES, Memo

# logind has 8192 sessions at most, unless told otherwise, and a pause takes some 60 bytes.
_PAUSES: Final = Memo(PAUSES, version=1, max_size=1 << 20)


@dataclass(frozen=True, slots=True)
class KeptPause:
    """A session that was paused; ``since`` is its beginning, as logind has it."""

    session: str
    since: int
    pause: Pause


def describe_pauses(kept: Sequence[KeptPause]) -> dict[str, OwnedFd]:
    """Return what is to be stored, by its name."""
    content = [[it.session, it.since, it.pause.name] for it in kept]
    return {PAUSES: _PAUSES.write(content)} if content else {}


def restore_pauses(stored: dict[str, OwnedFd]) -> list[KeptPause]:
    """Take out what ``describe_pauses`` gave."""

    def decode(pauses: Any) -> list[KeptPause]:  # noqa: ANN401 (as it was stored)
        return [KeptPause(str(session), int(since), Pause[by]) for session, since, by in pauses]

    return _PAUSES.read(stored, decode) or []
