"""What all tests share: nothing fails because the machine has something else to do."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

# Fifty: each run draws others, and "make fuzz" draws many more for what reads from strangers.
settings.register_profile(
    "patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Let tests that look for what was left look at what came since, and not at all modules."""
    gc.collect()
    gc.freeze()
