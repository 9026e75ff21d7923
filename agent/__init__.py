"""The unprivileged side: what runs as the session's user."""
