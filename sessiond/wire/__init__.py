"""Protocols as pure functions of bytes: no I/O, no clock, no third-party library."""
