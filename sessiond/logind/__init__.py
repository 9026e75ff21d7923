"""What systemd-logind knows of a seat, and what follows from it."""
