"""The configuration of one service: a few lines of ``key = value``, a small part of TOML's."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.errors import StartError
from sessiond.wire.exec_command import MAX_SERVICE_FILE, PROBLEM, ServiceCall

MAX_SIZE: Final = 65536  # bytes; a few lines are expected

# Blanks are spaces and tabs. The key begins the line, and a value is one of these.
_LINE: Final = re.compile(
    rb"([A-Za-z][A-Za-z0-9._-]*)[ \t]*=[ \t]*(?:(true|false|0|1)|'([^'\0]*)')[ \t]*(?:#[^\0]*)?"
)
_NOTHING: Final = re.compile(rb"(?:#[^\0]*)?")
_USER: Final = b"force-user"
_FLAGS: Final = {
    b"wait-for-session": "wait_for_session",
    b"skip-service-descriptor": "skip_descriptor",
    b"exit-on-client-eof": "exit_on_client_eof",
    b"exit-on-service-eof": "exit_on_service_eof",
}


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What is configured for a service.

    ``force_user``: whose service it is, whoever the daemon says. The last three are for services
    that are sockets: they get no descriptor in front of their input; they are done with as soon as
    the client, or they themselves, have said all.
    """

    wait_for_session: bool = False
    force_user: bytes | None = None
    skip_descriptor: bool = False
    exit_on_client_eof: bool = False
    exit_on_service_eof: bool = False

    @property
    def is_for_sockets(self) -> bool:
        """Whether something is set that only a socket's service can have."""
        return self.skip_descriptor or self.exit_on_client_eof or self.exit_on_service_eof


def load(call: ServiceCall, directories: Sequence[bytes]) -> ServiceConfig:
    """Return what the first file says that is named for the call or else for its service.

    Raises StartError for a file that cannot be read, or is not right.
    """
    path = find_file(call, directories)
    if path is None:
        return ServiceConfig()
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise StartError(f"{os.fsdecode(path)}: {error.strerror}", PROBLEM) from error
    if len(text) > MAX_SIZE:
        raise StartError(f"{os.fsdecode(path)} is over {MAX_SIZE} bytes", PROBLEM)
    return parse(text, os.fsdecode(path))


def find_file(call: ServiceCall, directories: Sequence[bytes]) -> bytes | None:
    """Return the path of what is named for the call, in any directory, or else for its service.

    None if there is neither. Raises StartError if that cannot be told.
    """
    for name in (call.descriptor, call.name):
        # Neither can be a file's name.
        if b"/" in name or len(name) > MAX_SERVICE_FILE:
            continue
        for directory in directories:
            path = os.path.join(directory, name)
            try:
                os.lstat(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise StartError(f"{os.fsdecode(path)}: {error}", PROBLEM) from error
            return path
    return None


def parse(text: bytes, where: str) -> ServiceConfig:
    """Return what the text says. Raises StartError, which names ``where``."""
    values: dict[str, bool | bytes] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")  # noqa: PLW2901 (what a line is)
        if _NOTHING.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        name, value = _setting(*match.groups()) if match else ("", False)
        if not name or name in values:
            raise StartError(f"{where}:{number}: not a line of a service's settings", PROBLEM)
        values[name] = value
    return ServiceConfig(**values)  # type: ignore[arg-type]  # the table's names are the fields'


def _setting(key: bytes, flag: bytes | None, text: bytes | None) -> tuple[str, bool | bytes]:
    """Return the field's name, empty for what does not exist, and its value."""
    if key == _USER:
        return ("force_user", text) if text else ("", False)
    return (_FLAGS.get(key, ""), flag in {b"true", b"1"}) if flag else ("", False)
