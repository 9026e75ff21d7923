"""What the command line of an EXEC_CMDLINE or a JUST_EXEC says.

``USER:[nogui:]COMMAND``, where COMMAND is for a login shell of the user's, or calls a service:
``QUBESRPC SERVICE[+ARGUMENT] SOURCE [name|keyword TARGET]``.
"""

from dataclasses import dataclass
from typing import Final

from sessiond.errors import StartError
from sessiond.wire.exec import MAX_SERVICE

PROBLEM: Final = 125  # exit codes of qrexec's own, beside a shell's; see StartError
REFUSED: Final = 126
NOT_FOUND: Final = 127

MAX_SERVICE_FILE: Final = 255  # bytes of a service's name; no file has a longer one (NAME_MAX)

_NOGUI: Final = b"nogui:"
_CALL: Final = b"QUBESRPC "
_TARGET_TYPES: Final = (b"name", b"keyword")


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """A service is called.

    ``full_name`` is as it was sent, with ``+`` and the argument where there is one. ``source`` is
    the domain that calls. ``target_type`` is empty, ``name`` or ``keyword``, and says what
    ``target`` is, that which the caller has asked for. ``text`` is all that was sent behind
    ``QUBESRPC``: a socket service reads it first, with a NUL behind it.
    """

    full_name: bytes
    source: bytes
    target_type: bytes = b""
    target: bytes = b""
    text: bytes = b""

    @property
    def name(self) -> bytes:
        """The service without an argument."""
        return self.full_name.partition(b"+")[0]

    @property
    def argument(self) -> bytes | None:
        """What follows the first ``+``; None without one."""
        _name, plus, argument = self.full_name.partition(b"+")
        return argument if plus else None

    @property
    def descriptor(self) -> bytes:
        """What its file is called first of all: with a ``+`` even if there is no argument."""
        return self.full_name if b"+" in self.full_name else self.full_name + b"+"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Who runs what. ``nogui``: it neither needs nor waits for a session of the user's.

    ``command`` is for a shell, if it is no call of a service.
    """

    user: bytes
    command: bytes | ServiceCall
    nogui: bool = False


def parse_command_line(line: bytes) -> CommandLine:
    """Return what the line says. Raises StartError with the exit code ``PROBLEM``."""
    user, colon, rest = line.partition(b":")
    if not colon:
        raise StartError("a command line without a user", PROBLEM)
    command = rest.removeprefix(_NOGUI)
    nogui = rest.startswith(_NOGUI)
    if command.startswith(_CALL):
        return CommandLine(user, _parse_call(command.removeprefix(_CALL)), nogui)
    return CommandLine(user, command, nogui)


def _parse_call(text: bytes) -> ServiceCall:
    full_name, _space, rest = text.partition(b" ")
    source, space, rest = rest.partition(b" ")
    target_type, _space, target = rest.partition(b" ")
    call = ServiceCall(full_name, source, target_type, target, text)
    if not call.name or len(call.name) > MAX_SERVICE_FILE or len(full_name) > MAX_SERVICE:
        raise StartError(f"a service's name of {len(call.name)} bytes", PROBLEM)
    if not source:
        raise StartError("a call of a service without its source", PROBLEM)
    is_target_right = target_type in _TARGET_TYPES and target and b" " not in target
    if space and not is_target_right:
        raise StartError("a call of a service without a right target", PROBLEM)
    return call
