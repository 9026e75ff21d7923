"""``install`` and ``uninstall``: our data files in the system, and a list of what was put there.

The list has each file's hash, so that what somebody has changed since is neither overwritten nor
removed; nor is what Debian's package has put there since. New files are written beside their places
first: what can fail, fails while nothing has changed. Nothing is started and nothing reloaded; the
page says what is to be done.
"""

import contextlib
import hashlib
import json
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sessiond.ctl.datafiles import SOCKETS, UNIT, USER_UNIT, DataFile, data_files
from sessiond.ctl.view import Cell, Page, Style, Table, safe
from sessiond.errors import InstallError, NotPermittedError

LIST: Final = Path("/var/lib/spice-sessiond/installed.json")
_PACKAGED: Final = Path("/var/lib/dpkg/info/spice-sessiond.list")  # dpkg's own list (dpkg-query(1))
_RELOAD: Final = ("systemctl daemon-reload", "udevadm control --reload", "systemctl reload dbus")
# The sockets, too, by Also=; users' agents start with their next session.
_START: Final = (f"systemctl enable --now {UNIT}", f"systemctl --global enable {USER_UNIT}")
_STOP: Final = (
    f"systemctl disable --now {UNIT} {' '.join(SOCKETS)}; systemctl --global disable {USER_UNIT}"
)
_UNITS_LINKS: Final = ("etc/systemd/system", "etc/systemd/user")
_AGENTS_UNIT: Final = "spice-session-agent@.service"  # what its instances' links lead to
_STYLES: Final = {"wrote": Style.GOOD, "removed": Style.GOOD}


@dataclass(frozen=True, slots=True)
class Installed:
    """What was put in place: the hashes of the files by their paths, the folders that were made."""

    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def install(options: Namespace) -> Page:
    """Put all files in place, and take away what an earlier installation had more.

    Raises InstallError or NotPermittedError when nothing was changed.
    """
    root, prefix = options.root, options.prefix
    packaged = _packaged(root)
    # What is staged for another root finds its programs there, under the prefix.
    programs = _own_programs() if root == Path("/") else prefix / "bin"
    files = data_files(prefix, programs)
    earlier = _read(root)
    _refuse_others(files, earlier, root)
    _write(files, earlier, root)
    written = [str(file.target) for file in files]
    more = {path: earlier.files[path] for path in earlier.files.keys() - set(written)}
    done = [("wrote", path) for path in written] + _remove(more, root, packaged)
    _remove_folders(earlier.folders, root)
    return _page(done, (*_RELOAD, *_START) if root == Path("/") else ())


def uninstall(options: Namespace) -> Page:
    """Take away what is as it was put in place, and the folders that are empty then.

    What is the Debian package's now is kept. Raises InstallError or NotPermittedError when nothing
    was changed.
    """
    root = options.root
    packaged = _packaged(root)
    installed = _read(root)
    if not installed.files:
        raise InstallError(f"nothing is installed here: there is no {_below(root, LIST)}")
    if enabled := _enabled(root, packaged):
        raise InstallError(f"{enabled} is enabled. First: {_STOP}")
    for path in (*installed.files, str(LIST)):
        folder = _below(root, path).parent
        if folder.is_dir() and not os.access(folder, os.W_OK, effective_ids=True):
            raise NotPermittedError(f"cannot remove files in {folder}")
    done = _remove(installed.files, root, packaged)
    _below(root, LIST).unlink()
    _remove_folders(installed.folders, root)
    return _page(done, _RELOAD if root == Path("/") else ())


def _own_programs() -> Path:
    """Return the folder of this program: to be reached by all users, to be changed by us alone."""
    folder = Path(sys.argv[0]).resolve().parent
    if not (folder / "spice-sessiond").is_file():
        raise InstallError(f"there is no spice-sessiond in {folder}, beside this program")
    for place in (folder, *folder.parents):
        info = place.stat()
        if not info.st_mode & stat.S_IXOTH:
            raise InstallError(f"agents run as their users, who cannot reach {folder}: see {place}")
        # In /tmp everybody makes files, but none takes another's away.
        is_open = info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX
        if is_open or info.st_uid not in {0, os.geteuid()}:
            text = f"root would run what others can change in {folder}: see who owns {place}"
            raise InstallError(text)
    return folder


def _in(root: Path, path: str | Path) -> Path:
    return root / str(path).lstrip("/")


def _below(root: Path, path: str | Path) -> Path:
    """Return where it is in ``root``. Raises InstallError where links lead out of that."""
    place = _in(root, path)
    folder = os.path.realpath(place.parent)
    if place != root and not Path(folder).is_relative_to(os.path.realpath(root)):
        text = f"{place.parent} leads out of {root}, to {folder}"
        raise InstallError(f"{text}: links in there have to be relative")
    return place


def _read(root: Path) -> Installed:
    path = _below(root, LIST)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return Installed(dict(read["files"]), tuple(read["folders"]))
    except FileNotFoundError:
        return Installed()
    except PermissionError:
        raise NotPermittedError(f"cannot read {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InstallError(f"{path} is not the list of an installation: {error}") from error


def _packaged(root: Path) -> frozenset[Path]:
    """Return what dpkg knows of our Debian package. Raises InstallError."""
    try:
        names = _below(root, _PACKAGED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise InstallError(f"cannot read {error.filename}: {error.strerror}") from error
    return frozenset(_real(_in(root, name)) for name in names)


def _real(path: Path) -> Path:
    """Return a file's one name: the package's /lib is /usr/lib on most systems."""
    return Path(os.path.realpath(path.parent), path.name)


def _refuse_others(files: Iterable[DataFile], earlier: Installed, root: Path) -> None:
    """Raise InstallError where a file is not ours, or not any more as we have put it there."""
    foreign = [
        str(path)
        for file in files
        if os.path.lexists(path := _below(root, file.target))
        and not _is_ours(path, earlier.files.get(str(file.target)))
    ]
    if foreign:
        text = "there already, and not by us, or changed since"
        raise InstallError(f"{text}: {', '.join(foreign)}; nothing was changed")


def _is_ours(path: Path, expected: str | None) -> bool:
    with contextlib.suppress(OSError):  # who cannot read it cannot know
        return path.is_file() and not path.is_symlink() and _hash(path.read_bytes()) == expected
    return False


def _write(files: Iterable[DataFile], earlier: Installed, root: Path) -> None:
    """Write the files and the list of them."""
    with _undone_on_failure() as made:
        fresh = _missing_folders([*(file.target for file in files), LIST], root)
        for folder in fresh:
            _below(root, folder).mkdir()
            made.append(_below(root, folder))
            _below(root, folder).chmod(0o755)
        hashes = {str(file.target): _hash(file.content) for file in files}
        written = {"files": hashes, "folders": [*earlier.folders, *fresh]}
        # The list comes first, so that after a power cut it has at least all that is there.
        listed = DataFile(LIST, f"{json.dumps(written, indent=1)}\n".encode())
        for file in (listed, *files):
            beside = _beside(_below(root, file.target))
            beside.unlink(missing_ok=True)  # of an interrupted installation
            made.append(beside)
            _write_file(beside, file.content)
    for file in (listed, *files):
        _put(_below(root, file.target))


def _put(target: Path) -> None:
    try:
        _beside(target).replace(target)
    except OSError as error:  # a file that cannot be changed (chattr(1)), a broken disk
        text = f"cannot replace {target}: {error.strerror}; uninstall takes away what is there"
        raise InstallError(text) from error


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


@contextlib.contextmanager
def _undone_on_failure() -> Iterator[list[Path]]:
    """Yield a list for what is made; it is removed again when that fails."""
    made: list[Path] = []
    try:
        yield made
    except BaseException as error:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
        if not isinstance(error, OSError):
            raise
        kind = NotPermittedError if isinstance(error, PermissionError) else InstallError
        where = error.filename or made[-1]
        raise kind(f"cannot write {where}: {error.strerror}; nothing was changed") from error


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)


def _missing_folders(targets: Iterable[Path], root: Path) -> list[str]:
    """Return the folders that are to be made, the outer ones first."""
    wanted = {str(folder) for target in targets for folder in target.parents}
    return sorted(folder for folder in wanted if not _below(root, folder).is_dir())


def _remove(
    files: Mapping[str, str], root: Path, packaged: Container[Path]
) -> list[tuple[str, str]]:
    """Remove what is as it was put there; return for each path what was done, and the path."""
    return [(_remove_file(root, path, files[path], packaged), path) for path in sorted(files)]


def _remove_file(root: Path, name: str, expected: str, packaged: Container[Path]) -> str:
    try:
        path = _below(root, name)
        if not os.path.lexists(path):
            return "was gone"
        if _real(path) in packaged:
            return "kept, for it is the Debian package's"
        if not _is_ours(path, expected):
            return "kept, for it was changed"
        path.unlink()
    except OSError as error:
        return f"kept: {error.strerror}"
    except InstallError as error:
        return f"kept: {error}"
    return "removed"


def _remove_folders(folders: Iterable[str], root: Path) -> None:
    for folder in sorted(folders, reverse=True):
        # Others have put something there, or a link out of the root.
        with contextlib.suppress(OSError, InstallError):
            _below(root, folder).rmdir()


def _enabled(root: Path, packaged: Container[Path]) -> str:
    """Return the name of a unit of ours that systemd's links lead to; "" if there is none."""
    links = [link for folder in _UNITS_LINKS for link in _below(root, folder).rglob("*")]
    for link in sorted(links):
        target = Path(os.readlink(link)) if link.is_symlink() else Path()
        is_ours = target.name in {UNIT, *SOCKETS, USER_UNIT, _AGENTS_UNIT}
        if is_ours and _real(_in(root, target)) not in packaged:
            return target.name
    return ""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _page(done: Sequence[tuple[str, str]], following: Sequence[str]) -> Page:
    rows = tuple(
        (Cell(what, _STYLES.get(what, Style.WARN)), Cell(safe(path))) for what, path in done
    )
    document = {"Files": [{"Done": what, "Path": path} for what, path in done], "Next": following}
    note = "\n  ".join(["Next, as root:", *following]) if following else ""
    return Page(document, Table(rows), note=note)
