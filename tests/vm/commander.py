"""The commander: runs the commands of the tests inside the guest, as root.

Baked into the image and started by its own unit, it speaks frames on a virtio port with the host's
``tests.vm.channel``, which imports the framing from here. It owns the processes that it starts; it
opens no PAM session and so never belongs to a logind session: tests that want one ask systemd.

A frame is two 32-bit big-endian lengths, a JSON header and raw bytes. From the host::

    {"op": "start", "id", "argv", "user", "env", "cwd"} + standard input
    {"op": "signal", "id", "signal"}

and to the host::

    {"event": "ready"}
    {"event": "output", "id", "stream": "stdout" | "stderr"} + bytes
    {"event": "exit", "id", "status"}             as subprocess says: negative for a signal
    {"event": "failed", "id", "error"}            never started

Standard library only, and of the oldest guest's Python (3.11).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import select
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Final

PORT: Final = "/dev/virtio-ports/org.spice-space.test.0"
LENGTHS: Final = struct.Struct(">II")
# A header is an argv and an environment; the kernel takes 2 MiB of both.
MAX_HEADER: Final = 4 << 20
# The largest payload is a tar of the project.
MAX_PAYLOAD: Final = 256 << 20
# One write to a virtio port takes at most 32 KiB (drivers/char/virtio_console.c, port_fops_write).
CHUNK: Final = 32 << 10

Header = dict[str, Any]


class FrameError(ValueError):
    """The other end sent something that is not a frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: the JSON header and the raw bytes that follow it."""

    header: Header
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the frame as bytes for the port."""
        text = json.dumps(self.header).encode()
        return LENGTHS.pack(len(text), len(self.payload)) + text + self.payload


class Decoder:
    """Bytes in, whole frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take some bytes; return the frames that they complete.

        Raises FrameError when a length is beyond its limit.
        """
        self._buffer += data
        frames = []
        while (frame := self._maybe_frame()) is not None:
            frames.append(frame)
        return frames

    def _maybe_frame(self) -> Frame | None:
        if len(self._buffer) < LENGTHS.size:
            return None
        header, payload = LENGTHS.unpack_from(self._buffer)
        if header > MAX_HEADER or payload > MAX_PAYLOAD:
            raise FrameError(f"a frame of {header} + {payload} bytes")
        body, end = LENGTHS.size + header, LENGTHS.size + header + payload
        if len(self._buffer) < end:
            return None
        frame = Frame(json.loads(self._buffer[LENGTHS.size : body]), bytes(self._buffer[body:end]))
        del self._buffer[:end]
        return frame


class Job:
    """One process, leader of its own process group, and its two pipes."""

    def __init__(self, header: Header, stdin: bytes) -> None:
        self.number: int = header["id"]
        user = pwd.getpwnam(header["user"])
        with _input_file(stdin) as source:
            self._process = subprocess.Popen(
                header["argv"],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=os.getgrouplist(user.pw_name, user.pw_gid),
                cwd=header["cwd"] or user.pw_dir,
                env=_environment(user) | header["env"],
            )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pipes = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        for pipe in self.pipes.values():
            os.set_blocking(pipe.fileno(), False)
        self.pidfd = os.pidfd_open(self._process.pid)

    def kill(self, number: int) -> None:
        """Send a signal to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def reap(self) -> int:
        """Collect the process, which has ended."""
        os.close(self.pidfd)
        return self._process.wait()


class Commander:
    """The loop: frames from the port, output and ends of the jobs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._decoder = Decoder()
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, Job] = {}

    def run(self) -> None:
        """Serve until the host hangs up."""
        self._selector.register(self._port, selectors.EVENT_READ, self._on_port)
        self._send({"event": "ready"})
        while True:
            for key, _ in self._selector.select():
                # An earlier call of the same round may have closed this one.
                if key.fd in self._selector.get_map():
                    key.data()

    def _send(self, header: Header, payload: bytes = b"") -> None:
        view = memoryview(Frame(header, payload).encode())
        while view:
            view = view[os.write(self._port, view[:CHUNK]) :]

    def _on_port(self) -> None:
        data = os.read(self._port, CHUNK)
        if not data:
            sys.exit("the host has hung up")
        for frame in self._decoder.feed(data):
            match frame.header["op"]:
                case "start":
                    self._start(frame)
                case "signal":
                    if job := self._jobs.get(frame.header["id"]):
                        job.kill(frame.header["signal"])
                case other:
                    raise FrameError(f"an unknown operation {other!r}")

    def _start(self, frame: Frame) -> None:
        try:
            job = Job(frame.header, frame.payload)
        except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            self._send({"event": "failed", "id": frame.header["id"], "error": str(error)})
            return
        self._jobs[job.number] = job
        self._selector.register(
            job.pidfd, selectors.EVENT_READ, functools.partial(self._on_exit, job)
        )
        for name, pipe in job.pipes.items():
            read = functools.partial(self._on_output, job, name, pipe)
            self._selector.register(pipe, selectors.EVENT_READ, read)

    def _on_output(self, job: Job, name: str, pipe: IO[bytes]) -> bool:
        """Pass on what the pipe holds now, at most one chunk; False when there is nothing."""
        try:
            data = os.read(pipe.fileno(), CHUNK)
        except BlockingIOError:
            return False
        if data:
            self._send({"event": "output", "id": job.number, "stream": name}, data)
            return True
        self._selector.unregister(pipe)
        pipe.close()
        return False

    def _on_exit(self, job: Job) -> None:
        # What the process wrote comes before its end. A pipe that a child of it still holds stays
        # open: closed, it would kill a daemon that was left behind on purpose.
        for name, pipe in job.pipes.items():
            while not pipe.closed and self._on_output(job, name, pipe):
                pass
        self._selector.unregister(job.pidfd)
        del self._jobs[job.number]
        self._send({"event": "exit", "id": job.number, "status": job.reap()})


def _input_file(stdin: bytes) -> IO[bytes]:
    # A file and not a pipe: nobody has to feed it while the process runs.
    source = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
    os.fchmod(source.fileno(), 0o444)  # /dev/stdin is opened again, by the job's user
    source.write(stdin)
    source.seek(0)
    return source


def _environment(user: pwd.struct_passwd) -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell,
    }


def _open_port() -> int:
    port = os.open(PORT, os.O_RDWR | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(port, select.POLLIN)
    # The port exists a moment before the kernel learns that the host is connected; until then it
    # shows HUP, for which there is no event that says "no more".
    while any(events & select.POLLHUP for _, events in poll.poll(0)):
        time.sleep(0.02)
    return port


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Commander(_open_port()).run()
