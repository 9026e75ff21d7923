"""What GNOME Shell says that does not let itself be recorded, with a stand-in for it."""

from collections.abc import Iterator

import pytest

from agent.capture.mutter.shell import Shell
from sessiond.errors import DisplayError
from tests.agent.capture.mutter.gnome import INHIBITED, Gnome
from tests.fixtures.bus import PrivateBus

pytestmark = pytest.mark.parts


@pytest.fixture
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            INHIBITED,
            "GNOME lets nobody record its screen now: it is locked, or shows the greeter (%s)",
        ),
        (
            "No",
            "GNOME refuses to be recorded: %s (org.freedesktop.DBus.Error.AccessDenied)",
        ),
    ],
)
def test_refusals(address: str, error: str, text: str) -> None:
    with Gnome(address, error):
        shell = Shell(address)
        try:
            with pytest.raises(DisplayError) as caught:
                shell.start()
        finally:
            shell.close()
    assert str(caught.value) == text.replace("%s", error)
