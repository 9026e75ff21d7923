"""Pixels from the X server: through MIT-SHM, or through the connection where there is none.

Both ways write into memory of ours and return a memoryview of it. python-xlib has no MIT-SHM;
its requests are the tables below (X.Org, "MIT-SHM: The MIT Shared Memory Extension", 1.2).
"""

import abc
import logging
import struct
from collections.abc import Sequence
from typing import Final

import sysv_ipc
from Xlib import X, error
from Xlib.display import Display
from Xlib.protocol import rq

from agent.capture.x11.packed import PackedQuestion
from sessiond.errors import DisplayError

log = logging.getLogger(__name__)

EXTENSION: Final = "MIT-SHM"
_ALL_PLANES: Final = 0xFFFFFFFF
_BAND: Final = 4 << 20  # bytes of one GetImage reply; python-xlib holds it twice

# Opcode of the extension, of the request, and its length in units of four bytes; drawable; x, y,
# width, height; plane mask, format; segment, offset.
_GET_IMAGE: Final = struct.Struct("=BBHIhhHHIB3xII")

Size = tuple[int, int]


class _QueryVersion(rq.ReplyRequest):
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(0), rq.RequestLength())
    _reply = rq.Struct(
        rq.ReplyCode(),
        rq.Bool("shared_pixmaps"),
        rq.Card16("sequence_number"),
        rq.ReplyLength(),
        rq.Card16("major_version"),
        rq.Card16("minor_version"),
        rq.Card16("uid"),
        rq.Card16("gid"),
        rq.Card8("pixmap_format"),
        rq.Pad(15),
    )


class _Attach(rq.Request):
    _request = rq.Struct(
        rq.Card8("opcode"),
        rq.Opcode(1),
        rq.RequestLength(),
        rq.Card32("shmseg"),
        rq.Card32("shmid"),
        rq.Bool("read_only"),
        rq.Pad(3),
    )


class _Detach(rq.Request):
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(2), rq.RequestLength(), rq.Card32("shmseg"))


class PixelSource(abc.ABC):
    """Copies the root window's pixels into memory of ours."""

    label: str

    @abc.abstractmethod
    def grab(self, size: Size, rows: Sequence[range]) -> memoryview:
        """Return all pixels of a root window of ``size``, 4 bytes each, without padding.

        Only ``rows`` are captured: the memory is that of the call before if the size is the same.
        Raises ``Xlib.error.BadMatch`` when the root window is smaller by now.
        """

    @abc.abstractmethod
    def release(self) -> None:
        """Give the memory back; views of it that somebody still holds stay valid."""


class _Segment(sysv_ipc.SharedMemory):  # type: ignore[misc] # an extension type without stubs
    """Private shared memory that is detached with the last view of it.

    sysv_ipc leaves it attached for the life of the process. The base class holds the address,
    so this runs only when neither the object nor any memoryview of it is left.
    """

    def __del__(self) -> None:
        self.detach()


class ShmSource(PixelSource):
    """One System V segment that the X server writes into."""

    label = "shared memory"

    def __init__(self, display: Display) -> None:
        self._display = display.display
        self._root = display.screen().root
        # python-xlib lists only the extensions that it speaks itself, so ask the server.
        self._opcode = _opcode(display)
        self._segment = 0  # the X server's name for it
        self._size: Size = (0, 0)
        self._view = memoryview(b"")

    def grab(self, size: Size, rows: Sequence[range]) -> memoryview:
        """Return the pixels; see PixelSource. Raises DisplayError if there is no memory."""
        if size != self._size:
            self.release()
            self._attach(size)
        # The server gets all requests at once and answers them in one turn.
        for request in [self._get_image(size[0], piece) for piece in rows]:
            request.answer()
        return self._view

    def _get_image(self, width: int, rows: range) -> PackedQuestion:
        """Ask the server to write ``rows`` to where they belong in the segment."""
        binary = _GET_IMAGE.pack(
            self._opcode, 4, _GET_IMAGE.size // 4, self._root.id,
            0, rows.start, width, len(rows),
            _ALL_PLANES, X.ZPixmap, self._segment, 4 * width * rows.start,
        )  # fmt: skip
        return PackedQuestion(self._display, binary)

    def release(self) -> None:
        """Detach both sides; the kernel frees the segment with the last view of it."""
        if self._segment:
            _Detach(display=self._display, opcode=self._opcode, shmseg=self._segment)
            self._display.free_resource_id(self._segment)
        self._segment, self._size, self._view = 0, (0, 0), memoryview(b"")

    def _attach(self, size: Size) -> None:
        wanted = size[0] * size[1] * 4
        try:
            memory = _Segment(None, sysv_ipc.IPC_CREX, mode=0o600, size=wanted)
        except (OSError, ValueError, MemoryError, sysv_ipc.Error) as problem:
            raise DisplayError(f"no shared memory of {wanted} bytes: {problem}") from problem
        # Removed at once, before the server knows it: Linux lets a process attach a segment
        # that is marked for removal (shmat(2), notes) and frees it with the last of them, so
        # that nothing stays behind even when we are killed.
        memory.remove()
        self._view = memoryview(memory)[:wanted]
        segment: int = self._display.allocate_resource_id()
        catch = error.CatchError()
        _Attach(
            display=self._display,
            opcode=self._opcode,
            onerror=catch,
            shmseg=segment,
            shmid=memory.id,
            read_only=False,
        )
        _QueryVersion(display=self._display, opcode=self._opcode)  # waits for the error, if any
        refusal = catch.get_error()
        if refusal:
            self._display.free_resource_id(segment)
            name = type(refusal).__name__
            raise DisplayError(f"the X server cannot attach shared memory: {name}")
        self._segment, self._size = segment, size

    def is_shared(self) -> bool:
        """Tell whether what the server writes arrives here.

        In another IPC namespace the number of our segment may be that of another one.
        """
        for untouched in (b"\x00\x55\xaa\xff", b"\xff\xaa\x55\x00"):
            self.grab((1, 1), [])
            self._view[:4] = untouched
            self.grab((1, 1), [range(1)])
            if bytes(self._view[:4]) != untouched:
                return True
        return False


class ImageSource(PixelSource):
    """GetImage of the core protocol: every pixel travels through the connection."""

    label = "GetImage"

    def __init__(self, display: Display) -> None:
        self._root = display.screen().root
        self._size: Size = (0, 0)
        self._memory = bytearray()

    def grab(self, size: Size, rows: Sequence[range]) -> memoryview:
        """Return the pixels; see PixelSource. Comes in pieces, which may differ in age."""
        if size != self._size:
            self._size, self._memory = size, bytearray(size[0] * size[1] * 4)
        width, stride = size[0], 4 * size[0]
        view = memoryview(self._memory)
        limit = max(1, _BAND // stride)
        for piece in rows:
            for top in piece[::limit]:
                height = min(limit, piece.stop - top)
                reply = self._root.get_image(0, top, width, height, X.ZPixmap, _ALL_PLANES)
                view[top * stride : (top + height) * stride] = reply.data
        return view

    def release(self) -> None:
        """Forget the memory."""
        self._size, self._memory = (0, 0), bytearray()


def choose_source(display: Display) -> type[ShmSource | ImageSource]:
    """Return the kind of source that works with this display; says in the log why not SHM."""
    if not _opcode(display):
        log.warning("the X server has no MIT-SHM: capturing by GetImage, which costs far more")
        return ImageSource
    trial = ShmSource(display)
    try:
        if trial.is_shared():
            return ShmSource
        log.warning("shared memory does not reach the X server: capturing by GetImage")
    except DisplayError as problem:
        log.warning("%s: capturing by GetImage, which costs far more", problem)
    finally:
        trial.release()
    return ImageSource


def _opcode(display: Display) -> int:
    """Return the extension's major opcode, 0 where the server has none of it."""
    extension = display.query_extension(EXTENSION)
    return extension.major_opcode if extension else 0
