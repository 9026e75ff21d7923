"""What all tests share: nothing fails because the machine has something else to do."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Each run draws others: half as many are enough here, where "make test-debian" draws all of them.
settings.register_profile("patient", settings.get_profile("thorough"), max_examples=50)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Let tests that look for what was left look at what came since, and not at all modules."""
    gc.collect()
    gc.freeze()
