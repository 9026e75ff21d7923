"""Programs on terminals that are somewhere else: handed over, made, watched."""
