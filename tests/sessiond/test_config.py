"""Configuration: the sources, their order, and errors that say where."""

from pathlib import Path

import pytest

from sessiond.config import KEYS, MAX_FILE, load
from sessiond.errors import UsageError


def test_defaults_pass_their_own_checks() -> None:
    for name, key in KEYS.items():
        value = list(key.default) if isinstance(key.default, tuple) else key.default
        assert key.check(value) == key.default, name


def test_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('seat = "seat1"\n[stream]\ngrace = 2\ndeny_users = ["eve"]\n')
    config = load(["--config", str(file), "--set", "stream.grace=0.5", "-d"])
    assert config.text("seat") == "seat1"
    assert config.seconds("stream.grace") == 0.5
    assert config.texts("stream.deny_users") == ("eve",)
    assert config.whole("agent.keep_warm") == 2
    assert config.debug


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[stream]\n\ngrace = 'x'\n", r"config.toml:3: stream.grace: 'x' is not seconds from 0"),
        ("[stream]\ngrace = 61\n", r"config.toml:2: stream.grace: 61 is not"),
        ("[stream]\ngrace = true\n", r"config.toml:2: stream.grace: True is not"),
        (
            "[agent]\nkeep_warm = -1\n",
            r":2: agent.keep_warm: -1 is not a whole number from 0 to 64",
        ),
        ("[agent]\nkeep_warm = true\n", r":2: agent.keep_warm: True is not a whole number"),
        ("seat = 5\n", r"config.toml:1: seat: 5 is not a seat's name"),
        ("[stream]\nno_such = 1\n", r"config.toml:2: stream.no_such: there is no such key, only"),
        ("[stream]\nwhen_idle = 'dance'\n", r":2: .*not \"placeholder\" or \"close\""),
        ("[stream]\nagent = 'agent'\n", r":2: stream.agent: 'agent' is not a command as a list"),
        ("[users]\nsocket = 'agent.sock'\n", r":2: users.socket: .* not the path of a Unix socket"),
        (f"[users]\nsocket = '/{107 * 'a'}'\n", r":2: users.socket: .* not the path of a Unix"),
        ("[users]\nallow_root = 1\n", r":2: users.allow_root: 1 is not true or false"),
        ("host_channel = 'unix:here'\n", r"config.toml:1: host_channel: 'unix:here' is not the"),
        ("host_channel = 'no'\n", r"config.toml:1: host_channel: 'no' is not the path of a char"),
        ("host_channel = false\n", r"config.toml:1: host_channel: False is not .* or \"off\""),
        ("seat = \n", r"config.toml: Invalid value \(at line 1"),
        ("seat = '\xff'".encode("latin-1"), r"config.toml: not UTF-8"),
        (b"#" * (MAX_FILE + 1), r"config.toml: over"),
    ],
)
def test_error_says_file_line_key_and_what_is_allowed(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words) as caught:
        load(["--config", str(file)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "place", ["/dev/virtio-ports/x", "unix:/run/x.sock", "off", f"unix:/{106 * 'a'}"]
)
def test_place_of_the_host_channel(place: str) -> None:
    config = load(["--config", "/dev/null", "--set", f'host_channel="{place}"'])
    assert config.text("host_channel") == place


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("'auto'", ("auto",)),
        ("'vp8'", ("vp8",)),
        ("['h264', 'my.codec-2']", ("h264", "my.codec-2")),
    ],
)
def test_codecs(value: str, names: tuple[str, ...]) -> None:
    config = load(["--config", "/dev/null", "--set", f"stream.codec={value}"])
    assert config.texts("stream.codec") == names


@pytest.mark.parametrize("value", ["''", "[]", "['auto', 'vp8']", "'vp8,vp9'", "[1]", "true"])
def test_codecs_that_are_none(value: str) -> None:
    with pytest.raises(UsageError, match=r'stream\.codec: .* is not "auto", a name'):
        load(["--config", "/dev/null", "--set", f"stream.codec={value}"])


@pytest.mark.parametrize(
    ("value", "names"), [("'auto'", ("auto",)), ("['wlroots', 'kms']", ("wlroots", "kms"))]
)
@pytest.mark.parametrize("key", ["order", "greeter_order", "console_order"])
def test_back_ends(key: str, value: str, names: tuple[str, ...]) -> None:
    config = load(["--config", "/dev/null", "--set", f"capture.{key}={value}"])
    assert config.texts(f"capture.{key}") == names


@pytest.mark.parametrize(
    "value", ["'x11'", "[]", "['auto']", "['xwayland']", "['kms', 'x11']", "['x11', 'x11']", "[1]"]
)
def test_back_ends_that_are_none(value: str) -> None:
    with pytest.raises(UsageError, match=r'capture\.order: .* is not "auto", or a list of .* kms'):
        load(["--config", "/dev/null", "--set", f"capture.order={value}"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "/nowhere/at/all"], "/nowhere/at/all: no such file"),
        (["--config", "/"], "/: cannot be read"),
        (["--set", "seat"], "--set seat:"),
        (["--set", "seat=5"], "--set seat=5: seat: 5 is not"),
        (["--port", ""], "--port: '' is not the path of a character device or a Unix socket"),
        (["-c", "quality"], r"--codec-option: \['quality'\] is not a list such as"),
        (["-c", "=1"], r"--codec-option: \['=1'\] is not"),
        (["--what"], "unrecognized arguments: --what; see spice-sessiond --help"),
    ],
)
def test_command_line_that_is_wrong(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(argv)


def test_options_of_the_older_program(tmp_path: Path) -> None:
    """What $SPICE_STREAMING_EXTRA_ARGS may hold on a machine that had spice-streaming-agent."""
    file = tmp_path / "config.toml"
    file.write_text('stream.port = "/dev/one"\nstream.codec_options = ["quality=70"]\n')
    older = ["-p", "/dev/two", "-c", "framerate=20", "-c", "gst.codec=vp8", "-d"]
    ignored = ["-l", "frames", "--log-binary", "--log-categories=frames", "--plugins-dir=/opt"]
    config = load(["--config", str(file), *older, *ignored])
    assert config.text("stream.port") == "/dev/two"
    assert config.texts("stream.codec_options") == ("quality=70", "framerate=20", "gst.codec=vp8")
    assert config.debug
    given = {"-l", "--log-binary", "--log-categories", "--plugins-dir"}
    assert set(config.without_effect) == given
    assert load(["--config", str(file)]).without_effect == ()
