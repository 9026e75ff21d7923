"""The command ``call``: asks the host, through the agent of this user that runs."""

import argparse
import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from agent.user.runtime import SOCKET, runtime_folder
from sessiond.errors import ProtocolError, SessiondError, UsageError
from sessiond.transport.peer import peer_of
from sessiond.wire import rpc, strictjson

_READ_SIZE: Final = 64 << 10


def call(options: argparse.Namespace) -> None:
    """Ask, wait for the answer, and print it. Raises SessiondError."""
    if not 0 < len(options.name) <= rpc.MAX_NAME:
        raise UsageError(f"a command's name has 1 to {rpc.MAX_NAME} characters")
    question = rpc.Call(options.name, _arguments(options.arguments))
    path = Path(options.socket or runtime_folder(os.environ) / SOCKET)
    try:
        answer = _ask(path, question)
    except OSError as error:
        raise SessiondError(f"no agent answers at {path}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise SessiondError("interrupted") from None
    if answer.error:
        raise answer.error
    print(json.dumps(answer.value))  # noqa: T201 (its answer)


def _arguments(text: str) -> dict[str, Any]:
    try:
        untrusted = strictjson.decode(text)
    except ValueError:
        raise UsageError(f"the arguments are not JSON: {text!r}") from None
    if not isinstance(untrusted, dict):
        raise UsageError(f"the arguments are not an object: {text!r}")
    return untrusted


def _ask(path: Path, question: rpc.Call) -> rpc.Result:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        uid = peer_of(sock).uid
        if uid not in {0, os.geteuid()}:
            raise SessiondError(f"at {path} a program of uid {uid} listens")
        sock.sendall(rpc.encode(question))
        reader = rpc.LineReader()
        while data := sock.recv(_READ_SIZE):
            for message in reader.feed(data):
                if not isinstance(message, rpc.Result):
                    raise ProtocolError(f"at {path} something else than an agent listens")
                return message
    raise SessiondError("the agent has hung up")
