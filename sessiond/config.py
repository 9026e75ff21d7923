"""The daemon's configuration: the one reader of its command line and its files.

``KEYS`` is the table of all keys, with their types, defaults and meanings; the manual page is held
against it. Later sources win: the defaults, the file, the files of the drop-in folder by name, the
command line.
"""

import argparse
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from sessiond import __version__
from sessiond.errors import UsageError

CONFIG_FILE: Final = Path("/etc/spice-sessiond/config.toml")
MAX_FILE: Final = 1 << 20  # bytes; a configuration has a few hundred

MAX_SOCKET_PATH: Final = 107
"""Bytes: sockaddr_un has room for 108, the NUL at the end among them (unix(7))."""

_BACKENDS: Final = ("x11", "wlroots", "mutter", "kms")
_MAX_ENCODERS: Final = 16  # names, of a handful that there are

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it may be (``allowed`` in words) and what it is for.

    ``is_live``: a new value is followed without a restart.
    """

    default: Value
    check: Callable[[object], Value]
    allowed: str
    meaning: str
    is_live: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


def _assignments(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    if not all(
        name and is_assigned for name, is_assigned, _ in (it.partition("=") for it in texts)
    ):
        raise ValueError
    return texts


def _command(value: object) -> tuple[str, ...]:
    command = _texts(value)
    if not command:
        raise ValueError
    return command


def _encoders(value: object) -> Value:
    if isinstance(value, str):
        return _encoder(value)
    names = _texts(value)
    if not 0 < len(names) <= _MAX_ENCODERS or "auto" in names:
        raise ValueError
    return tuple(map(_encoder, names))


def _encoder(value: object) -> str:
    name = _text(value)
    if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
        raise ValueError
    return name


def _backends(value: object) -> Value:
    if value == "auto":
        return "auto"
    names = _texts(value)
    if not names or len(set(names)) < len(names) or not set(names).issubset(_BACKENDS):
        raise ValueError
    if "kms" in names[:-1]:  # what it shows is never refused: nothing would come after it
        raise ValueError
    return names


def _one_of(*names: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return check


def _abstract(value: object) -> str:
    text = _text(value)
    if not text.startswith("@") or len(text) < 2 or len(text.encode()) > 108:
        raise ValueError  # sockaddr_un has room for 108 bytes, the leading NUL among them
    return text


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or len(text.encode()) > MAX_SOCKET_PATH:
        raise ValueError
    return text


def _file(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError
    return text


def _files(value: object) -> tuple[str, ...]:
    return tuple(_file(text) for text in _texts(value))


def _path_or_none(value: object) -> str:
    return "" if value == "" else _path(value)


def _domain(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 16:
        raise ValueError
    return value


def _channel(value: object) -> str:
    text = _text(value)
    if text != "off":
        _path(text.removeprefix("unix:"))
    return text


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 60:
        raise ValueError
    return float(value)


def _few(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 64:
        raise ValueError
    return value


_BACKENDS_ALLOWED: Final = (
    f'"auto", or a list of different names of {", ".join(_BACKENDS)}, with kms at its end'
)

KEYS: Final[Mapping[str, Key]] = {
    "seat": Key("seat0", _text, "a seat's name", "the seat that is followed"),
    "bus.address": Key(
        "system", _text, '"system" or a D-Bus address', "where login1 is, and where we are found"
    ),
    "bus.name": Key(
        "org.spice_space.Sessiond1", _text, "a bus name", "the name that we are found by"
    ),
    "stream.port": Key(
        "/dev/virtio-ports/org.spice-space.stream.0",
        _text,
        "the path of a character device or a Unix socket",
        "the stream port",
    ),
    "stream.when_idle": Key(
        "placeholder",
        _one_of("placeholder", "close"),
        '"placeholder" or "close"',
        "what a client sees while there is nothing to show: a picture that says why, or nothing",
        is_live=True,
    ),
    "stream.grace": Key(
        1.0,
        _seconds,
        "seconds from 0 to 60",
        "how long the last picture stands while no session is active, as in a login's middle",
        is_live=True,
    ),
    "stream.deny_users": Key(
        (),
        _texts,
        'a list of user names, or of their numbers, such as ["alice", "1001"]',
        "users whose sessions are never shown",
        is_live=True,
    ),
    "stream.codec": Key(
        "auto",
        _encoders,
        '"auto", a name such as "vp8", or a list of names such as ["h264", "vp8"]',
        "what the picture is sent as: mjpeg, and where the line is too slow for it vp8 or vp9; or "
        "the first of these that both sides know",
        is_live=True,
    ),
    "stream.codec_options": Key(
        (),
        _assignments,
        'a list such as ["framerate=30"]',
        "options for the agents' encoders",
        is_live=True,
    ),
    "stream.agent": Key(
        ("spice-session-agent",),
        _texts,
        "a command as a list",
        "what is started as an agent",
        is_live=True,
    ),
    "stream.enabled": Key(
        True, _switch, "true or false", "whether the daemon starts without a pause", is_live=True
    ),
    "agent.keep_warm": Key(
        2,
        _few,
        "a whole number from 0 to 64",
        "how many agents of sessions that were shown before stay, paused, for a quick switch back",
        is_live=True,
    ),
    "capture.order": Key(
        "auto",
        _backends,
        _BACKENDS_ALLOWED,
        "what captures users' sessions: the first of these that the session's type has and that "
        "works",
        is_live=True,
    ),
    "capture.greeter_order": Key(
        "auto",
        _backends,
        _BACKENDS_ALLOWED,
        "the same for greeters and for lock screens that are sessions of their own",
        is_live=True,
    ),
    "capture.console_order": Key(
        "auto",
        _backends,
        _BACKENDS_ALLOWED,
        "the same for text sessions, also with startx, and for virtual terminals without a session",
        is_live=True,
    ),
    "capture.kms": Key(
        "auto",
        _one_of("auto", "all", "off"),
        '"auto", "all" or "off"',
        "whose picture may be read from the graphics card, past what the desktop would say to "
        "that: everybody's but that of users' Wayland sessions of GNOME, of KDE and of no name; "
        "everybody's; nobody's",
        is_live=True,
    ),
    "capture.kms_socket": Key(
        "/run/spice-sessiond/kms.sock",
        _path,
        "the path of a Unix socket",
        "where the helper is that reads the graphics card",
        is_live=True,
    ),
    "capture.cards": Key(
        "/dev/dri",
        _file,
        "an absolute path",
        "the folder that tells whether there is a graphics card",
    ),
    "switch.auto": Key(
        "off",
        _one_of("off", "on-session-end"),
        '"off" or "on-session-end"',
        "whether to bring the greeter or another session to the front when the shown one has ended",
        is_live=True,
    ),
    "switch.delay": Key(
        3.0,
        _seconds,
        "seconds from 0 to 60",
        "how long a display manager has to do that itself",
        is_live=True,
    ),
    "displays.sockets": Key(
        "/tmp/.X11-unix",  # noqa: S108 (where X servers listen)
        _text,
        "a path",
        "the folder of the X servers' sockets; what is new there ends a back-off",
    ),
    "helper.socket": Key(
        "@spice-streaming-agent-daemon",
        _abstract,
        "an abstract socket's name, such as @name",
        "where helpers of the older protocol tell of their displays",
    ),
    "helper.allow_root": Key(
        False, _switch, "true or false", "whether root's helpers are heard, too"
    ),
    "helper.needs_xauthority": Key(
        True, _switch, "true or false", "whether a helper has to name a cookie file"
    ),
    "users.socket": Key(
        "/run/spice-sessiond/agent.sock",
        _path,
        "the path of a Unix socket",
        "where users' agents connect",
    ),
    "users.allow_root": Key(
        False,
        _switch,
        "true or false",
        "whether root may have an agent, too, which then runs what the host wants run as root",
    ),
    "exec.policy": Key(
        "/etc/spice-sessiond/exec.toml",
        _file,
        "an absolute path",
        "the rules of who may run what as whom; the default one need not be there",
        is_live=True,
    ),
    "host_channel": Key(
        "/dev/virtio-ports/org.spice-space.sessiond.0",
        _channel,
        'the path of a character device, "unix:" and the path of a socket to listen on, or "off"',
        "where the host's commands come from",
    ),
    "terminals.watch": Key(
        (), _files, "a list of absolute paths", "terminals of whose new sizes the host hears"
    ),
    "qrexec.domain": Key(
        -1,
        _domain,
        "a whole number from 0 to 65535, or -1 for none",
        "which qrexec domain we are, whose commands users' agents run",
    ),
    "qrexec.socket_dir": Key(
        "/var/run/vchan", _file, "an absolute path", "the folder of the vchan sockets"
    ),
    "qrexec.calls": Key(
        "/run/spice-sessiond/qrexec.sock",
        _path_or_none,
        'the path of a Unix socket, or ""',
        "where programs inside call services of other domains",
    ),
    "vt.active": Key(
        "/sys/class/tty/tty0/active", _text, "a path", "the file that names the VT in front"
    ),
}


@dataclass(frozen=True, slots=True)
class Config:
    """The values in force, by the names of ``KEYS``."""

    values: Mapping[str, Value]
    debug: bool = False
    without_effect: tuple[str, ...] = ()  # options of spice-streaming-agent's that were given

    def flag(self, key: str) -> bool:
        """Return the value of a key that is true or false."""
        return bool(self.values[key])

    def differing(self, other: "Config") -> frozenset[str]:
        """Return the keys that have another value there."""
        return frozenset(key for key in KEYS if self.values[key] != other.values[key])

    def text(self, key: str) -> str:
        """Return the value of a key that holds one text."""
        return str(self.values[key])

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the value of a key that holds a list of texts, or one of them alone."""
        value = self.values[key]
        if isinstance(value, str):
            return (value,)
        assert isinstance(value, tuple)  # noqa: S101 (the table says so)
        return value

    def whole(self, key: str) -> int:
        """Return the value of a key that holds a whole number."""
        value = self.values[key]
        assert isinstance(value, int)  # noqa: S101 (the table says so)
        return value

    def seconds(self, key: str) -> float:
        """Return the value of a key that holds a duration."""
        value = self.values[key]
        assert isinstance(value, float)  # noqa: S101 (the table says so)
        return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the manual page is held against it."""
    parser = _Parser(prog="spice-sessiond", description="Streams the screen of whoever is at the "
                     "seat to the SPICE host.", allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"instead of {CONFIG_FILE} and its drop-ins"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="set one key, in TOML: --set stream.grace=2",
    )  # fmt: skip
    parser.add_argument("-d", "--debug", action="store_true", help="log every message")
    _add_older(parser)
    return parser


def _add_older(parser: argparse.ArgumentParser) -> None:
    """Add the options of spice-streaming-agent: who comes from there has them in a file."""
    older = parser.add_argument_group("as with spice-streaming-agent")
    older.add_argument("-p", "--port", metavar="PATH", help="as --set stream.port='PATH'")
    older.add_argument(
        "-c", "--codec-option", action="append", default=[], metavar="NAME=VALUE",
        help="one more of stream.codec_options",
    )  # fmt: skip
    # Of those without effect it is kept which were given.
    kept: Any = {"dest": "without_effect", "default": [], "help": "without effect"}
    older.add_argument("--log-binary", action="append_const", const="--log-binary", **kept)
    for name, value in (("-l", "FILE"), ("--log-categories", "NAMES"), ("--plugins-dir", "DIR")):
        older.add_argument(name, action="append", type=_always(name), metavar=value, **kept)


def _always(name: str) -> Callable[[str], str]:
    return lambda _value: name


def load(argv: Sequence[str]) -> Config:
    """Return the configuration for this command line.

    Raises UsageError that names the file, the line and the key, and says what is allowed. A file
    that is not there is no error, unless the command line names it.
    """
    options = build_parser().parse_args(argv)
    values: dict[str, Value] = {name: key.default for name, key in KEYS.items()}
    if options.config is None:
        for path in [CONFIG_FILE, *sorted(CONFIG_FILE.with_suffix(".toml.d").glob("*.toml"))]:
            values |= _read(path, required=path != CONFIG_FILE)
    else:
        values |= _read(options.config, required=True)
    if options.port is not None:
        values["stream.port"] = _checked("stream.port", options.port, "--port")
    for setting in options.settings:
        values |= _parse(setting, f"--set {setting}")
    more = [*Config(values).texts("stream.codec_options"), *options.codec_option]
    values["stream.codec_options"] = _checked("stream.codec_options", more, "--codec-option")
    return Config(values, debug=options.debug, without_effect=tuple(options.without_effect))


def _read(path: Path, *, required: bool) -> dict[str, Value]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        if required:
            raise UsageError(f"{path}: no such file") from None
        return {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{path}: over {MAX_FILE} bytes")
    try:
        return _parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error.reason}") from error


def _parse(text: str, source: str) -> dict[str, Value]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}") from error
    values: dict[str, Value] = {}
    for name, value in _flatten(table):
        where = f"{source}{_line_of(name, text)}: {name}"
        if name not in KEYS:
            raise UsageError(f"{where}: there is no such key, only {', '.join(KEYS)}")
        values[name] = _checked(name, value, where)
    return values


def _checked(name: str, value: object, where: str) -> Value:
    try:
        return KEYS[name].check(value)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is not {KEYS[name].allowed}") from None


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _line_of(name: str, text: str) -> str:
    """Return ``:LINE`` of the key, as far as a search can tell: TOML's parser keeps no places."""
    last = name.rpartition(".")[2]
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*([\w.\"-]+\.)?\"?{re.escape(last)}\"?\s*=", line):
            return f":{number}" if "\n" in text else ""
    return ""
