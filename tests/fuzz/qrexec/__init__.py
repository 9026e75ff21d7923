"""qrexec's channels and command lines: their decoders' seeds and invariant."""
