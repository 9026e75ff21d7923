"""What the tests of whole agents of commands share with those of its parts."""

from __future__ import annotations

from tests.agent.qrexec.conftest import forker, forker_of_module, gate, services

__all__ = ["forker", "forker_of_module", "gate", "services"]
