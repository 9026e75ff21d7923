"""Jobs one after the other, in a thread of their own."""

import threading

from agent.stream.worker import Worker
from sessiond.errors import EncoderError, SessiondError
from tests.fixtures.loop import Signal, in_loop


class Results:
    """What the worker handed back, and in which thread."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self.signal = Signal()

    def __call__(self, value: object) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.values.append(value)
        self.signal.happened()

    async def count(self, count: int) -> None:
        await self.signal.until(lambda: len(self.values) == count)


@in_loop
async def test_results_come_in_order() -> None:
    worker, results = Worker(), Results()
    for number in range(100):
        worker.call_nowait(lambda number=number: number, results)  # type: ignore[misc]
    await results.count(100)
    assert results.values == list(range(100))
    worker.close()


@in_loop
async def test_one_job_at_a_time_in_one_thread() -> None:
    worker, results = Worker(), Results()
    for _ in range(10):
        worker.call_nowait(threading.get_ident, results)
    await results.count(10)
    assert len(set(results.values)) == 1
    assert results.values[0] != threading.get_ident()
    worker.close()


@in_loop
async def test_error_is_a_result_and_not_the_end() -> None:
    worker, results = Worker(), Results()
    error = EncoderError("no")

    def fail() -> SessiondError:
        raise error

    worker.call_nowait(fail, results)
    worker.call_nowait(lambda: "next", results)
    await results.count(2)
    assert results.values == [error, "next"]
    worker.close()


@in_loop
async def test_close_ends_the_thread_after_its_jobs() -> None:
    worker, results = Worker(), Results()
    gate = threading.Event()
    worker.call_nowait(gate.wait, results)
    worker.call_nowait(lambda: "last", results)
    worker.close()
    gate.set()
    await results.count(2)
    worker._thread.join(10)
    assert not worker._thread.is_alive()


def test_result_for_a_loop_that_is_gone() -> None:
    gate, workers = threading.Event(), list[Worker]()

    @in_loop
    async def ask() -> None:
        worker = Worker()
        worker.call_nowait(gate.wait, print)
        worker.close()
        workers.append(worker)

    ask()
    gate.set()
    workers[0]._thread.join(10)  # an error in it would fail this test
    assert not workers[0]._thread.is_alive()


@in_loop
async def test_any_error_of_a_plug_in_is_a_result_too() -> None:
    worker, results = Worker(), Results()
    worker.call_nowait(lambda: 1 // 0, results)
    worker.call_nowait(lambda: "next", results)
    await results.count(2)
    error, following = results.values
    assert isinstance(error, EncoderError)
    assert "ZeroDivisionError" in str(error)
    assert following == "next"
    worker.close()
