"""Shell completion: the scripts, and the sessions, users and displays that there are.

``argcomplete`` is loaded only when a shell asks.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sessiond.ctl.client import NAME, Client
from sessiond.ctl.parser import Completer, build_parser
from sessiond.errors import SessiondError
from sessiond.transport.bus import Bus

PROGRAM: Final = "spice-sessionctl"
Read = Callable[[Client], Awaitable[list[str]]]

LIMIT: Final = 0.5  # seconds; somebody waits with a finger on the key
_MISSING: Final = "needs the Python package argcomplete (Debian: python3-argcomplete)"
# argcomplete 2 has no script for zsh; its own advice is to let zsh read the one for bash.
_ZSH: Final = "autoload -U bashcompinit && bashcompinit\n"


def complete() -> None:
    """Answer a shell, and end the process."""
    import argcomplete  # noqa: PLC0415 (see above)

    argcomplete.autocomplete(build_parser(COMPLETERS), always_complete_options=False)


def script(shell: str) -> str:
    """Return what a shell has to read. Raises SessiondError without argcomplete."""
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 (see above)
    except ModuleNotFoundError:
        raise SessiondError(_MISSING) from None
    text = shellcode([PROGRAM], shell="bash" if shell == "zsh" else shell)
    if shell == "zsh" and "ZSH_VERSION" not in text:
        text = _ZSH + text
    return text.strip()


def offers(read: Read) -> Completer:
    """Return what completes with what ``read`` returns."""

    def complete(
        prefix: str = "", parsed_args: argparse.Namespace | None = None, **_how: object
    ) -> list[str]:
        """Return what begins with ``prefix``; nothing if the daemon does not say it at once."""
        address = getattr(parsed_args, "bus", None) or "system"
        name = getattr(parsed_args, "name", None) or NAME
        try:
            found = asyncio.run(_ask(address, name, read))
        except (SessiondError, TimeoutError):
            return []
        return [it for it in found if it.startswith(prefix)]

    return complete


async def _ask(address: str, name: str, read: Read) -> list[str]:
    async with asyncio.timeout(LIMIT):
        with await Bus.connect(address, limit=LIMIT) as bus:
            return await read(await Client.find(bus, name))


async def _users(client: Client) -> list[str]:
    return [str(agent.get("Name", "")) for agent in (await client.user_agents()).values()]


async def _displays(client: Client) -> list[str]:
    found = (session.get("Display") for session in (await client.sessions()).values())
    return sorted({str(display) for display in found if display})


COMPLETERS: Final[Mapping[str, Completer]] = {
    "SESSION": offers(Client.session_ids),
    "USER": offers(_users),
    "DISPLAY": offers(_displays),
}
