"""Where the data files lie that belong to these modules: the contract, units, policies, pages.

In a source tree they lie beside the packages; pip puts them into its prefix, the Debian package
where the system looks for them.
"""

import sys
from pathlib import Path
from typing import Final

TREE: Final = Path(__file__).parents[1]
_SHARE: Final = "share/spice-sessiond"
DIRECTORIES: Final = (
    TREE,
    # A prefix is above its modules, however deep a Python has them.
    *(parent / _SHARE for parent in (TREE, *TREE.parents)),
    Path(sys.prefix, _SHARE),
)
"""Where to look, in this order; each with the folders of the source tree."""
