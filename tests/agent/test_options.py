"""The command line."""

import re

import pytest

from agent.encode.jpeg import JpegEncoder
from agent.options import STREAM_PORT, codec_options, parse
from sessiond import __version__
from sessiond.errors import UsageError


def test_defaults() -> None:
    options = parse(["stream"])
    assert (options.port, options.display, options.capture) == (STREAM_PORT, "", "")
    assert (options.codec, options.codec_option, options.plugins_dir) == ("", [], [])
    assert (options.log_file, options.log_binary, options.log_categories) == ("", False, "")
    assert not options.debug


def test_upstreams_letters() -> None:
    codec = ["-c", "framerate=5", "-c", "quality=9"]
    options = parse(["stream", "-p", "/p", *codec, "-l", "/l", "--log-binary", "-d"])
    assert (options.port, options.log_file, options.log_binary) == ("/p", "/l", True)
    assert options.codec_option == ["framerate=5", "quality=9"]
    assert options.debug


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["watch"],
        ["stream", "--capture", "wayland"],
        ["stream", "--port"],
        ["stream", "--disp=:1"],
        ["stream", "more"],
    ],
)
def test_wrong_command_line(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*; see spice-session-agent.* --help$"):
        parse(argv)


@pytest.mark.parametrize(
    ("argv", "text"),
    [(["--version"], __version__), (["--help"], "COMMAND"), (["stream", "--help"], STREAM_PORT)],
)
def test_answers_that_end_the_process(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        parse(argv)
    assert status.value.code == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("assignments", "framerate", "quality"),
    [
        ([], 30, 80),
        (["framerate=100"], 100, 80),
        (["quality=1"], 30, 1),
        (["mjpeg.quality=99"], 30, 99),
        (["quality=5", "quality=6"], 30, 6),
        (["framerate=007"], 7, 80),
    ],
)
def test_codec_options(assignments: list[str], framerate: int, quality: int) -> None:
    assert codec_options(assignments, [JpegEncoder]) == (
        framerate,
        {"quality": quality, "min-quality": 100},
    )


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("speed=1", "there is no 'speed', only framerate, min-quality, quality"),
        ("=1", "there is no '', only framerate, min-quality, quality"),
        ("framerate", "not a whole number from 1 to 100"),
        ("framerate=", "not a whole number from 1 to 100"),
        ("framerate=0", "not a whole number from 1 to 100"),
        ("framerate=101", "not a whole number from 1 to 100"),
        ("framerate=-1", "not a whole number from 1 to 100"),
        ("framerate=1.5", "not a whole number from 1 to 100"),
        ("framerate=\u0661", "not a whole number from 1 to 100"),
        ("quality=" + "9" * 5000, "not a whole number from 1 to 100"),
    ],
)
def test_wrong_codec_option(assignment: str, complaint: str) -> None:
    expected = re.escape(f"codec option {assignment!r}: {complaint}")
    with pytest.raises(UsageError, match=f"^{expected}$"):
        codec_options([assignment], [JpegEncoder])
