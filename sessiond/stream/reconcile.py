"""What to do so that the running agents become the wanted ones. Pure.

Agents are named by keys: a session's id, or ``PLACEHOLDER``. At most one is active.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PLACEHOLDER: Final = "placeholder"  # no session's id: logind's are numbers, or begin with c


class Phase(enum.Enum):
    """What an agent is about; one that is looked up is not there yet, and cannot be stopped."""

    LOOKED_UP = enum.auto()
    OPENING = enum.auto()
    READY = enum.auto()
    ACTIVE = enum.auto()
    STOPPING = enum.auto()


@dataclass(frozen=True, slots=True)
class Wanted:
    """``run``: who shall have an agent. ``show``: whose is seen, "" for nobody's.

    Only one of ``run`` or ``keep`` is shown.
    ``keep``: who may go on having one, unseen, so that a switch back is quick.
    """

    run: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    show: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One step: ``verb`` is launch, stop, pause or activate."""

    verb: str
    key: str


def reconcile(wanted: Wanted, running: Mapping[str, Phase]) -> list[Action]:
    """Return the steps, in their order: who is not to be seen is silenced first."""
    wishes = wanted.run | wanted.keep
    show = wanted.show if wanted.show in wishes else ""
    actions = [
        Action("pause", key)
        for key, phase in running.items()
        if phase is Phase.ACTIVE and key != show
    ]
    actions += [
        Action("stop", key)
        for key, phase in running.items()
        if phase not in {Phase.LOOKED_UP, Phase.STOPPING} and key not in wishes
    ]
    actions += [Action("launch", key) for key in sorted(wanted.run) if key not in running]
    if running.get(show) is Phase.READY:
        actions.append(Action("activate", show))
    return actions
