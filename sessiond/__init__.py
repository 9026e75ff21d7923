"""spice-sessiond: the screen of a Linux VM, streamed to whoever watches it over SPICE."""

__version__ = "0.1.0"
