"""Which signals somebody wants to hear, as a match rule of the D-Bus specification."""

from dataclasses import dataclass
from typing import Any, Final

DRIVER: Final = "org.freedesktop.DBus"  # the bus itself; nobody can send in its name


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that arrived, its body in plain types; ``sender`` is a unique name."""

    sender: str
    path: str
    interface: str
    member: str
    body: list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Signals of one member from one sender; ``path`` and ``arg0`` count unless they are "".

    With a well-known name as ``sender``, only who owns that name at the time is heard: a match
    rule alone would not keep out a signal that somebody else sends straight to us.
    """

    sender: str
    interface: str
    member: str
    path: str = ""
    arg0: str = ""

    @property
    def rule(self) -> str:
        """The rule for AddMatch and RemoveMatch."""
        keys = {
            "sender": self.sender,
            "interface": self.interface,
            "member": self.member,
            "path": self.path,
            "arg0": self.arg0,
        }
        return "type='signal'," + ",".join(f"{key}='{text}'" for key, text in keys.items() if text)

    @property
    def by_name(self) -> bool:
        """Whether the sender's unique name has to be looked up, and followed."""
        return self.sender != DRIVER and not self.sender.startswith(":")

    def fits(self, signal: Signal, sender: str) -> bool:
        """Say whether ``signal`` is meant; ``sender`` is the unique name of ours, "" for none."""
        return (
            signal.sender == sender
            and signal.member == self.member
            and signal.interface == self.interface
            and self.path in {"", signal.path}
            and (not self.arg0 or signal.body[:1] == [self.arg0])
        )
