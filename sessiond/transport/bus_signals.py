"""Who wants which signal, and who owns which name on the bus."""

from collections.abc import Callable
from typing import Any, Final

from sessiond.errors import BusCallError, BusError
from sessiond.transport.bus_match import DRIVER, Match, Signal

SignalHandler = Callable[[Signal], None]
OwnerHandler = Callable[[str], None]
Answer = list[Any] | BusCallError | BusError

UNKNOWN: Final = "?"  # the owner of a name, until the bus has told


class SignalRouter:
    """Hands signals on. ``ask`` sends a call to the bus itself: member, argument, who hears.

    ``on_refusal`` is told when the bus refuses a rule: we would be deaf without knowing.
    """

    def __init__(
        self,
        ask: Callable[[str, str, Callable[[Answer], None]], None],
        on_refusal: Callable[[BusError], None],
    ) -> None:
        self._ask = ask
        self._on_refusal = on_refusal
        self._subscriptions: list[tuple[Match, SignalHandler]] = []
        self._owners: dict[str, str] = {}
        self._owner_handlers: list[tuple[str, OwnerHandler]] = []

    def add(self, match: Match, handler: SignalHandler) -> None:
        """Begin to hand on what fits."""
        if match.by_name:
            self._follow(match.sender)
        self._subscriptions.append((match, handler))
        self._ask("AddMatch", match.rule, self._check)

    def remove(self, match: Match, handler: SignalHandler) -> None:
        """Undo one ``add``; ValueError without one."""
        self._subscriptions.remove((match, handler))
        self._ask("RemoveMatch", match.rule, _ignore)
        if match.by_name:
            self._forget(match.sender)

    def add_owner(self, name: str, handler: OwnerHandler) -> str:
        """Begin to hand on the owners of ``name``; return the owner now, or UNKNOWN."""
        self._owner_handlers.append((name, handler))
        self._follow(name)
        return self._owners[name]

    def remove_owner(self, name: str, handler: OwnerHandler) -> None:
        """Undo one ``add_owner``; ValueError without one."""
        self._owner_handlers.remove((name, handler))
        self._forget(name)

    def route(self, signal: Signal) -> None:
        """Call every handler that wants ``signal``."""
        if signal.sender == DRIVER and signal.member == "NameOwnerChanged":
            name, _, owner = signal.body
            if name in self._owners:
                self._set_owner(name, owner)
        for match, handler in tuple(self._subscriptions):
            sender = match.sender
            if match.by_name:  # forgotten if a handler before has unsubscribed this one
                sender = self._owners.get(sender, UNKNOWN)
            if match.fits(signal, sender):
                handler(signal)

    def _follow(self, name: str) -> None:
        if name in self._owners:
            return
        self._owners[name] = UNKNOWN
        self._ask("AddMatch", _changes_of(name).rule, self._check)

        def learn(answer: Answer) -> None:
            # Changes are signalled in order with this answer, so the later of the two is right.
            if name in self._owners and not isinstance(answer, BusError):
                self._set_owner(name, "" if isinstance(answer, BusCallError) else answer[0])

        self._ask("GetNameOwner", name, learn)

    def _forget(self, name: str) -> None:
        """Follow a name no more that nobody asks about: a bus takes 512 rules of a connection."""
        names = {watched for watched, _ in self._owner_handlers}
        names |= {match.sender for match, _ in self._subscriptions if match.by_name}
        if name not in names:
            del self._owners[name]
            self._ask("RemoveMatch", _changes_of(name).rule, _ignore)

    def _set_owner(self, name: str, owner: str) -> None:
        if self._owners[name] == owner:
            return
        self._owners[name] = owner
        for watched, handler in tuple(self._owner_handlers):
            if watched == name:
                handler(owner)

    def _check(self, answer: Answer) -> None:
        if isinstance(answer, BusCallError):
            self._on_refusal(BusError(f"the message bus refused a match rule: {answer}"))


def _changes_of(name: str) -> Match:
    return Match(sender=DRIVER, interface=DRIVER, member="NameOwnerChanged", arg0=name)


def _ignore(_answer: Answer) -> None:
    """Take no note: that a rule is gone is what was wanted."""
