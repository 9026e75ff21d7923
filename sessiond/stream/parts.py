"""What a supervisor is given: by whom it finds out and tells, and what may change while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from sessiond.model import Session, Status
from sessiond.stream.agent import AgentStart
from sessiond.stream.ways import Signs


@dataclass(frozen=True, slots=True)
class Parts:
    """What the supervisor is given.

    ``prepare(session, backends, ready)`` finds out how an agent of a session is started that may
    use these, off the loop, and calls ``ready`` with it; ``placeholder(text)`` is the start of one
    that shows a sentence. ``look(session, seen)`` finds out what there is for the agent of a
    session's user, and calls ``seen`` with that.
    ``reread(session_id)`` asks for newer facts of a session that something failed about;
    ``on_agent(key, pid)`` hears of every agent that was started, and
    ``on_agent_end(key, pid, status, reason)`` of each one's end; ``on_proven`` of the ids of the
    sessions that have a display open on their own VT, whenever they change, and ``on_ended`` of
    the id of each whose user has ended its capturing at the screen.
    """

    port_path: str
    prepare: Callable[[Session, tuple[str, ...], Callable[[AgentStart], None]], None]
    placeholder: Callable[[str], AgentStart]
    look: Callable[[Session, Callable[[Signs], None]], None]
    reread: Callable[[str], None]
    on_status: Callable[[Status], None]
    on_agent: Callable[[str, int], None]
    on_agent_end: Callable[[str, int, int, str], None]
    on_proven: Callable[[frozenset[str]], None]
    on_ended: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What may change while it runs.

    ``grace``: for how many seconds the last picture stands while no session is active.
    ``when_idle``: "placeholder" or "close", what a client sees while there is nothing to show.
    ``keep_warm``: how many agents stay, paused, beside that of the session that is to be shown.
    """

    grace: float = 1.0
    when_idle: str = "placeholder"
    keep_warm: int = 2
