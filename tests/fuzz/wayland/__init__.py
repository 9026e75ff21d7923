"""The Wayland protocol: its decoder's seeds and its invariant."""
