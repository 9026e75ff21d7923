"""Which output of which graphics card the stream shows, from sysfs.

Source: spice-server's and the upstream agent's form of a device address; the facts about
sysfs are the kernel's (Documentation/ABI/testing/sysfs-bus-pci, drivers/gpu/drm/drm_sysfs.c).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sessiond.wire.device import DeviceDisplayInfo
from sessiond.wire.kms import is_card

_SYSFS: Final = Path("/sys/class/drm")
_ROOT: Final = "/sys/devices/pci"
_DOMAIN: Final = re.compile(r"([0-9a-f]{4,8}):[0-9a-f]{2}")
_DEVICE: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:([0-9a-f]{2}\.[0-9a-f])")


def device_address(path: str) -> str:
    """Return ``pci/DOMAIN/SLOT.FUNCTION[/SLOT.FUNCTION...]`` for a card's real path in sysfs.

    Bridges come first, the card last; bus numbers are left out, because guests renumber them.
    The empty string for a card that is not on a PCI bus.
    """
    if not path.startswith(_ROOT):
        return ""
    first, *rest = path.removeprefix(_ROOT).split("/")
    domain = _DOMAIN.fullmatch(first)
    if not domain:
        return ""
    slots = []
    for component in rest:
        device = _DEVICE.fullmatch(component)
        if not device:
            break
        slots.append(device[1])
    return "/".join(["pci", domain[1], *slots]) if slots else ""


def display_info(outputs: Sequence[str], sysfs: Path = _SYSFS) -> DeviceDisplayInfo | None:
    """Return what to tell the host about the first of the display's connected ``outputs``.

    None where there is no graphics card on a PCI bus, or no output of that name is on it: the
    stream works without.
    """
    for card in _cards(sysfs):
        address = device_address(str(card.resolve()))
        connectors = _connectors(sysfs, card.name)
        if address and outputs and outputs[0] in _x_names(connectors):
            display_id = _x_names(connectors).index(outputs[0])
            return DeviceDisplayInfo(0, display_id, address)
    return None


def _cards(sysfs: Path) -> list[Path]:
    try:
        return sorted(entry for entry in sysfs.iterdir() if is_card(entry.name))
    except OSError:
        return []


def _connectors(sysfs: Path, card: str) -> list[str]:
    """Return a card's connector names in the order of drmModeGetResources, that of their ids."""
    found = []
    for entry in sysfs.glob(f"{card}-*"):
        try:
            number = int((entry / "connector_id").read_text())
        except (OSError, ValueError):
            number = 0  # before Linux 6.0: by name, which is the same for up to nine of a kind
        found.append((number, entry.name.removeprefix(f"{card}-")))
    return [name for _number, name in sorted(found)]


def _x_names(connectors: Sequence[str]) -> list[str]:
    """Return the names that Xorg gives: QXL counts from 1 where the kernel may count from 0."""
    if "Virtual-0" not in connectors:
        return list(connectors)
    return [re.sub(r"^Virtual-(\d+)$", lambda m: f"Virtual-{int(m[1]) + 1}", c) for c in connectors]
