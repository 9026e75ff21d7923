"""What GNOME Shell says that does not let itself be recorded: a stand-in, which says just that.

The real one refuses while it is locked, and in its greeter.
"""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from agent.capture.mutter.shell import Shell
from sessiond.errors import DisplayError
from sessiond.transport.bus import Bus
from sessiond.transport.dbus import ErrorType, Incoming, Message
from tests.fixtures.bus import PrivateBus

pytestmark = pytest.mark.parts

NAMES = ("org.gnome.Mutter.DisplayConfig", "org.gnome.Mutter.ScreenCast")
PLACE = [0, 0, 1.0, 0, True, [["Virtual-1", "", "", ""]], {}]
STATE = "ua((ssss)a(siiddada{sv})a{sv})a(iiduba(ssss)a{sv})a{sv}"


class Refusing:
    """A GNOME Shell with one monitor that answers CreateSession with an error."""

    def __init__(self, address: str, error: str) -> None:
        self._error = error
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def _run(self, address: str) -> None:
        self._loop.run_until_complete(self._serve(address))

    async def _serve(self, address: str) -> None:
        with await Bus.connect(address) as bus:

            def answer(message: Message, _incoming: Incoming) -> bool:
                if message.member == "GetCurrentState":
                    reply = Message.new_method_return(message, STATE, [1, [], [PLACE], {}])
                else:
                    reply = Message.new_error(message, ErrorType.ACCESS_DENIED, self._error)
                bus.reply(reply)
                return True

            bus.serve(answer)
            for name in NAMES:
                await bus.request_name(name)
            self._ready.set()
            await self._end.wait()


@pytest.fixture
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            "Session creation inhibited",
            "GNOME lets nobody record its screen now: it is locked, or shows the greeter (%s)",
        ),
        (
            "No",
            "GNOME refuses to be recorded: %s (org.freedesktop.DBus.Error.AccessDenied)",
        ),
    ],
)
def test_refusals(address: str, error: str, text: str) -> None:
    service = Refusing(address, error)
    try:
        shell = Shell(address)
        try:
            with pytest.raises(DisplayError) as caught:
                shell.start()
        finally:
            shell.close()
    finally:
        service.close()
    assert str(caught.value) == text.replace("%s", error)
