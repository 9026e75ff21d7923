"""PAM sessions for a display manager: just enough of libpam (pam_open_session(3))."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# security/_pam_types.h
PAM_SUCCESS: Final = 0
PAM_TTY: Final = 3
PAM_XDISPLAY: Final = 11
PAM_CONV_ERR: Final = 19

_Talk = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


class _Conversation(ctypes.Structure):
    _fields_ = (("talk", _Talk), ("data", ctypes.c_void_p))


class PamError(Exception):
    """A call of libpam has failed; the text says which and why."""


@contextmanager
def session(
    service: str, user: str, *, display: str, env: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Open a session of ``user`` for this process, on an X display; give its environment.

    ``env`` is what the modules shall know. Nobody is asked for a password. Raises PamError.
    """
    pam = ctypes.CDLL("libpam.so.0")
    pam.pam_strerror.restype = ctypes.c_char_p
    pam.pam_getenvlist.restype = ctypes.POINTER(ctypes.c_char_p)
    handle = ctypes.c_void_p()
    status = PAM_SUCCESS

    def call(name: str, *arguments: object) -> None:
        nonlocal status
        status = getattr(pam, name)(handle, *arguments)
        if status != PAM_SUCCESS:
            raise PamError(f"{name}: {pam.pam_strerror(handle, status).decode()}")

    conversation = _Conversation(_Talk(lambda *_: PAM_CONV_ERR), None)
    start = (service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle))
    if pam.pam_start(*start) != PAM_SUCCESS:
        raise PamError(f"pam_start: no service {service!r}")
    try:
        call("pam_set_item", PAM_TTY, display.encode())
        call("pam_set_item", PAM_XDISPLAY, display.encode())
        for name, value in env.items():
            call("pam_putenv", f"{name}={value}".encode())
        call("pam_open_session", 0)
        try:
            yield _environment(pam.pam_getenvlist(handle))
        finally:
            call("pam_close_session", 0)
    finally:
        pam.pam_end(handle, status)


def _environment(entries: ctypes._Pointer[ctypes.c_char_p]) -> dict[str, str]:
    """Read a list that ends with NULL; it is never freed, for the process lives briefly."""
    env: dict[str, str] = {}
    at = 0
    while (entry := entries[at]) is not None:
        name, _, value = entry.decode().partition("=")
        env[name] = value
        at += 1
    return env
