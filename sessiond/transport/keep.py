"""What one daemon leaves to the next: descriptors, and memos of what has to be known about them.

systemd's descriptor store holds both over a restart (sd_notify(3), FDSTORE), each under a name; who
puts them there and fetches them is ``sessiond.notify``. A part writes its memo at the end and reads
it at the next start. An upgrade may lie in between, or the way back from one: so each kind of memo
has a version of its own, and what is not understood is as good as nothing.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

# All names in the store.
STREAM_PORT: Final = "stream_port"
STREAM_STATE: Final = "stream_state"
PAUSES: Final = "pauses"
HELPER_RECORDS: Final = "helper_records"
HELPER_STATE: Final = "helper_state"
HELPER_CONNECTION: Final = "helper_connection_"  # and a number

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Memo:
    """One kind of memo: JSON in a memfd, which has this name in the store.

    ``version`` is that of the content's form, ``max_size`` its bound in bytes.
    """

    name: str
    version: int
    max_size: int

    def write(self, content: object) -> OwnedFd:
        """Return a new memfd with the content, which is what JSON can say."""
        memory = OwnedFd(os.memfd_create(self.name, os.MFD_CLOEXEC))
        with open(os.dup(memory.fileno()), "wb") as file:
            file.write(json.dumps({"version": self.version, "content": content}).encode())
        return memory

    def read(self, stored: dict[str, OwnedFd], decode: Callable[[Any], T]) -> T | None:
        """Take the memo out of ``stored`` and return what ``decode`` makes of its content.

        None where there is no memo, and, with a line in the log, where it is not understood:
        ``decode`` may raise what a wrong shape leads to.
        """
        memory = stored.pop(self.name, None)
        if not memory:
            return None
        try:
            with memory:
                data = os.pread(memory.fileno(), self.max_size, 0)
            return decode(self._content(data))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("what was kept as %s cannot be used: %r", self.name, error)
            return None

    def _content(self, data: bytes) -> object:
        whole = json.loads(data)
        if whole["version"] != self.version:
            raise ValueError(f"version {whole['version']} instead of {self.version}")
        return whole["content"]
