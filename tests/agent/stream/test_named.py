"""The display that the command line or the environment names."""

import argparse
import gc
from collections.abc import Mapping
from contextlib import closing

import pytest

from agent.options import parse
from agent.stream.named import named_opener
from agent.stream.opened import Opened
from sessiond.errors import DisplayError, UsageError

RUNTIME = {"XDG_RUNTIME_DIR": "/nonexistent/1000"}


def options(*argv: str) -> argparse.Namespace:
    return parse(["stream", *argv])


def complaint(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    with pytest.raises(DisplayError) as caught:
        named_opener(options(*argv), environ)()
    return str(caught.value)


def test_opened_by_name() -> None:
    opened = named_opener(options("--capture", "pattern", "--display", "64x48"), {})()
    with closing(opened.capture):
        assert opened == Opened(opened.capture, "option", "64x48", 0, "pattern")


@pytest.mark.parametrize(
    ("argv", "environ", "where"),
    [
        (("--display", ":4711"), {}, "display :4711 "),
        (("--capture", "wlroots", "--display", "/nonexistent/it"), RUNTIME, "/nonexistent/it"),
        (("--capture", "wlroots"), RUNTIME, "/nonexistent/1000/wayland-0"),
        (
            ("--capture", "wlroots"), {**RUNTIME, "WAYLAND_DISPLAY": "wayland-5"},
            "/nonexistent/1000/wayland-5",
        ),
        (("--capture", "wlroots"), {**RUNTIME, "WAYLAND_DISPLAY": "/nonexistent/w"},
         "/nonexistent/w"),
        (("--capture", "mutter"), RUNTIME, "/nonexistent/1000/bus"),
        (("--capture", "mutter", "--display", "/nonexistent/2"), {}, "/nonexistent/2/bus"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # python-xlib's
def test_which_it_is(argv: tuple[str, ...], environ: dict[str, str], where: str) -> None:
    assert where in complaint(argv, environ)
    gc.collect()  # while the warning is ignored


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("wlroots", "--capture wlroots needs --display, or XDG_RUNTIME_DIR to be set"),
        ("mutter", "--capture mutter needs --display, or XDG_RUNTIME_DIR to be set"),
        ("kms", "--capture kms needs the socket of its helper: --kms-fd"),
    ],
)
def test_none_is_named(backend: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^{words}$"):
        named_opener(options("--capture", backend), {"WAYLAND_DISPLAY": "wayland-1"})
