"""The host channel's format: its decoder's seeds and its invariant."""
