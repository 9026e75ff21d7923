"""RunCommand's arguments, checked: from a stranger's call to an order."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sessiond.errors import RequestError
from sessiond.model import Order, TerminalSize
from sessiond.transport.terminal import DEFAULT_SIZE, MOST

MAX_WORDS: Final = 256 << 10  # bytes of a command and its environment; Linux takes 2 MiB
_OPTIONS: Final = ("env", "cwd", "pty", "size", "login-shell")
_INVALID: Final = "org.freedesktop.DBus.Error.InvalidArgs"


def read_order(uid: int, arguments: Sequence[Any]) -> Order:
    """Return what the caller ``uid`` orders: user, session, service, argv and options.

    Raises RequestError.
    """
    user, session, service, argv, untrusted_options = arguments
    for name in untrusted_options:
        if name not in _OPTIONS:
            raise _invalid(f"there is no option {name!r}, only {', '.join(_OPTIONS)}")
    env, cwd = _surroundings(untrusted_options)
    terminal, is_login_shell = _terminal(untrusted_options)
    _check_what(argv, service, is_login_shell=is_login_shell)
    if service and (env or cwd or terminal):
        raise _invalid("a service takes no variables, no folder and no terminal of its caller's")
    words = (*argv, *env, *env.values(), service, cwd)
    if sum(len(it.encode()) + 1 for it in words) > MAX_WORDS:
        raise _invalid(f"command and environment are over {MAX_WORDS} bytes")
    return Order(uid=uid, user=user, session=session, service=service, argv=tuple(argv),
                 env=env, cwd=cwd, terminal=terminal, is_login_shell=is_login_shell)  # fmt: skip


def read_size(columns: object, rows: object) -> TerminalSize:
    """Return the size that a caller wants a terminal to have. Raises RequestError."""
    if type(columns) is not int or type(rows) is not int:
        raise _invalid("a terminal's size is columns and rows")
    if not (1 <= columns <= MOST and 1 <= rows <= MOST):
        text = f"a terminal has from 1 to {MOST} columns and rows, not {columns} and {rows}"
        raise _invalid(text)
    return TerminalSize(columns, rows)


def _check_what(argv: Sequence[str], service: str, *, is_login_shell: bool) -> None:
    if is_login_shell:
        if argv or service:
            raise _invalid("a login shell is neither a command nor a service")
    elif bool(argv) == bool(service):
        raise _invalid("a command is to be named, or else a service")
    if argv and not argv[0]:
        raise _invalid("a command's name is empty")


def _surroundings(untrusted: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    env, cwd = untrusted.get("env", {}), untrusted.get("cwd", "")
    if not isinstance(env, dict) or not all(isinstance(it, str) for it in (*env, *env.values())):
        raise _invalid("env is a{ss}")
    if any(not name or "=" in name for name in env):
        raise _invalid("a variable's name is empty, or has = in it")
    if not isinstance(cwd, str) or (cwd and not cwd.startswith("/")):
        raise _invalid("cwd is an absolute path")
    return env, cwd


def _terminal(untrusted: Mapping[str, Any]) -> tuple[TerminalSize | None, bool]:
    """Return the size of the terminal, None for none, and whether a login shell runs there."""
    has_pty, is_login_shell = untrusted.get("pty", False), untrusted.get("login-shell", False)
    for name, value in (("pty", has_pty), ("login-shell", is_login_shell)):
        if not isinstance(value, bool):
            raise _invalid(f"{name} is b")
    if not has_pty:
        if is_login_shell or "size" in untrusted:
            raise _invalid("size and login-shell are for what has a pty")
        return None, False
    size = untrusted.get("size", [DEFAULT_SIZE.columns, DEFAULT_SIZE.rows])
    if not isinstance(size, Sequence) or len(size) != 2:
        raise _invalid("size is (uu)")
    return read_size(*size), is_login_shell


def _invalid(text: str) -> RequestError:
    return RequestError(_INVALID, text)
