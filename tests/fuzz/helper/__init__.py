"""The legacy helper protocol: its decoder's seeds and its invariant."""
