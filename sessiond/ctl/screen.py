"""Puts a page on stdout: as JSON, as plain text, or, on a terminal, in colour.

``rich`` is loaded only where text is wanted: JSON is for scripts, which call often.
"""

import json
import os
import sys
from io import StringIO
from typing import TYPE_CHECKING, Final

from sessiond.ctl.view import Page, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table as RichTable

FORMATS: Final = ("short", "pretty", "off")
AUTO: Final = "auto"  # -j: for a person when there is one
_ENDLESS: Final = 100_000  # columns: a pipe has no edge to wrap at


class Screen:
    """Stdout, with ``mode`` one of FORMATS, or AUTO."""

    def __init__(self, mode: str = "off", environ: "Mapping[str, str]" = os.environ) -> None:
        is_terminal = sys.stdout.isatty()
        if mode == AUTO:
            mode = "pretty" if is_terminal else "short"
        self.mode = mode
        dull = environ.get("NO_COLOR") or environ.get("TERM") in {"dumb", "unknown"}
        self._has_colour = is_terminal and not dull
        self._is_terminal = is_terminal

    @property
    def is_json(self) -> bool:
        """Whether a script reads."""
        return self.mode != "off"

    def show(self, page: Page) -> None:
        """Print one page."""
        if self.is_json:
            _write(to_json(page.document, pretty=self.mode == "pretty"))
            return
        if page.table and page.table.rows:
            self._show_table(page.table)
        if page.note:
            _write(page.note)

    def _show_table(self, table: Table) -> None:
        from rich.console import Console  # noqa: PLC0415 (see above)

        if self._has_colour:
            Console(highlight=False, force_terminal=True).print(_rich(table))
            return
        text = StringIO()
        width = None if self._is_terminal else _ENDLESS
        plain = Console(file=text, force_terminal=False, color_system=None, width=width)
        plain.print(_rich(table))
        # Cells are filled up to their column's width, the last one too.
        _write("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def to_json(document: object, *, pretty: bool = False) -> str:
    """Return JSON in ASCII, DEL escaped too: nothing in it can steer a terminal."""
    text = json.dumps(document, indent=2 if pretty else None, default=str)
    return text.replace("\x7f", "\\u007f")


def _write(line: str) -> None:
    # A monitor's lines are wanted at once, also through a pipe.
    print(line, flush=True)  # noqa: T201 (this is what the program is for)


def _rich(table: Table) -> "RichTable":
    from rich import table as rich_table  # noqa: PLC0415 (see above)
    from rich.text import Text  # noqa: PLC0415

    has_header = bool(table.header)
    made = rich_table.Table(
        box=None, pad_edge=False, show_header=has_header, collapse_padding=not has_header
    )
    columns = len(table.header or table.rows[0])
    for number in range(columns):
        header = table.header[number] if table.header else ""
        made.add_column(header, justify="right" if number in table.right else "left",
                        overflow="fold")  # fmt: skip
    for row in table.rows:
        # A Text is not read for markup: a user named [red] stays one.
        made.add_row(*(Text(cell.text, style=cell.style.value) for cell in row))
    return made
