"""What is known of the own session, and how it is told to the person at it. Pure."""

from dataclasses import dataclass
from html import escape
from typing import Final

from sessiond.model import KMS, State

STREAMED: Final = "This screen is being streamed"
_NOT_STREAMED: Final = "This screen is not streamed"
# No desktop says so by itself, as some do where they are asked for their picture.
_FROM_CARD: Final = "Its picture is read from the graphics card: the desktop is not asked."
_PAUSED: Final = "paused-"  # what the codes of Reason for a pause begin with

# Of the freedesktop Icon Naming Specification, so that every theme has them.
_ICON: Final = "video-display"
_ICON_STREAMED: Final = "media-record"
_ICON_PAUSED: Final = "media-playback-pause"

_HEADLINES: Final = {
    State.PAUSED: "The streaming is paused",
    State.NO_PORT: "This machine has no stream port",
    State.NO_SESSION: _NOT_STREAMED,
    State.BACK_OFF: "The streaming has failed",
    State.IDLE: "Nobody watches this screen",
    State.STARTING: "The streaming is starting",
    State.STREAMING: STREAMED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the daemon says: ``state``, ``text`` and ``is_enabled`` of the seat, the rest of us.

    ``backend`` is what captures us, "" for nothing.

    Without ``is_there`` there is no daemon; with an empty ``path`` it does not know our session.
    """

    is_there: bool = False
    state: str = ""
    text: str = ""
    is_enabled: bool = True
    path: str = ""
    is_active: bool = False
    is_shown: bool = False
    reason: str = ""
    backend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is told: one line, an explanation, and what can be done.

    ``is_shown``: the screen is being streamed. ``is_worth_seeing``: the icon is not put away.
    ``is_paused``: what can be done is to resume, if ``can_change``.
    """

    headline: str
    text: str
    icon: str = _ICON
    is_shown: bool = False
    is_worth_seeing: bool = False
    is_paused: bool = False
    can_change: bool = False


def describe(facts: Facts) -> View:
    """Return what is told of the facts."""
    if not facts.is_there:
        return View(headline=_NOT_STREAMED, text="spice-sessiond is not running.")
    if not facts.path:
        return View(headline=_NOT_STREAMED, text="spice-sessiond does not know this session.")
    is_paused = facts.reason.startswith(_PAUSED)
    return View(
        headline=_headline(facts, is_paused=is_paused),
        text=_text(facts),
        icon=_icon(is_shown=facts.is_shown, is_paused=is_paused),
        is_shown=facts.is_shown,
        # Put away while paused, it could not be used to resume.
        is_worth_seeing=facts.is_shown or is_paused,
        is_paused=is_paused,
        # While everything is paused, this session's own pause changes nothing.
        can_change=facts.is_enabled,
    )


def tooltip_text(view: View) -> str:
    """Return the explanation as the markup that a tooltip of a StatusNotifierItem is."""
    return escape(view.text, quote=False)


def menu_text(text: str) -> str:
    """Return a text as the label of a menu, where an underscore marks the key to press."""
    return text.replace("_", "__")


def _text(facts: Facts) -> str:
    if not facts.is_active:
        return "Another session is in front."
    return f"{facts.text} {_FROM_CARD}" if facts.is_shown and facts.backend == KMS else facts.text


def _headline(facts: Facts, *, is_paused: bool) -> str:
    if facts.is_shown:
        return STREAMED
    if is_paused:
        return _HEADLINES[State.PAUSED]
    # The seat may be streaming already when we have not heard yet that it is this session.
    if not facts.is_active or facts.state == State.STREAMING or facts.state not in set(State):
        return _NOT_STREAMED
    return _HEADLINES[State(facts.state)]


def _icon(*, is_shown: bool, is_paused: bool) -> str:
    if is_shown:
        return _ICON_STREAMED
    return _ICON_PAUSED if is_paused else _ICON
