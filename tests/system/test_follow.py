"""The tests of ``tests/daemon/test_follow.py`` in a world that is no stand-in.

The same functions; the fixture ``world`` is this directory's.
"""

from __future__ import annotations

import pytest

from tests.daemon.test_follow import *  # noqa: F403 (each of its tests, also those to come)

pytestmark = pytest.mark.system
