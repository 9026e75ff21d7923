"""``terminal``: the agent's program of that name takes our place.

It is started by command, as everywhere, from the tree that these modules are of; with the standard
library alone, so that nothing else is looked for.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from sessiond.data import TREE

_PROGRAM: Final = "spice-sessionctl"
_START: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from agent.terminal.main import main
sys.exit(main(sys.argv[3:], program=sys.argv[2]))
"""


def execute(words: Sequence[str]) -> NoReturn:
    """Become it; ``words`` are the command line, from ``terminal`` on."""
    start = [sys.executable, "-I", "-S", "-c", _START.strip(), str(TREE), _PROGRAM]
    os.execv(sys.executable, [*start, *words[1:]])
