"""The paths of our objects, escaped as logind's own are."""

import string
from typing import Final

ROOT: Final = "/org/spice_space/Sessiond1"
_PLAIN: Final = frozenset(string.ascii_letters + string.digits)


def session_path(session_id: str) -> str:
    """Return the path of the object of a session; "/" for no session."""
    return f"{ROOT}/session/{escape(session_id)}" if session_id else "/"


def user_path(uid: int) -> str:
    """Return the path of the object of a user's agent."""
    return f"{ROOT}/user/{uid}"


def command_path(number: int) -> str:
    """Return the path of the object of a command."""
    return f"{ROOT}/command/{number}"


def escape(label: str) -> str:
    """Return a label as sd-bus's bus_label_escape() does: other bytes as ``_xx``.

    A digit in front is escaped too, and nothing at all is ``_``.
    """
    data = label.encode()
    parts = [
        chr(byte)
        if chr(byte) in _PLAIN and not (place == 0 and 48 <= byte <= 57)
        else f"_{byte:02x}"
        for place, byte in enumerate(data)
    ]
    return "".join(parts) or "_"
