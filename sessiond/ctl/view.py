"""What a command has to say, before it is known whether text or JSON is wanted.

Everything that came from outside passes ``safe`` on its way into a cell.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Style(StrEnum):
    """What a cell means; the values are styles of ``rich``."""

    PLAIN = ""
    LABEL = "dim"
    GOOD = "green"
    WARN = "yellow"
    BAD = "red"


@dataclass(frozen=True, slots=True)
class Cell:
    """A text without control characters."""

    text: str
    style: Style = Style.PLAIN


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length; ``right`` are the numbers of the columns that are flush right."""

    rows: tuple[tuple[Cell, ...], ...]
    header: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Page:
    """What a command prints: a value for JSON, or text. ``status`` is its exit status."""

    document: object
    table: Table | None = None
    note: str = ""
    status: int = 0


def facts(*rows: tuple[str, Cell]) -> Table:
    """Return a table of what is so, a label and a value a row."""
    cells = tuple((Cell(f"{label}:", Style.LABEL), value) for label, value in rows)
    return Table(cells, right=frozenset({0}))


def safe(untrusted: object) -> str:
    r"""Return a text in one line for a terminal: what cannot be printed as ``\x1b``.

    That covers escape sequences, line breaks and the marks that turn the direction of writing.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(untrusted)
    )


def moment(usec: int) -> str:
    """Return a time in microseconds since 1970 as a date and the time on this machine's clock."""
    local = _local(usec)
    return f"{local:%Y-%m-%d %H:%M:%S}" if local else f"{usec} us"


def clock(usec: int) -> str:
    """Return the time of day alone, with milliseconds."""
    local = _local(usec)
    return local.time().isoformat("milliseconds") if local else f"{usec} us"


def _local(usec: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(usec / 1e6, UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # 64 bits reach farther than the calendar
        return None


def size(count: int) -> str:
    """Return a number of bytes in a unit that leaves few digits."""
    value, unit = float(count), "bytes"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def yes(value: object) -> str:
    """Return a truth in a word."""
    return "yes" if value else "no"
