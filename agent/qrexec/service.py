"""What a service is on this system: where it is found, of which kind, and with what it runs."""

import logging
import os
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.qrexec.service_config import ServiceConfig, find_file
from sessiond.errors import StartError
from sessiond.wire.exec_command import NOT_FOUND, PROBLEM, ServiceCall

log = logging.getLogger(__name__)

WAIT_FOR_SESSION: Final = b"qubes.WaitForSession"

_SERVICE_PATH: Final = b"/run/qubes-rpc:/usr/local/etc/qubes-rpc:/etc/qubes-rpc"
_CONFIG_PATH: Final = b"/run/qubes/rpc-config:/usr/local/etc/qubes/rpc-config:/etc/qubes/rpc-config"
_TCP: Final = b"/dev/tcp"
_PORT: Final = re.compile(rb"[1-9][0-9]{0,4}")
_LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of services, and of their configuration, the first of all first."""

    services: Sequence[bytes]
    config: Sequence[bytes]

    @classmethod
    def of(cls, environment: Mapping[bytes, bytes]) -> "Places":
        """Return those that the environment names, or else qrexec's own."""
        return cls(
            _directories(environment.get(b"QREXEC_SERVICE_PATH", _SERVICE_PATH)),
            _directories(environment.get(b"QUBES_RPC_CONFIG_PATH", _CONFIG_PATH)),
        )


@dataclass(frozen=True, slots=True)
class Executable:
    """A program, to be run without a shell; ``argument`` is empty for none."""

    path: bytes
    argument: bytes = b""


@dataclass(frozen=True, slots=True)
class UnixService:
    """Somebody listens there."""

    path: bytes


@dataclass(frozen=True, slots=True)
class TcpService:
    """Somebody listens there; ``host`` is an address in numbers."""

    family: socket.AddressFamily
    host: str
    port: int


Service = Executable | UnixService | TcpService


def look_up(call: ServiceCall, config: ServiceConfig, places: Places) -> Service:
    """Return what the call is for.

    Raises StartError with ``NOT_FOUND`` if there is nothing by that name, and with ``PROBLEM`` for
    what is of no use: neither is there anything else that is tried then.
    """
    if call.name in {b".", b".."} or b"/" in call.name:
        raise StartError("a service's name that is a path", PROBLEM)
    path = find_file(call, places.services)
    if path is None:
        raise StartError(f"there is no service {_shown(call.full_name)}", NOT_FOUND)
    service = _kind(path, call.argument or b"")
    if isinstance(service, Executable):
        if config.is_for_sockets:
            log.warning("%s is no socket: settings for those are ignored", _shown(path))
    elif config.is_for_sockets and config.force_user is not None:
        raise StartError(f"{_shown(path)}: a user, for a socket that is not ours", PROBLEM)
    return service


def variables(
    inherited: Mapping[bytes, bytes], call: ServiceCall | None = None
) -> dict[bytes, bytes]:
    """Return the environment of a command of the process that this is.

    Of qrexec's variables it has only those that it is meant to have, whatever we have inherited.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(b"QREXEC_") or name == b"QREXEC_SERVICE_PATH"
    }
    return kept | {b"QREXEC_AGENT_PID": b"%d" % os.getpid()} | (_of_call(call) if call else {})


def _of_call(call: ServiceCall) -> dict[bytes, bytes]:
    variables = {
        b"QREXEC_REMOTE_DOMAIN": call.source,
        b"QREXEC_SERVICE_FULL_NAME": call.full_name,
        b"QREXEC_REQUESTED_TARGET_TYPE": call.target_type,
    }
    if call.argument is not None:
        variables[b"QREXEC_SERVICE_ARGUMENT"] = call.argument
    if call.target_type == b"name":
        variables[b"QREXEC_REQUESTED_TARGET"] = call.target
    elif call.target_type == b"keyword":
        variables[b"QREXEC_REQUESTED_TARGET_KEYWORD"] = call.target
    return variables


def _directories(path: bytes) -> list[bytes]:
    return [directory for directory in path.split(b":") if directory]


def _kind(path: bytes, argument: bytes) -> Service:
    try:
        if os.path.islink(path):
            target = os.readlink(path)
            if target == _TCP or target.startswith(_TCP + b"/"):
                return _tcp(target.removeprefix(_TCP), argument)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise StartError(f"{_shown(path)}: {error.strerror}", PROBLEM) from error
    if stat.S_ISSOCK(mode):
        return UnixService(path)
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise StartError(f"{_shown(path)} is neither a program nor a socket", PROBLEM)
    return Executable(path, argument)


def _tcp(place: bytes, argument: bytes) -> TcpService:
    """Return the service for what follows /dev/tcp: all, the port or nothing is left to say."""
    match place.split(b"/"), argument:
        case [_empty], _ if b"+" in argument:
            host, _plus, port = argument.rpartition(b"+")
            host = host.replace(b"+", b":")
        case [_empty, host], port:
            pass
        case [_empty, host, port], b"":
            pass
        case _:
            raise StartError(f"{_shown(_TCP + place)} with {_shown(argument)}", PROBLEM)
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise StartError(f"{_shown(port)} is no port", PROBLEM)
    name = _shown(host)
    return TcpService(_family(name), name, int(port))


def _family(host: str) -> socket.AddressFamily:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    raise StartError(f"{host!r} is no address in numbers", PROBLEM)


def _shown(text: bytes) -> str:
    return text.decode(errors="backslashreplace")
