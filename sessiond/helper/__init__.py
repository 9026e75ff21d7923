"""The older helper protocol: who says what about which display, and what becomes of it."""
