"""All that one run has measured; what it left out is None or empty."""

import dataclasses

from tests.bench.bus import Answers
from tests.bench.commands import CommandsResult
from tests.bench.daemon import DaemonResult
from tests.bench.fresh import Fresh
from tests.bench.host import HostResult
from tests.bench.moving import Moving
from tests.bench.ptys import PtysResult
from tests.bench.rest import Rest
from tests.bench.share import Share
from tests.bench.speed import Speed
from tests.bench.terminals import TerminalsResult
from tests.bench.versus import AtRest, Versus


@dataclasses.dataclass(slots=True)
class Results:
    """The parts' results, and why a part is missing that was wanted."""

    moving: list[Moving] = dataclasses.field(default_factory=list)
    rest: Rest | None = None
    speed: Speed | None = None
    shares: list[Share] = dataclasses.field(default_factory=list)
    daemon: DaemonResult | None = None
    fresh: list[Fresh] = dataclasses.field(default_factory=list)
    host: HostResult | None = None
    commands: CommandsResult | None = None
    terminals: TerminalsResult | None = None
    ptys: PtysResult | None = None
    answers: list[Answers] = dataclasses.field(default_factory=list)
    versus: list[Versus] = dataclasses.field(default_factory=list)
    at_rest: AtRest | None = None
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, name: str) -> Moving | None:
        """Return the result of a load that moves."""
        return next((one for one in self.moving if one.load == name), None)
