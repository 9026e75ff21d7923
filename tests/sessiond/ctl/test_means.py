"""What the doctor finds of a user's programs, in this process's own /proc."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.ctl import examine
from sessiond.ctl.findings import Findings


def test_programs_of_a_user_are_found() -> None:
    own = Path("/proc/self/comm").read_text(encoding="utf-8").rstrip()
    assert own in examine._programs_of(os.getuid())
    assert not examine._programs_of(4_000_000_001)


def test_pipewire_is_there_where_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root looks at nothing that is a user's: that may be a link to anywhere."""
    monkeypatch.setattr(examine, "_RUNTIME", str(tmp_path))
    uid = os.getuid()
    place = tmp_path / str(uid) / "pipewire-0"
    found = Findings(name="", front={"User": (uid, "alice")})
    place.parent.mkdir()

    def has_pipewire() -> bool:
        means = examine._look_for_means(found)
        assert means.pipewire == str(place)
        return means.has_pipewire

    assert not has_pipewire()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "elsewhere"))
        sock.listen()
        place.symlink_to(tmp_path / "elsewhere")
        assert not has_pipewire(), "a link"
    place.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
        assert not has_pipewire(), "nobody listens"
        sock.listen()
        assert has_pipewire()
    assert not has_pipewire(), "what a killed one leaves there"


def test_what_is_another_users_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)
    found = Findings(name="", front={"User": (4_000_000_002, "alice")})
    means = examine._look_for_means(found)
    assert (means.pipewire, means.has_pipewire, means.has_wireplumber) == ("", True, True)
    found = replace(found, front={"User": (4_000_000_001, "bob")})
    means = examine._look_for_means(found)
    assert (means.has_pipewire, means.has_wireplumber) == (False, False)
