"""What a card shows, as planes of one picture."""

import pytest

from sessiond.kms.card import Cursor, Output, Screen
from sessiond.kms.drm import Crtc, Framebuffer
from sessiond.kms.view import RefusalError, planes
from sessiond.wire.kms import MAX_SIDE, Code, Kind, Plane, fourcc

LEFT, RIGHT = Output(0, "DP-1"), Output(1, "DP-2")


def framebuffer(
    width: int = 640,
    height: int = 480,
    form: str = "XR24",
    modifier: int | None = 0,
) -> Framebuffer:
    return Framebuffer(width, height, fourcc(form), 4 * width, 0, modifier, 1, (1,))


def crtc(number: int, buffer: int, left: int = 0, top: int = 0) -> Crtc:
    return Crtc(number, buffer, left, top, 640, 480)


def places(found: list[Plane]) -> list[tuple[int, int, int, int, int, str]]:
    return [(p.buffer, p.x, p.y, p.left, p.top, p.output) for p in found if p.kind is Kind.PRIMARY]


def text_of(screen: Screen, buffers: dict[int, Framebuffer], driver: str = "virtio_gpu") -> str:
    with pytest.raises(RefusalError) as caught:
        planes(screen, buffers, {}, driver)
    assert caught.value.refused.code is Code.UNREADABLE
    return caught.value.refused.text


def test_one_output() -> None:
    found = planes(Screen((crtc(31, 7),), ()), {7: framebuffer()}, {31: LEFT}, "virtio_gpu")
    assert found == [
        Plane(Kind.PRIMARY, 7, 0, 0, 640, 480, 0, 0, fourcc("XR24"), 2560, 0, output="DP-1")
    ]


def test_parts_of_one_framebuffer_are_where_it_has_them() -> None:
    """As Xorg does it, here with the left screen missing."""
    screen = Screen((crtc(31, 7, left=1280, top=100), crtc(32, 7, left=640)), ())
    found = planes(screen, {7: framebuffer(1920, 600)}, {31: LEFT, 32: RIGHT}, "virtio_gpu")
    assert places(found) == [(7, 640, 100, 1280, 100, "DP-1"), (7, 0, 0, 640, 0, "DP-2")]


def test_the_same_twice() -> None:
    screen = Screen((crtc(31, 7), crtc(32, 7)), ())
    found = planes(screen, {7: framebuffer()}, {31: LEFT, 32: RIGHT}, "virtio_gpu")
    assert places(found) == [(7, 0, 0, 0, 0, "DP-1"), (7, 0, 0, 0, 0, "DP-2")]


@pytest.mark.parametrize("outputs", [{31: RIGHT, 32: LEFT}, {32: LEFT}])
def test_framebuffers_of_their_own_stand_side_by_side(outputs: dict[int, Output]) -> None:
    """In the order of their connectors, those without one last."""
    screen = Screen((crtc(31, 7), crtc(32, 8)), ())
    found = planes(screen, {7: framebuffer(), 8: framebuffer()}, outputs, "virtio_gpu")
    assert [(place[0], place[1]) for place in places(found)] == [(7, 640), (8, 0)]


def test_mode_that_is_larger_than_its_framebuffer() -> None:
    screen = Screen((crtc(31, 7, left=600, top=80),), ())
    (plane,) = planes(screen, {7: framebuffer()}, {}, "virtio_gpu")
    assert (plane.width, plane.height, plane.output) == (40, 400, "")
    screen = Screen((crtc(31, 7, left=640),), ())
    assert "nothing of its 640x480" in text_of(screen, {7: framebuffer()})


@pytest.mark.parametrize(
    ("buffer", "driver", "words"),
    [
        (framebuffer(modifier=1 << 56 | 2), "i915", "modifier 0x0100000000000002"),
        (framebuffer(modifier=None), "radeon", "radeon does not say how"),
        (framebuffer(form="NV12"), "virtio_gpu", "format NV12"),
        (framebuffer(form="XR30"), "virtio_gpu", "format XR30"),
        (framebuffer(MAX_SIDE + 1), "virtio_gpu", f"at most {MAX_SIDE}x{MAX_SIDE}"),
    ],
)
def test_framebuffer_that_cannot_be_read(buffer: Framebuffer, driver: str, words: str) -> None:
    assert words in text_of(Screen((crtc(31, 7),), ()), {7: buffer}, driver)


def test_old_driver_whose_buffers_are_plain() -> None:
    assert planes(Screen((crtc(31, 7),), ()), {7: framebuffer(modifier=None)}, {}, "qxl")


def test_screens_that_are_too_large_together() -> None:
    crtcs = tuple(Crtc(30 + it, it, 0, 0, 4096, 100) for it in (1, 2, 3))
    buffers = {it: framebuffer(4096, 100) for it in (1, 2, 3)}
    assert "12288x100" in text_of(Screen(crtcs, ()), buffers)


def test_too_many_outputs() -> None:
    screen = Screen(tuple(crtc(it, 7) for it in range(17)), ())
    assert "17 outputs" in text_of(screen, {7: framebuffer()})


def test_cursor_is_that_of_the_output_into_which_it_points() -> None:
    """One that lies across two outputs is shown by both."""
    pointer = framebuffer(64, 64, "AR24")
    buffers = {7: framebuffer(1280), 8: pointer, 9: pointer}
    screen = Screen(
        (crtc(31, 7), crtc(32, 7, left=640)),
        (Cursor(31, 8, 630, 5, 20, 0), Cursor(32, 9, -10, 5, 20, 0)),
    )
    found = planes(screen, buffers, {}, "virtio_gpu")
    assert [(p.buffer, p.x, p.y, p.hot_x) for p in found if p.kind is Kind.CURSOR] == [
        (9, 630, 5, 20)
    ]


@pytest.mark.parametrize(
    ("cursor", "buffer"),
    [
        (Cursor(31, 8, 0, 0, 0, 0), framebuffer(64, 64, "XR24")),
        (Cursor(31, 8, 0, 0, 0, 0), framebuffer(64, 64, "AR24", modifier=1)),
        (Cursor(31, 8, 1 << 30, 0, 0, 0), framebuffer(64, 64, "AR24")),
        (Cursor(77, 8, 0, 0, 0, 0), framebuffer(64, 64, "AR24")),
    ],
)
def test_cursor_that_cannot_be_read_is_left_out(cursor: Cursor, buffer: Framebuffer) -> None:
    screen = Screen((crtc(31, 7),), (cursor,))
    (plane,) = planes(screen, {7: framebuffer(), 8: buffer}, {}, "virtio_gpu")
    assert plane.kind is Kind.PRIMARY
