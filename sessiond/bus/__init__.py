"""The objects that the daemon shows on the message bus: thin, without state of their own."""
