"""The display hardware as a capture back-end, through the helper that may look at it."""
