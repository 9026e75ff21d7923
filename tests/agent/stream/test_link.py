"""One link, with the daemon's own state machine at the other end of a socket pair."""

import itertools
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import ClassVar

import pytest

from agent.capture.base import Capture, Changes, EndedError, Frame
from agent.encode.base import Encoder
from agent.encode.jpeg import JpegEncoder
from agent.stream import link as link_module
from agent.stream.absence import PATIENCE
from agent.stream.framelog import FrameLog
from agent.stream.link import ALLOWED, LinkSession, State, adopt_link
from agent.stream.link_app import codec_maker
from agent.stream.opened import NoDisplayError, Opened
from sessiond.errors import DisplayError, EncoderError, ProtocolError, SessiondError, UsageError
from sessiond.transport.edge import EdgePoller
from sessiond.wire.device import Codec, Type
from sessiond.wire.link import (
    MAX_TEXT,
    Activate,
    Config,
    Credit,
    DeviceMessage,
    Failed,
    Line,
    Pause,
    Ready,
    ToAgent,
    Unavailable,
    pack,
)
from tests.agent.scripted import SIZE, ScriptedCapture, settled
from tests.agent.stream.daemon import Daemon
from tests.fixtures.loop import Clock, in_loop, turns

CONFIG = Config("c1", os.getuid(), vt=7)
BEGINNING = [Type.FORMAT, Type.CURSOR_SET, Type.CURSOR_MOVE, Type.DATA]


class Linked(Daemon):
    """A daemon, and the session that it speaks to."""

    session: LinkSession

    async def quiet(self) -> None:
        """Return when what was said has had its effect; nothing is heard meanwhile."""
        for _ in range(3):
            await turns(5)
            assert self.session._screen
            await settled(self.session._screen)
        await turns(5)
        assert not self.pending
        with pytest.raises(BlockingIOError):
            self.sock.recv(1)


@asynccontextmanager
async def linked(
    capture: Capture | Exception, encoders: Sequence[type[Encoder]] = (JpegEncoder,)
) -> AsyncIterator[Linked]:
    def open_display(_config: Config) -> Opened:
        if isinstance(capture, Exception):
            raise capture
        return Opened(capture, "a rule", ":5", 7)

    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that a frame fills it
        poller = EdgePoller()
        stack.callback(poller.close)
        daemon = Linked(theirs)
        frames = FrameLog("", binary=False, frames=False)
        daemon.session = LinkSession(
            adopt_link(ours.detach()), poller, open_display,
            codec_maker(encoders, ["framerate=100"]), frames,
        )  # fmt: skip
        stack.callback(daemon.session.close)
        yield daemon


@in_loop
async def test_ready() -> None:
    async with linked(ScriptedCapture()) as daemon:
        assert await daemon.configure(CONFIG) == Ready("a rule", ":5", *SIZE, vt=7, backend="x11")
        await daemon.quiet()


@in_loop
async def test_stream_needs_credit_for_each_frame() -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate()
        assert await daemon.hear_types(Type.CURSOR_MOVE) == BEGINNING[:-1]
        await daemon.quiet()
        assert capture.grabs == 0
        capture.draw()
        await daemon.quiet()
        await daemon.say(Credit())
        assert await daemon.hear_types() == [Type.DATA]
        capture.draw()
        await daemon.quiet()
        assert capture.grabs == 1  # a picture is not taken before it may be sent
        await daemon.say(Credit(), Credit())
        for _ in range(2):
            assert await daemon.hear_types() == [Type.DATA]
            capture.draw()
        await daemon.quiet()
        assert capture.grabs == 3


@in_loop
async def test_unused_credit_stays() -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=3)
        await daemon.hear_types()
        await daemon.quiet()
        for _ in range(2):
            capture.draw()
            assert await daemon.hear_types() == [Type.DATA]
        capture.draw()
        await daemon.quiet()


@pytest.mark.parametrize("pause", [True, False])
@in_loop
async def test_credit_ends_with_pause_and_activate(*, pause: bool) -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=5)
        await daemon.hear_types()
        if pause:
            await daemon.say(Pause())
            capture.draw()
            capture.tell(Changes.CURSOR | Changes.POINTER)
            await daemon.quiet()
            assert capture.calls == ["begin", "end"]
        await daemon.activate()
        assert await daemon.hear_types(Type.CURSOR_MOVE) == BEGINNING[:-1]
        await daemon.quiet()
        await daemon.say(Credit())
        assert await daemon.hear_types() == [Type.DATA]


@in_loop
async def test_every_activate_is_a_beginning() -> None:
    async with linked(ScriptedCapture()) as daemon:
        await daemon.configure(CONFIG)
        for _ in range(3):
            await daemon.activate(credit=1)
            assert await daemon.hear_types() == BEGINNING


@in_loop
async def test_stats_at_most_once_a_second() -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=9)
        await daemon.hear_types()
        for _ in range(2):
            capture.draw()
            await daemon.hear_types()
        await turns(5)
        daemon.session._stats_due = 0.0  # a second later
        capture.draw()
        await daemon.hear_types()
        await daemon.say(Pause())
        # SERIAL and FORMAT of the next stream come after whatever was on its way.
        await daemon.activate(credit=1)
        await daemon.hear_types()
        assert [s.frames for s in daemon.stats] == [1, 3]
        assert (daemon.stats[0].codec, daemon.stats[0].quality) == ("jpeg", 80)
        assert daemon.stats[1].size > 0
        assert daemon.stats[1].encode_ms > 0


class Vp8(JpegEncoder):
    """Says that it is one, and makes a single frame."""

    name: ClassVar = "vp8"
    codec: ClassVar = Codec.VP8
    implementation = "a library"

    def encode(self, frame: Frame) -> bytes:
        if self.quality:
            raise EncoderError("no film")
        return super().encode(frame)


@in_loop
async def test_a_change_of_the_codec_is_told_at_once() -> None:
    capture = ScriptedCapture()
    async with linked(capture, [JpegEncoder, Vp8]) as daemon:
        await daemon.configure(replace(CONFIG, codecs=("vp8",)))
        await daemon.say(Activate(1, (Codec.MJPEG, Codec.VP8)), *(9 * [Credit()]))
        await daemon.hear_types()
        capture.draw()
        assert await daemon.hear_types() == [Type.FORMAT, Type.DATA]
        capture.draw()
        await daemon.hear_types()
        for serial in (2, 3):
            await daemon.say(Activate(serial, (Codec.MJPEG,)), Credit())
            await daemon.hear_types()
        told = [(s.frames, s.codec, s.encoder, s.why) for s in daemon.stats]
        assert told[:3] == [
            (1, "vp8", "a library", ""),
            (1, "jpeg", "", "vp8 failed: no film"),
            (2, "jpeg", "", "the host does not decode vp8"),
        ]


@in_loop
async def test_line_tells_what_the_way_to_the_host_takes() -> None:
    async with linked(ScriptedCapture()) as daemon:
        await daemon.configure(CONFIG)
        assert daemon.session._running().pipeline.rate == 0
        await daemon.say(Activate(1, (Codec.MJPEG,)), Line(5e5), Credit())
        await daemon.hear_types()
        assert daemon.session._running().pipeline.rate == 5e5
        await daemon.say(Activate(2, (Codec.MJPEG,)), Credit())
        await daemon.hear_types()
        assert daemon.session._running().pipeline.rate == 5e5  # it is the same line


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted", "warnings"),
    [
        ((), ("auto",), ("auto",), 0),
        ((), ("vp8", "mjpeg"), ("vp8", "mjpeg"), 0),
        ((), ("av1", "vp8"), ("av1", "vp8"), 1),
        (("jpeg",), ("av1", "vp8"), ("jpeg",), 0),
    ],
)
def test_codecs_of_the_command_line_stand_for_those_of_the_daemon(
    ours: tuple[str, ...],
    theirs: tuple[str, ...],
    wanted: tuple[str, ...],
    warnings: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make = codec_maker([JpegEncoder, Vp8], wanted=ours)
    assert make(replace(CONFIG, codecs=theirs)).wanted == wanted
    assert len(caplog.records) == warnings


async def begin_unavailable(capture: ScriptedCapture, daemon: Linked) -> None:
    """Activate where nothing can be captured, with credit for a frame."""
    capture.reason = "it is off"
    await daemon.configure(CONFIG)
    await daemon.activate(credit=1)
    assert await daemon.hear_types(Type.CURSOR_SET) == [Type.CURSOR_SET]


def show(capture: ScriptedCapture) -> None:
    capture.reason = ""
    capture.tell(Changes.AVAILABLE | Changes.PICTURE)


@in_loop
async def test_an_x_server_that_is_soon_on_its_vt_is_waited_for() -> None:
    capture, clock = ScriptedCapture(), Clock()
    async with linked(capture) as daemon:
        await begin_unavailable(capture, daemon)
        clock.advance(0.9 * PATIENCE)
        await daemon.quiet()
        show(capture)
        assert await daemon.hear_types() == BEGINNING
        clock.advance(PATIENCE)
        await daemon.quiet()


@in_loop
async def test_why_nothing_can_be_captured_is_told_and_shown() -> None:
    capture, clock = ScriptedCapture(), Clock()
    async with linked(capture) as daemon:
        await begin_unavailable(capture, daemon)
        clock.advance(PATIENCE)
        assert await daemon.hear() == Unavailable("it is off")
        assert await daemon.hear_types() == [Type.FORMAT, Type.DATA]
        await daemon.quiet()
        await daemon.say(Credit())
        show(capture)
        assert await daemon.hear() == Unavailable("")
        assert await daemon.hear_types() == BEGINNING[1:]  # it is of the same size


@in_loop
async def test_why_nothing_can_be_captured_is_told_anew_after_a_pause() -> None:
    capture, clock = ScriptedCapture(), Clock()
    async with linked(capture) as daemon:
        await begin_unavailable(capture, daemon)
        for times in range(2):
            clock.advance(PATIENCE)
            assert await daemon.hear() == Unavailable("it is off")
            assert await daemon.hear_types() == [Type.FORMAT, Type.DATA]
            await daemon.say(Pause())
            await daemon.quiet()
            capture.reason = f"it is off since {times}"
            capture.tell(Changes.AVAILABLE)
            clock.advance(PATIENCE)
            await daemon.quiet()  # nobody is shown anything
            capture.reason = "it is off"
            capture.tell(Changes.AVAILABLE)
            await daemon.activate(credit=1)
            assert await daemon.hear_types(Type.CURSOR_SET) == [Type.CURSOR_SET]


@in_loop
async def test_what_was_not_told_before_a_pause_is_not_told_after_it() -> None:
    capture, clock = ScriptedCapture(), Clock()
    async with linked(capture) as daemon:
        await begin_unavailable(capture, daemon)
        await daemon.say(Pause())
        await daemon.quiet()
        clock.advance(PATIENCE)
        await daemon.quiet()


@in_loop
async def test_a_screen_that_goes_to_sleep_leaves_its_picture() -> None:
    capture, clock = ScriptedCapture(), Clock()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=9)
        await daemon.hear_types()
        capture.reason = "x" * 2 * MAX_TEXT
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        await daemon.quiet()
        clock.advance(PATIENCE)
        assert await daemon.hear() == Unavailable("x" * MAX_TEXT)
        await daemon.quiet()
        show(capture)
        assert await daemon.hear() == Unavailable("")
        assert await daemon.hear_types() == [Type.DATA]


@in_loop
async def test_nothing_is_captured_off_the_vt() -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=2)
        await daemon.hear_types()
        capture.reason = "away"
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        await daemon.quiet()
        capture.reason = ""
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        assert await daemon.hear_types() == [Type.DATA]  # for the credit that was not used


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (NoDisplayError("no-display-found", "none"), "no-display-found"),
        (NoDisplayError("type-unsupported", "XWayland"), "type-unsupported"),
        (DisplayError("display :5 has no DAMAGE extension"), "display-refused"),
        (EndedError("somebody does not want it"), "paused-by-user"),
    ],
)
@in_loop
async def test_no_display(problem: DisplayError, reason: str) -> None:
    async with linked(problem) as daemon:
        assert await daemon.failure(CONFIG) == Failed(reason, str(problem))
        with pytest.raises(SessiondError, match=str(problem)):
            await daemon.session.ended


@in_loop
async def test_display_is_lost() -> None:
    capture = ScriptedCapture()
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=1)
        await daemon.hear_types()
        capture.tell(DisplayError("display :5 has gone away"))
        assert await daemon.hear() == Failed("display-refused", "display :5 has gone away")
        with pytest.raises(DisplayError):
            await daemon.session.ended


@in_loop
async def test_display_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "OPEN_TIMEOUT", 0.01)
    monkeypatch.setattr(link_module, "CLOSE_TIMEOUT", 0.01)
    capture = ScriptedCapture()
    capture.gate.clear()
    async with linked(capture) as daemon:
        daemon.session._open_display = lambda _: Opened(capture, str(capture.gate.wait()), "")
        failed = await daemon.failure(CONFIG)
        capture.gate.set()
        assert failed == Failed("display-refused", "the display did not answer in 0.01 s")
        with pytest.raises(DisplayError):
            await daemon.session.ended


@in_loop
async def test_wrong_codec_options() -> None:
    async with linked(ScriptedCapture()) as daemon:
        failed = await daemon.failure(Config("c1", 0, codec_options=("quality=0",)))
        assert failed.reason == "encoder-failed"
        assert "'quality=0': not a whole number from 1 to 100" in failed.text
        with pytest.raises(UsageError):
            await daemon.session.ended


@in_loop
async def test_codec_options_for_other_encoders(caplog: pytest.LogCaptureFixture) -> None:
    async with linked(ScriptedCapture()) as daemon:
        options = ("gst.codec=vp8", "quality=50")
        await daemon.configure(Config("c1", 0, codec_options=options))
        codecs = daemon.session._codecs
        assert codecs
        assert codecs.options == {"quality": 50, "min-quality": 100}
        [said] = [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]
        assert said.startswith("codec option 'gst.codec=vp8': there is no 'gst.codec', only ")


@in_loop
async def test_codec_that_we_have_not() -> None:
    async with linked(ScriptedCapture()) as daemon:
        await daemon.configure(CONFIG)
        await daemon.say(Activate(1, (99,)))
        assert (await daemon.hear_a(Failed)).reason == "encoder-failed"
        with pytest.raises(SessiondError):
            await daemon.session.ended


@in_loop
async def test_frame_over_the_links_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_FRAME", 100)
    async with linked(ScriptedCapture()) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=1)
        failed = await daemon.hear_until(lambda m: not isinstance(m, DeviceMessage))
        assert isinstance(failed, Failed)
        assert failed.reason == "encoder-failed"
        with pytest.raises(SessiondError):
            await daemon.session.ended


@pytest.mark.parametrize("messages", [0, 1, 2])
@in_loop
async def test_daemon_is_gone(messages: int) -> None:
    async with linked(ScriptedCapture()) as daemon:
        if messages:
            await daemon.configure(CONFIG)
        if messages > 1:
            await daemon.activate(credit=1)
            await daemon.hear_types()
        daemon.sock.close()
        await daemon.session.ended


@in_loop
async def test_daemon_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CONFIG_TIMEOUT", 0.01)
    async with linked(ScriptedCapture()) as daemon:
        with pytest.raises(ProtocolError, match="said nothing in"):
            await daemon.session.ended


WORDS: Sequence[ToAgent] = (CONFIG, Activate(1, (1,)), Credit(), Line(1.0), Pause())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state, message)
        for state, message in itertools.product(State, WORDS)
        if type(message) not in ALLOWED[state] and state is not State.ENDING
    ],
)
@in_loop
async def test_word_out_of_turn(state: State, message: ToAgent) -> None:
    async with linked(ScriptedCapture()) as daemon:
        daemon.session.state = state
        await daemon.say_bytes(pack(message))
        with pytest.raises(ProtocolError, match=f"{message.TYPE.name} in state {state.name}"):
            await daemon.session.ended


@in_loop
async def test_garbage() -> None:
    async with linked(ScriptedCapture()) as daemon:
        await daemon.say_bytes(bytes(8))
        with pytest.raises(ProtocolError, match="the daemon broke the protocol"):
            await daemon.session.ended


@in_loop
async def test_last_words_wait_for_what_was_begun() -> None:
    capture = ScriptedCapture()
    capture.size_now = (4000, 2000)
    async with linked(capture) as daemon:
        await daemon.configure(CONFIG)
        await daemon.activate(credit=1)
        while not daemon.session._channel.is_blocked:
            assert daemon.session._screen
            await settled(daemon.session._screen)
        capture.tell(DisplayError("gone"))
        assert await daemon.hear_types() == BEGINNING
        assert await daemon.hear() == Failed("display-refused", "gone")
        with pytest.raises(DisplayError):
            await daemon.session.ended


def test_link_must_be_a_stream_socket() -> None:
    first, second = socket.socketpair(type=socket.SOCK_DGRAM)
    with first, second, open("/dev/null", "rb") as null:
        for fd in (first.fileno(), null.fileno(), 12345, -1):
            with pytest.raises(UsageError, match=f"--link-fd {fd} is not a"):
                adopt_link(fd)
        first.send(b"still open")


def test_link_is_adopted_closed_on_exec_and_without_blocking() -> None:
    first, second = socket.socketpair()
    with second:
        os.set_inheritable(first.fileno(), True)
        port = adopt_link(first.detach())
        with port.fd as fd:
            assert not os.get_inheritable(fd.fileno())
            assert not os.get_blocking(fd.fileno())


def test_options_of_the_daemon_come_after_those_of_the_command_line() -> None:
    config = replace(CONFIG, codec_options=("quality=7", "framerate=20"))
    codecs = codec_maker([JpegEncoder], ["framerate=10"])(config)
    assert (codecs.framerate, codecs.options["quality"]) == (20, 7)
