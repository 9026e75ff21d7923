"""A card, with a device in the kernel's place that knows what a virtio card has told."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sessiond.errors import SessiondError
from sessiond.kms import card as cards
from sessiond.kms.card import Card, Cursor, Output, Screen, open_cards
from sessiond.kms.drm import Capability, Crtc, Framebuffer

NAMES = {8: "type", 17: "FB_ID", 20: "CRTC_ID", 13: "CRTC_X", 14: "CRTC_Y", 34: "HOTSPOT_X",
         35: "HOTSPOT_Y"}  # fmt: skip


class FakeDevice:
    """Two outputs; plane 32 is a cursor's, 30 none. ``calls`` are those that changed anything."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.calls: list[object] = []
        self.crtcs = {36: Crtc(36, 40, 0, 0, 1280, 800), 43: Crtc(43, 0, 0, 0, 0, 0)}
        self.connectors = {33: ("Virtual-1", 34), 41: ("Virtual-2", 0)}
        self.planes_of = {30: {8: 1, 17: 40, 20: 36}, 32: {8: 2, 17: 0, 20: 0}}
        self.handles: list[int] = []
        self.handle = 1
        self.asked_connectors = 0

    def drop_master(self) -> None:
        self.calls.append("drop_master")

    def driver(self) -> str:
        assert self.calls == ["drop_master"]  # before anything else
        return "virtio_gpu"

    def set_capability(self, capability: Capability) -> None:
        self.calls.append(capability)
        if capability is Capability.CURSOR_PLANE_HOTSPOT:
            raise OSError(22, "Invalid argument")  # as of an old kernel

    def resources(self) -> tuple[Sequence[int], Sequence[int]]:
        return list(self.crtcs), list(self.connectors)

    def crtc(self, number: int) -> Crtc:
        return self.crtcs[number]

    def connector(self, number: int) -> tuple[str, int]:
        self.asked_connectors += 1
        return self.connectors[number]

    def crtc_of_encoder(self, number: int) -> int:
        return {34: 36, 42: 43}[number]

    def planes(self) -> Sequence[int]:
        return list(self.planes_of)

    def plane_properties(self, number: int) -> dict[int, int]:
        return self.planes_of[number]

    def property_name(self, number: int) -> str:
        return NAMES[number]

    def framebuffer(self, number: int) -> Framebuffer:
        if number == 99:
            raise FileNotFoundError(2, "No such file or directory")
        self.handles.append(number)
        return Framebuffer(1280, 800, 0, 5120, 0, 0, number * self.handle, (number,))

    def close_handle(self, handle: int) -> None:
        self.handles.remove(handle)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Card, FakeDevice]:
    made: list[FakeDevice] = []

    def make(fd: int) -> FakeDevice:
        made.append(FakeDevice(fd))
        return made[-1]

    monkeypatch.setattr(cards, "Device", make)
    (tmp_path / "card3").touch()
    return Card(str(tmp_path / "card3")), made[0]


def test_opened_without_a_say(opened: tuple[Card, FakeDevice]) -> None:
    card, device = opened
    assert (card.name, card.driver) == ("card3", "virtio_gpu")
    assert device.calls == ["drop_master", *Capability]
    assert not os.get_inheritable(device.fd)
    card.close()
    card.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(device.fd)


def test_screen(opened: tuple[Card, FakeDevice]) -> None:
    card, device = opened
    crtc = device.crtcs[36]
    assert card.screen() == Screen((crtc,), ())
    device.planes_of[32] = {8: 2, 17: 45, 20: 36, 13: -7, 14: 50, 34: 3, 35: 4}
    screen = card.screen()
    assert screen == Screen((crtc,), (Cursor(36, 45, -7, 50, 3, 4),))
    assert screen.framebuffers == (40, 45)
    device.planes_of[32][13] = 9
    assert card.screen() != screen
    assert card.screen().is_alike(screen)
    device.planes_of[32][17] = 46
    assert not card.screen().is_alike(screen)
    card.close()


def test_outputs_are_asked_for_once_for_each_mode(opened: tuple[Card, FakeDevice]) -> None:
    card, device = opened
    assert card.outputs(card.screen()) == {36: Output(0, "Virtual-1")}
    device.crtcs[36] = device.crtcs[36]._replace(framebuffer=41)
    card.outputs(card.screen())
    assert device.asked_connectors == 2
    device.crtcs[43] = Crtc(43, 41, 0, 0, 640, 480)
    device.connectors[41] = ("Virtual-2", 42)
    assert card.outputs(card.screen()) == {
        36: Output(0, "Virtual-1"),
        43: Output(1, "Virtual-2"),
    }
    card.close()


def test_handles_are_closed_whatever_happens(opened: tuple[Card, FakeDevice]) -> None:
    card, device = opened
    with contextlib.suppress(ZeroDivisionError), card.opened([40, 41]) as found:
        assert device.handles == list(found) == [40, 41]
        raise ZeroDivisionError
    assert device.handles == []
    with card.opened([40, 99]) as found:
        assert list(found) == [40]
    device.handle = 0
    with pytest.raises(SessiondError, match="CAP_SYS_ADMIN"), card.opened([40]):
        pass
    assert device.handles == []
    card.close()


def test_what_is_no_card(tmp_path: Path) -> None:
    folder = str(tmp_path / "dri")
    assert open_cards(folder) == ([], f"there is no card in {folder}")
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "card0").touch()
    (tmp_path / "dri" / "renderD128").touch()
    before = len(os.listdir("/proc/self/fd"))
    assert open_cards(folder) == ([], "card0: Inappropriate ioctl for device")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_another_seats_card_is_left_alone(opened: tuple[Card, FakeDevice], tmp_path: Path) -> None:
    """Somebody else sits there."""
    card, _device = opened
    udev = tmp_path / "udev"
    asked: list[str] = []

    def open_card(path: str) -> Card:
        asked.append(path)
        return card

    udev.mkdir()
    told = udev / "c0:0"  # what a plain file has for a device number
    told.write_text("E:ID_FOR_SEAT=drm-pci-0000_00_01_0\nE:ID_SEAT=seat1\nG:seat\n")
    assert open_cards(str(tmp_path), open_card, str(udev)) == ([], "card3 is of seat1")
    assert not asked
    for text in ("E:ID_SEAT=seat0\n", "E:ID_FOR_SEAT=drm-pci-0000_00_01_0\nG:seat\n"):
        told.write_text(text)
        assert open_cards(str(tmp_path), open_card, str(udev)) == ([card], "")
    told.unlink()
    assert open_cards(str(tmp_path), open_card, str(udev)) == ([card], "")
    card.close()
