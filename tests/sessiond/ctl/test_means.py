"""What the doctor finds of a process and of a user's programs, in this process's own /proc."""

import os
import re
from pathlib import Path

from sessiond.ctl import examine


def test_programs_of_a_user_are_found() -> None:
    own = Path("/proc/self/comm").read_text(encoding="utf-8").rstrip()
    assert own in examine._programs_of(os.getuid())
    assert not examine._programs_of(4_000_000_001)


def test_the_right_of_the_helper_is_read() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"CapEff:\s*(\w+)", status)
    assert match
    has_it = bool(int(match[1], 16) >> 21 & 1)  # CAP_SYS_ADMIN
    assert examine._may_help_itself(os.getpid()) == has_it
    assert not examine._may_help_itself(0)
