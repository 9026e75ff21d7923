"""What the supervisor's tests have around it: a host that reads when it is told to, and agents.

The agents have parts to play, and so has a KMS helper.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sessiond.model import Decision, Reason, Session, Status
from sessiond.stream.agent import STOPPED, AgentStart
from sessiond.stream.kms import KmsHelper
from sessiond.stream.parts import Parts, Settings
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.stream.supervisor import Supervisor
from sessiond.transport import rights
from sessiond.transport.edge import EdgePoller
from sessiond.wire import device
from sessiond.wire.device import Capabilities, Data, Format, Role, StartStop
from sessiond.wire.device_state import DeviceConnection
from sessiond.wire.kms import MAX_CONTROL, Serve, pack_control, parse_from_daemon
from sessiond.wire.kms import Ready as HasCard
from sessiond.wire.link import Config, LinkType, Ready, Stats, pack
from tests.fixtures.loop import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sessiond.stream.ways import Signs

OWN: Final = ("x11",)
CARD: Final = ("kms",)
BOTH: Final = (*OWN, *CARD)
NOBODY: Final = Decision("", Reason.PAUSED_BY_ADMIN, "paused")
BIG: Final = 4 << 20  # bytes of a frame that no socket holds
SMALL: Final = 100
FORMAT: Final = device.pack(Format(640, 480, 1))
STATS: Final = pack(Stats(0, 0, 0, 0.0, "jpeg", 80, "libjpeg-turbo", "the host keeps up"))
READY: Final = pack(Ready("logind", ":0", 640, 480, 7))
# argv: the size of its frames, what it says of each stream as hexadecimal digits, and --link-fd N
# at the end. What is shown has a frame for each credit, but the first only after SIGUSR1. It ends
# with its link, or by SIGKILL.
AGENT: Final = f"""
import json, signal, socket, struct, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
size, link = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[-1]))
def message(kind, body):
    link.sendall(struct.pack("<BBHI", 1, 0, kind, len(body)) + body)
link.sendall(bytes.fromhex("{READY.hex()}"))
data, is_told = b"", False
while piece := link.recv(4096):
    data += piece
    while len(data) >= 8 and len(data) >= 8 + struct.unpack_from("<BBHI", data)[3]:
        kind, length = struct.unpack_from("<BBHI", data)[2:]
        body, data = data[8 : 8 + length], data[8 + length :]
        if kind == {int(LinkType.ACTIVATE)}:
            serial = json.loads(body)["serial"]
            message({int(LinkType.SERIAL)}, json.dumps({{"serial": serial}}).encode())
            link.sendall(bytes.fromhex("{FORMAT.hex()}{STATS.hex()}" + sys.argv[2]))
        elif kind == {int(LinkType.CREDIT)}:
            is_told = is_told or bool(signal.sigwait([signal.SIGUSR1]))
            message({int(device.Type.DATA)}, bytes(size))
"""
# argv: a reason, a text, whether it has had a display, and --link-fd N at the end. It says so, and
# has failed.
FAILING: Final = f"""
import json, socket, struct, sys
body = json.dumps({{"reason": sys.argv[1], "text": sys.argv[2]}}).encode()
link = socket.socket(fileno=int(sys.argv[-1]))
if sys.argv[3] == "ready":
    link.sendall(bytes.fromhex("{READY.hex()}"))
link.sendall(struct.pack("<BBHI", 1, 0, {int(LinkType.FAILED)}, len(body)) + body)
"""
# Nobody here shows a sentence, but where a test wants one.
SETTINGS: Final = Settings(grace=0.0, when_idle="close")
PAUSED: Final = Decision("", Reason.PAUSED_BY_USER, "paused")
SESSIONS: Final = MappingProxyType({
    id_: Session(id=id_, path=f"/{id_}", uid=1000, gid=1000) for id_ in ("big", "small", *"12345")
})  # fmt: skip


def start_of(key: str, helper: KmsHelper | None = None, says: bytes = b"") -> AgentStart:
    """Return how an agent with a part to play is started, which also ``says`` this."""
    size = BIG if key == "big" else SMALL
    command = python(AGENT, str(size), says.hex())
    return AgentStart(key, command, {}, Config(key, 1000), helper)


def failing(
    key: str, reason: Reason, text: str, helper: KmsHelper | None = None, *, was_ready: bool = False
) -> AgentStart:
    """Return how one is started that says this, and ends; perhaps it has been ready before."""
    command = python(FAILING, reason, text, "ready" if was_ready else "")
    return AgentStart(key, command, {}, Config(key, 1000), helper)


def python(code: str, *arguments: str) -> list[str]:
    """Return a command that runs this."""
    return ["/usr/bin/python3", "-I", "-S", "-c", code, *arguments]


class HelpersEnd:
    """A KMS helper's end of its control socket, whose first packet is there."""

    def __init__(self, control: socket.socket, vt: int) -> None:
        self.control = control
        control.setblocking(True)
        received = rights.receive(control, MAX_CONTROL, room=1)
        assert parse_from_daemon(received.data) == Serve(vt)
        [fd] = received.fds
        self.agent = socket.socket(fileno=fd)

    def say(self, *packets: bytes) -> None:
        """Say these to the daemon."""
        for packet in packets:
            self.control.send(packet)

    def hear(self) -> list[object]:
        """Return all that the daemon has said by now; None for the end."""
        heard: list[object] = []
        while not heard or heard[-1] is not None:
            try:
                packet = self.control.recv(MAX_CONTROL, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:  # the daemon has gone without hearing us
                continue
            heard.append(parse_from_daemon(packet) if packet else None)
        return heard

    def close(self) -> None:
        """Let the daemon and the agent go."""
        self.agent.close()
        self.control.close()


def kms_helper(vt: int = 3) -> tuple[KmsHelper, HelpersEnd]:
    """Return both ends of a helper that has a card."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    helper = KmsHelper(ours, vt, lambda: None, lambda _why: None)
    end = HelpersEnd(theirs, vt)
    end.say(pack_control(HasCard("card0", "virtio_gpu")))
    return helper, end


@dataclass
class Around:
    """All that a supervisor meets, and what it has done with it."""

    supervisor: Supervisor
    listener: socket.socket
    prepared: dict[str, Callable[[AgentStart], None]]
    asked: list[tuple[str, tuple[str, ...]]]  # for whose agents, by which back-ends
    looks: list[Callable[[Signs], None]]
    pids: dict[str, int] = field(default_factory=dict)  # of all that were started
    ends: dict[str, str] = field(default_factory=dict)  # why, of all that ended
    statuses: list[Status] = field(default_factory=list)
    signal: Signal = field(default_factory=Signal)
    frames: list[int] = field(default_factory=list)  # the sizes that the host has read
    paused: list[str] = field(default_factory=list)  # sessions, each at its screen
    sentences: list[str] | None = None  # that were shown; a test that wants one makes the list

    def show(self, session: str, route: tuple[str, ...] = ("x11",)) -> None:
        """Decide that this session is shown."""
        self.supervisor.on_decision(Decision(session, route=route), SESSIONS, is_gap=False)

    def pause(self, session: str) -> None:
        """Decide that nothing is shown, for this session was paused at its screen."""
        self.paused.append(session)
        self.supervisor.on_decision(PAUSED, SESSIONS, is_gap=False)

    def launch(self, session: str) -> None:
        """Answer how a session's agent is started."""
        self.prepared[session](start_of(session))

    async def until_asked(self, session: str, backends: tuple[str, ...]) -> None:
        """Wait until that is the newest agent that is asked for."""
        await self.signal.until(lambda: self.asked[-1:] == [(session, backends)])

    async def show_new(self, session: str) -> None:
        """Show a session that has no agent yet, and wait until it has."""
        self.show(session)
        self.launch(session)
        await self.until_reason(Reason.OK)

    async def until_ended(self, *sessions: str) -> None:
        """Wait until these agents have ended, because we wanted it, and no others."""
        await self.signal.until(lambda: self.ends.keys() >= set(sessions))
        assert self.ends == dict.fromkeys(sessions, STOPPED)

    async def until_reason(self, reason: Reason) -> None:
        """Wait until it is the newest that was told."""
        await self.signal.until(lambda: bool(self.statuses) and self.statuses[-1].reason is reason)

    async def read_frames(self, host: socket.socket, count: int) -> None:
        """Read until the host has had that many whole frames in all."""
        await self.read_messages(host, count)

    async def read_messages(self, host: socket.socket, count: int) -> list[object]:
        """Read likewise; return all messages that have come now."""
        loop, messages = asyncio.get_running_loop(), list[object]()
        while len(self.frames) < count:
            for message in self.device.receive(await loop.sock_recv(host, 1 << 16)):
                messages.append(message)
                if isinstance(message, Data):
                    self.frames.append(len(message.frame))
        return messages

    def __post_init__(self) -> None:
        self.device = DeviceConnection(Role.HOST)


@asynccontextmanager
async def around(settings: Settings = SETTINGS) -> AsyncIterator[Around]:
    """Start a supervisor; nothing of it may be left afterwards."""
    poller = EdgePoller()
    with TemporaryDirectory(prefix="supervisor-") as directory, socket.socket(socket.AF_UNIX) as it:
        path = str(Path(directory, "port"))
        it.bind(path)
        it.listen()
        prepared: dict[str, Callable[[AgentStart], None]] = {}
        asked: list[tuple[str, tuple[str, ...]]] = []
        looks: list[Callable[[Signs], None]] = []

        def prepare(
            session: Session, backends: tuple[str, ...], ready: Callable[[AgentStart], None]
        ) -> None:
            prepared[session.id] = ready
            asked.append((session.id, backends))
            made.signal.happened()

        def look(_session: Session, seen: Callable[[Signs], None]) -> None:
            looks.append(seen)
            made.signal.happened()

        def show_sentence(text: str) -> AgentStart:
            assert made.sentences is not None, text
            made.sentences.append(text)
            return start_of(PLACEHOLDER)

        def on_agent(key: str, pid: int) -> None:
            assert key not in made.pids or key in made.ends, "two at a time"
            made.ends.pop(key, None)
            made.pids[key] = pid

        def on_agent_end(key: str, pid: int, _status: int, reason: str) -> None:
            assert made.pids[key] == pid
            made.ends[key] = reason
            made.signal.happened()

        def on_status(status: Status) -> None:
            made.statuses.append(status)
            made.signal.happened()

        parts = Parts(
            port_path=path,
            prepare=prepare,
            placeholder=show_sentence,
            look=look,
            reread=lambda _id: None,
            on_status=on_status,
            on_agent=on_agent,
            on_agent_end=on_agent_end,
            on_proven=lambda _ids: None,
            on_ended=lambda session: made.pause(session),  # noqa: PLW0108 (it is made later)
        )
        made = Around(Supervisor(parts, settings, poller), it, prepared, asked, looks)
        made.supervisor.start()
        try:
            yield made
        finally:
            await made.supervisor.close()
            assert not poller._handlers
            poller.close()


def watching_host(around: Around) -> socket.socket:
    """Take the port's connection, and ask for a stream."""
    host = around.listener.accept()[0]
    host.setblocking(False)
    host.send(around.device.send(Capabilities()) + around.device.send(StartStop((1,))))
    return host


@contextmanager
def given_card(it: Around, session: str) -> Iterator[HelpersEnd]:
    """Answer with the start of an agent that has a helper; give the helper's end."""
    helper, end = kms_helper()
    it.prepared[session](start_of(session, helper))
    try:
        yield end
    finally:
        end.close()
