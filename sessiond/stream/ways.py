"""What has failed, and which of two ways each session is captured by next.

The user's own agent comes first. Where it finds nothing that it may capture, and the session's
route has "kms", an agent of nobody's takes its place at once, with what a KMS helper gives it.
Where both have failed, the next try begins with the first.

The card is left for an X server or a compositor that was not there when the user's agent first
failed, a few times if need be, for they are there before they are ready. For what was there it is
left only when the agent had a display and has lost it, or the session is unlocked or gets another
type or display, and then once; nothing is looked for while it is locked.
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

Signs = frozenset[str]
"""What there is that a user's agent may capture, such as a compositor, each by a name of its own.

One that has ended and was started again has another name.
"""


class Ways:
    """The failures by agents' keys.

    ``on_due()`` is called when one is to be tried again. ``look(session, seen)`` finds out what
    there is for the user's agent of a session whose picture comes from the graphics card, and calls
    ``seen`` with that later; ``on_found(key)`` is called where there is a reason to try it.
    """

    def __init__(
        self,
        look: Callable[[Session, Callable[[Signs], None]], None],
        on_found: Callable[[str], None],
        on_due: Callable[[], None],
    ) -> None:
        self._look = look
        self._on_found = on_found
        self._failed = Troubles(on_due)
        self._refused = Troubles(on_due, first=FIRST_LOOK)  # of users' agents, with another way
        self._known: dict[str, Signs] = {}  # what the card is not to be left for
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
        self._forget_refusals([key])
        self._failed.add(key, reason, text, is_probe=is_probe)

    def rest(self, key: str, reason: Reason, text: str) -> None:
        """Take note likewise of what only an event can change."""
        self._failed.rest(key, reason, text)

    def refuse(
        self,
        key: str,
        route: Route,
        reason: Reason,
        text: str,
        *,
        there: Signs = frozenset(),
        is_lost: bool = False,
    ) -> bool:
        """Take note of why a user's agent has ended; return whether the other way is left.

        ``there`` is what there was when it was started. What it has not found is looked for some
        times, for a session begins before its compositor does, and so is what it has had and
        ``is_lost``; what was refused waits for an event.
        """
        if KMS not in route or reason not in _NO_DISPLAY:
            return False
        if self._refused.explain(key) != (reason, text):
            log.info("session %s is read from the graphics card (%s): %s", key, reason, text)
        if is_lost or reason is Reason.NO_DISPLAY_FOUND:
            is_next = self._refused.add(key, reason, text, is_probe=True)
        else:
            is_next = False
            self._refused.rest(key, reason, text)
        if is_lost:
            self._known.pop(key, None)
        elif key not in self._known or not is_next:
            self._known[key] = there
        return True

    def recover(self, key: str, *, is_kms: bool) -> None:
        """Take note that its agent works."""
        self._failed.recover(key)
        if not is_kms:
            self._refused.recover(key)
            self._known.pop(key, None)

    def look_again(self, session: Session) -> None:
        """See, where that is due, whether there is something new for this session's own agent.

        What is shown meanwhile goes on.
        """
        key = session.id
        is_due = key in self._refused and not self._refused.is_waiting(key)
        if is_due and not session.locked and key not in self._looking:
            self._looking.add(key)
            self._look(session, lambda there: self._seen(key, there))

    def _seen(self, key: str, there: Signs) -> None:
        self._looking.discard(key)
        if there - self._known.get(key, frozenset()):
            self._on_found(key)
        else:
            self._refused.look_later(key)

    def follow(self, before: Mapping[str, Session], now: Mapping[str, Session]) -> None:
        """Forget who is gone; try again soon for whom something is new."""
        self._failed.forgive(self._failed.keys() - now.keys())
        self._forget_refusals(self._refused.keys() - now.keys())
        self._failed.hurry(key for key, it in now.items() if it != before.get(key))
        changed = [key for key, it in now.items() if key in before and _may_matter(before[key], it)]
        self._refused.hurry(changed)
        for key in changed:
            self._known.pop(key, None)

    def on_record(self, key: str) -> None:
        """Try this user's agent soon: it has a display, by a helper's word."""
        self._failed.hurry([key])
        self._forget_refusals([key])

    def on_new_display(self, sessions: Mapping[str, Session]) -> None:
        """Look again soon where no display was found: an X server has come somewhere.

        Every user can have us think so, by the thousand.
        """
        self._failed.hurry(self._failed.because(_NO_DISPLAY))
        keys = [key for key, it in sessions.items() if it.type in {"tty", "x11"}]
        self._refused.hurry(keys, by_anybody=True)

    def forgive(self, keys: Iterable[str]) -> None:
        """Forget what was."""
        for key in keys:
            self._failed.forgive([key])
            self._forget_refusals([key])

    def close(self) -> None:
        """Try nobody again."""
        self.forgive(self._failed.keys() | self._refused.keys())

    def _forget_refusals(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._refused.forgive([key])
            self._known.pop(key, None)


def _may_matter(before: Session, now: Session) -> bool:
    """Whether a session may have a display, or leave to capture it, that it did not have."""
    is_unlocked = before.locked and not now.locked
    return is_unlocked or (before.type, before.display) != (now.type, now.display)


def _joined(first: str, second: str) -> str:
    """Return two texts as sentences; an agent's words are only a clause, most often."""
    if not (first and second):
        return first or second
    return f"{first.rstrip('.')}. {second}"
