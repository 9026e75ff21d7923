"""What has to be left of a user, and what not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.user.identity import become, check
from sessiond.errors import SessiondError, UsageError
from tests.fixtures.child import ROOT
from tests.fixtures.deadmount import dead_mount

STATUS = """\
Name:\tpython3
Uid:\t7\t7\t7\t7
Gid:\t8\t8\t8\t8
Groups:\t8 20 
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t0
"""  # noqa: W291 (proc(5) has it so)


def test_an_ordinary_users_process() -> None:
    check(STATUS, 7, 8, [20, 8])


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7"),
        ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t7\t0"),
        ("Gid:\t8\t8\t8\t8", "Gid:\t0\t8\t8\t8"),
        ("Groups:\t8 20 ", "Groups:\t0 8 20 "),
        ("Groups:\t8 20 ", "Groups:\t"),
        ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001"),
        ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000080"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000000080"),
        ("CapAmb:\t0000000000000000", "CapAmb:\t8000000000000000"),
    ],
)
def test_something_is_left(ours: str, found: str) -> None:
    with pytest.raises(SessiondError) as caught:
        check(STATUS.replace(ours, found), 7, 8, [8, 20])
    told = found.strip().replace(":\t", ": ").replace("\t", " ")
    assert str(caught.value).rstrip() == f"cannot become uid 7 for good: the kernel says {told}"


def test_the_kernels_own_words_are_understood() -> None:
    uids, gids = set(os.getresuid()), set(os.getresgid())
    if os.geteuid() == 0 or len(uids | gids) > 2:
        pytest.skip("an ordinary user has no capabilities")
    check(Path("/proc/self/status").read_text(), uids.pop(), gids.pop(), os.getgroups())


@pytest.mark.parametrize("name", ["no-such-user", "a\0b", "#0", ""])
def test_nobody_of_that_name(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such user"):
        become(name)


@pytest.mark.parts
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_home_on_a_dead_mount() -> None:
    """It is not waited for, and what was ours is left all the same."""
    code = """if True:
    import os, pwd, sys
    from agent.user import identity
    identity.TIMEOUT = 0.1
    identity._settle(pwd.struct_passwd(("x", "x", 4242, 4242, "", sys.argv[1], "/bin/sh")))
    print(os.getcwd(), os.environ["HOME"], flush=True)
    os._exit(0)
    """
    with dead_mount() as mount:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{mount}/home"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert done.stdout == f"/ {mount}/home\n", done.stderr
