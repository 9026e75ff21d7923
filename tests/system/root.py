"""The container's root file system: built once by mmdebstrap, then kept in a cache.

Owns the recipe (packages, files) and its directory in the cache beside the guests' images; booting
is ``tests.system.container``'s. The key is a hash of the recipe, so that an edit here makes a new
root and nothing else does: the project's tree is not part of it, the container mounts it.

    python3 -m tests.system.root          builds it and tells where

Environment: as for ``tests.vm.image``, whose cache and tools this shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.vm import image as images
from tests.vm.image import CONFINED, TEST_SESSION_PAM, USERS, ImageError, find_command

# Python 3.11, as on the oldest system that the project supports.
SUITE: Final = "bookworm"
# Goes up when the steps of build() change in a way that the recipe does not show.
BUILDER: Final = 1
# Where the container finds the project's tree and the directory that it shares with the host.
PROJECT: Final = "/opt/spice-sessiond"
SHARED: Final = "/srv/shared"
# The consoles that have a device node in the container: 0 is whichever is in front.
VTS: Final = range(13)

PACKAGES: Final = (
    # a bootable system with logind
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "polkitd",
    "kbd",
    "procps",
    "util-linux",
    # screens without a card
    "xserver-xorg-core",
    "xserver-xorg-video-dummy",
    "xauth",
    "xinit",
    "x11-utils",
    "x11-xserver-utils",
    "xterm",
    # the project's own dependencies
    "python3",
    "python3-dbus-fast",
    "python3-dbus-next",
    "python3-pil",
    "python3-seccomp",
    "python3-systemd",
    "python3-xlib",
    # its tests'
    "python3-sysv-ipc",
    # encodes at three quarters of the cost; the guest of this age does without
    "libturbojpeg0",
)

# Nothing in a container that lives for minutes, without a network, waits for these; and the kernel
# is the host's.
MASKED: Final = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-clean.timer",
)

COMMANDER_UNIT: Final = f"""\
[Unit]
Description=Runs the commands of the tests
After=systemd-logind.service systemd-user-sessions.service
Wants=systemd-logind.service

[Service]
WorkingDirectory={PROJECT}
ExecStart=/usr/bin/python3 -m tests.system.inside.commands {SHARED}/commands
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""

# Nodes of the container's own: of the host's, bound into it, logind and getty would change owners.
VT_NODES_UNIT: Final = f"""\
[Unit]
Description=The device nodes of the virtual consoles
DefaultDependencies=no
Before=sysinit.target systemd-logind.service

[Service]
Type=oneshot
ExecStart=/bin/sh -euc 'for n in $$(seq {VTS.start} {VTS.stop - 1}); do \
    mknod --mode=620 /dev/tty$$n c 4 $$n; chown root:tty /dev/tty$$n; done'

[Install]
WantedBy=sysinit.target
"""

# The screen is the dummy driver's, which leaves the console alone. That an inactive device of
# another driver stands in the layout makes the server open its VT and follow the switches.
XORG_CONF: Final = """\
Section "ServerFlags"
    Option "AutoAddDevices" "false"
    Option "AutoAddGPU" "false"
EndSection
Section "Monitor"
    Identifier "monitor"
    HorizSync 5-1000
    VertRefresh 5-200
EndSection
Section "Device"
    Identifier "dummy"
    Driver "dummy"
    VideoRam 65536
EndSection
Section "Device"
    Identifier "console"
    Driver "modesetting"
EndSection
Section "Screen"
    Identifier "screen"
    Device "dummy"
    Monitor "monitor"
    DefaultDepth 24
    SubSection "Display"
        Depth 24
        Modes "1024x768" "800x600" "640x480"
        Virtual 1024 768
    EndSubSection
EndSection
Section "ServerLayout"
    Identifier "layout"
    Screen "screen"
    Inactive "console"
EndSection
"""

FILES: Final = {
    "etc/fstab": "",
    "etc/hostname": "container\n",
    "etc/hosts": "127.0.0.1 localhost container\n",
    # machine-id(5): without one each boot would be a first one, and preset all units.
    "etc/machine-id": "5b1ce5e5510d4e0f9a3a0c0de0000001\n",
    "etc/pam.d/test-session": TEST_SESSION_PAM,
    "etc/systemd/journald.conf.d/container.conf": "[Journal]\nStorage=volatile\n",
    "etc/systemd/system/commander.service": COMMANDER_UNIT,
    "etc/systemd/system/vt-nodes.service": VT_NODES_UNIT,
    "etc/X11/xorg.conf.d/10-dummy.conf": XORG_CONF,
}

# Run by mmdebstrap with the new root as $1, after all packages; $2 is a directory with FILES.
FINISH: Final = f"""\
set -eu
cp --recursive --no-target-directory "$2" "$1"
for name in {" ".join(USERS)}; do
    chroot "$1" useradd --create-home --shell /bin/bash "$name"
    echo "$name:$name" | chroot "$1" chpasswd
done
chroot "$1" useradd --system --create-home --home-dir /var/lib/greeter greeter
mkdir -p "$1{PROJECT}" "$1{SHARED}"
chroot "$1" systemctl enable commander.service vt-nodes.service
chroot "$1" systemctl mask {" ".join(MASKED)}
chroot "$1" systemctl set-default multi-user.target
# systemd.unit(5), ConditionNeedsUpdate: what a first boot would rebuild is all built.
chroot "$1" ldconfig
chroot "$1" journalctl --update-catalog
touch --reference="$1/usr" "$1/etc/.updated" "$1/var/.updated"
"""

# The commands that building needs, and the Debian packages that bring them.
COMMANDS: Final = {
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


def cache_directory() -> Path:
    """Where roots are kept; it may not exist yet."""
    return images.cache_directory().parent / "system"


def missing() -> list[str]:
    """Tell what this machine lacks for building a root, in words; empty if nothing."""
    lacks = [
        f"{command} (apt-get install {package})"
        for command, package in COMMANDS.items()
        if find_command(command) is None
    ]
    if os.geteuid() != 0:
        lacks.append("root (mmdebstrap makes a file system of many owners)")
    return lacks


def recipe_key() -> str:
    """Return the hash of all that decides what is in the root, but the packages' versions."""
    recipe = [BUILDER, SUITE, PACKAGES, FILES, FINISH]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def cached_or_built() -> Path:
    """Return the root of this recipe, from the cache or built now (well under a minute).

    Nothing may write to it. Roots of older recipes are removed, and what an interrupted build left.
    A second caller waits for the first one's build. Raises ImageError.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"{SUITE}-{recipe_key()}"
    with images._locked(cache / "lock"):
        for stale in cache.glob(f"{SUITE}-*"):
            if stale != directory:
                shutil.rmtree(stale)
        if not directory.exists():
            _build_into(directory)
    return directory / "root"


def _build_into(directory: Path) -> None:
    if lacks := missing():
        raise ImageError(f"cannot build the container's root without {'; '.join(lacks)}")
    # A sibling, so that the rename at the end is atomic; named so that the next build removes it.
    work = Path(tempfile.mkdtemp(prefix=f"{directory.name}.partial.", dir=directory.parent))
    try:
        build(work)
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def build(work: Path) -> None:
    """Leave ``root`` in an empty directory. Raises ImageError."""
    files, finish = work / "files", work / "finish"
    for name, text in FILES.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text)
    finish.write_text(FINISH)
    images._run(
        *CONFINED,
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        "--aptopt=Acquire::Retries 3",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        f'--customize-hook=sh {finish} "$1" {files}',
        SUITE,
        str(work / "root"),
        *filter(None, [os.environ.get("SPICE_SESSIOND_MIRROR")]),
    )
    shutil.rmtree(files)
    finish.unlink()


def main() -> int:
    """Build or find the root, and tell its directory."""
    try:
        sys.stdout.write(f"{cached_or_built()}\n")
    except ImageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
