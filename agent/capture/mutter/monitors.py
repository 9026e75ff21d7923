"""Where GNOME's monitors are, from what org.gnome.Mutter.DisplayConfig says."""

from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import DisplayError

MAX_LISTED: Final = 64  # monitors, of which fewer may be switched on
_LOGICAL: Final = 1  # layout-mode: positions are divided by the scale


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor that is switched on, and where it is in the picture, in pixels.

    Of monitors that show the same, it is the first.
    """

    connector: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All monitors; ``serial`` is another one whenever anything about them has changed."""

    serial: int
    monitors: tuple[Monitor, ...]


def parse_layout(untrusted_state: list[Any]) -> Layout:
    """Return what GetCurrentState answered. Raises DisplayError.

    Positions count from the left and upper edges of what is shown. Where monitors have different
    scales they lie as far apart as with the largest of these, so that none hides another.
    """
    try:
        serial, _monitors, logical, properties = untrusted_state
        places = [
            (int(x), int(y), float(scale), str(same[0][0]))
            for x, y, scale, _transform, _primary, same, *_ in logical[:MAX_LISTED]
            if same
        ]
        is_logical = properties.get("layout-mode") == _LOGICAL
        scale = max((each[2] for each in places), default=1.0) if is_logical else 1.0
        left = min((each[0] for each in places), default=0)
        top = min((each[1] for each in places), default=0)
        monitors = tuple(
            Monitor(name, round((x - left) * scale), round((y - top) * scale))
            for x, y, _, name in places
        )
        return Layout(int(serial), monitors)
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise DisplayError(f"GNOME says of its monitors what makes no sense: {error!r}") from None
