"""The agent of a user: answers what the host asks, runs commands, opens displays on demand."""
