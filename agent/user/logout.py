"""The end of the login session that an agent was started in, as systemd-logind tells it.

An agent that a login's script or a desktop's autostart entry has started is one of that session's
processes, and the session would stay, closing, for as long as it lived. One that the user's manager
has started is in no session.
"""

import ctypes
import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sessiond.transport.edge import EdgePoller

log = logging.getLogger(__name__)

_LIBRARY: Final = "libsystemd.so.0"
_CGROUP: Final = Path("/proc/self/cgroup")
_SCOPE: Final = "/session-"  # logind's name for a session's scope begins so
_CLOSING: Final = b"closing"  # sd_session_get_state(3): logged out, but processes are left


class LogoutWatch:
    """Calls ``on_logout()`` when our session has ended, at once if it has; never without one."""

    def __init__(self, poller: EdgePoller, on_logout: Callable[[], None]) -> None:
        self._poller = poller
        self._on_logout = on_logout
        self._monitor = ctypes.c_void_p()
        if _SCOPE not in _CGROUP.read_text():
            return  # most often, and then there is nothing to load
        try:
            self._login = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        self._session = ctypes.c_char_p()
        if self._login.sd_pid_get_session(0, ctypes.byref(self._session)) < 0:
            return
        if self._login.sd_login_monitor_new(b"session", ctypes.byref(self._monitor)) < 0:
            return
        self._fd = self._login.sd_login_monitor_get_fd(self._monitor)
        poller.watch(self._fd, self._changed)
        self._look()  # what was before we looked is no change

    def close(self) -> None:
        """Watch no more; a second call does nothing."""
        if self._monitor.value:
            self._poller.forget(self._fd)
            self._login.sd_login_monitor_unref(self._monitor)
            self._monitor = ctypes.c_void_p()

    def _changed(self, _events: int) -> None:
        self._login.sd_login_monitor_flush(self._monitor)
        self._look()

    def _look(self) -> None:
        if self._has_ended():
            log.info("the session has ended")
            self._on_logout()

    def _has_ended(self) -> bool:
        state = ctypes.c_void_p()
        number = self._login.sd_session_get_state(self._session, ctypes.byref(state))
        if number < 0 or not state.value:
            return bool(number == -errno.ENXIO)  # there is no such session
        text = ctypes.string_at(state.value)
        ctypes.CDLL(None).free(state)
        return text == _CLOSING
