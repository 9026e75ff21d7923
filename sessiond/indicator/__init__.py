"""The program ``spice-session-indicator``: tells the person at a screen that it is being streamed.

A client of the daemon and of the desktop, which runs as the session's user.
"""
