"""Who may have what run as whom: the rules of a file, and what holds where none of them applies.

Pure, but for ``read``. A file has rules in order, of which the first that fits holds::

    [[rule]]
    caller = "qrexec"     # or "host-channel", a user's name, "*" for all three
    service = "command"   # any command; or a service's name, with its argument or without; "*"
    user = "*"            # as whom: a user's name, "=" for the caller's own, "*"
    allow = false
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from sessiond.errors import UsageError

DEFAULT_FILE: Final = "/etc/spice-sessiond/exec.toml"
MAX_FILE: Final = 1 << 20  # bytes; a policy has a few hundred
COMMAND: Final = "command"
ANY: Final = "*"
OWN: Final = "="
_ALLOW: Final = "allow"
_TEXTS: Final = ("caller", "service", "user")


class Origin(Enum):
    """Where a call comes from; what rules name it by."""

    HOST = "host-channel"
    QREXEC = "qrexec"
    LOCAL = "local"  # rules have the user's name instead


@dataclass(frozen=True, slots=True)
class Question:
    """Whether this caller may have that run as ``user``.

    ``caller`` is a local caller's user name, "" for another. ``service`` is the service with its
    argument, as it was called; "" for a command.
    """

    origin: Origin
    user: str
    service: str = ""
    caller: str = ""

    @property
    def is_own(self) -> bool:
        """Whether somebody asks for themselves."""
        return self.origin is Origin.LOCAL and self.caller == self.user


class Verdict(Enum):
    """What comes of it. ``ASK``: whether polkit lets the caller."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the file, in its words."""

    caller: str
    service: str
    user: str
    allow: bool

    def fits(self, question: Question) -> bool:
        """Return whether it is about that."""
        return (
            _fits_caller(self.caller, question)
            and _fits_service(self.service, question.service)
            and _fits_user(self.user, question)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, in order."""

    rules: tuple[Rule, ...] = ()

    def decide(self, question: Question) -> Verdict:
        """Return the verdict of the first rule that fits, else the one that always holds."""
        for rule in self.rules:
            if rule.fits(question):
                return Verdict.ALLOW if rule.allow else Verdict.DENY
        match question.origin:
            case Origin.HOST:
                return Verdict.ALLOW
            case Origin.QREXEC:
                return Verdict.ALLOW if question.service else Verdict.DENY
            case Origin.LOCAL:
                return Verdict.ALLOW if question.is_own else Verdict.ASK


NOTHING: Final = Policy((Rule(ANY, ANY, ANY, allow=False),))
"""For a file that cannot be read: what it would have forbidden, nobody knows."""


def read(path: str) -> Policy:
    """Return the policy of a file. Raises UsageError that names file, rule and key.

    Without the default file there are no rules.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        if path == DEFAULT_FILE:
            return Policy()
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{path}: over {MAX_FILE} bytes")
    try:
        return parse(data.decode(), path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error.reason}") from error


def parse(text: str, source: str) -> Policy:
    """Return the policy that a text in TOML is. Raises UsageError; ``source`` is its name there."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}") from error
    for key in table:
        if key != "rule":
            raise UsageError(f"{source}: {key}: there is no such key, only [[rule]]")
    rules = table.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(it, dict) for it in rules):
        raise UsageError(f"{source}: rule: each is to begin with [[rule]]")
    return Policy(tuple(_rule(it, f"{source}: rule {at}") for at, it in enumerate(rules, 1)))


def _rule(table: Mapping[str, Any], where: str) -> Rule:
    known = (*_TEXTS, _ALLOW)
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {key}: there is no such key, only {', '.join(known)}")
    for key in known:
        if key not in table:
            raise UsageError(f"{where}: {key} is missing")
    for key in _TEXTS:
        _check_name(key, table[key], where)
    if not isinstance(table[_ALLOW], bool):
        raise UsageError(f"{where}: {_ALLOW}: {table[_ALLOW]!r} is not true or false")
    return Rule(**table)


def _check_name(key: str, value: object, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key}: {value!r} is not a name")
    if value == OWN and key != "user":
        raise UsageError(f'{where}: {key}: only user may be "{OWN}"')


def _fits_caller(wanted: str, question: Question) -> bool:
    if wanted == ANY:
        return True
    # A user may have any name: these two are no user's.
    named = {it.value: it for it in (Origin.HOST, Origin.QREXEC)}
    if wanted in named:
        return question.origin is named[wanted]
    return question.origin is Origin.LOCAL and question.caller == wanted


def _fits_service(wanted: str, service: str) -> bool:
    if wanted == ANY:
        return True
    if not service or wanted == COMMAND:
        return not service and wanted == COMMAND
    return wanted in {service, service.partition("+")[0]}


def _fits_user(wanted: str, question: Question) -> bool:
    if wanted == OWN:
        return question.is_own
    return wanted in {ANY, question.user}
