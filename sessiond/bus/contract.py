"""Where the contract lies: the interfaces' XML that is installed beside the program."""

import sys
from pathlib import Path
from typing import Final

from sessiond.errors import UsageError
from sessiond.transport.contract import Interface, parse

FILE: Final = "org.spice_space.Sessiond1.xml"
_INTERFACES: Final = "share/dbus-1/interfaces"
PLACES: Final = (
    Path(__file__).parents[2] / "dbus",  # of the source tree
    Path(sys.prefix, _INTERFACES),
    Path("/usr", _INTERFACES),
)


def find_contract() -> dict[str, Interface]:
    """Return the interfaces by name. Raises UsageError when the file is nowhere."""
    for place in PLACES:
        path = place / FILE
        if path.is_file():
            return parse(path.read_text(encoding="utf-8"))
    raise UsageError(f"{FILE} is in none of {', '.join(map(str, PLACES))}: install it anew")
