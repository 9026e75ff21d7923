"""The helper that may look at the display hardware: root's, small, one for each agent it serves."""
