"""The program ``spice-sessiond-kms``: its standard input is the daemon's connection.

A socket of type SOCK_SEQPACKET of root's, on which the daemon says who is served (``wire.kms``).
systemd starts one for each connection, or the daemon itself does. 0: it has ended as told, or has
told the daemon why not; 2: there is nobody to be told.
"""

import socket
import sys

from sessiond import __version__
from sessiond.errors import SessiondError
from sessiond.kms.card import open_cards
from sessiond.kms.serve import Console, Helper


def main() -> int:
    """Serve one agent and return the exit status."""
    if sys.argv[1:]:
        _tell_of_us()
    try:
        control = socket.socket(fileno=0)
    except OSError:
        print("spice-sessiond-kms: started by spice-sessiond alone", file=sys.stderr)  # noqa: T201
        return 2
    with control:
        try:
            Helper(control, open_cards, Console).run()
        except SessiondError as error:
            print(f"spice-sessiond-kms: {error}", file=sys.stderr)  # noqa: T201 (no logging here)
    return 0


def _tell_of_us() -> None:
    """Answer who looks at the program, and exit."""
    import argparse  # noqa: PLC0415 (nobody needs it who serves)

    text = "Hands what the graphics card shows to an agent. Started by spice-sessiond alone."
    parser = argparse.ArgumentParser("spice-sessiond-kms", description=text)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
