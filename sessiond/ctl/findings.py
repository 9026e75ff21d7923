"""What ``doctor`` judges, and what a judgement is. ``sessiond.ctl.examine`` fills it in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sessiond.ctl.client import Properties
from sessiond.ctl.view import safe

OK: Final = "ok"
FAIL: Final = "fail"
SKIP: Final = "skip"

Answer = tuple[str, str]
"""One of these, and a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What captures need; of the configuration ``kms``, ``cards`` and ``kms_socket``.

    ``may_help_itself``: the daemon has the right that the KMS helper has, and starts it itself.
    ``pipewire`` is the socket of the session in front, ``has_pipewire`` and ``has_wireplumber``
    say what runs there, true where who asks may not look.
    """

    kms: str = "auto"
    cards: str = ""
    has_card: bool = False
    kms_socket: str = ""
    has_kms_socket: bool = False
    may_help_itself: bool = False
    has_libpipewire: bool = False
    pipewire: str = ""
    has_pipewire: bool = True
    has_wireplumber: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found; "" or 0 or None for what is not there.

    ``bus_error`` and ``config_error`` say why the bus or the configuration cannot be read: what
    follows from them is not known then. ``pid`` is the daemon's; ``daemon_error`` says that it does
    not answer. ``port``, ``agent`` and ``channel`` (of the host) are those of the configuration,
    ``agent_path`` is where the agent was found, ``channel_holder`` the pid of who has the channel
    open, as far as who asks may see it. ``caller`` is who asks, "" for root; ``agents`` are the
    pids of the users' agents by their users. ``codecs`` is stream.codec of the configuration,
    ``has_pyav`` says that the encoders of video codecs can be loaded. ``means`` is what capturing
    needs that is no program of ours.
    """

    name: str
    bus_error: str = ""
    pid: int = 0
    daemon_error: str = ""
    manager: Properties | None = None
    front: Properties | None = None
    has_logind: bool = False
    has_polkit: bool = False
    config_error: str = ""
    port: str = ""
    has_port: bool = False
    agent: str = ""
    agent_path: str = ""
    channel: str = ""
    has_channel: bool = False
    channel_holder: int = 0
    caller: str = ""
    agents: Mapping[str, int] = field(default_factory=dict)
    codecs: tuple[str, ...] = ("auto",)
    has_pyav: bool = False
    means: Means = field(default_factory=Means)

    def told(self, name: str) -> str:
        """Return a text property of the Manager."""
        return safe((self.manager or {}).get(name, ""))
