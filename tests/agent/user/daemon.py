"""The daemon's end of the users' socket, as far as an agent sees it, and an agent that runs."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from sessiond.wire import rpc
from tests.fixtures.child import Child

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

TIMEOUT: Final = 20.0  # seconds after which a test that waits has failed
PRIVATE: Final = (
    'set -e; mount -t tmpfs -o mode=1777 tmpfs /tmp/.X11-unix; mkdir -p /run/user; '
    'mount -t tmpfs tmpfs /run/user; test -z "$1" || install -d -m 700 -o "$1" "/run/user/$1"; '
    'shift; exec "$@"'
)  # fmt: skip


class Connection:
    """One agent's connection; blocks, within TIMEOUT."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self.sock = sock
        self._reader = rpc.LineReader()
        self._heard = list[rpc.Message]()
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()

    def say(self, message: rpc.Message) -> None:
        self.sock.sendall(rpc.encode(message))

    def hear(self) -> rpc.Message:
        """Return the next message. Raises EOFError at the end, TimeoutError."""
        while not self._heard:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    def call(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 (any JSON)
        """Return the value of a command; underscores of arguments stand for dashes.

        Raises CommandError. Notices that come before the answer are not kept.
        """
        self._last_id += 1
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.say(rpc.Call(command, names, self._last_id))
        while not isinstance(result := self.hear(), rpc.Result):
            pass
        assert result.id == self._last_id
        if result.error:
            raise result.error
        return result.value

    def run(self, path: str, *words: str, **more: object) -> dict[str, Any]:
        """Run a command to its end, with its outputs; return its status, they as text."""
        pid = self.call(
            "guest-exec", path=path, arg=list(words), **{"capture_output": True, **more}
        )["pid"]
        # A zombie until its outputs have ended, and then nobody: what tells is the status alone.
        while True:
            status: dict[str, Any] = self.call("guest-exec-status", pid=pid)
            if status["exited"]:
                break
        for name in ("out-data", "err-data"):
            if name in status:
                status[name] = base64.b64decode(status[name]).decode()
        return status


class Daemon:
    """Listens in FOLDER."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent.sock"
        self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def listen(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(TIMEOUT)
        self._sock.bind(str(self.path))
        self.path.chmod(0o666)
        self._sock.listen()

    def stop(self) -> None:
        self._sock.close()
        self.path.unlink(missing_ok=True)

    def accept(self) -> Connection:
        return Connection(self._sock.accept()[0])

    @property
    def is_asked(self) -> bool:
        """Whether somebody has connected and waits."""
        return bool(select.select([self._sock], [], [], 0)[0])


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of an agent whose runtime directory is in FOLDER."""
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {"HOME": str(folder), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(runtime)}


def start(
    daemon: Daemon, env: Mapping[str, str], *options: str, private: int | None = None
) -> Child:
    """Start an agent. PRIVATE: with no X server, and this uid's runtime directory alone, in sight.

    (0: nobody's.) That takes root.
    """
    argv = [sys.executable, "-m", "agent", "user", "--socket", str(daemon.path), *options]
    if private is not None:
        alone = ["unshare", "--mount", "--propagation=private", "/bin/sh", "-c", PRIVATE, "sh"]
        argv = [*alone, str(private or ""), *argv]
    return Child(argv, env=env)


def as_json(value: object) -> str:
    """Return it as the program ``call`` prints it."""
    return json.dumps(value) + "\n"
