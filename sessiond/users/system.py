"""What the host asks about the machine: its name, its system and its clock."""

import os
import platform
import time
from typing import Final

# os-release(5) -> the guest agent's member
_RELEASE: Final = {
    "ID": "id",
    "NAME": "name",
    "PRETTY_NAME": "pretty-name",
    "VERSION": "version",
    "VERSION_ID": "version-id",
    "VARIANT": "variant",
    "VARIANT_ID": "variant-id",
}


def host_name() -> dict[str, object]:
    """Return the answer to guest-get-host-name."""
    return {"host-name": os.uname().nodename}


def os_info() -> dict[str, object]:
    """Return the answer to guest-get-osinfo; what the system does not say is left out."""
    kernel = os.uname()
    try:
        release = platform.freedesktop_os_release()
    except OSError:  # no such file
        release = {}
    return {
        "kernel-release": kernel.release,
        "kernel-version": kernel.version,
        "machine": kernel.machine,
        **{member: release[key] for key, member in _RELEASE.items() if key in release},
    }


def timezone() -> dict[str, object]:
    """Return the answer to guest-get-timezone; the offset is in seconds east of UTC."""
    time.tzset()  # localtime_r(3) need not notice that /etc/localtime is another one
    now = time.localtime()
    return {"zone": now.tm_zone, "offset": now.tm_gmtoff}


def clock() -> int:
    """Return the answer to guest-get-time: nanoseconds since 1970."""
    return time.time_ns()
