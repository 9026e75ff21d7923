"""Descriptors, sockets and waiting, shared by the daemon and the agent."""
