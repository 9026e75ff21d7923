"""Finds, among the addresses of a bus, one that takes connections now."""

import os
import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from sessiond.errors import BusError

SYSTEM: Final = "unix:path=/run/dbus/system_bus_socket"  # D-Bus specification, "System bus"


def usable_address(address: str) -> str:
    """Return the first part of ``address`` whose socket takes a connection without waiting.

    "system" is the system bus, where DBUS_SYSTEM_BUS_ADDRESS says it is or at its usual place.
    The libraries connect with a blocking socket, and would hang with a bus that accepts nobody.
    Raises BusError that names each part and what is wrong with it.
    """
    if address == "system":
        address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM
    wrong = []
    for part in filter(None, address.split(";")):
        try:
            _try(part)
        except BlockingIOError:
            wrong.append(f"{part}: takes no more connections")
        except (OSError, ValueError) as error:
            wrong.append(f"{part}: {getattr(error, 'strerror', None) or error}")
        else:
            return part
    raise BusError(f"cannot reach the message bus: {'; '.join(wrong) or 'no address'}")


def _try(part: str) -> None:
    paths = list(_paths(part))
    if len(paths) != 1:
        raise ValueError("not an address of the form unix:path=... or unix:abstract=...")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(paths[0])  # a Unix socket connects at once or not at all


def _paths(part: str) -> Iterator[str]:
    transport, _, options = part.partition(":")
    for option in options.split(","):
        key, _, value = option.partition("=")
        if transport == "unix" and key == "path":
            yield unquote(value)
        elif transport == "unix" and key == "abstract":
            yield "\0" + unquote(value)
