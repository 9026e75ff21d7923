"""asyncio without TLS: the programs' first import.

asyncio takes libssl and libcrypto along where they are, 4 MB of each process's memory and 6 ms of
its start, for transports that nothing here uses; and does without where they are not.
"""

import importlib
import sys
from types import ModuleType


def import_without(missing: str, name: str) -> ModuleType:
    """Import ``name`` as where there is no ``missing``, which it can do without.

    If either was imported already, so it stays. Raises ImportError.
    """
    if name in sys.modules or missing in sys.modules:
        return importlib.import_module(name)
    sys.modules[missing] = None  # type: ignore[assignment]  # an import of it fails
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[missing]


import_without("ssl", "asyncio")
