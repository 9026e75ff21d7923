"""What an agent's memory is, and in which order sessions were in front."""

from __future__ import annotations

import mmap
import os
import subprocess
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.model import Session
from sessiond.stream.agents import Recency, own_memory

SIZE: Final = 32 << 20  # bytes: what else comes and goes here is far less


def test_private_and_shared_memory_is_its_own() -> None:
    before = own_memory(os.getpid())
    private = bytearray(b"x" * SIZE)
    with mmap.mmap(-1, SIZE) as shared:
        shared.write(private)
        assert own_memory(os.getpid()) - before > 1.5 * SIZE
    del private


@pytest.mark.parts
def test_who_has_ended_has_none() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert own_memory(process.pid) == 0, "of a process that nobody has reaped"
    process.wait()
    assert own_memory(process.pid) == 0


def sessions(ids: str) -> dict[str, Session]:
    return {id_: Session(id=id_, path=f"/{id_}", uid=1, gid=1) for id_ in ids}


@given(
    st.lists(st.sampled_from("abcd")), st.frozensets(st.sampled_from("abcde")), st.integers(0, 5)
)
def test_the_latest(fronts: list[str], among: frozenset[str], limit: int) -> None:
    recency = Recency()
    for one in fronts:
        recency.note(one, sessions("abcd"))
    latest = [one for one in dict.fromkeys(reversed(fronts)) if one in among]
    assert recency.latest(limit, among) == set(latest[:limit])
    assert recency.newest == (fronts[-1] if fronts else "")


def test_who_is_gone_is_forgotten() -> None:
    recency = Recency()
    for one in "abc":
        recency.note(one, sessions("abc"))
    recency.note("", sessions("ab"))
    assert recency.newest == "b"
    recency.note("", sessions("abc"))
    assert recency.latest(3, "abc") == {"a", "b"}
