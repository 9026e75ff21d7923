"""libturbojpeg and Pillow, which give the same bytes."""

import gc
import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.encode import turbo
from agent.encode.compress import MCU, Compressor, choose_compressor
from agent.encode.pillow import PillowCompressor
from agent.encode.turbo import TurboCompressor
from sessiond.errors import EncoderError
from tests.agent.encode.test_jpeg import assert_same, desktop, frame_of, plain

both = pytest.mark.parametrize("compressor", [TurboCompressor, PillowCompressor])


@pytest.fixture
def _anew() -> Iterator[None]:
    turbo._load.cache_clear()
    yield
    turbo._load.cache_clear()


@both
@pytest.mark.parametrize("subsampling", range(len(MCU)))
@pytest.mark.parametrize("size", [(1, 1), (40, 17), (333, 100)])
def test_same_bytes_as_the_plain_way(
    compressor: type[Compressor], size: tuple[int, int], subsampling: int
) -> None:
    for quality in (1, 50, 100):
        frame = frame_of(desktop(*size), 4 * size[0] + 12)
        found = compressor(quality, subsampling).compress(frame, range(size[1]))
        assert_same(found, plain(frame, quality, subsampling))


@both
def test_rows_of_a_picture(compressor: type[Compressor]) -> None:
    picture = desktop(90, 70)
    found = compressor(80, 2).compress(frame_of(picture, 400), range(21, 50))
    assert_same(found, plain(frame_of(picture.crop((0, 21, 90, 50))), 80))


@both
def test_memory_that_cannot_be_written(compressor: type[Compressor]) -> None:
    frame = frame_of(desktop(40, 40))
    frame = replace(frame, pixels=frame.pixels.toreadonly())
    found = compressor(80, 2).compress(frame, range(8, 40))
    assert_same(found, plain(frame_of(desktop(40, 40).crop((0, 8, 40, 40))), 80))


@both
def test_too_little_memory(compressor: type[Compressor]) -> None:
    frame = frame_of(desktop(40, 40))
    short = replace(frame, pixels=frame.pixels[:-4])
    with pytest.raises(EncoderError, match=r"^JPEG of 40x40: [^\n]+$"):
        compressor(80, 2).compress(short, range(40))


def test_rows_that_overlap_in_memory() -> None:
    frame = replace(frame_of(desktop(40, 40)), stride=156)
    with pytest.raises(EncoderError, match=r"^JPEG of 40x40: not enough pixels$"):
        TurboCompressor(80, 2).compress(frame, range(40))


def test_what_the_library_refuses() -> None:
    frame = frame_of(desktop(70000, 1))
    with pytest.raises(EncoderError, match=r"^JPEG of 70000x1: [^\n]+$"):
        TurboCompressor(80, 2).compress(frame, range(1))


@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize("name", ["TJ_OPTIMIZE", "TJ_ARITHMETIC", "TJ_PROGRESSIVE"])
def test_what_the_environment_asks_the_library_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    frame = frame_of(desktop(64, 64))
    assert_same(TurboCompressor(80, 2).compress(frame, range(64)), plain(frame, 80))


def test_compressor_goes_with_its_last_user() -> None:
    compressor = TurboCompressor(80, 2)
    gone = weakref.ref(compressor)
    del compressor
    gc.collect()
    assert gone() is None


def test_libturbojpeg_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_compressor() is TurboCompressor
    assert caplog.messages == []


@pytest.mark.usefixtures("_anew")
def test_pillow_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(turbo, "_LIBRARY", "libnowhere.so.0")
    assert choose_compressor() is PillowCompressor
    assert caplog.messages[0].startswith("no libnowhere.so.0: ")


@pytest.mark.usefixtures("_anew")
def test_pillow_where_it_writes_no_restart_markers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(turbo._SETTINGS, "TJ_RESTART", "0")
    assert choose_compressor() is PillowCompressor
    assert caplog.messages[0].startswith("a picture has 0 restart markers, not 1: encoding by ")
