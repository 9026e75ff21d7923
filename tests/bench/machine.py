"""The facts about a machine without which its numbers say little."""

import os
import platform
from pathlib import Path

import PIL
from PIL import features


def facts() -> dict[str, str | int]:
    """Return them by name. No date, no host's name: the same machine gives the same."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "libjpeg-turbo": features.version_feature("libjpeg_turbo") or "unknown",
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
