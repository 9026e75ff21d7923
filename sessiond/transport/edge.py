"""Edge-triggered waiting inside an asyncio loop.

asyncio's ``add_reader`` is level-triggered: a virtio port whose host side is closed reports
POLLHUP for as long as that lasts, and the loop would spin. Descriptors registered here wake the
loop once per change (epoll(7), EPOLLET), so a handler has to read or write until EAGAIN.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final

READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
WRITABLE: Final = select.EPOLLOUT

Handler = Callable[[int], None]


class EdgePoller:
    """An epoll of our own whose descriptor the running loop watches."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, fd: int, handler: Handler) -> None:
        """Call ``handler(events)`` at each change of readability or hang-up.

        The state at registration counts as a first change.
        """
        self._epoll.register(fd, READABLE | select.EPOLLET)
        self._handlers[fd] = handler

    def watch_writable(self, fd: int, *, wanted: bool) -> None:
        """Call the handler of ``fd`` also when it is or gets writable, or no more.

        A peer that reads makes it so again and again: only for who waits for it.
        """
        self._epoll.modify(fd, READABLE | (WRITABLE if wanted else 0) | select.EPOLLET)

    def watch_priority(self, fd: int, handler: Handler) -> None:
        """Call ``handler(events)`` at each change of a sysfs attribute (sysfs_notify, POLLPRI)."""
        self._epoll.register(fd, select.EPOLLPRI | select.EPOLLERR | select.EPOLLET)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; to be called before it is closed."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def close(self) -> None:
        """Give up everything; the descriptors stay with their owners."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._handlers.clear()

    def _dispatch(self) -> None:
        for fd, events in self._epoll.poll(0):
            # A handler called just before may have forgotten this one.
            handler = self._handlers.get(fd)
            if handler:
                handler(events)
