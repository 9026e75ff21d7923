"""The stream port, the agents, and what connects one of them to the other."""
