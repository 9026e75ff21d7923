"""All that one run has measured; what it left out is None or empty."""

import dataclasses

from tests.bench.bus import Answers
from tests.bench.codecs import Coded
from tests.bench.commands import CommandsResult
from tests.bench.daemon import DaemonResult
from tests.bench.fresh import Fresh
from tests.bench.host import HostResult
from tests.bench.lines import Behind
from tests.bench.moving import Moving
from tests.bench.ptys import PtysResult
from tests.bench.rest import Rest
from tests.bench.screens import ScreensResult
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
    codecs: list[Coded] = dataclasses.field(default_factory=list)
    lines: list[Behind] = dataclasses.field(default_factory=list)
    screens: ScreensResult | None = None
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, name: str) -> Moving | None:
        """Return the result of a load that moves."""
        return next((one for one in self.moving if one.load == name), None)

    def coded(self, codec: str, load: str) -> Coded | None:
        """Return what a codec costs on a load."""
        return next((it for it in self.codecs if (it.codec, it.load) == (codec, load)), None)

    def behind(self, setting: str, mbit: float) -> Behind | None:
        """Return what came over a slow line."""
        return next((it for it in self.lines if (it.setting, it.mbit) == (setting, mbit)), None)
