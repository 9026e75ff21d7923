"""``spice-sessionctl``: the daemon's status on a terminal, and what can be ordered from there."""
