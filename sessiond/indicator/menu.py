"""The icon's menu, as com.canonical.dbusmenu serves it: what is so, and one thing to do.

To pause and to resume are two entries of which one is visible, so that a click means what the
person saw, whatever has changed since.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sessiond.errors import RequestError
from sessiond.indicator.contract import MENU
from sessiond.indicator.view import View, menu_text
from sessiond.transport.dbus import Variant
from sessiond.transport.objects import Caller

ROOT: Final = 0  # the menu itself
LINE: Final = 1
PAUSE: Final = 2
RESUME: Final = 3
REVISION: Final = 1  # of the layout: which entries there are never changes
_VERSION: Final = 3  # of the protocol
_INVALID: Final = "org.freedesktop.DBus.Error.InvalidArgs"

Entries = Mapping[int, Mapping[str, Variant]]
"""The properties of each entry."""


class Menu:
    """Shows ``view``; ``on_order(enabled)`` is called when a person pauses or resumes."""

    interface = MENU

    def __init__(self, view: View, on_order: Callable[[bool], None]) -> None:
        self._on_order = on_order
        self._view = view
        self._entries = _entries(view)

    def show(self, view: View) -> list[list[Any]]:
        """Show another; return what differs, each entry's id and its properties."""
        before, self._view, self._entries = self._entries, view, _entries(view)
        differing = (
            (entry, {name: value for name, value in now.items() if before[entry][name] != value})
            for entry, now in self._entries.items()
            if entry != ROOT
        )
        return [[entry, news] for entry, news in differing if news]

    def properties(self) -> Mapping[str, Any]:
        """Return all of them."""
        return {
            "Version": _VERSION,
            "TextDirection": "ltr",
            "Status": "normal",
            "IconThemePath": [],
        }

    def GetLayout(  # noqa: N802
        self, _caller: Caller, parent: int, depth: int, names: Sequence[str]
    ) -> tuple[int, list[Any]]:
        """Return the revision and an entry with those below it."""
        children: list[Variant] = []
        if parent == ROOT and depth:
            below = (entry for entry in self._entries if entry != ROOT)
            children = [Variant("(ia{sv}av)", [e, self._chosen(e, names), []]) for e in below]
        return REVISION, [parent, self._chosen(parent, names), children]

    def GetGroupProperties(  # noqa: N802
        self, _caller: Caller, entries: Sequence[int], names: Sequence[str]
    ) -> list[list[Any]]:
        """Return the properties of some entries, of all for none; what is not there is left out."""
        wanted = entries or list(self._entries)
        return [[entry, self._chosen(entry, names)] for entry in wanted if entry in self._entries]

    def GetProperty(self, _caller: Caller, entry: int, name: str) -> Variant:  # noqa: N802
        """Return one property."""
        found = self._entry(entry).get(name)
        if found is None:
            raise RequestError(_INVALID, f"entry {entry} has no property {name}")
        return found

    def Event(  # noqa: N802
        self, _caller: Caller, entry: int, event: str, _data: object, _time: int
    ) -> None:
        """Take that an entry was clicked; that it was hovered or opened means nothing."""
        self._entry(entry)
        is_usable = self._view.can_change and entry in {PAUSE, RESUME}
        if event == "clicked" and is_usable:
            self._on_order(entry == RESUME)

    def EventGroup(self, caller: Caller, events: Sequence[Sequence[Any]]) -> list[int]:  # noqa: N802
        """Take several; return the ids that there are not."""
        for entry, event, data, time in events:
            if entry in self._entries:
                self.Event(caller, entry, event, data, time)
        return self._missing(event[0] for event in events)

    def AboutToShow(self, _caller: Caller, entry: int) -> bool:  # noqa: N802
        """Return whether it has to be read anew: never, since changes are told."""
        self._entry(entry)
        return False

    def AboutToShowGroup(  # noqa: N802
        self, _caller: Caller, entries: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Return which have to be read anew, and which there are not."""
        return [], self._missing(entries)

    def _missing(self, entries: Iterable[int]) -> list[int]:
        return [entry for entry in entries if entry not in self._entries]

    def _entry(self, entry: int) -> Mapping[str, Variant]:
        if entry not in self._entries:
            raise RequestError(_INVALID, f"there is no entry {entry}")
        return self._entries[entry]

    def _chosen(self, entry: int, names: Sequence[str]) -> dict[str, Variant]:
        """Return the properties of those names, all for none."""
        found = self._entry(entry).items()
        return {name: value for name, value in found if not names or name in names}


def _entries(view: View) -> Entries:
    is_paused = view.is_paused
    return {
        ROOT: {"children-display": Variant("s", "submenu")},
        LINE: _entry(view.headline, is_enabled=False),
        PAUSE: _entry("Pause streaming", is_enabled=view.can_change, is_visible=not is_paused),
        RESUME: _entry("Resume streaming", is_enabled=view.can_change, is_visible=is_paused),
    }


def _entry(label: str, *, is_enabled: bool, is_visible: bool = True) -> dict[str, Variant]:
    return {
        "label": Variant("s", menu_text(label)),
        "enabled": Variant("b", is_enabled),
        "visible": Variant("b", is_visible),
    }
