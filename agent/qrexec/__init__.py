"""Commands over qrexec: in the place of a qrexec-agent, and of its client.

``agent`` talks to the daemon and to callers in the guest; ``process`` is what it starts for each
command, of which ``pump`` moves the bytes; ``client`` is the caller's side.
"""
