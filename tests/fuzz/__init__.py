"""Any bytes at all for the decoders of what strangers send: `python -m tests.fuzz`."""
