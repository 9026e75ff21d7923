"""The icon: one StatusNotifierItem."""

from collections.abc import Mapping
from typing import Any, Final

from sessiond.indicator.contract import ITEM
from sessiond.indicator.view import View, tooltip_text

PATH: Final = "/StatusNotifierItem"  # where every host looks
MENU_PATH: Final = "/MenuBar"
_ID: Final = "spice-session-indicator"


class Item:
    """An adapter: ``view`` is what it shows."""

    interface = ITEM

    def __init__(self, view: View) -> None:
        self.view = view

    def properties(self) -> Mapping[str, Any]:
        """Return all of them, as they are now."""
        view = self.view
        return {
            "Category": "SystemServices",
            "Id": _ID,
            "Title": view.headline,
            "Status": "Active" if view.is_worth_seeing else "Passive",
            "WindowId": 0,
            "IconName": view.icon,
            "IconThemePath": "",
            "OverlayIconName": "",
            "AttentionIconName": "",
            "ToolTip": [view.icon, [], view.headline, tooltip_text(view)],
            "ItemIsMenu": True,
            "Menu": MENU_PATH,
        }
