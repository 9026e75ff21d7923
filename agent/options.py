"""The command line of ``spice-session-agent``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from agent.capture import NAMES
from agent.encode.base import Encoder, IntOption
from sessiond import __version__
from sessiond.errors import UsageError
from sessiond.model import TerminalSize
from sessiond.transport.handover_options import add_terminal_options
from sessiond.transport.terminal import MOST

STREAM_PORT: Final = "/dev/virtio-ports/org.spice-space.stream.0"
SOCKET: Final = "/run/spice-sessiond/agent.sock"
QREXEC_SOCKET: Final = "/var/run/qubes/qrexec-agent"
FRAMERATE: Final = IntOption(1, 100, 30)
_MAX_DIGITS: Final = 10
_LINK_HELP: Final = "inherited stream socket to spice-sessiond, which starts us with it"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as UsageError, in one line, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options. Raises UsageError; --help and --version end the process."""
    return build_parser().parse_args(argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the manual page is held against it."""
    parser = _Parser(prog="spice-session-agent", description="The part of spice-sessiond that "
                     "runs in a session, as its user.", allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_stream(commands)
    _add_placeholder(commands)
    _add_user(commands)
    _add_call(commands)
    _add_qrexec(commands)
    _add_qrexec_client(commands)
    _add_terminal(commands)
    _add_pty(commands)
    return parser


def _add_stream(commands: "argparse._SubParsersAction[_Parser]") -> None:
    stream = commands.add_parser(
        "stream",
        help="stream a display to the host",
        description="Stream a display to the SPICE host behind a virtio port, a pty or a "
        "Unix socket. The options with one letter are those of spice-streaming-agent.",
        allow_abbrev=False,
    )
    where = stream.add_mutually_exclusive_group()
    where.add_argument(
        "--port", "-p", default=STREAM_PORT, metavar="PATH", help=f"default: {STREAM_PORT}"
    )
    where.add_argument("--link-fd", type=int, metavar="N", help=_LINK_HELP)
    stream.add_argument(
        "--display",
        default="",
        metavar="NAME",
        help="display to stream: the :N of an X server, the path of a Wayland compositor's socket, "
        "for 'mutter' the folder with its bus; default: as the environment says, with --link-fd "
        "the session's own",
    )
    stream.add_argument(
        "--capture", default="", choices=NAMES,
        help="where pictures come from; 'pattern' needs no display (default: x11, or the "
        "Wayland compositor that the environment names; with --link-fd what the daemon says)",
    )  # fmt: skip
    stream.add_argument(
        "--kms-fd", type=int, metavar="N",
        help="for 'kms': inherited socket to the helper that reads the graphics card",
    )  # fmt: skip
    stream.add_argument(
        "--codec", default="", metavar="NAME[,NAME...]",
        help="encoders or codecs, the best first (mjpeg, vp8, vp9, h264, h265), or 'auto': MJPEG "
        "while the host keeps up with it (default: auto; with --link-fd what the daemon wishes)",
    )  # fmt: skip
    stream.add_argument(
        "--codec-option", "-c", action="append", default=[], metavar="NAME=VALUE",
        help="framerate=1-100 (default 30), quality=1-100 (default 80; also mjpeg.quality), "
        "min-quality=1-100 (for a slow host; by default quality stays as it is), vp8.qmin=0-48, "
        "vp9.qmin=0-48, h264.crf=1-51, h265.crf=1-51 (less is better, and more bytes)",
    )  # fmt: skip
    stream.add_argument("-l", dest="log_file", default="", metavar="FILE", help="log frames")
    stream.add_argument(
        "--log-binary", action="store_true", help="with -l: write the encoded frames themselves"
    )
    stream.add_argument(
        "--log-categories", default="", metavar="NAMES",
        help="with -l: what else to log, separated by ':'; 'frames' adds a hex dump of each",
    )  # fmt: skip
    stream.add_argument(
        "--plugins-dir", action="append", default=[], metavar="DIR",
        help="where to look for encoder plug-ins before Python's own path",
    )  # fmt: skip
    stream.add_argument("-d", dest="debug", action="store_true", help="log every message")


def _add_placeholder(commands: "argparse._SubParsersAction[_Parser]") -> None:
    placeholder = commands.add_parser(
        "placeholder",
        help="show a sentence instead of a display; started by the daemon",
        description="Show one picture with a sentence. Needs no display and no privilege.",
        allow_abbrev=False,
    )
    placeholder.add_argument("--link-fd", type=int, metavar="N", required=True, help=_LINK_HELP)
    placeholder.add_argument(
        "--size", default="1024x768", metavar="WxH", help="in pixels (default: 1024x768)"
    )
    placeholder.add_argument("--text", required=True, metavar="TEXT", help="the sentence")
    placeholder.add_argument("-d", dest="debug", action="store_true", help="log every message")


def _add_user(commands: "argparse._SubParsersAction[_Parser]") -> None:
    user = commands.add_parser(
        "user",
        help="answer the host for a user: displays, commands",
        description="Be the agent of a user: connect to spice-sessiond, and answer what the host "
        "asks of this user. One for each user.",
        allow_abbrev=False,
    )
    user.add_argument(
        "--socket", default=SOCKET, metavar="PATH", help=f"the daemon's; default: {SOCKET}"
    )
    user.add_argument("--username", metavar="NAME", help="become this user first; for root alone")
    user.add_argument("-d", dest="debug", action="store_true", help="log every message")


def _add_call(commands: "argparse._SubParsersAction[_Parser]") -> None:
    call = commands.add_parser(
        "call",
        help="ask the host, through the running agent of this user",
        description="Let the agent of this user that runs ask the host, and print the answer as "
        "JSON.",
        allow_abbrev=False,
    )
    call.add_argument(
        "--socket",
        default="",
        metavar="PATH",
        help="the agent's; default: spice-session-agent.sock in $XDG_RUNTIME_DIR",
    )
    call.add_argument("name", metavar="COMMAND", help="what the host is to do")
    call.add_argument("arguments", nargs="?", default="{}", metavar="JSON", help="an object")
    call.add_argument("-d", dest="debug", action="store_true", help="log every message")


def _add_qrexec(commands: "argparse._SubParsersAction[_Parser]") -> None:
    qrexec = commands.add_parser(
        "qrexec",
        help="run commands for a qrexec daemon",
        description="Be a qrexec agent: run commands and services for the daemon at the other end "
        "of a vchan, as the user who starts this, and pass on calls from inside.",
        allow_abbrev=False,
    )
    _add_agent_socket(qrexec)
    qrexec.add_argument(
        "--no-fork-server", action="store_true", help="fork commands of the agent's own process"
    )
    qrexec.add_argument("-d", dest="debug", action="store_true", help="log every message")


def _add_qrexec_client(commands: "argparse._SubParsersAction[_Parser]") -> None:
    client = commands.add_parser(
        "qrexec-client",
        help="call a service over qrexec",
        description="Call a service of another domain, and connect it with PROGRAM's stdin and "
        "stdout or else with ours. The options are those of qrexec-client-vm.",
        allow_abbrev=False,
    )
    client.set_defaults(debug=False)
    _add_agent_socket(client)
    client.add_argument("--source-qube", default="", metavar="NAME", help="call in its name")
    client.add_argument(
        "--prefix-data", "-p", default="", metavar="DATA", help="what to send before all input"
    )
    client.add_argument(
        "--use-stdin-socket", action="store_true", help="stdin is a socket, and stdout, too"
    )
    client.add_argument("--buffer-size", type=int, metavar="BYTES", help="has no effect here")
    for stream, letter in (("stdout", "t"), ("stderr", "T")):
        client.add_argument(
            f"-{letter}", f"--filter-escape-chars-{stream}", dest=f"filter_{stream}",
            action="store_true", default=None,
            help=f"replace what a terminal acts on in {stream} (default if it is a terminal)",
        )  # fmt: skip
        client.add_argument(
            f"--no-filter-escape-chars-{stream}", dest=f"filter_{stream}", action="store_false",
            default=None, help="leave it as it is",
        )  # fmt: skip
    client.add_argument("target", metavar="TARGET", help="a domain's name, or a keyword")
    client.add_argument("service", metavar="SERVICE", help="its name, with +ARGUMENT")
    client.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="its path, and its arguments"
    )


def _add_terminal(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "hand a terminal over to a program elsewhere"
    terminal = commands.add_parser("terminal", help=text, description=text, allow_abbrev=False)
    terminal.set_defaults(debug=False)
    add_terminal_options(terminal)


def _add_pty(commands: "argparse._SubParsersAction[_Parser]") -> None:
    pty = commands.add_parser(
        "pty",
        help="run a command on a terminal of its own",
        description="Give COMMAND a terminal of its own, and relay it with our stdin and stdout.",
        allow_abbrev=False,
    )
    pty.set_defaults(debug=False)
    pty.add_argument(
        "--size", type=_size, metavar="COLUMNSxROWS",
        help="the terminal's at the beginning (default: that of ours, or 80x24)",
    )  # fmt: skip
    pty.add_argument("program", metavar="COMMAND", help="what to run")
    pty.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def _size(text: str) -> TerminalSize:
    columns, x, rows = text.partition("x")
    numbers = [int(it) for it in (columns, rows) if it.isascii() and it.isdecimal() and len(it) < 6]
    if not x or len(numbers) != 2 or not all(1 <= number <= MOST for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers from 1 to {MOST} with an x")
    return TerminalSize(*numbers)


def _add_agent_socket(parser: "_Parser") -> None:
    parser.add_argument(
        "--agent-socket", "-a", default=QREXEC_SOCKET, metavar="PATH",
        help=f"where clients call the agent (default: {QREXEC_SOCKET})",
    )  # fmt: skip


def codec_options(
    assignments: Sequence[str],
    encoders: Sequence[type[Encoder]],
    *,
    on_unknown: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, int]]:
    """Return the frame rate and a value for every option of the encoders.

    Raises UsageError for a value out of its range, and for a name that none of them knows; but
    with ``on_unknown`` that is called with what is wrong, and the assignment left out.
    """
    known: dict[str, IntOption] = {"framerate": FRAMERATE}
    for encoder in encoders:
        known |= encoder.options
    values = {name: option.default for name, option in known.items()}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        name = name.removeprefix("mjpeg.")
        if name in known:
            values[name] = _value(assignment, name, value, known)
            continue
        names = ", ".join(sorted(known))
        text = f"codec option {assignment!r}: there is no {name!r}, only {names}"
        if not on_unknown:
            raise UsageError(text)
        on_unknown(text)
    return values.pop("framerate"), values


def _value(assignment: str, name: str, value: str, known: Mapping[str, IntOption]) -> int:
    low, high = known[name].low, known[name].high
    # int() refuses thousands of digits with an error of its own.
    is_number = value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS
    if not (is_number and low <= int(value) <= high):
        raise UsageError(f"codec option {assignment!r}: not a whole number from {low} to {high}")
    return int(value)
