"""Pictures from PipeWire.

Owns the connection, its streams and their buffers, all in the thread that opened it: PipeWire's
loop runs when ``dispatch`` is called, and its callbacks only take notes. Buffers are read where
they lie.
"""

import ctypes
import logging
import mmap
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from agent.capture import libpipewire as abi
from agent.capture import pods
from agent.capture.pods import CursorMeta
from agent.capture.slots import Picture
from sessiond.errors import DisplayError, ProtocolError
from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

SOCKET: Final = "pipewire-0"
_MODULES: Final = (
    b"libpipewire-module-protocol-native",
    b"libpipewire-module-client-node",
    b"libpipewire-module-metadata",
)
_MAX_BUFFER: Final = 4 * 8192 * 8192 + (1 << 20)  # bytes; the largest picture, and some padding
_INPUT: Final = 0  # enum spa_direction
_AUTOCONNECT: Final = 1  # enum pw_stream_flags
_NO_CONVERT: Final = 1 << 5
_DONT_RECONNECT: Final = 1 << 7  # else we might be shown the next best camera
_ERROR: Final = -1  # enum pw_stream_state
_UNCONNECTED: Final = 0
_EVENTS_VERSION: Final = 2
_AGAIN: Final = 0.1  # seconds until a picture that was missed is asked for again
_PATIENT: Final = 8  # times, about as many as there are buffers; from then on more each time
_ASKED: Final = 14  # times; a monitor that shows nothing gives none


def _properties(library: ctypes.CDLL, values: dict[str, str]) -> int:
    properties: int = library.pw_properties_new(None)
    for key, value in values.items():
        library.pw_properties_set(properties, key.encode(), value.encode())
    return properties


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise DisplayError(
            f"PipeWire does not run for this session (install and start pipewire): {path}: "
            f"{error.strerror or error}"
        ) from None
    return sock


class PipeWire:
    """A connection to the PipeWire of one user."""

    def __init__(self, runtime: Path) -> None:
        """Connect at the socket in ``runtime``. Raises DisplayError."""
        self._library = abi.load_library()
        sock = _connect(runtime / SOCKET)
        self.streams: list[Stream] = []
        self._core = 0
        self._context = 0
        self._peer = OwnedFd(os.dup(sock.fileno()))  # of our own, only to be looked at
        self._loop = self._library.pw_loop_new(None)
        control = self._loop.contents.control.contents
        self._control = control.data
        self._methods = ctypes.cast(control.methods, ctypes.POINTER(abi.LoopControl)).contents
        self.fd: int = self._methods.get_fd(self._control)
        # For good: while nobody is in the loop, the library's own thread calls us directly.
        self._methods.enter(self._control)
        try:
            self._connect(sock)
        except BaseException:
            sock.close()
            self.close()
            raise

    def _connect(self, sock: socket.socket) -> None:
        # Not the system's configuration: it asks the portal and the system's bus for real-time
        # priority, and a picture has time.
        properties = _properties(self._library, {"config.name": "null"})
        self._context = self._library.pw_context_new(self._loop, properties, 0)
        for module in _MODULES:
            if not self._library.pw_context_load_module(self._context, module, None, None):
                raise DisplayError(
                    f"PipeWire lacks {module.decode()} (install the package "
                    "libpipewire-0.3-modules)"
                )
        # The descriptor becomes the library's.
        self._core = self._library.pw_context_connect_fd(self._context, sock.detach(), None, 0)
        if not self._core:
            raise DisplayError("PipeWire refuses us")

    @property
    def is_connected(self) -> bool:
        """Whether the PipeWire that we have connected to still has our connection open."""
        poll = select.poll()
        poll.register(self._peer.fileno(), select.POLLRDHUP)
        return not poll.poll(0)

    def dispatch(self) -> None:
        """Take what has arrived. Raises DisplayError for what cannot be shown."""
        while self._methods.iterate(self._control, 0) > 0:
            pass
        for stream in self.streams:
            stream.take()

    def record(self, node: int, max_rate: int) -> "Stream":
        """Begin to record what ``node`` shows, at most ``max_rate`` pictures a second."""
        stream = Stream(self._library, self._core, node, max_rate)
        self.streams.append(stream)
        return stream

    def forget(self) -> None:
        """End all streams; what their pictures lie in stays as it is."""
        for stream in self.streams:
            stream.close()
        self.streams.clear()

    def close(self) -> None:
        """Disconnect. Does not raise."""
        self.forget()
        if self._core:
            self._library.pw_core_disconnect(self._core)
        if self._context:
            self._library.pw_context_destroy(self._context)
        if self._loop:
            self._methods.leave(self._control)
            self._library.pw_loop_destroy(self._loop)
        self._core = self._context = self._loop = 0
        self._peer.close()


class Stream:
    """What one monitor shows, in pictures of ``size``: (0, 0) until that is agreed on.

    ``newest`` is the last picture that came, in a buffer of the compositor's: it stays as it is
    until the next ``PipeWire.dispatch``. ``cursor`` is what was last said of it, with the last
    shape that was; ``ended`` why nothing more will come.

    A compositor (or PipeWire for it) uses its buffers one after the other, and paints nothing when
    it is the turn of one that is not given back. So only the newest is held.
    """

    def __init__(self, library: ctypes.CDLL, core: int, node: int, max_rate: int) -> None:
        self._library = library
        self.size = (0, 0)
        self.newest: Picture | None = None
        self.cursor = CursorMeta(is_here=False)
        self.pictures = 0  # how many came
        self.ended = ""
        self._is_active = True
        self._asked = 0  # times, for a picture that was missed
        self._held = 0  # the address of the buffer with the newest picture
        self._mapped: dict[int, memoryview | None] = {}  # by the buffer's address
        self._has_buffers = False
        self._notes: deque[Callable[[], None]] = deque()
        self._node = node
        # What the library calls must stay where it is.
        self._events = abi.StreamEvents(
            version=_EVENTS_VERSION,
            state_changed=abi.StateChanged(self._note_state),
            param_changed=abi.ParamChanged(self._note_param),
            add_buffer=abi.BufferChanged(self._note_addition),
            remove_buffer=abi.BufferChanged(self._note_removal),
            process=abi.Processed(self._note_buffers),
        )
        self._hook = abi.Hook()
        properties = {
            "media.type": "Video",
            "media.category": "Capture",
            "media.role": "Screen",
            "node.dont-fallback": "true",
        }
        self._stream = library.pw_stream_new(
            core, b"spice-session-agent", _properties(library, properties)
        )
        library.pw_stream_add_listener(self._stream, self._hook, self._events, None)
        parameters = [pods.formats(max_rate), pods.buffers(), *pods.metas()]
        self._parameters = [ctypes.create_string_buffer(pod, len(pod)) for pod in parameters]
        array = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, self._parameters))
        flags = _AUTOCONNECT | _NO_CONVERT | _DONT_RECONNECT
        result = library.pw_stream_connect(
            self._stream, _INPUT, node, flags, array, len(parameters)
        )
        if result < 0:
            raise DisplayError(f"PipeWire does not connect us: {os.strerror(-result)}")

    def set_active(self, *, active: bool) -> None:
        """Let pictures come, the first of which is whatever is shown now; or cost nothing."""
        self._is_active = active
        self._library.pw_stream_set_active(self._stream, active)

    def ask(self) -> None:
        """Ask for a picture of what is shown now; who begins gets one."""
        self.set_active(active=False)
        self.set_active(active=True)

    @property
    def patience(self) -> float | None:
        """Seconds after which to ``ask_again``; None where nothing was missed."""
        if not (self._asked and self._is_active):
            return None
        return _AGAIN * max(1, self._asked - _PATIENT)

    def ask_again(self) -> None:
        """Ask once more for a picture that was missed, if one was.

        One buffer goes back each time that a picture might have come: at first there may be none
        to paint it into.
        """
        if self._asked:
            self._asked = (self._asked + 1) % (_ASKED + 1)
            self.ask()

    def take(self) -> None:
        """Act on what was noted, and take what buffers there are. Raises DisplayError."""
        while self._notes:
            self._notes.popleft()()
        if not self._has_buffers:
            return
        self._has_buffers = False
        taken, before = 0, self.pictures
        while buffer := self._library.pw_stream_dequeue_buffer(self._stream):
            taken += 1
            try:
                self._take_buffer(ctypes.addressof(buffer.contents), buffer.contents.buffer)
            except (ProtocolError, OSError, ValueError) as error:
                raise DisplayError(f"the recording is not what it says: {error}") from None
        if taken >= len(self._mapped) - 1 and self._is_active:
            # We were late, and held all of them: what was painted then is lost.
            log.debug("%d pictures at once: asking for one more", taken)
            self._asked = 1
            self.ask()
        elif self.pictures != before:
            self._asked = 0

    def forget_picture(self) -> None:
        """Give the newest picture back."""
        held, self._held, self.newest = self._held, 0, None
        if held in self._mapped:
            self._library.pw_stream_queue_buffer(self._stream, held)

    def close(self) -> None:
        """End it; a second call does nothing."""
        stream, self._stream, self._held, self.newest = self._stream, None, 0, None
        if stream:
            self._library.pw_stream_destroy(stream)

    # From the library: what raises here would only be printed.

    def _note_state(self, _data: int, _old: int, new: int, error: bytes | None) -> None:
        text = (error or b"").decode("utf-8", "replace")
        if new == _ERROR:
            self._notes.append(lambda: self._end(f"PipeWire ended the recording: {text}"))
        elif new == _UNCONNECTED:
            self._notes.append(lambda: self._end("PipeWire is gone"))

    def _note_param(self, _data: int, kind: int, pod: int | None) -> None:
        if kind != pods.FORMAT or not pod:
            return
        size = 8 + ctypes.c_uint32.from_address(pod).value
        untrusted = ctypes.string_at(pod, min(size, pods.MAX_POD))
        self._notes.append(lambda: self._take_format(untrusted))

    def _note_buffers(self, _data: int) -> None:
        self._has_buffers = True

    def _note_addition(self, _data: int, buffer: int) -> None:
        self._mapped[buffer] = None

    def _note_removal(self, _data: int, buffer: int) -> None:
        # At once: the address may be another buffer's in the next moment.
        self._mapped.pop(buffer, None)
        if buffer == self._held:
            self._held, self.newest = 0, None

    def _end(self, text: str) -> None:
        self.ended = self.ended or text

    def _take_format(self, untrusted: bytes) -> None:
        try:
            self.size = pods.parse_format(untrusted)
        except ProtocolError as error:
            raise DisplayError(f"the recording cannot be shown: {error}") from None
        self.forget_picture()

    def _take_buffer(self, address: int, spa: Any) -> None:  # noqa: ANN401 (a ctypes pointer)
        has_pixels = True
        for kind, untrusted in _metas(spa.contents):
            if kind == pods.META_HEADER:
                has_pixels = not pods.is_corrupted(untrusted)
            elif kind == pods.META_CURSOR:
                self._take_cursor(pods.parse_cursor(untrusted))
        chunk = spa.contents.datas[0].chunk.contents
        if not (has_pixels and chunk.size and any(self.size)) or chunk.flags & pods.CORRUPTED_CHUNK:
            self._library.pw_stream_queue_buffer(self._stream, address)
            return
        memory = self._mapped.get(address)
        if memory is None:
            memory = self._mapped[address] = _mapped(spa.contents.datas[0])
        picture = Picture(*self.size, chunk.stride, memory[chunk.offset :])
        self.forget_picture()
        self._held, self.newest = address, picture
        self.pictures += 1

    def _take_cursor(self, told: CursorMeta) -> None:
        shape = told.shape or self.cursor.shape
        position = told.position if told.is_here else self.cursor.position
        self.cursor = CursorMeta(told.is_here, position, shape)


def _metas(buffer: Any) -> Iterator[tuple[int, memoryview]]:  # noqa: ANN401 (of ctypes)
    for number in range(min(buffer.n_metas, 16)):
        meta = buffer.metas[number]
        if meta.data:
            memory = (ctypes.c_char * meta.size).from_address(meta.data)
            yield meta.type, memoryview(memory).cast("B")


def _mapped(data: Any) -> memoryview:  # noqa: ANN401 (of ctypes)
    """Return the memory of a buffer, read-only; it is there for as long as anybody looks at it."""
    if data.type != pods.MEMORY_FD or not 0 < data.maxsize <= _MAX_BUFFER:
        raise ProtocolError(f"{data.maxsize} bytes in a buffer of type {data.type}")
    # From the beginning, whatever the offset: that need not be one of a page.
    end = data.mapoffset + data.maxsize
    if os.fstat(data.fd).st_size < end:
        raise ProtocolError(f"a buffer of {data.maxsize} bytes in less memory")
    memory = mmap.mmap(data.fd, end, access=mmap.ACCESS_READ)
    return memoryview(memory)[data.mapoffset :]
