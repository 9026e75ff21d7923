"""Where the lock lies, and that one holds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.user.runtime import LOCK, Lock, made_before, runtime_folder
from sessiond.errors import SessiondError

NOBODY = 65534


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    for name in ("named", "run", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


def found(tmp: Path, named: str = "") -> Path:
    return runtime_folder({"XDG_RUNTIME_DIR": named}, tmp / "run", tmp / "tmp")


def test_where_it_is(tmp: Path) -> None:
    own = tmp / "run" / str(os.geteuid())
    made = tmp / "tmp" / f"spice-session-agent-{os.geteuid()}"
    assert found(tmp) == made
    assert made.stat().st_mode & 0o7777 == 0o700
    assert found(tmp) == made
    own.mkdir(mode=0o700)
    assert found(tmp) == own
    assert found(tmp, str(tmp / "gone")) == own
    assert found(tmp, "run") == own
    assert found(tmp, str(tmp / "named")) == tmp / "named"


@pytest.mark.parametrize("what", ["open", "link", "file", "another's"])
def test_what_is_not_its_users_alone(tmp: Path, what: str) -> None:
    """It is passed over where there is another place, and an error where there is none."""
    for place in (tmp / "named", tmp / "tmp" / f"spice-session-agent-{os.geteuid()}"):
        if place.exists():
            place.rmdir()
        if what == "link":
            place.symlink_to(tmp)
        elif what == "file":
            place.touch(mode=0o700)
        else:
            place.mkdir()
            place.chmod(0o770 if what == "open" else 0o700)
        if what == "another's":
            if os.geteuid() != 0:
                pytest.skip("takes root")
            os.chown(place, NOBODY, NOBODY)
    with pytest.raises(SessiondError, match="is not a folder of uid"):
        found(tmp, str(tmp / "named"))


def test_one_at_a_time(tmp: Path) -> None:
    first = Lock(tmp)
    with pytest.raises(SessiondError, match=f"^already running as pid {os.getpid()}$"):
        Lock(tmp)
    first.close()
    Lock(tmp).close()


def test_one_at_a_time_who_came_before_the_folder(tmp: Path) -> None:
    """An agent that root has started at boot, and one of the user's first session."""

    def before() -> list[Path]:
        return made_before(found(tmp), tmp / "run", tmp / "tmp")

    own = tmp / "run" / str(os.geteuid())
    own.mkdir(mode=0o700)
    assert before() == []
    own.rmdir()
    first = Lock(found(tmp))
    assert before() == []  # it is the one that is taken
    own.mkdir(mode=0o700)
    assert before() == [tmp / "tmp" / f"spice-session-agent-{os.geteuid()}"]
    with pytest.raises(SessiondError, match=r"^already running as pid"):
        Lock(found(tmp), *before())
    Lock(found(tmp)).close()  # nothing was kept
    first.close()
    Lock(found(tmp), *before()).close()


@pytest.mark.parts
def test_a_lock_ends_with_its_holder(tmp: Path) -> None:
    code = "from agent.user.runtime import *; import sys; it = Lock(Path(sys.argv[1])); print(1)"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp)], cwd=Path(__file__).parents[3], check=True
    )
    Lock(tmp).close()
    assert (tmp / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_link_in_its_place(tmp: Path) -> None:
    (tmp / LOCK).symlink_to(tmp / "elsewhere")
    with pytest.raises(SessiondError, match="cannot be opened"):
        Lock(tmp)
    assert not (tmp / "elsewhere").exists()
