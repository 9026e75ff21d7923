"""Paths of sessions: what logind's own escaping gives, for every id."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.bus.paths import ROOT, escape, session_path

# A path's element, after the D-Bus specification, "Valid Object Paths".
ELEMENT = re.compile(r"[A-Za-z0-9_]+")
KNOWN = {
    "": "_",
    "3": "_33",
    "12": "_312",
    "c1": "c1",
    "c12": "c12",
    "a-b": "a_2db",
    "a_b": "a_5fb",
    "_": "_5f",
    "A9Z": "A9Z",
    " 1": "_201",
    "/": "_2f",
    "ä": "_c3_a4",
    "٣": "_d9_a3",  # a digit elsewhere
}


@pytest.mark.parametrize(("label", "escaped"), KNOWN.items())
def test_escaped_as_logind_does(label: str, escaped: str) -> None:
    assert escape(label) == escaped


def by_definition(label: str) -> str:
    """As the manual page sd_bus_path_encode(3) says it."""
    text = label.encode().decode("latin-1")
    text = re.sub("[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", text)
    text = re.sub("^[0-9]", lambda found: f"_{ord(found[0]):02x}", text)
    return text or "_"


@given(st.text())
def test_every_label_is_one_element_and_comes_back(label: str) -> None:
    escaped = escape(label)
    assert escaped == by_definition(label)
    assert ELEMENT.fullmatch(escaped)
    back = re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), escaped)
    assert (back if label else "") == label.encode().decode("latin-1")


def test_path_of_a_session_and_of_none() -> None:
    assert session_path("3") == f"{ROOT}/session/_33"
    assert session_path("c1") == f"{ROOT}/session/c1"
    assert session_path("") == "/"
