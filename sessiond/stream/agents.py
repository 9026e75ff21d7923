"""Who has an agent, who is about to have one, and which of them stay though they are not shown."""

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import islice
from pathlib import Path

from sessiond.model import Session
from sessiond.stream.agent import Agent
from sessiond.stream.reconcile import Phase


class Agents:
    """The agents by their keys, at most one for each.

    A key is being looked up from ``look_up`` to ``end_look_up``: how its agent is started is being
    found out elsewhere. That cannot be broken off, and so is not begun again before it is over.
    """

    def __init__(self) -> None:
        self._running: dict[str, Agent] = {}
        self._looked_up: dict[str, asyncio.TimerHandle] = {}
        self._late: set[str] = set()  # of those: they take longer than they should
        self._outdated: set[str] = set()  # of those: something was told meanwhile
        self._has_ended = asyncio.Event()

    def __contains__(self, key: object) -> bool:
        return key in self._running

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._running.values())

    def get(self, key: str) -> Agent | None:
        """Return the agent, None if there is none yet."""
        return self._running.get(key)

    def is_kms(self, key: str) -> bool:
        """Whether there is one, and it reads the graphics card."""
        agent = self.get(key)
        return agent is not None and agent.is_kms

    def active(self) -> Agent | None:
        """Return the one that is shown."""
        for agent in self:
            if agent.is_active and not agent.is_stopping:
                return agent
        return None

    def phases(self) -> dict[str, Phase]:
        """Return what each is about."""
        return dict.fromkeys(self._looked_up, Phase.LOOKED_UP) | {it.key: _phase(it) for it in self}

    def add(self, agent: Agent) -> None:
        """Take note of one that was started."""
        self._running[agent.key] = agent

    def remove(self, agent: Agent) -> None:
        """Take note of its end."""
        self._running.pop(agent.key, None)
        self._has_ended.set()

    async def wait_none(self) -> None:
        """Wait until all have ended."""
        while self._running:
            self._has_ended.clear()
            await self._has_ended.wait()

    def look_up(self, key: str, limit: float, on_late: Callable[[], None]) -> None:
        """Take note that it is being found out how this one's agent is started.

        ``on_late`` is called if that takes longer than ``limit`` seconds.
        """
        loop = asyncio.get_running_loop()
        self._looked_up[key] = loop.call_later(limit, self._be_late, key, on_late)

    def is_late(self, key: str) -> bool:
        """Whether it takes longer than that."""
        return key in self._late

    def outdate(self, key: str) -> None:
        """Let what is being found out be found out again."""
        self._outdated |= {key} & self._looked_up.keys()

    def end_look_up(self, key: str) -> bool:
        """Take note that it is over; return whether it counts, or is to be made again."""
        is_outdated = key in self._outdated
        timer = self._looked_up.pop(key, None)
        if timer:
            timer.cancel()
        self._late.discard(key)
        self._outdated.discard(key)
        return not is_outdated

    def _be_late(self, key: str, on_late: Callable[[], None]) -> None:
        self._late.add(key)
        on_late()


def _phase(agent: Agent) -> Phase:
    if agent.is_stopping:
        return Phase.STOPPING
    if agent.is_active:
        return Phase.ACTIVE
    return Phase.READY if agent.ready else Phase.OPENING


class Recency:
    """The sessions that exist, in the order in which they were in front last."""

    def __init__(self) -> None:
        self._order: list[str] = []  # the latest first

    @property
    def newest(self) -> str:
        """Return which is or was in front; "" for none."""
        return next(iter(self._order), "")

    def note(self, front: str, sessions: Mapping[str, Session]) -> None:
        """Take note of who is in front now, "" for nobody, and which sessions there are."""
        newest = [front] if front else []
        self._order = [key for key in [*newest, *self._order] if key in sessions]
        self._order = list(dict.fromkeys(self._order))

    def latest(self, limit: int, among: Container[str]) -> frozenset[str]:
        """Return the ``limit`` of these that were in front last."""
        return frozenset(islice((key for key in self._order if key in among), limit))


def own_memory(pid: int) -> int:
    """Return how many bytes there are for this process alone, 0 if it has ended.

    Its anonymous and its shared memory, which holds its frames; the files that it maps are
    everybody's. Everybody may read that, and no page is looked at (proc_pid_status(5)).
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = (line.split() for line in text.splitlines())
    return sum(int(it[1]) << 10 for it in fields if it[0] in {"RssAnon:", "RssShmem:"})
