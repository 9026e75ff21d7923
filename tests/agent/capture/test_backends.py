"""The table of back-ends."""

from contextlib import closing
from importlib.util import find_spec

import pytest

from agent import capture
from agent.capture import NAMES, find_backend
from sessiond.errors import UsageError


@pytest.mark.parametrize("name", NAMES)
def test_back_ends_are_there(name: str) -> None:
    module, _, _ = capture._BACKENDS[name]
    assert find_spec(module)
    assert callable(find_backend(name))


def test_back_end_opens_what_is_named() -> None:
    with closing(find_backend("pattern")("64x48")) as opened:
        assert opened.size == (64, 48)


def test_no_such_back_end() -> None:
    with pytest.raises(
        UsageError,
        match=f"^no capture back-end 'wayland'; there are {', '.join(NAMES)}$",
    ):
        find_backend("wayland")
