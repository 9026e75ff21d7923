"""``spice-session-agent stream``: a screen becomes a stream of frames on a port."""
