"""What the display hardware shows: a text console, a greeter, any compositor's screen.

A helper of root's hands us the buffers that are on the screen, for as long as the daemon lets it.
"""

import contextlib
import select
import time
from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from agent.capture.base import Capture, Changes, Cursor, Frame
from agent.capture.kms.buffers import Buffer, Buffers
from agent.capture.kms.compose import Composer, cursor_pixels
from agent.capture.kms.front import Front
from agent.capture.kms.helper import KmsHelper
from agent.capture.kms.pace import Pace
from agent.capture.slots import Picture, Slots
from sessiond.errors import DisplayError
from sessiond.wire.kms import Ask, Code, Kind, Plane, Refused

_TRIES: Final = 8  # to see a screen whose buffers change while they are looked at


def open_kms(fd: int) -> "KmsCapture":
    """Capture through the helper whose socket ``fd`` is; it is ours now. Raises DisplayError."""
    helper = KmsHelper(fd)
    try:
        return KmsCapture(helper, Front())
    except DisplayError:
        helper.close()
        raise


class KmsCapture(Capture):
    """Looks at the screen again and again, and compares; but when the VT changes it is told."""

    def __init__(self, helper: KmsHelper, front: Front) -> None:
        self._helper = helper
        self._front = front
        self._buffers = Buffers()
        self._composer = Composer()
        self._slots = Slots()
        self._size = (0, 0)  # while nothing was there to be seen
        self._outputs: tuple[str, ...] = ()
        self._cursor: Cursor | None = None
        self._pointer = (0, 0)
        self._unavailable = ""
        self._lacks_grant = False  # which is why it is unavailable
        self._changes = Changes.NONE  # seen, and not told yet
        self._pace = Pace()
        self._is_watching = False
        self._awaits_grab = False
        self._front.arm()
        self._look()
        self._changes = Changes.NONE

    def describe(self) -> str:
        if not self._outputs:
            return "the display hardware"
        width, height = self._size
        return f"the display hardware's {', '.join(self._outputs)}, {width}x{height}"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        return self._unavailable

    def begin(self) -> None:
        self._is_watching = True
        self._pace = Pace()
        with self._seen():
            self._awaits_grab = not self._unavailable

    def end(self) -> None:
        self._is_watching = False
        self._changes &= Changes.AVAILABLE
        if self._lacks_grant:  # which is needed for the pixels alone
            self._on_available("")
        # Nobody who is not shown keeps what was on the screen, or may still be.
        self._buffers.forget()
        self._composer.forget()
        self._slots.forget()

    def wait(self, wake_fd: int) -> Changes:
        while not self._changes:
            timeout = None
            if self._is_watching and not self._awaits_grab:
                timeout = max(0.0, self._pace.due - time.monotonic())
            helper, front = self._helper.fileno(), self._front.fileno()
            ready, _, told = select.select([wake_fd, helper], [], [front], timeout)
            if helper in ready:
                raise DisplayError("the KMS helper has ended")
            if told:
                self._look_at_front()
            elif wake_fd in ready:
                break
            else:
                self._poll()
        changes, self._changes = self._changes, Changes.NONE
        self._awaits_grab |= Changes.PICTURE in changes
        return changes

    def grab(self, slot: int) -> Frame | None:
        for _ in range(_TRIES):
            with self._seen() as picture:
                frame = self._slots.take(slot, picture) if picture else None
            if frame and self._front.has_changed():
                # All text consoles share one buffer: this may be somebody else's by now.
                self._slots.forget()
                self._look_at_front()
                frame = None
            if frame or self._unavailable:
                self._awaits_grab = False
                self._pace.due = time.monotonic() + self._pace.interval
                return frame
        raise DisplayError("the screen's buffers change faster than they can be captured")

    def cursor(self) -> Cursor | None:
        return self._cursor

    def pointer(self) -> tuple[int, int]:
        return self._pointer

    def outputs(self) -> tuple[str, ...]:
        return self._outputs

    def close(self) -> None:
        self.end()
        self._helper.close()
        self._front.close()

    def _poll(self) -> None:
        with self._seen() as picture:
            if picture and self._slots.differs(picture):
                self._changes |= Changes.PICTURE
        self._pace.on_looked(time.monotonic(), is_new=bool(self._changes))

    def _look_at_front(self) -> None:
        self._front.arm()
        self._look()

    def _look(self) -> None:
        """Take over how large the screen is, which needs no leave of the daemon's."""
        answer = self._helper.ask(Ask.LOOK)
        if isinstance(answer, Refused):
            self._on_refused(answer)
            return
        planes = [plane for plane in answer.planes if plane.kind is Kind.PRIMARY]
        self._size = (
            max(plane.x + plane.width for plane in planes),
            max(plane.y + plane.height for plane in planes),
        )
        self._name_outputs(planes)
        self._on_available("")

    @contextlib.contextmanager
    def _seen(self) -> Iterator[Picture | None]:
        """Give the picture, as long as the context lasts; None if there is none."""
        answer = self._helper.ask(Ask.PIXELS)
        if isinstance(answer, Refused):
            self._on_refused(answer)
            yield None
            return
        buffers = self._buffers.take(answer.buffers)
        with contextlib.ExitStack() as stack:
            for buffer in buffers:
                stack.enter_context(buffer.reading())
            parts = [(plane, buffers[plane.buffer]) for plane in answer.planes]
            shown = [part for part in parts if part[0].kind is Kind.PRIMARY]
            picture = self._composer.picture(shown)
            self._size = (picture.width, picture.height)
            self._name_outputs([plane for plane, _ in shown])
            self._on_available("")
            self._take_cursor([part for part in parts if part[0].kind is Kind.CURSOR])
            yield picture

    def _on_refused(self, refused: Refused) -> None:
        """Raise DisplayError for what does not pass."""
        match refused.code:
            case Code.NOT_GRANTED | Code.OTHER_VT | Code.OFF:
                self._buffers.forget()
                self._on_available(refused.text)
                self._lacks_grant = refused.code is Code.NOT_GRANTED
            case Code.UNREADABLE:
                raise DisplayError(refused.text)
            case Code.RESTLESS:
                pass  # until the next look
            case _:
                assert_never(refused.code)

    def _on_available(self, unavailable: str) -> None:
        self._lacks_grant = False
        if unavailable == self._unavailable:
            return
        self._unavailable = unavailable
        self._changes |= Changes.AVAILABLE
        if not unavailable and self._is_watching:
            # It may be as it was, and still nobody has seen what was there meanwhile.
            self._changes |= Changes.PICTURE

    def _name_outputs(self, planes: Sequence[Plane]) -> None:
        names = dict.fromkeys(plane.output for plane in planes if plane.output)
        self._outputs = tuple(names)

    def _take_cursor(self, parts: Sequence[tuple[Plane, Buffer]]) -> None:
        cursor = None
        for plane, buffer in parts[:1]:
            hot_x = min(max(plane.hot_x, 0), plane.width - 1)
            hot_y = min(max(plane.hot_y, 0), plane.height - 1)
            pixels = cursor_pixels(plane, buffer)
            cursor = Cursor(plane.width, plane.height, hot_x, hot_y, pixels)
            width, height = self._size
            pointer = (
                min(max(plane.x + hot_x, 0), width - 1),
                min(max(plane.y + hot_y, 0), height - 1),
            )
            if pointer != self._pointer:
                self._pointer = pointer
                self._changes |= Changes.POINTER
        if cursor != self._cursor:
            self._cursor = cursor
            self._changes |= Changes.CURSOR
