"""The name that goes with a uid, by the user database, which may take its time or hang."""

import asyncio
import functools
import pwd
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport.aside import run_aside

MAX_NAME: Final = 255  # bytes
MAX_HANGING: Final = 64  # look-ups, each of which costs a thread


def name_of(uid: int) -> str:
    """Return the user's name, ``#UID`` where there is no entry. May block: not for the loop."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):  # none, or one of a database that fails
        return f"#{uid}"
    # A name that no line could carry is as good as none.
    return name if name.isprintable() and 0 < len(name.encode()) <= MAX_NAME else f"#{uid}"


class UserNames:
    """Looks names up beside the loop: each uid's once at a time, however many wait for it."""

    def __init__(self) -> None:
        self._asked: dict[int, asyncio.Future[str]] = {}

    def look_up(self, uid: int) -> asyncio.Future[str]:
        """Return what will have the name; it is shared, and not to be cancelled.

        Raises SessiondError where too many look-ups hang.
        """
        if uid not in self._asked:
            if len(self._asked) >= MAX_HANGING:
                raise SessiondError("the user database does not answer")
            lookup = run_aside(functools.partial(name_of, uid))
            self._asked[uid] = lookup
            lookup.add_done_callback(lambda _: self._asked.pop(uid))
        return self._asked[uid]
