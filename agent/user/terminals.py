"""Terminals of the user's that the host watches: it hears of their new sizes."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from sessiond.errors import CommandError, SessiondError
from sessiond.transport.resizes import Resizes, WindowSize, listening

log = logging.getLogger(__name__)

MOST: Final = 16  # each is a process
RESIZED: Final = "TERMINAL_RESIZED"

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
Tell = Callable[[str, Mapping[str, Any]], None]


class Terminals:
    """Those that are watched, by the paths that the host has named.

    ``spawn`` runs a coroutine in a task that somebody owns, and ends; ``tell`` tells the host.
    """

    def __init__(self, command: Callable[[], Sequence[str]], spawn: Spawn, tell: Tell) -> None:
        self._command = command
        self._spawn = spawn
        self._tell = tell
        self._watches: dict[str, _Watch] = {}

    async def watch(self, path: str) -> dict[str, int]:
        """Watch one until it ends, or ``unwatch``; return its size. Raises CommandError.

        One that is watched already stays so.
        """
        if not path.startswith("/"):
            raise CommandError("Parameter 'path' is not an absolute path")
        watch = self._watches.get(path)
        if not watch:
            if len(self._watches) >= MOST:
                raise CommandError(f"{MOST} terminals of this user are watched already")
            watch = self._watches[path] = _Watch()
            watch.task = self._spawn(self._run(path, watch))
            watch.task.add_done_callback(lambda _: self._forget(path, watch))
        # Whoever asked for it first may be gone: the watch goes on for the others.
        return (await asyncio.shield(watch.begun)).size.described()

    async def unwatch(self, path: str) -> dict[str, object]:
        """Watch it no more; it may be watched again at once. Raises CommandError."""
        watch = self._watches.get(path)
        if not watch:
            raise CommandError(f"{path} is not watched")
        watch.task.cancel()
        await asyncio.wait([watch.task])
        return {}

    async def _run(self, path: str, watch: "_Watch") -> None:
        try:
            async with listening(path, self._command()) as resizes:
                log.info("%s is watched", path)
                watch.begun.set_result(resizes)
                async for size in resizes:
                    self._tell(RESIZED, _described(path, size))
                log.info("%s is watched no more: its listener has ended", path)
                self._forget(path, watch)
        except SessiondError as error:
            watch.fail(CommandError(str(error)))

    def _forget(self, path: str, watch: "_Watch") -> None:
        if self._watches.get(path) is watch:
            del self._watches[path]
        watch.fail(CommandError(f"{path} is not to be watched any more"))


class _Watch:
    """One that is, or is about to be; ``begun`` has its sizes, or a CommandError."""

    task: "asyncio.Task[None]"

    def __init__(self) -> None:
        self.begun: asyncio.Future[Resizes] = asyncio.get_running_loop().create_future()

    def fail(self, error: CommandError) -> None:
        """Take that it is over; who has its sizes keeps them."""
        if not self.begun.done():
            self.begun.set_exception(error)
            self.begun.exception()  # nobody has to wait for it


def _described(path: str, size: WindowSize) -> dict[str, object]:
    return {"terminal": path, **size.described()}
