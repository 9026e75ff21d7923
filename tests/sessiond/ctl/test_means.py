"""What the doctor finds of a user's programs, in this process's own /proc."""

import os
from pathlib import Path

from sessiond.ctl import examine


def test_programs_of_a_user_are_found() -> None:
    own = Path("/proc/self/comm").read_text(encoding="utf-8").rstrip()
    assert own in examine._programs_of(os.getuid())
    assert not examine._programs_of(4_000_000_001)
