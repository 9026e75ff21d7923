"""Commands, by children that do what children may do."""

import asyncio
import base64
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.user import commands as module
from agent.user.commands import MAX_OUTPUT, Commands, read_request
from sessiond.errors import CommandError
from tests.fixtures.deadmount import dead_mount
from tests.fixtures.loop import in_loop
from tests.fixtures.processes import EventTimeoutError

pytestmark = pytest.mark.parts

LIBVIRT = 10 << 20  # bytes of a line; src/qemu/qemu_agent.c, QEMU_AGENT_MAX_RESPONSE


@asynccontextmanager
async def running() -> AsyncIterator[Commands]:
    commands = Commands()
    try:
        yield commands
    finally:
        await commands.end()


async def start(commands: Commands, path: str, *words: str, **more: object) -> int:
    """Start a command; underscores of arguments stand for dashes."""
    arguments = {name.replace("_", "-"): value for name, value in more.items()}
    answer = await commands.start(read_request({"path": path, "arg": list(words), **arguments}))
    assert isinstance(answer, dict)
    return int(answer["pid"])


async def finish(commands: Commands, pid: int) -> dict[str, Any]:
    """Return the status of a command that has finished, outputs as bytes."""
    if pid in commands._running:
        await commands._running[pid].finished
    status = commands.status(pid)
    for name in ("out-data", "err-data"):
        if name in status:
            status[name] = base64.b64decode(str(status[name]))
    return status


async def run(path: str, *words: str, **more: object) -> dict[str, Any]:
    async with running() as commands:
        return await finish(commands, await start(commands, path, *words, **more))


BOTH = ("/bin/sh", "-c", "echo out; echo err >&2")
OUT = {"out-data": b"out\n", "out-truncated": False}
ERR = {"err-data": b"err\n", "err-truncated": False}


@pytest.mark.parametrize(
    ("capture", "outputs"),
    [
        (None, {}),
        (False, {}),
        ("none", {}),
        (True, OUT | ERR),
        ("separated", OUT | ERR),
        ("stdout", OUT),
        ("stderr", ERR),
        ("merged", {"out-data": b"out\nerr\n", "out-truncated": False}),
    ],
)
@in_loop
async def test_what_is_captured(capture: object, outputs: Mapping[str, object]) -> None:
    more: dict[str, Any] = {} if capture is None else {"capture_output": capture}
    assert await run(*BOTH, **more) == {"exited": True, "exitcode": 0, **outputs}


@in_loop
async def test_an_empty_output_is_not_told() -> None:
    status = await run("/bin/sh", "-c", "exit 3", capture_output=True)
    assert status == {"exited": True, "exitcode": 3}


@in_loop
async def test_a_signals_victim() -> None:
    status = await run("/bin/sh", "-c", "echo x; kill -9 $$", capture_output=True)
    assert status == {"exited": True, "signal": 9, "out-data": b"x\n", "out-truncated": False}


@in_loop
async def test_a_status_is_told_once() -> None:
    async with running() as commands:
        pid = await start(commands, "true")
        assert await finish(commands, pid) == {"exited": True, "exitcode": 0}
        for number in (pid, 0, -1, 1, 1 << 40):
            with pytest.raises(CommandError, match=r"^Invalid parameter 'pid'$"):
                commands.status(number)


@in_loop
async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    inherited = (await run("env", capture_output=True))["out-data"].splitlines()
    assert b"OURS=1" in inherited
    status = await run("/usr/bin/env", env=["A=1", "B=x=y", "C=", "D"], capture_output=True)
    assert sorted(status["out-data"].splitlines()) == [b"A=1", b"B=x=y", b"C=", b"D="]


@in_loop
async def test_it_has_a_session_of_its_own_and_no_terminal() -> None:
    code = """if True:
    import os
    print(os.getsid(0) == os.getpgid(0) == os.getpid(), os.path.realpath("/proc/self/fd/0"))
    """
    status = await run(sys.executable, "-c", code, capture_output=True)
    assert status["out-data"] == b"True /dev/null\n"


@pytest.mark.parametrize("size", [0, 7, 1 << 20])
@in_loop
async def test_input_and_its_end(size: int) -> None:
    data = os.urandom(size)
    text = base64.b64encode(data).decode()
    status = await run("cat", input_data=text, capture_output=True)
    assert status.get("out-data", b"") == data


@pytest.mark.parametrize("code", ["exit 0", "exec <&-; exit 0", "head -c 1; exit 0"])
@in_loop
async def test_input_that_is_not_read(code: str) -> None:
    data = base64.b64encode(b"x" * (1 << 20)).decode()
    status = await run("sh", "-c", code, input_data=data, capture_output=True)
    assert status["exitcode"] == 0


@pytest.mark.parametrize("text", ["a$b=", "abc", "YQ==\r", "Y\0Q=", "\u00e4aaa"])
def test_input_that_is_not_base64(text: str) -> None:
    with pytest.raises(CommandError, match=r"^Base64 data contains invalid characters$"):
        read_request({"path": "x", "input-data": text})


def test_base64_may_have_lines() -> None:
    assert read_request({"path": "x", "input-data": "aGkg\ndGhlcmUK\n"}).input == b"hi there\n"


@in_loop
async def test_more_output_than_is_kept() -> None:
    code = f"head -c {MAX_OUTPUT + 1} /dev/zero; head -c {MAX_OUTPUT} /dev/zero >&2"
    status = await run("sh", "-c", code, capture_output=True)
    assert len(status["out-data"]) == len(status["err-data"]) == MAX_OUTPUT
    assert (status["out-truncated"], status["err-truncated"]) == (True, False)
    assert 2 * len(base64.b64encode(status["out-data"])) + 1000 < LIBVIRT


@in_loop
async def test_a_grandchild_that_has_the_output(tmp_path: Path) -> None:
    """It is running until the last who could write has gone, as with qemu-ga."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with running() as commands:
        code = f"echo child; (read word < {fifo}; echo $word) &"
        pid = await start(commands, "sh", "-c", code, capture_output=True)
        await asyncio.to_thread(wait_end, pid)
        assert commands.status(pid) == {"exited": False}
        await asyncio.to_thread(fifo.write_text, "grandchild\n")
        status = await finish(commands, pid)
        assert status["out-data"] == b"child\ngrandchild\n"


@in_loop
async def test_a_grandchild_that_has_closed_its_outputs() -> None:
    async with running() as commands:
        code = "sleep 1000 > /dev/null 2>&1 & echo $!"
        pid = await start(commands, "sh", "-c", code, capture_output=True)
        status = await finish(commands, pid)
        os.kill(int(status["out-data"]), signal.SIGKILL)


def wait_end(pid: int) -> None:
    """Return when a process has ended, whether or not it was waited for."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], 10)[0]:
            raise EventTimeoutError(f"pid {pid} runs on")
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nonexistent", "No such file or directory"),
        ("no-such-program", "No such file or directory"),
        ("", "Permission denied"),
        ("/", "Permission denied"),
        ("/etc/passwd", "Permission denied"),
        ("x" * 5000, "File name too long"),
        ("\ud800", "surrogates not allowed"),
    ],
)
@in_loop
async def test_what_cannot_be_started(path: str, reason: str) -> None:
    with pytest.raises(CommandError) as caught:
        await run(path)
    assert str(caught.value).startswith(f"cannot start {path!r}: ")
    assert reason in str(caught.value)
    assert caught.value.cls == "GenericError"


@pytest.mark.parametrize("where", ["path", "arg", "env"])
def test_a_nul(where: str) -> None:
    arguments = {"path": "a\0", "arg": [], "env": []}
    if where != "path":
        arguments = {"path": "a", where: ["B=a\0"]}
    with pytest.raises(CommandError, match="NUL"):
        read_request(arguments)


@in_loop
async def test_more_than_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNNING", 2)
    async with running() as commands:
        pids = await asyncio.gather(*(start(commands, "sleep", "1000") for _ in range(2)))
        with pytest.raises(CommandError, match=r"^2 commands of this user are running already$"):
            await start(commands, "true")
        os.kill(pids[0], signal.SIGTERM)
        assert await finish(commands, pids[0]) == {"exited": True, "signal": signal.SIGTERM}
        await start(commands, "true")


@pytest.mark.parametrize(("limit", "value"), [("MAX_FINISHED", 2), ("MAX_KEPT", 12)])
@in_loop
async def test_what_nobody_asks_for(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, limit, value)
    async with running() as commands:
        pids = list[int]()
        for _ in range(3):
            pids.append(await start(commands, "echo", "hello", capture_output=True))
            await commands._running[pids[-1]].finished
        with pytest.raises(CommandError):
            commands.status(pids[0])
        [told] = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert told.startswith(f"the outcome of command {pids[0]} is forgotten: too much is kept")
        for pid in pids[1:]:
            assert (await finish(commands, pid))["out-data"] == b"hello\n"


@in_loop
async def test_the_end_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of children of commands, and of those that do not want to."""
    monkeypatch.setattr(module, "GRACE", 0.3)
    os.mkfifo(tmp_path / "fifo")
    commands = Commands()
    obedient = await start(commands, "sleep", "1000")
    code = f"trap '' TERM; (echo > {tmp_path}/fifo; sleep 1000; true) & wait"
    stubborn = await start(commands, "sh", "-c", code, capture_output=True)
    await asyncio.to_thread((tmp_path / "fifo").read_text)
    alive = [os.pidfd_open(pid) for pid in (obedient, stubborn)]
    await commands.end()
    for pidfd in alive:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    assert commands.status(obedient) == {"exited": True, "signal": signal.SIGTERM}
    # Its output has ended, so that its children have, too.
    assert commands.status(stubborn) == {"exited": True, "signal": signal.SIGKILL}


@in_loop
async def test_more_than_there_are_descriptors_for() -> None:
    """Each one is told of, also where there is a program and nothing to watch it with."""
    number = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    request = read_request({"path": "cat", "input-data": "", "capture-output": True})
    commands = Commands()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 24, hard))
    try:
        answers = [commands.start(request) for _ in range(32)]
        await asyncio.wait(answers, timeout=20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    refused = [str(it.exception()) for it in answers if it.done() and it.exception()]
    assert all(it.done() for it in answers)
    assert set(refused) <= {"cannot start 'cat': Too many open files"}
    await commands.end()


@in_loop
async def test_what_comes_after_the_end() -> None:
    commands = Commands()
    await commands.end()
    with pytest.raises(CommandError, match=r"^the agent is about to end$"):
        await commands.start(read_request({"path": "true"}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@in_loop
async def test_a_program_on_a_dead_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else waits for it."""
    monkeypatch.setattr(module, "GRACE", 0.1)
    with dead_mount() as mount:
        async with running() as commands:
            dead = commands.start(read_request({"path": f"{mount}/program"}))
            status = await finish(commands, await start(commands, "true"))
            assert status["exitcode"] == 0
            assert not dead.done()
    with pytest.raises(CommandError, match="cannot start"):
        await dead
