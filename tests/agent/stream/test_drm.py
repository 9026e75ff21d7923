"""Which output of which card, from trees like sysfs."""

from pathlib import Path

import pytest

from agent.stream.drm import device_address, display_info
from sessiond.wire.device import DeviceDisplayInfo

CARD = "/sys/devices/pci0000:00/0000:00:02.0"
# Tests must not follow a link to a device that this machine has: no bus has this domain.
NOWHERE = "/sys/devices/pci7abcd:00/7abcd:00:02.0/drm"


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (f"{CARD}/drm/card0", "pci/0000/02.0"),
        (
            "/sys/devices/pci0000:00/0000:00:03.0/0000:01:01.0/0000:02:03.0/virtio2/drm/card0",
            "pci/0000/03.0/01.0/03.0",
        ),
        ("/sys/devices/pci10000:e0/10000:e0:1f.7/drm/card1", "pci/10000/1f.7"),
        ("/sys/devices/platform/vkms/drm/card0", ""),
        ("/sys/devices/pci0000:00", ""),
        ("/sys/devices/pci0000:00/drm/card0", ""),
        ("/sys/devices/pcifoo/0000:00:02.0/drm/card0", ""),
        ("/sys/devices/pci/0000:00:02.0", ""),
        ("", ""),
    ],
)
def test_address(path: str, address: str) -> None:
    assert device_address(path) == address


def card(sysfs: Path, name: str, target: str, *connectors: tuple[str, int | None]) -> None:
    (sysfs / name).symlink_to(f"{target}/{name}")
    for connector, number in connectors:
        directory = sysfs / f"{name}-{connector}"
        directory.mkdir()
        if number is not None:
            (directory / "connector_id").write_text(f"{number}\n")


def test_first_connected_output(tmp_path: Path) -> None:
    card(tmp_path, "card0", NOWHERE, ("Virtual-2", 41), ("Virtual-1", 33))
    (tmp_path / "renderD128").mkdir()
    (tmp_path / "version").touch()
    address = "pci/7abcd/02.0"
    assert display_info(("Virtual-1",), tmp_path) == DeviceDisplayInfo(0, 0, address)
    assert display_info(("Virtual-2", "Virtual-1"), tmp_path) == DeviceDisplayInfo(0, 1, address)


def test_order_is_that_of_the_connector_ids(tmp_path: Path) -> None:
    card(tmp_path, "card0", NOWHERE, ("DP-1", 90), ("HDMI-A-1", 80))
    info = display_info(("DP-1",), tmp_path)
    assert info
    assert info.device_display_id == 1


def test_kernels_without_connector_ids(tmp_path: Path) -> None:
    card(tmp_path, "card0", NOWHERE, ("Virtual-2", None), ("Virtual-1", None))
    info = display_info(("Virtual-2",), tmp_path)
    assert info
    assert info.device_display_id == 1


def test_names_of_qxl_begin_with_0(tmp_path: Path) -> None:
    card(tmp_path, "card0", NOWHERE, ("Virtual-0", 33), ("Virtual-1", 41))
    info = display_info(("Virtual-1",), tmp_path)
    assert info
    assert info.device_display_id == 0


def test_card_that_has_the_output(tmp_path: Path) -> None:
    card(tmp_path, "card0", "/sys/devices/platform/vkms/drm", ("Virtual-1", 1))
    card(tmp_path, "card1", NOWHERE, ("DP-1", 1))
    card(tmp_path, "card2", NOWHERE.replace("02.0", "05.0"), ("Virtual-1", 1))
    info = display_info(("Virtual-1",), tmp_path)
    assert info
    assert info.address == "pci/7abcd/05.0"


@pytest.mark.parametrize("outputs", [(), ("screen",)])
def test_no_such_output(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    card(tmp_path, "card0", NOWHERE, ("Virtual-1", 1))
    assert display_info(outputs, tmp_path) is None


def test_no_cards(tmp_path: Path) -> None:
    assert display_info(("Virtual-1",), tmp_path) is None
    assert display_info(("Virtual-1",), tmp_path / "none") is None
