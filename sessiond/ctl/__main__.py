# PYTHON_ARGCOMPLETE_OK
"""The program ``spice-sessionctl``: command line in, exit status out."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    ``terminal`` is of the earliest boot: it works where there are neither the libraries that the
    other commands need nor what they talk to.
    """
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["terminal"] and "_ARGCOMPLETE" not in os.environ:
        from sessiond.ctl.terminal import execute  # noqa: PLC0415 (see above)

        return execute(words)
    from sessiond.ctl import program  # noqa: PLC0415 (see above)

    return program.main(words)


if __name__ == "__main__":
    sys.exit(main())
