"""What of the port outlives a restart, and what a store that was damaged leads to."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from sessiond.stream.keep import KeptPort, describe, restore
from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import STREAM_PORT, STREAM_STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/dev/virtio-ports/org.spice-space.stream.0"


@pytest.fixture
def port() -> Iterator[OwnedFd]:
    with OwnedFd(os.open(os.devnull, os.O_RDWR)) as fd:
        yield fd


def state_of(text: bytes) -> OwnedFd:
    memory = OwnedFd(os.memfd_create("state"))
    os.write(memory.fileno(), text)
    return memory


@pytest.mark.parametrize("unsent", [b"", b"\0rest of a frame", bytes(3 << 20)])
def test_it_comes_back_as_it_was(port: OwnedFd, unsent: bytes) -> None:
    kept = KeptPort(port, PATH, (1, 3), quality=True, unsent=unsent)
    stored = describe(kept)
    assert restore(stored, PATH) == kept
    assert not stored


def test_nothing_was_kept(port: OwnedFd) -> None:
    assert restore({}, PATH) is None
    assert restore({STREAM_PORT: port}, PATH) is None
    assert restore({STREAM_STATE: state_of(b"{}")}, PATH) is None


def test_another_port_is_not_ours(port: OwnedFd) -> None:
    kept = KeptPort(port, PATH, (), quality=False, unsent=b"")
    assert restore(describe(kept), f"{PATH}.other") is None


GOOD = {"path": PATH, "codecs": [1], "quality": False, "unsent": "00ff"}


def memo(content: object) -> bytes:
    return json.dumps({"version": 1, "content": content}).encode()


DAMAGED = {
    "no path": memo({k: v for k, v in GOOD.items() if k != "path"}),
    "codecs that are none": memo({**GOOD, "codecs": ["mjpeg"]}),
    "a rest that is no hexadecimal": memo({**GOOD, "unsent": "0x"}),
}


def test_what_the_damaged_ones_are_made_of_is_right(port: OwnedFd) -> None:
    stored = {STREAM_PORT: port, STREAM_STATE: state_of(memo(GOOD))}
    assert restore(stored, PATH) == KeptPort(port, PATH, (1,), quality=False, unsent=b"\0\xff")


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_state_is_as_good_as_none(
    port: OwnedFd, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    assert restore({STREAM_PORT: port, STREAM_STATE: state_of(text)}, PATH) is None
    assert "what was kept as stream_state cannot be used" in caplog.text
