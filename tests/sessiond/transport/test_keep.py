"""Memos for the next daemon, in real memfds: what was written is read, or there was nothing."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import Memo

MEMO = Memo("test", version=2, max_size=4096)


def decoded(content: Any) -> str:  # noqa: ANN401 (as it was stored)
    return f"{content['word']} {int(content['number']):d}"


def memory(text: bytes) -> OwnedFd:
    memfd = OwnedFd(os.memfd_create("test"))
    os.write(memfd.fileno(), text)
    return memfd


def whole(content: object, version: object = 2) -> bytes:
    return json.dumps({"version": version, "content": content}).encode()


def test_it_is_read_once_and_taken_out() -> None:
    stored = {"test": MEMO.write({"word": "é", "number": 7}), "other": memory(b"")}
    memfd = stored["test"]
    assert not os.get_inheritable(memfd.fileno())
    assert MEMO.read(stored, decoded) == "é 7"
    assert stored.keys() == {"other"}
    with pytest.raises(ValueError, match="closed"):
        memfd.fileno()
    assert MEMO.read(stored, decoded) is None


WRONG = {
    "nothing": b"",
    "no JSON": b"\xff{",
    "no object": b"[]",
    "cut": whole({"word": "a", "number": 7})[:-1],
    "no version": json.dumps({"content": {"word": "a", "number": 7}}).encode(),
    "an older version": whole({"word": "a", "number": 7}, 1),
    "a newer version": whole({"word": "a", "number": 7}, 3),
    "no content": json.dumps({"version": 2}).encode(),
    "another content": whole([]),
    "a member missing": whole({"word": "a"}),
    "a member of another kind": whole({"word": "a", "number": "b"}),
    "too much": whole({"word": "a" * 4096, "number": 7}),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_what_is_not_understood_is_one_line_in_the_log(
    text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert MEMO.read({"test": memory(text)}, decoded) is None
    (line,) = caplog.messages
    assert line.startswith("what was kept as test cannot be used: ")


def test_what_is_no_file_is_not_understood_either() -> None:
    ours, theirs = os.pipe()
    with OwnedFd(ours), OwnedFd(theirs):
        assert MEMO.read({"test": OwnedFd(os.dup(ours))}, decoded) is None
