"""What each command does: a table from its name to a coroutine.

A command returns the page to print, None when there is nothing to say, as systemd's tools are
silent about what was done.
"""

from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sessiond.ctl import sessions, status, users
from sessiond.ctl.ask import password_agent
from sessiond.ctl.client import Client
from sessiond.ctl.monitor import Monitor
from sessiond.ctl.view import Page
from sessiond.transport.bus import Bus

Show = Callable[[Page], None]
Reader = Callable[[Client, Namespace], Awaitable[Page]]
Order = Callable[[Client, Namespace], Awaitable[Page | None]]


async def run(options: Namespace, show: Show) -> Page | None:
    """Do one command; ``show`` prints what must not wait for its end. Raises SessiondError."""
    if options.command == "doctor":
        from sessiond.ctl.examine import doctor  # noqa: PLC0415 (loads what others do not need)

        return await doctor(options)  # also where there is neither a daemon nor a bus
    with await Bus.connect(options.bus) as bus:
        client = await Client.find(bus, options.name, may_ask=not options.no_ask_password)
        if options.command == "monitor":
            await Monitor(client, show).run(bus, options.name)
        if options.command in READERS:
            return await READERS[options.command](client, options)
        with password_agent(is_wanted=client.may_ask):
            return await ORDERS[options.command](client, options)


async def _stream(client: Client, options: Namespace, *, enabled: bool) -> None:
    if options.session:
        await client.set_streaming(options.session, enabled=enabled)
    else:
        await client.set_manager("StreamingEnabled", "b", enabled)


READERS: Final[Mapping[str, Reader]] = {
    "status": lambda client, _: status.status(client),
    "list": lambda client, _: sessions.list_sessions(client),
    "show": lambda client, options: sessions.show(client, options.session),
    "history": lambda client, options: sessions.history(client, options.lines),
    "users": lambda client, _: users.users(client),
}
"""What everybody may read."""
ORDERS: Final[Mapping[str, Order]] = {
    "activate": lambda client, options: client.order("ActivateSession", "s", options.session),
    "switch": lambda client, options: client.order("SwitchToVT", "u", options.vt),
    "pause": lambda client, options: _stream(client, options, enabled=False),
    "resume": lambda client, options: _stream(client, options, enabled=True),
    "restart-agent": lambda client, _: client.order("RestartAgent"),
    "set-auto-switch": lambda client, options: client.set_manager("AutoSwitch", "s", options.value),
    "reload": lambda client, _: client.order("Reload"),
    "displays": lambda client, options: users.displays(client, options.user),
    "screens": lambda client, options: users.screens(client, options.user, options.display),
    "connect-display": lambda client, options: users.connect_display(
        client, options.user, options.display, show=options.show
    ),
}
"""What the daemon may have to ask a password for."""
