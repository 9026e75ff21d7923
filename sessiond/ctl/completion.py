"""Shell completion: the scripts, and the ids of the sessions that there are.

``argcomplete`` is loaded only when a shell asks.
"""

import argparse
import asyncio
from typing import Final

from sessiond.ctl.client import NAME, Client
from sessiond.ctl.parser import build_parser
from sessiond.errors import SessiondError
from sessiond.transport.bus import Bus

PROGRAM: Final = "spice-sessionctl"
LIMIT: Final = 0.5  # seconds; somebody waits with a finger on the key
_MISSING: Final = "needs the Python package argcomplete (Debian: python3-argcomplete)"
# argcomplete 2 has no script for zsh; its own advice is to let zsh read the one for bash.
_ZSH: Final = "autoload -U bashcompinit && bashcompinit\n"


def complete() -> None:
    """Answer a shell, and end the process."""
    import argcomplete  # noqa: PLC0415 (see above)

    argcomplete.autocomplete(build_parser(session_ids), always_complete_options=False)


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


def session_ids(
    prefix: str = "", parsed_args: argparse.Namespace | None = None, **_how: object
) -> list[str]:
    """Return the ids that begin with ``prefix``; none if the daemon does not say them at once."""
    address = getattr(parsed_args, "bus", None) or "system"
    name = getattr(parsed_args, "name", None) or NAME
    try:
        found = asyncio.run(_ask(address, name))
    except (SessiondError, TimeoutError):
        return []
    return [session_id for session_id in found if session_id.startswith(prefix)]


async def _ask(address: str, name: str) -> list[str]:
    async with asyncio.timeout(LIMIT):
        with await Bus.connect(address, limit=LIMIT) as bus:
            client = await Client.find(bus, name)
            return await client.session_ids()
