"""What of the port outlives a restart, and what a store that was damaged leads to."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from sessiond.stream.keep import PORT, STATE, KeptPort, describe, restore
from sessiond.transport.fds import OwnedFd

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
    with describe(kept) as state:
        assert restore({PORT: port, STATE: state}, PATH) == kept


def test_nothing_was_kept(port: OwnedFd) -> None:
    assert restore({}, PATH) is None
    assert restore({PORT: port}, PATH) is None
    with state_of(b"{}") as state:
        assert restore({STATE: state}, PATH) is None


def test_another_port_is_not_ours(port: OwnedFd) -> None:
    kept = KeptPort(port, PATH, (), quality=False, unsent=b"")
    with describe(kept) as state:
        assert restore({PORT: port, STATE: state}, f"{PATH}.other") is None


GOOD = {"path": PATH, "codecs": [1], "quality": False, "unsent": "00ff"}
DAMAGED = {
    "nothing": b"",
    "no JSON": b"\xff{",
    "no object": b"[]",
    "cut": json.dumps(GOOD).encode()[:-3],
    "no path": json.dumps({k: v for k, v in GOOD.items() if k != "path"}).encode(),
    "codecs that are none": json.dumps({**GOOD, "codecs": ["mjpeg"]}).encode(),
    "a rest that is no hexadecimal": json.dumps({**GOOD, "unsent": "0x"}).encode(),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_state_is_as_good_as_none(
    port: OwnedFd, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    with state_of(text) as state:
        assert restore({PORT: port, STATE: state}, PATH) is None
    assert "the kept port cannot be used" in caplog.text
