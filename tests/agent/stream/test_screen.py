"""The display's thread and its loop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.capture.base import Capture, Changes, Cursor
from agent.stream.screen import Screen
from sessiond.errors import DisplayError
from tests.agent.scripted import Listener, ScriptedCapture, settled
from tests.fixtures.loop import Signal, in_loop, turns

ARROW = Cursor(1, 1, 0, 0, b"\1\2\3\xff")
HAND = Cursor(1, 1, 0, 0, b"\4\5\6\xff")
OPENED = ("opened", "a script")


@contextmanager
def opened(capture: Capture, listener: Listener) -> Iterator[Screen]:
    screen = Screen(lambda: capture, listener)
    screen.start()
    try:
        yield screen
    finally:
        screen.close(10)


@in_loop
async def test_opened_and_closed_in_one_thread() -> None:
    capture, listener = ScriptedCapture(), Listener()
    with opened(capture, listener):
        await listener.until(OPENED)
    assert capture.calls == ["close"]


@in_loop
async def test_display_that_cannot_be_opened() -> None:
    listener = Listener()

    def refuse() -> Capture:
        raise DisplayError("no such display")

    screen = Screen(refuse, listener)
    screen.start()
    await listener.until(("failed", "no such display"))
    screen.close(10)


@in_loop
async def test_display_that_is_lost() -> None:
    capture, listener = ScriptedCapture(), Listener()
    with opened(capture, listener) as screen:
        capture.tell(DisplayError("gone"))
        await listener.until(OPENED, ("failed", "gone"))
        screen.call_nowait(lambda _: None, lambda _: pytest.fail("there is no display"))
        await turns(10)
    assert capture.calls == ["close"]


@in_loop
async def test_display_that_is_lost_during_a_job() -> None:
    capture, listener = ScriptedCapture(), Listener()

    def fail(_: Capture) -> None:
        raise DisplayError("gone")

    with opened(capture, listener) as screen:
        screen.call_nowait(fail, lambda _: pytest.fail("it failed"))
        await listener.until(OPENED, ("failed", "gone"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@in_loop
async def test_bug_in_the_displays_thread_is_not_silent() -> None:
    capture, listener = ScriptedCapture(), Listener()

    def fail(_: Capture) -> None:
        raise ValueError("a bug")

    with opened(capture, listener) as screen:
        screen.call_nowait(fail, lambda _: None)
        await listener.until(OPENED, ("failed", "internal error: ValueError('a bug')"))
        screen._thread.join(10)
    assert capture.calls == ["close"]


@in_loop
async def test_jobs_in_order_and_results_in_the_loop() -> None:
    capture, listener = ScriptedCapture(), Listener()
    signal, results = Signal(), list[tuple[int, bool]]()

    def done(result: tuple[int, bool]) -> None:
        assert threading.current_thread() is threading.main_thread()
        results.append(result)
        signal.happened()

    with opened(capture, listener) as screen:
        for number in range(50):
            screen.call_nowait(
                lambda found, number=number: (number, found is capture),  # type: ignore[misc]
                done,
            )
        await signal.until(lambda: len(results) == 50)
    assert results == [(number, True) for number in range(50)]


@in_loop
async def test_changes() -> None:
    capture, listener = ScriptedCapture(), Listener()
    with opened(capture, listener) as screen:
        capture.tell(Changes.PICTURE)
        await settled(screen)
        capture.tell(Changes.NONE)
        await settled(screen)
        capture.tell(Changes.PICTURE)
        await listener.until(OPENED, ("changed", None), ("changed", None))


@in_loop
async def test_same_cursor_again_is_no_news() -> None:
    capture, listener = ScriptedCapture(), Listener()
    with opened(capture, listener) as screen:
        for shape in (None, ARROW, ARROW, Cursor(1, 1, 0, 0, ARROW.pixels), HAND, None):
            capture.shape = shape
            capture.tell(Changes.CURSOR)
            await settled(screen)
        await listener.until(
            OPENED,
            ("pointer", (0, 0)),
            ("cursor", ARROW),
            ("cursor", HAND),
            ("cursor", None),
        )


@in_loop
async def test_pointer() -> None:
    capture, listener = ScriptedCapture(), Listener()
    with opened(capture, listener) as screen:
        for place, news in (
            ((1, 1), Changes.POINTER),
            ((1, 1), Changes.POINTER),
            ((2, 1), Changes.PICTURE),  # nobody says that it moved
            ((3, 1), Changes.CURSOR),  # a new shape has a new hot spot, and so a place
        ):
            capture.place = place
            capture.tell(news)
            await settled(screen)
        await listener.until(OPENED, ("pointer", (1, 1)), ("changed", None), ("pointer", (3, 1)))


@in_loop
async def test_reports_are_relative_to_a_refresh() -> None:
    capture, listener = ScriptedCapture(), Listener()
    capture.shape, capture.place = ARROW, (5, 6)
    with opened(capture, listener) as screen:
        found = list[tuple[Cursor | None, tuple[int, int]]]()
        screen.call_nowait(screen.refresh, found.append)
        capture.tell(Changes.CURSOR | Changes.POINTER)
        await settled(screen)
        capture.tell(Changes.CURSOR | Changes.POINTER)
        await settled(screen)
        assert found == [(ARROW, (5, 6))]
        # Which of the first two came first is open; after both nothing is new.
        assert listener.heard[0] == OPENED
        assert listener.heard[1:] in ([], [("cursor", ARROW), ("pointer", (5, 6))])


@in_loop
async def test_availability_comes_before_the_picture() -> None:
    capture, listener = ScriptedCapture(), Listener()
    capture.reason = "away"
    with opened(capture, listener) as screen:
        await listener.until(OPENED, ("unavailable", "away"))
        capture.tell(Changes.AVAILABLE)
        await settled(screen)
        capture.reason = ""
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        await listener.until(
            OPENED, ("unavailable", "away"), ("unavailable", ""), ("changed", None)
        )


@in_loop
async def test_display_that_hangs_is_left(caplog: pytest.LogCaptureFixture) -> None:
    capture, listener = ScriptedCapture(), Listener()
    entered, gate = threading.Event(), threading.Event()

    def hang(_: Capture) -> None:
        entered.set()
        gate.wait()

    screen = Screen(lambda: capture, listener)
    screen.start()
    screen.call_nowait(hang, lambda _: None)
    assert entered.wait(10)
    screen.close(0.01)
    assert caplog.messages == ["the display does not answer; leaving it"]
    gate.set()
    screen._thread.join(10)
    assert capture.calls == ["close"]


@in_loop
async def test_close_before_the_start() -> None:
    Screen(ScriptedCapture, Listener()).close(10)


def test_news_for_a_loop_that_is_gone() -> None:
    capture, screens = ScriptedCapture(), list[Screen]()

    @in_loop
    async def leave() -> None:
        screen = Screen(lambda: capture, Listener())
        screen.start()
        await settled(screen)
        screens.append(screen)

    leave()
    capture.tell(Changes.PICTURE)
    screens[0].close(10)
    assert capture.calls == ["close"]
