"""Which files ``install`` puts where: a table of our data and of the folders that are read.

Most programs of the system read fixed folders, whatever the prefix is. What names one of our
programs gets its whole path.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sessiond import data
from sessiond.config import CONFIG_FILE
from sessiond.ctl.completion import script
from sessiond.errors import InstallError

UNIT: Final = "spice-sessiond.service"
SOCKETS: Final = (
    "spice-sessiond-agent.socket", "spice-sessiond-kms.socket", "spice-sessiond.socket",
)  # fmt: skip
AGENT: Final = "spice-session-agent"
USER_UNIT: Final = "spice-session-agent.service"
AGENTS_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
"""PATH of what the daemon starts."""
_READ: Final = (Path("/usr"), Path("/usr/local"))  # prefixes that systemd, udev and D-Bus read
_PROGRAM: Final = re.compile(r"^((?:Try)?Exec\w*=)(?:/usr/bin/)?(?=spice-session)", re.MULTILINE)
_PLAIN: Final = re.compile(r"[\w./+-]+", re.ASCII)  # no unit and no entry reads it otherwise


@dataclass(frozen=True, slots=True)
class DataFile:
    """What is to be in a file; ``target`` is its absolute path in the system."""

    target: Path
    content: bytes


def data_files(prefix: Path, programs: Path) -> list[DataFile]:
    """Return all files for this prefix, with our programs in the folder ``programs``.

    Raises InstallError when there are none beside these modules, or when no unit can name that
    folder; SessiondError without argcomplete, which makes the completion.
    """
    if not _PLAIN.fullmatch(str(programs)):
        raise InstallError(f"units and desktop entries cannot name programs in {programs}")
    places = _places(prefix)
    source = _source()
    found = [
        DataFile(folder / path.name, _content(path, programs))
        for pattern, folder in places.items()
        for path in sorted(source.glob(pattern))
    ]
    # The greeter's entry is found in a folder of its own, under the name of the other one.
    greeter = (source / "packaging/spice-session-helper-greeter.desktop").read_bytes()
    target = Path("/usr/share/gdm/greeter/autostart/spice-session-helper.desktop")
    found.append(DataFile(target, _named(greeter, programs)))
    return [*found, *_completions(prefix / "share"), *_configuration(programs)]


def _source() -> Path:
    for directory in data.DIRECTORIES:
        if (directory / "systemd" / UNIT).is_file():
            return directory
    text = "there are no data files beside this program"
    raise InstallError(f"{text}: a distribution's package has put them in place itself")


def _places(prefix: Path) -> Mapping[str, Path]:
    """Return where the files of the source tree go, by patterns."""
    is_read = prefix in _READ
    units, rules = ("lib/systemd/system", "lib/udev/rules.d")
    unit_folder = prefix / units if is_read else Path("/etc/systemd/system")
    user_folder = unit_folder.with_name("user")
    share = prefix / "share"
    return {
        "systemd/*.service": unit_folder,  # systemd.unit(5)
        "systemd/*.socket": unit_folder,
        "systemd/user/*.service": user_folder,
        "systemd/*.rules": prefix / rules if is_read else Path("/etc/udev/rules.d"),  # udev(7)
        # dbus-daemon(1): of policies it does not read those in /usr/local
        "dbus/*.conf": Path("/usr/share" if prefix == Path("/usr") else "/etc", "dbus-1/system.d"),
        "dbus/*.service": (prefix if is_read else _READ[1]) / "share/dbus-1/system-services",
        "dbus/*.xml": share / "dbus-1/interfaces",
        "dbus/*.policy": Path("/usr/share/polkit-1/actions"),  # polkit before 125 has no other
        "packaging/spice-session-agent.desktop": Path("/etc/xdg/autostart"),
        "packaging/spice-session-helper.desktop": Path("/etc/xdg/autostart"),
        "packaging/spice-session-indicator.desktop": Path("/etc/xdg/autostart"),
        "docs/man/*.1": share / "man/man1",
        "docs/man/*.8": share / "man/man8",
    }


def _content(path: Path, programs: Path) -> bytes:
    content = path.read_bytes()
    return _named(content, programs) if path.suffix in {".service", ".desktop"} else content


def _named(content: bytes, programs: Path) -> bytes:
    """Return it with the whole paths of our programs."""
    return _PROGRAM.sub(rf"\g<1>{programs}/", content.decode()).encode()


def _completions(share: Path) -> list[DataFile]:
    return [
        DataFile(share / "bash-completion/completions/spice-sessionctl", _script("bash")),
        DataFile(share / "fish/vendor_completions.d/spice-sessionctl.fish", _script("fish")),
    ]


def _script(shell: str) -> bytes:
    return f"{script(shell)}\n".encode()


def _configuration(programs: Path) -> list[DataFile]:
    """Return what tells the daemon of an agent that its PATH does not have."""
    if str(programs) in AGENTS_PATH:
        return []
    agent = json.dumps([str(programs / AGENT)])  # TOML, too
    text = f"# By spice-sessionctl install: where the agent is.\nstream.agent = {agent}\n"
    return [DataFile(CONFIG_FILE.with_suffix(".toml.d") / "10-program.toml", text.encode())]
