"""Where the contract lies: the interfaces' XML that is installed beside the program."""

from typing import Final

from sessiond import data
from sessiond.errors import UsageError
from sessiond.transport.contract import Interface, parse

FILE: Final = "org.spice_space.Sessiond1.xml"
PLACES: Final = (
    *(directory / "dbus" for directory in data.DIRECTORIES),
    data.TREE.parent / "dbus-1/interfaces",  # the Debian package: beside it in /usr/share
)


def find_contract() -> dict[str, Interface]:
    """Return the interfaces by name. Raises UsageError when the file is nowhere."""
    for place in PLACES:
        path = place / FILE
        if path.is_file():
            return parse(path.read_text(encoding="utf-8"))
    raise UsageError(f"{FILE} is in none of {', '.join(map(str, PLACES))}: install it anew")
