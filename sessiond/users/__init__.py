"""The users' agents, who connect to the daemon's socket by themselves."""
