"""Where GNOME's monitors are, from what it answers."""

from typing import Any

import pytest

from agent.capture.mutter.monitors import MAX_LISTED, Layout, Monitor, parse_layout
from sessiond.errors import DisplayError

LOGICAL, PHYSICAL = 1, 2


def logical(x: int, y: int, scale: float, *connectors: str) -> list[Any]:
    same = [[name, "vendor", "product", "serial"] for name in connectors]
    return [x, y, scale, 0, False, same, {}]


def state(*monitors: list[Any], mode: int = PHYSICAL) -> list[Any]:
    return [7, [], list(monitors), {"layout-mode": mode}]


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        pytest.param(state(logical(0, 0, 1.0, "A")), [("A", 0, 0)], id="one"),
        pytest.param(state(), [], id="none"),
        pytest.param(
            state(logical(800, 0, 1.0, "A"), logical(0, 40, 1.0, "B")),
            [("A", 800, 0), ("B", 0, 40)],
            id="two",
        ),
        pytest.param(state(logical(0, 0, 1.0, "A", "B")), [("A", 0, 0)], id="mirrored"),
        pytest.param(
            state(logical(-800, 20, 1.0, "A"), logical(0, 10, 1.0, "B")),
            [("A", 0, 10), ("B", 800, 0)],
            id="from the left upper corner on",
        ),
        pytest.param(
            state(logical(0, 0, 2.0, "A"), logical(960, 0, 1.5, "B"), mode=LOGICAL),
            [("A", 0, 0), ("B", 1920, 0)],
            id="scaled",
        ),
        pytest.param(
            state(logical(0, 0, 2.0, "A"), logical(1920, 0, 1.0, "B")),
            [("A", 0, 0), ("B", 1920, 0)],
            id="scaled, placed by pixels",
        ),
        pytest.param(state(logical(0, 0, 1.0)), [], id="of no connector"),
    ],
)
def test_places(answer: list[Any], places: list[tuple[str, int, int]]) -> None:
    assert parse_layout(answer) == Layout(7, tuple(Monitor(*place) for place in places))


def test_no_more_than_the_limit() -> None:
    many = [logical(number, 0, 1.0, str(number)) for number in range(MAX_LISTED + 9)]
    assert len(parse_layout(state(*many)).monitors) == MAX_LISTED


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [1, [], [], []],
        [1, [], [[0, 0]], {}],
        [1, [], [["x", 0, 1.0, 0, True, [["A"]]]], {}],
        [1, [], [[0, 0, float("inf"), 0, True, [["A"]]]], {"layout-mode": LOGICAL}],
        ["x", [], [], {}],
        [1, [], 5, {}],
    ],
)
def test_nonsense(answer: list[Any]) -> None:
    with pytest.raises(DisplayError, match=r"^GNOME says of its monitors what makes no sense: "):
        parse_layout(answer)
