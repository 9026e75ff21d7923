"""RunCommand's arguments, checked: from a stranger's call to an order."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sessiond.errors import RequestError
from sessiond.model import Order

MAX_WORDS: Final = 256 << 10  # bytes of a command and its environment; Linux takes 2 MiB
_INVALID: Final = "org.freedesktop.DBus.Error.InvalidArgs"


def read_order(uid: int, arguments: Sequence[Any]) -> Order:
    """Return what the caller ``uid`` orders: user, session, service, argv and options.

    Raises RequestError.
    """
    user, session, service, argv, untrusted_options = arguments
    env, cwd = _options(untrusted_options)
    if bool(argv) == bool(service):
        raise _invalid("a command is to be named, or else a service")
    if argv and not argv[0]:
        raise _invalid("a command's name is empty")
    if service and (env or cwd):
        raise _invalid("a service takes no variables and no folder of its caller's")
    words = (*argv, *env, *env.values(), service, cwd)
    if sum(len(it.encode()) + 1 for it in words) > MAX_WORDS:
        raise _invalid(f"command and environment are over {MAX_WORDS} bytes")
    return Order(uid=uid, user=user, session=session, service=service, argv=tuple(argv),
                 env=env, cwd=cwd)  # fmt: skip


def _options(untrusted: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    for name in untrusted:
        if name not in {"env", "cwd"}:
            raise _invalid(f"there is no option {name!r}, only env and cwd")
    env, cwd = untrusted.get("env", {}), untrusted.get("cwd", "")
    if not isinstance(env, dict) or not all(isinstance(it, str) for it in (*env, *env.values())):
        raise _invalid("env is a{ss}")
    if any(not name or "=" in name for name in env):
        raise _invalid("a variable's name is empty, or has = in it")
    if not isinstance(cwd, str) or (cwd and not cwd.startswith("/")):
        raise _invalid("cwd is an absolute path")
    return env, cwd


def _invalid(text: str) -> RequestError:
    return RequestError(_INVALID, text)
