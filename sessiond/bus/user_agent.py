"""``org.spice_space.Sessiond1.UserAgent``: the agent that a user's session has started."""

from collections.abc import Mapping
from typing import Any

from sessiond.model import UserAgent


class UserAgentObject:
    """One agent, as long as it is connected."""

    interface = "org.spice_space.Sessiond1.UserAgent"

    def __init__(self, agent: UserAgent) -> None:
        self._agent = agent

    def properties(self) -> Mapping[str, Any]:
        """Return all of them; they never change."""
        agent = self._agent
        return {
            "UID": agent.uid,
            "Name": agent.name,
            "PID": agent.pid,
            "ConnectedUSec": int(agent.since * 1e6),
        }
