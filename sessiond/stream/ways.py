"""What has failed, and which of two ways each session is captured by next.

The user's own agent comes first. Where it finds nothing that it may capture, and the session's
route has "kms", an agent of nobody's takes its place at once, with what a KMS helper gives it. What
the first one has said is remembered, and looked at again: after an event that may have changed it,
and a few times anyway, for a session begins before its compositor does. Where both have failed, the
next try begins with the first.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from sessiond.model import KMS, Reason, Session
from sessiond.stream.trouble import Troubles

log = logging.getLogger(__name__)

FIRST_LOOK: Final = 2.0  # seconds; most desktops are there by then
_NO_DISPLAY: Final = frozenset({
    Reason.NO_DISPLAY_FOUND, Reason.DISPLAY_REFUSED, Reason.TYPE_UNSUPPORTED,
})  # fmt: skip

Route = Sequence[str]
"""Names of back-ends, the first to be tried first; "kms" is the last."""


class Ways:
    """The failures by agents' keys.

    ``on_due()`` is called when one is to be tried again. ``look(session, seen)`` finds out whether
    there is something for the user's agent of a session whose picture comes from the graphics card,
    and calls ``seen`` with that later; ``on_found(key)`` is called where there is.
    """

    def __init__(
        self,
        look: Callable[[Session, Callable[[bool], None]], None],
        on_found: Callable[[str], None],
        on_due: Callable[[], None],
    ) -> None:
        self._look = look
        self._on_found = on_found
        self._failed = Troubles(on_due)
        self._refused = Troubles(on_due, first=FIRST_LOOK)  # of users' agents, with another way
        self._looking: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._failed

    def is_waiting(self, key: str) -> bool:
        """Whether it has failed and is not to be tried yet."""
        return self._failed.is_waiting(key)

    def explain(self, key: str, remedy: str = "") -> tuple[Reason | None, str]:
        """Return why it has failed; None and "" if it did not.

        ``remedy`` ends the text where there was nothing that could be captured.
        """
        reason, text = self._failed.explain(key)
        return (reason, _joined(text, remedy)) if reason in _NO_DISPLAY else (reason, text)

    def refusal(self, key: str) -> str:
        """Return what its user's agent has said, as a sentence; "" where the card is all it has."""
        _, text = self._refused.explain(key)
        return f"{text.rstrip('.')}." if text else ""

    def next_try(self) -> float:
        """Return the time of the next try in seconds since 1970, 0 when none is due."""
        return self._failed.next_try()

    def next_backends(self, key: str, route: Route) -> tuple[str, ...]:
        """Return what the agent to be started may capture by: all but "kms", or that alone."""
        own = tuple(name for name in route if name != KMS)
        if KMS in route and (not own or self._refused.is_waiting(key)):
            return (KMS,)
        return own

    def may_read(self, key: str, route: Route) -> bool:
        """Whether the card is, or still is, what an agent to be started may capture by."""
        return KMS in route and (len(route) == 1 or key in self._refused)

    def fail(self, key: str, reason: Reason, text: str, *, is_probe: bool = False) -> None:
        """Take note of a failure that leaves no other way. A probe is given up in the end."""
        text = _joined(self._refused.explain(key)[1], text)
        self._refused.forgive([key])
        self._failed.add(key, reason, text, is_probe=is_probe)

    def rest(self, key: str, reason: Reason, text: str) -> None:
        """Take note likewise of what only an event can change."""
        self._failed.rest(key, reason, text)

    def refuse(
        self, key: str, route: Route, reason: Reason, text: str, *, is_lost: bool = False
    ) -> bool:
        """Take note of why a user's agent has ended; return whether the other way is left.

        What is not there is looked for again some times, and so is what was there and is lost; what
        was refused waits for an event.
        """
        if KMS not in route or reason not in _NO_DISPLAY:
            return False
        if self._refused.explain(key) != (reason, text):
            log.info("session %s is read from the graphics card (%s): %s", key, reason, text)
        if is_lost or reason is Reason.NO_DISPLAY_FOUND:
            self._refused.add(key, reason, text, is_probe=True)
        else:
            self._refused.rest(key, reason, text)
        return True

    def recover(self, key: str, *, is_kms: bool) -> None:
        """Take note that its agent works."""
        self._failed.recover(key)
        if not is_kms:
            self._refused.recover(key)

    def look_again(self, session: Session) -> None:
        """See, where that is due, whether this session's own agent would find something now.

        What is shown meanwhile is not disturbed for nothing.
        """
        key = session.id
        is_due = key in self._refused and not self._refused.is_waiting(key)
        if is_due and key not in self._looking:
            self._looking.add(key)
            self._look(session, lambda is_there: self._seen(key, is_there=is_there))

    def _seen(self, key: str, *, is_there: bool) -> None:
        self._looking.discard(key)
        reason, text = self._refused.explain(key)
        if is_there:
            self._on_found(key)
        elif reason:
            self._refused.add(key, reason, text, is_probe=True)

    def follow(self, before: Mapping[str, Session], now: Mapping[str, Session]) -> None:
        """Forget who is gone; try again soon for whom something is new."""
        for troubles in (self._failed, self._refused):
            troubles.forgive(troubles.keys() - now.keys())
        self._failed.hurry(key for key, it in now.items() if it != before.get(key))
        self._refused.hurry(
            key for key, it in now.items() if key in before and _may_matter(before[key], it)
        )

    def on_record(self, key: str) -> None:
        """Try this user's agent soon: it has a display, by a helper's word."""
        self._failed.hurry([key])
        self._refused.forgive([key])

    def on_new_display(self, sessions: Mapping[str, Session]) -> None:
        """Try again soon where no display was found: an X server has come somewhere."""
        self._failed.hurry(self._failed.because(_NO_DISPLAY))
        self._refused.hurry(key for key, it in sessions.items() if it.type in {"tty", "x11"})

    def forgive(self, keys: Iterable[str]) -> None:
        """Forget what was."""
        for key in keys:
            self._failed.forgive([key])
            self._refused.forgive([key])

    def close(self) -> None:
        """Try nobody again."""
        self.forgive(self._failed.keys() | self._refused.keys())


def _may_matter(before: Session, now: Session) -> bool:
    """Whether a session may have a display, or leave to capture it, that it did not have."""
    is_unlocked = before.locked and not now.locked
    return is_unlocked or (before.type, before.display) != (now.type, now.display)


def _joined(first: str, second: str) -> str:
    """Return two texts as sentences; an agent's words are only a clause, most often."""
    if not (first and second):
        return first or second
    return f"{first.rstrip('.')}. {second}"
