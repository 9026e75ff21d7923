"""Makes docs/dbus.md from the contract: ``python -m tests.lint.dbus_reference`` writes it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONTRACT: Final = ROOT / "dbus" / "org.spice_space.Sessiond1.xml"
PAGE: Final = ROOT / "docs" / "dbus.md"
_DOC: Final = "org.gtk.GDBus.DocString"
_EMITS: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"
_TOLD: Final = {"true": "", "const": "constant", "false": "not signalled"}
_HEAD: Final = """\
# The D-Bus interface

Made from `dbus/org.spice_space.Sessiond1.xml` by `make docs`: change that file, not this one.
The name on the system bus is `org.spice_space.Sessiond1`, the root object
`/org/spice_space/Sessiond1`.
"""


def reference() -> str:
    """Return the whole page."""
    root = ET.parse(CONTRACT).getroot()  # noqa: S314 (our own file)
    return "\n".join([_HEAD, *(_interface(it) for it in root.iter("interface"))])


def _interface(element: ET.Element) -> str:
    lines = [f"## {element.attrib['name']}", "", _annotation(element, _DOC), ""]
    properties = list(element.iter("property"))
    if properties:
        lines += ["### Properties", "", "| name | type | | meaning |", "|---|---|---|---|"]
        lines += [_property(it) for it in properties]
        lines.append("")
    for title, tag in (("Methods", "method"), ("Signals", "signal")):
        found = list(element.iter(tag))
        if found:
            lines += [f"### {title}", "", *(_member(it) for it in found)]
    return "\n".join(lines)


def _property(element: ET.Element) -> str:
    notes = [_TOLD[_annotation(element, _EMITS) or "true"]]
    if element.attrib["access"] == "readwrite":
        notes.append("writable")
    name, kind = element.attrib["name"], element.attrib["type"]
    meaning = _annotation(element, _DOC)
    return f"| `{name}` | `{kind}` | {' '.join(filter(None, notes))} | {meaning} |"


def _member(element: ET.Element) -> str:
    arguments = list(element.iter("arg"))
    takes = [_argument(a) for a in arguments if a.get("direction", "in") == "in"]
    gives = [_argument(a) for a in arguments if a.get("direction") == "out"]
    result = f" → {', '.join(gives)}" if gives else ""
    lines = [
        f"**`{element.attrib['name']}({', '.join(takes)}){result}`**",
        "",
        _annotation(element, _DOC),
        "",
    ]
    lines += [f"- `{a.attrib['name']}`: {_annotation(a, _DOC)}" for a in arguments]
    return "\n".join([*lines, ""] if arguments else lines)


def _argument(element: ET.Element) -> str:
    return f"{element.attrib['type']} {element.attrib['name']}"


def _annotation(element: ET.Element, name: str) -> str:
    for found in element.findall("annotation"):
        if found.attrib["name"] == name:
            return " ".join(found.attrib["value"].split())
    return ""


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
