"""asyncio without TLS: the programs' first import.

asyncio takes libssl and libcrypto along where they are, 4 MB of each agent's memory and 6 ms of its
start, for transports that nothing here uses; and does without where they are not.
"""

import sys

if "asyncio" not in sys.modules and "ssl" not in sys.modules:
    sys.modules["ssl"] = None  # type: ignore[assignment]  # an import of it fails, as it may
    import asyncio  # noqa: F401

    del sys.modules["ssl"]
