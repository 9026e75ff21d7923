"""The same package in the older Debian: installed, started; a console and an X session are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.vm.desktop import SLOW, Desktop, install
from tests.vm.guest import STREAM_PORT, Guest
from tests.vm.sessions import x_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vm.image import Image

pytestmark = pytest.mark.vm

DROP_IN: Final = "/etc/spice-sessiond/config.toml.d/kms.toml"


@pytest.fixture(scope="module")
def desktop(
    guest_images: dict[str, Image], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desktop]:
    directory = tmp_path_factory.mktemp("bookworm")
    with (
        Guest(guest_images["bookworm"], directory=directory) as guest,
        Desktop(guest, pictures) as desktop,
    ):
        yield desktop


def test_the_package_installs_and_shows_a_session(desktop: Desktop, package: Path) -> None:
    guest = desktop.guest
    install(guest, package)
    desktop.connect()
    desktop.see_text("no-session-yet")
    assert desktop.wait_for_status("streaming", "ok") == "VT 1 is shown."
    sockets = ("spice-sessiond.socket", "spice-sessiond-agent.socket", "spice-sessiond-kms.socket")
    for unit in ("spice-sessiond.service", *sockets):
        guest.run(["systemctl", "is-active", unit])
    port = f"/dev/virtio-ports/{STREAM_PORT}"
    mode = guest.run(["stat", "--dereference", "--format=%a %U %G", port])
    assert mode.stdout == "600 root root\n"
    with x_session(guest, "alice", display=1, vt=7):
        desktop.wait_for_status("streaming", "ok")
        guest.spawn(["xterm", "-display", ":1", "-bg", "white"], user="alice")
        desktop.paint("alice", ":1", "#506020")
        desktop.see("#506020", "alice")
        guest.push(DROP_IN, b'[capture]\norder = ["kms"]\n')
        guest.run(["systemctl", "reload", "spice-sessiond.service"], timeout=SLOW)
        desktop.wait_until(lambda: desktop.status("Backend") == "kms")
        desktop.paint("alice", ":1", "#205080")
        desktop.see("#205080", "alice-by-kms")
    assert not desktop.failed_units()
    assert "Traceback" not in desktop.journal()
