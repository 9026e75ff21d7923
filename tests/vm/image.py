"""The guest's root image: built once by mmdebstrap and mke2fs, then kept in a cache.

Owns the recipe (packages, files, kernel modules) and the cache, a directory per key outside the
checkout; booting is ``tests.vm.guest``'s. The key is a hash of the recipe, so that an edit here, or
in a file that is baked in, makes a new image and nothing else does; the packages' versions are
those of the day of the build, listed in the image's ``manifest``.

    python3 -m tests.vm.image          builds for $GUEST (trixie, bookworm) and prints where

Environment: GUEST, SPICE_SESSIOND_CACHE (default ``$XDG_CACHE_HOME/spice-sessiond``),
SPICE_SESSIOND_MIRROR (a Debian mirror's URL, in place of deb.debian.org).
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
SUITES: Final = ("trixie", "bookworm")
# Goes up when the steps of build() change in a way that the recipe does not show.
BUILDER: Final = 1
# What the file system may grow to; the file is sparse.
SIZE: Final = "4G"

PACKAGES: Final = (
    # a bootable system with logind
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "libpam-systemd",
    "polkitd",
    "kbd",
    "procps",
    "util-linux",
    # screens
    "xserver-xorg-core",
    "xserver-xorg-input-libinput",
    "xauth",
    "xinit",
    "x11-utils",
    "x11-xserver-utils",
    "xterm",
    "xdotool",
    "fonts-dejavu-core",
    # the project's own dependencies: in a guest without a network its package has to find them
    "python3",
    "python3-argcomplete",
    "python3-av",
    "python3-dbus-fast",
    "python3-pil",
    "python3-rich",
    "python3-systemd",
    "python3-sysv-ipc",
    "python3-xlib",
)
# A display manager, a desktop and SPICE's other agent, for the suite that shows a whole desktop;
# and what the package recommends.
DESKTOP: Final = (
    "libturbojpeg0",
    "python3-seccomp",
    "lightdm",
    "lightdm-gtk-greeter",
    "openbox",
    "python3-xdg",  # openbox starts the entries of /etc/xdg/autostart with it
    "spice-vdagent",
    # Wayland: a user's compositor, and a greeter's with the greeter
    "cage",
    "greetd",
    "gtkgreet",
    "sway",
)
DESKTOP_SUITE: Final = "trixie"
# Modules of the kernel that these machines have no use for: the build is shorter without them.
UNUSED_MODULES: Final = (
    "drivers/gpu/drm/amd",
    "drivers/gpu/drm/i915",
    "drivers/gpu/drm/nouveau",
    "drivers/gpu/drm/radeon",
    "drivers/gpu/drm/xe",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "fs/ocfs2",
    "fs/xfs",
    "fs/btrfs",
    "net/wireless",
    "net/mac80211",
    "sound",
)

USERS: Final = ("alice", "bob")  # the password is the name
# The initrd needs only what mounts the root: a third of the boot's time is saved.
INITRD_MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")
# Nothing in a guest that lives for minutes, without a network, waits for these.
MASKED: Final = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer",
)

COMMANDER_UNIT: Final = """\
[Unit]
Description=Runs the commands of the tests
After=systemd-logind.service systemd-user-sessions.service
Wants=systemd-logind.service

[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/commander.py
OOMScoreAdjust=-900
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""

# A session without a password, for systemd-run -p PAMName=test-session.
TEST_SESSION_PAM: Final = """\
auth     required pam_permit.so
account  required pam_unix.so
session  required pam_unix.so
session  required pam_systemd.so
"""

# The name and then the password are asked for: no list of users takes the keyboard.
LIGHTDM: Final = """\
[Seat:*]
greeter-session=lightdm-gtk-greeter
greeter-hide-users=true
user-session=openbox
"""

# Each screen is known by its colour, and by the name on it for people.
COLOURS: Final = {"greeter": "#306040", "alice": "#205080", "bob": "#802040"}

# Nothing that moves but the cursor.
GREETER: Final = f"""\
[greeter]
background={COLOURS["greeter"]}
indicators=~spacer
"""

# The ground gets its colour when the name stands on it.
AUTOSTART: Final = f"""\
case "$USER" in
    alice) colour='{COLOURS["alice"]}' ;;
    bob) colour='{COLOURS["bob"]}' ;;
esac
xterm -xrm '*waitForMap: true' -fa Mono -fs 40 -geometry 16x3+150+150 \\
    -e sh -c 'printf "\\n  %s" "$0"; xsetroot -solid "$1"; exec sleep inf' "$USER" "$colour" &
"""

# No card of a guest renders: what a compositor would try first is slower, and ends here, too.
ENVIRONMENT: Final = "WLR_RENDERER=pixman\n"

# A compositor with the same ground, the name on it, and nothing that moves.
SWAY: Final = """\
xwayland disable
exec sh ~/.config/sway/autostart
"""
SWAY_AUTOSTART: Final = f"""\
case "$USER" in
    alice) colour='{COLOURS["alice"]}' ;;
    bob) colour='{COLOURS["bob"]}' ;;
esac
swaymsg "output * bg $colour solid_color"
exec swaynag --font 'DejaVu Sans 40' --background 000000 --text ffffff --dismiss-button x \\
    --message "$USER"
"""

# A greeter on Wayland, of a user of its own; who is let in gets sway. Until greetd is started,
# lightdm is the display manager.
GREETD: Final = """\
[terminal]
vt = 7
[default_session]
command = "cage -s -- gtkgreet --command sway --style /etc/greetd/gtkgreet.css"
user = "_greetd"
"""
GREETD_UNIT: Final = """\
[Service]
ExecStart=
ExecStart=/usr/sbin/greetd --config /etc/greetd/guest.toml
"""
GTKGREET: Final = f"window {{ background: {COLOURS['greeter']}; }}\n"

FILES: Final = {
    "etc/environment": ENVIRONMENT,
    "etc/fstab": "",
    "etc/hostname": "guest\n",
    "etc/greetd/gtkgreet.css": GTKGREET,
    "etc/greetd/guest.toml": GREETD,
    "etc/hosts": "127.0.0.1 localhost guest\n",
    "etc/lightdm/lightdm.conf.d/guest.conf": LIGHTDM,
    "etc/lightdm/lightdm-gtk-greeter.conf.d/guest.conf": GREETER,
    "etc/skel/.config/openbox/autostart": AUTOSTART,
    "etc/skel/.config/sway/autostart": SWAY_AUTOSTART,
    "etc/skel/.config/sway/config": SWAY,
    "etc/initramfs-tools/conf.d/guest": "MODULES=list\nCOMPRESS=zstd\nRESUME=none\n",
    "usr/share/initramfs-tools/modules.d/guest": "".join(f"{name}\n" for name in INITRD_MODULES),
    "etc/pam.d/test-session": TEST_SESSION_PAM,
    "etc/systemd/system/commander.service": COMMANDER_UNIT,
    "etc/systemd/system/greetd.service.d/guest.conf": GREETD_UNIT,
    "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=volatile\n",
    "usr/local/lib/commander.py": (HERE / "commander.py").read_text(),
}

# Run by mmdebstrap with the new root as $1, after all packages.
FINISH: Final = f"""\
set -eu
for name in {" ".join(USERS)}; do
    chroot "$1" useradd --create-home --shell /bin/bash "$name"
    echo "$name:$name" | chroot "$1" chpasswd
done
chroot "$1" systemctl enable commander.service
chroot "$1" systemctl mask {" ".join(MASKED)}
chroot "$1" systemctl set-default multi-user.target
chroot "$1" dpkg-query --show > "$1/manifest"
# systemd.unit(5), ConditionNeedsUpdate: what a first boot would rebuild is all built.
chroot "$1" ldconfig
chroot "$1" journalctl --update-catalog
touch --reference="$1/usr" "$1/etc/.updated" "$1/var/.updated"
"""

# mmdebstrap mounts /proc, /sys and parts of /dev below the new root: in namespaces of its own, that
# end with this process, so that nothing is mounted there when an interrupted build is removed.
CONFINED: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

# The commands that build() runs, and the Debian packages that bring them.
COMMANDS: Final = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


class ImageError(Exception):
    """The image cannot be built; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image. Nothing may write to its files."""

    suite: str
    directory: Path

    @property
    def root(self) -> Path:
        """The root file system, ext4, without a partition table."""
        return self.directory / "root.img"

    @property
    def kernel(self) -> Path:
        """The suite's own kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initial file system, with INITRD_MODULES only."""
        return self.directory / "initrd.img"

    @property
    def manifest(self) -> Path:
        """One line per package: name, a tab, version."""
        return self.directory / "manifest"


def suite_from_environment() -> str:
    """Return the suite that $GUEST names. Raises ImageError if it is none of SUITES."""
    suite = os.environ.get("GUEST") or SUITES[0]
    if suite not in SUITES:
        raise ImageError(f"GUEST={suite}: must be one of {', '.join(SUITES)}")
    return suite


def cache_directory() -> Path:
    """Where images are kept; it may not exist yet."""
    if own := os.environ.get("SPICE_SESSIOND_CACHE"):
        return Path(own) / "vm"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spice-sessiond" / "vm"


def missing() -> list[str]:
    """Tell what this machine lacks for building an image, in words; empty if nothing."""
    lacks = [
        f"{command} (apt-get install {package})"
        for command, package in COMMANDS.items()
        if find_command(command) is None
    ]
    if os.geteuid() != 0:
        lacks.append("root (mmdebstrap makes a file system of many owners)")
    return lacks


def find_command(name: str) -> str | None:
    """Return the command's path; looks into sbin too, which is not in every PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def packages_of(suite: str) -> tuple[str, ...]:
    """Return what is installed in the suite's image."""
    return PACKAGES + DESKTOP if suite == DESKTOP_SUITE else PACKAGES


def recipe_key(suite: str) -> str:
    """Return the hash of all that decides what is in the image, but the packages' versions."""
    recipe = [BUILDER, SIZE, suite, packages_of(suite), UNUSED_MODULES, FILES, FINISH]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def cached_or_built(suite: str) -> Image:
    """Return the image of this recipe, from the cache or built now (a minute or two).

    Images of the suite's older recipes are removed, and what an interrupted build left. A second
    caller waits for the first one's build. Raises ImageError.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"{suite}-{recipe_key(suite)}"
    with _locked(cache / f"{suite}.lock"):
        for stale in cache.glob(f"{suite}-*"):
            if stale != directory:
                shutil.rmtree(stale)
        if not directory.exists():
            _build_into(directory, suite)
    return Image(suite, directory)


def _build_into(directory: Path, suite: str) -> None:
    if lacks := missing():
        raise ImageError(f"cannot build the guest's image without {'; '.join(lacks)}")
    # A sibling, so that the rename at the end is atomic; named so that the next build removes it.
    work = Path(tempfile.mkdtemp(prefix=f"{directory.name}.partial.", dir=directory.parent))
    try:
        build(work, suite)
        work.chmod(0o755)
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def build(work: Path, suite: str) -> None:
    """Leave the four files of an Image in an empty directory. Raises ImageError."""
    overlay, tree = work / "overlay.tar", work / "tree"
    overlay.write_bytes(overlay_tar())
    finish = work / "finish"
    finish.write_text(FINISH)
    _run(
        *CONFINED,
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(packages_of(suite))}",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        "--aptopt=Acquire::Retries 3",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        *(f"--dpkgopt=path-exclude=/*lib/modules/*/kernel/{name}/*" for name in UNUSED_MODULES),
        # Before the kernel is installed, so that its initrd is made once, and small.
        f"--setup-hook=tar-in {overlay} /",
        f'--customize-hook=sh {finish} "$1"',
        suite,
        str(tree),
        *filter(None, [os.environ.get("SPICE_SESSIOND_MIRROR")]),
    )
    _move_only(tree / "boot", "vmlinuz-*", work / "vmlinuz")
    _move_only(tree / "boot", "initrd.img-*", work / "initrd.img")
    shutil.move(tree / "manifest", work / "manifest")
    # No journal: the image is never written. No lazy tables: the guest would fill them at run time.
    options = ("-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=0")
    _run("mke2fs", *options, "-L", "guest", "-d", str(tree), str(work / "root.img"), SIZE)
    shutil.rmtree(tree)
    overlay.unlink()
    finish.unlink()


def overlay_tar() -> bytes:
    """FILES as a tar that unpacks over an empty root."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, text in FILES.items():
            member = tarfile.TarInfo(f"./{name}")
            data = text.encode()
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return output.getvalue()


def _move_only(folder: Path, pattern: str, target: Path) -> None:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ImageError(f"{len(found)} files match {pattern} in the guest's /boot, not one")
    shutil.move(found[0], target)


def _run(command: str, *arguments: str) -> None:
    path = find_command(command)
    assert path is not None
    done = subprocess.run(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise ImageError(f"{command} failed with status {done.returncode}:\n{tail}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build or find the image that $GUEST names, and print its directory."""
    try:
        print(cached_or_built(suite_from_environment()).directory)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
