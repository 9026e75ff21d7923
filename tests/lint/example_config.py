"""The configuration's example, packaging/config.toml, from the table of keys: ``make docs``."""

import json
import textwrap
from pathlib import Path
from typing import Final

from sessiond.config import KEYS, Key, Value

FILE: Final = Path(__file__).parents[2] / "packaging" / "config.toml"
_HEAD: Final = """\
# The configuration of spice-sessiond: every key with its default; spice-sessiond(8) tells more. The
# files of /etc/spice-sessiond/config.toml.d win over this one. After a change, as root:
# spice-sessionctl reload
"""


def example() -> str:
    """Return the file: every key with its default, and all of them commented out."""
    return "\n".join([_HEAD, *(_entry(name, key) for name, key in KEYS.items())])


def _entry(name: str, key: Key) -> str:
    needs = "" if key.is_live else "; takes a restart"
    words = f"{key.meaning[0].upper()}{key.meaning[1:]}: {key.allowed}{needs}."
    comment = textwrap.wrap(words, 98, initial_indent="# ", subsequent_indent="# ")
    return "\n".join([*comment, f"#{name} = {_toml(key.default)}", ""])


def _toml(value: Value) -> str:
    return json.dumps(value)  # which of JSON occurs here is TOML, too


if __name__ == "__main__":
    FILE.write_text(example(), encoding="utf-8")
