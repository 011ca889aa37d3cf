"""Futures of executors: waiting for them, cancelling them, callbacks, and asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Future
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import tasks
from harness import AMPLE, assert_waits, in_thread
from pools import WORKERS, Gate, warmed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from concurrent.futures import Executor

    from harness import ProgramRunner
    from pools import Kind


@pytest.fixture
def pending(pool: Executor, gate: Gate) -> Future[Any]:
    """A future whose task cannot begin, because all workers are busy until the gate opens."""
    gate.occupied(WORKERS)
    return pool.submit(tasks.double, 21)


class TestStates:
    def test_of_one_that_runs(self, gate: Gate) -> None:
        (future,) = gate.occupied()
        assert (future.running(), future.done(), future.cancelled()) == (True, False, False)
        gate.go.set()
        assert future.result(AMPLE) == 0
        assert (future.running(), future.done(), future.cancelled()) == (False, True, False)

    def test_of_one_that_is_pending(self, pending: Future[Any], gate: Gate) -> None:
        assert (pending.running(), pending.done(), pending.cancelled()) == (False, False, False)
        gate.go.set()
        assert pending.result(AMPLE) == 42

    def test_of_one_that_failed(self, pool: Executor) -> None:
        future = pool.submit(tasks.fail)
        concurrent.futures.wait([future], AMPLE)
        assert (future.running(), future.done(), future.cancelled()) == (False, True, False)

    def test_reprs(self, pool: Executor, gate: Gate, pending: Future[Any]) -> None:
        assert "state=pending" in repr(pending)
        gate.go.set()
        pending.result(AMPLE)
        assert "state=finished returned int" in repr(pending)
        failed = pool.submit(tasks.fail)
        concurrent.futures.wait([failed], AMPLE)
        assert "state=finished raised ArithmeticError" in repr(failed)

    def test_the_repr_of_one_that_runs(self, gate: Gate) -> None:
        (future,) = gate.occupied()
        assert "state=running" in repr(future)

    def test_they_cannot_be_resolved_by_hand_afterwards(self, pool: Executor) -> None:
        future = pool.submit(tasks.double, 1)
        future.result(AMPLE)
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_result(5)
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_exception(ValueError())
        assert future.result(AMPLE) == 2


class TestTimeouts:
    @pytest.mark.parametrize("timeout", [0, 0.05])
    def test_of_result_and_exception(self, gate: Gate, timeout: float) -> None:
        (future,) = gate.occupied()
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=timeout)
        gate.go.set()
        assert future.result(timeout=AMPLE) == 0

    def test_they_last_as_long_as_they_say(self, gate: Gate) -> None:
        (future,) = gate.occupied()
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            future.result(0.1)
        assert 0.09 < time.monotonic() - begun < AMPLE / 2

    def test_several_threads_wait_for_one_future(self, gate: Gate) -> None:
        (future,) = gate.occupied()
        waits = [in_thread(future.result, AMPLE) for _ in range(5)]
        assert_waits(*waits)
        gate.go.set()
        assert [wait.result(AMPLE) for wait in waits] == [0] * 5

    def test_one_thread_has_its_result_while_another_one_waits_for_a_later_one(
        self, pool: Executor, gate: Gate
    ) -> None:
        (slow,) = gate.occupied()
        waiting = in_thread(slow.result, AMPLE)
        assert_waits(waiting)
        for number in range(50):
            assert pool.submit(tasks.double, number).result(AMPLE) == 2 * number
        others = [in_thread(pool.submit(tasks.double, number).result, AMPLE) for number in range(10)]
        assert [other.result(AMPLE) for other in others] == list(range(0, 20, 2))
        assert not waiting.done()
        gate.go.set()
        assert waiting.result(AMPLE) == 0

    def test_one_that_gives_up_leaves_the_others_theirs(self, pool: Executor, gate: Gate) -> None:
        (slow,) = gate.occupied()
        impatient = [in_thread(slow.result, 0.02 * number) for number in range(5)]
        patient = [in_thread(slow.result, AMPLE) for _ in range(3)]
        quick = in_thread(pool.submit(tasks.double, 2).result, AMPLE)
        assert quick.result(AMPLE) == 4
        for wait in impatient:
            assert isinstance(wait.exception(AMPLE), TimeoutError)
        gate.go.set()
        assert [wait.result(AMPLE) for wait in patient] == [0] * 3


class TestCancel:
    def test_one_that_is_pending(self, pending: Future[Any]) -> None:
        assert pending.cancel()
        assert (pending.cancelled(), pending.done(), pending.running()) == (True, True, False)
        assert pending.cancel()  # again
        with pytest.raises(CancelledError):
            pending.result(AMPLE)
        with pytest.raises(CancelledError):
            pending.exception(AMPLE)
        assert "state=cancelled" in repr(pending)

    def test_its_task_never_runs(self, pool: Executor, gate: Gate) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        gate.occupied(WORKERS)
        futures = [pool.submit(tasks.tell, told, number) for number in range(20)]
        cancelled = [future.cancel() for future in futures[10:]]
        assert cancelled == [True] * 10
        gate.go.set()
        assert [future.result(AMPLE) for future in futures[:10]] == list(range(10))
        pool.submit(tasks.nothing).result(AMPLE)
        assert sorted(told.get_nowait() for _ in range(10)) == list(range(10))
        assert told.empty()

    def test_all_that_have_not_begun_can_be_cancelled(self, pool: Executor, gate: Gate) -> None:
        gate.occupied(WORKERS)
        futures = [pool.submit(tasks.double, number) for number in range(50)]
        assert [future.cancel() for future in futures] == [True] * 50

    def test_one_that_runs_goes_on(self, gate: Gate) -> None:
        (future,) = gate.occupied()
        assert not future.cancel()
        assert (future.running(), future.cancelled()) == (True, False)
        gate.go.set()
        assert future.result(AMPLE) == 0

    def test_one_that_is_done(self, pool: Executor) -> None:
        future = pool.submit(tasks.double, 1)
        future.result(AMPLE)
        assert not future.cancel()
        assert not future.cancelled()

    def test_whoever_waits_hears_of_it_at_once(self, pending: Future[Any]) -> None:
        # Those of the standard library hear of it when a worker comes to the task.
        waits = [
            in_thread(concurrent.futures.wait, [pending], AMPLE),
            in_thread(next, concurrent.futures.as_completed([pending], AMPLE)),
        ]
        result = in_thread(pending.result, AMPLE)
        assert_waits(*waits, result)
        assert pending.cancel()
        assert waits[0].result(AMPLE / 4).done == {pending}
        assert waits[1].result(AMPLE / 4) is pending
        assert isinstance(result.exception(AMPLE / 4), CancelledError)

    def test_callbacks_are_called(self, pending: Future[Any]) -> None:
        called: list[Future[Any]] = []
        pending.add_done_callback(called.append)
        pending.cancel()
        assert called == [pending]


@pytest.fixture(scope="module")
def cancelling(kind: Kind) -> Iterator[Any]:
    """A pool of one worker, in which tasks that run are interrupted when they are cancelled."""
    with kind.make(1, cancel_running=True) as pool:
        yield warmed(pool, 1)


class TestCancelRunning:
    def test_python_code_is_interrupted(self, cancelling: Executor) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        future = cancelling.submit(tasks.spin_and_clean_up, told)
        assert told.get(timeout=AMPLE) == "running"
        assert future.cancel()
        assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
        with pytest.raises(CancelledError):
            future.result(AMPLE)
        assert told.get(timeout=AMPLE) == "KeyboardInterrupt"
        assert cancelling.submit(tasks.double, 2).result(AMPLE) == 4

    def test_waits_of_ours_are_interrupted(self, cancelling: Executor) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        future = cancelling.submit(tasks.tell_and_wait_for_ever, told)
        assert told.get(timeout=AMPLE) == "waiting"
        assert future.cancel()
        assert told.get(timeout=AMPLE) == "KeyboardInterrupt"
        assert cancelling.submit(tasks.double, 2).result(AMPLE) == 4

    def test_a_process_that_sleeps_is_interrupted(self, kind: Kind, cancelling: Executor) -> None:
        if kind.name != "process":
            pytest.skip("nothing ends time.sleep in an interpreter")
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        future = cancelling.submit(tasks.tell_and_sleep, told, 60)
        assert told.get(timeout=AMPLE) == "sleeping"
        assert future.cancel()
        assert told.get(timeout=AMPLE) == "KeyboardInterrupt"

    def test_only_that_task_is(self, cancelling: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        go = multigil.Event()
        for _ in range(20):
            future = cancelling.submit(tasks.spin_until, told, go)
            others = [cancelling.submit(tasks.double, number) for number in range(10)]
            assert told.get(timeout=AMPLE) == "running"
            assert future.cancel()
            assert [other.result(AMPLE) for other in others] == list(range(0, 20, 2))
            assert told.get(timeout=AMPLE) == "KeyboardInterrupt"

    def test_as_it_ends(self, cancelling: Executor) -> None:
        # Whichever comes first: the task has its result or is cancelled, and the worker goes on.
        for number in range(200):
            future = cancelling.submit(tasks.double, number)
            if future.cancel():
                assert future.cancelled()
            else:
                assert future.result(AMPLE) == 2 * number
        assert cancelling.submit(tasks.double, 2).result(AMPLE) == 4

    def test_one_that_is_pending(self, cancelling: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        go = multigil.Event()
        running = cancelling.submit(tasks.tell_and_wait, told, go, 5)
        pending = cancelling.submit(tasks.tell, told, "never")
        told.get(timeout=AMPLE)
        assert pending.cancel()
        go.set()
        assert running.result(AMPLE) == 5
        cancelling.submit(tasks.nothing).result(AMPLE)
        assert told.empty()

    def test_one_that_is_done(self, cancelling: Executor) -> None:
        future = cancelling.submit(tasks.double, 1)
        future.result(AMPLE)
        assert not future.cancel()


class TestWait:
    def test_all_completed(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        waiting = in_thread(concurrent.futures.wait, [running, finished], return_when=ALL_COMPLETED)
        finished.result(AMPLE)
        assert_waits(waiting)
        gate.go.set()
        assert waiting.result(AMPLE) == ({running, finished}, set())

    def test_first_completed(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        done, not_done = concurrent.futures.wait([running, finished], AMPLE, FIRST_COMPLETED)
        assert (done, not_done) == ({finished}, {running})

    def test_first_completed_when_some_are(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        finished.result(AMPLE)
        done, not_done = concurrent.futures.wait([running, finished], None, FIRST_COMPLETED)
        assert (done, not_done) == ({finished}, {running})

    def test_first_exception(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        finished.result(AMPLE)
        go = multigil.Event()
        failing = pool.submit(tasks.wait_and_raise, go, ValueError())
        waiting = in_thread(concurrent.futures.wait, [running, finished, failing], AMPLE, FIRST_EXCEPTION)
        assert_waits(waiting)
        go.set()
        assert waiting.result(AMPLE) == ({finished, failing}, {running})

    def test_first_exception_without_any(self, pool: Executor) -> None:
        futures = {pool.submit(tasks.double, number) for number in range(5)}
        assert concurrent.futures.wait(futures, AMPLE, FIRST_EXCEPTION) == (futures, set())

    def test_first_exception_when_one_has_failed(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        failed = pool.submit(tasks.fail)
        failed.exception(AMPLE)
        assert concurrent.futures.wait([running, failed], None, FIRST_EXCEPTION) == ({failed}, {running})

    def test_a_timeout(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        finished.result(AMPLE)
        assert concurrent.futures.wait([running, finished], 0.05) == ({finished}, {running})

    def test_the_same_future_twice(self, pool: Executor) -> None:
        future = pool.submit(tasks.double, 1)
        assert concurrent.futures.wait([future, future], AMPLE) == ({future}, set())

    def test_for_hundreds_in_many_threads(self, pool: Executor) -> None:
        def run() -> int:
            futures = [pool.submit(tasks.double, number) for number in range(100)]
            return sum(future.result(0) for future in concurrent.futures.wait(futures, AMPLE).done)

        assert [call.result(AMPLE) for call in [in_thread(run) for _ in range(5)]] == [9_900] * 5

    def test_beside_those_of_a_thread_pool(self, pool: Executor) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            futures = {pool.submit(tasks.double, 1), threads.submit(tasks.double, 1)}
            assert concurrent.futures.wait(futures, AMPLE) == (futures, set())


class TestAsCompleted:
    def test_each_as_it_is_done(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit("late")
        finished = pool.submit(tasks.double, 1)
        completed = concurrent.futures.as_completed([running, finished], AMPLE)
        assert next(completed) is finished
        gate.go.set()
        assert next(completed) is running
        assert next(completed, None) is None

    def test_those_that_are_done_come_first(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = [pool.submit(tasks.double, number) for number in range(10)]
        concurrent.futures.wait(finished, AMPLE)
        assert set(itertools.islice(concurrent.futures.as_completed([running, *finished]), 10)) == set(finished)

    def test_a_timeout(self, pool: Executor, gate: Gate) -> None:
        running = gate.submit()
        finished = pool.submit(tasks.double, 1)
        finished.result(AMPLE)
        completed = concurrent.futures.as_completed([running, finished], timeout=0.05)
        assert next(completed) is finished
        with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
            next(completed)

    def test_the_same_future_twice(self, pool: Executor) -> None:
        future = pool.submit(tasks.double, 1)
        assert list(concurrent.futures.as_completed([future, future], AMPLE)) == [future]

    def test_a_thousand(self, pool: Executor) -> None:
        futures = {pool.submit(tasks.double, number) for number in range(1_000)}
        assert sum(future.result() for future in concurrent.futures.as_completed(futures, AMPLE)) == 999_000


class TestCallbacks:
    def test_they_are_called_with_the_future_in_the_order_in_which_they_were_added(self, gate: Gate) -> None:
        called: list[tuple[int, Future[Any]]] = []
        done = threading.Event()
        (future,) = gate.occupied()
        for number in range(5):
            future.add_done_callback(lambda future, number=number: called.append((number, future)))  # type: ignore[misc]
        future.add_done_callback(lambda _: done.set())
        gate.go.set()
        assert done.wait(AMPLE)
        assert called == [(number, future) for number in range(5)]

    def test_the_future_is_done_in_them(self, gate: Gate) -> None:
        seen: Future[tuple[bool, int]] = Future()
        (future,) = gate.occupied()
        future.add_done_callback(lambda future: seen.set_result((future.done(), future.result(0))))
        gate.go.set()
        assert seen.result(AMPLE) == (True, 0)

    def test_at_once_when_it_is_done(self, pool: Executor) -> None:
        future = pool.submit(tasks.double, 1)
        future.result(AMPLE)
        called: list[Future[Any]] = []
        future.add_done_callback(called.append)
        assert called == [future]

    def test_each_is_called_once_however_late_it_is_added(self, pool: Executor) -> None:
        called: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        futures = []
        for number in range(1_000):
            future = pool.submit(tasks.double, number)
            if number % 3 == 0:
                future.result(AMPLE)
            future.add_done_callback(lambda future: called.put(future.result(0)))
            futures.append(future)
        got = sorted(called.get(timeout=AMPLE) for _ in futures)
        assert got == list(range(0, 2_000, 2))
        assert called.empty()

    def test_they_are_called_though_nobody_waits_for_a_result(self, pool: Executor) -> None:
        called: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        for number in range(10):
            pool.submit(tasks.double, number).add_done_callback(lambda future: called.put(future.result(0)))
        assert sorted(called.get(timeout=AMPLE) for _ in range(10)) == list(range(0, 20, 2))

    def test_of_one_that_failed(self, pool: Executor) -> None:
        seen: Future[BaseException | None] = Future()
        go = multigil.Event()
        future = pool.submit(tasks.wait_and_raise, go, ValueError("wrong"))
        future.add_done_callback(lambda future: seen.set_result(future.exception(0)))
        go.set()
        assert isinstance(seen.result(AMPLE), ValueError)

    def test_what_they_raise_is_logged_and_the_others_are_called(
        self, pool: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        done = threading.Event()
        (future,) = gate.occupied()
        future.add_done_callback(tasks.fail)
        future.add_done_callback(lambda _: done.set())
        gate.go.set()
        assert done.wait(AMPLE)
        (record,) = caplog.records
        assert record.name == "concurrent.futures"
        assert "exception calling callback" in record.getMessage()
        assert pool.submit(tasks.double, 2).result(AMPLE) == 4

    def test_all_have_been_called_when_shutdown_returns(self, kind: Kind) -> None:
        called: list[Future[Any]] = []
        with kind.make(WORKERS) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(100)]
            for future in futures:
                future.add_done_callback(called.append)
        assert len(called) == 100
        futures[0].add_done_callback(called.append)  # after shutdown
        assert called[100] is futures[0]

    def test_one_may_cancel_others(self, kind: Kind) -> None:
        go = multigil.Event()
        with kind.make(1) as pool:
            first = pool.submit(tasks.wait_if, 0, 0, go)
            others = [pool.submit(tasks.tell_and_wait, multigil.SimpleQueue(), go) for _ in range(10)]
            first.add_done_callback(lambda _: [future.cancel() for future in others])
            go.set()
            first.result(AMPLE)
        assert all(future.done() for future in others)

    def test_one_may_wait_for_another_future(self, pool: Executor) -> None:
        seen: Future[int] = Future()
        other = pool.submit(tasks.double, 4)
        other.result(AMPLE)
        pool.submit(tasks.double, 1).add_done_callback(lambda _: seen.set_result(other.result(AMPLE)))
        assert seen.result(AMPLE) == 8

    def test_one_may_shut_the_pool_down(self, kind: Kind) -> None:
        done = threading.Event()
        go = multigil.Event()
        pool = kind.make(1)

        def shut_down(_: Future[Any]) -> None:
            pool.shutdown(wait=False)
            done.set()

        pool.submit(tasks.wait_if, 0, 0, go).add_done_callback(shut_down)
        go.set()
        assert done.wait(AMPLE)
        pool.shutdown()
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)


class TestAsyncio:
    @staticmethod
    def run[T](main: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(asyncio.wait_for(main, AMPLE))

    def test_run_in_executor(self, pool: Executor) -> None:
        async def main() -> list[int]:
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(pool, tasks.double, number) for number in range(100)))

        assert self.run(main()) == list(range(0, 200, 2))

    def test_an_exception(self, pool: Executor) -> None:
        async def main() -> None:
            await asyncio.get_running_loop().run_in_executor(pool, tasks.fail, "wrong")

        with pytest.raises(ArithmeticError, match="wrong"):
            self.run(main())

    def test_wrap_future(self, pool: Executor) -> None:
        async def main() -> int:
            return await asyncio.wrap_future(pool.submit(tasks.double, 21))

        assert self.run(main()) == 42

    def test_keyword_arguments_by_partial(self, pool: Executor) -> None:
        async def main() -> int:
            task = functools.partial(tasks.add, 1, other=2)
            return await asyncio.get_running_loop().run_in_executor(pool, task)

        assert self.run(main()) == 3

    def test_the_loop_runs_meanwhile(self, gate: Gate) -> None:
        async def main() -> Any:
            future = asyncio.wrap_future(gate.submit("value"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not future.done()
            gate.go.set()
            return await future

        assert self.run(main()) == "value"

    def test_cancelling_takes_back_what_is_pending(self, pending: Future[Any]) -> None:
        async def main() -> None:
            wrapped = asyncio.wrap_future(pending)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped

        self.run(main())
        assert pending.cancelled()

    def test_cancelling_ends_what_runs_on_request(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()

        async def main(pool: Executor) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(
                    asyncio.get_running_loop().run_in_executor(pool, tasks.spin_and_clean_up, told), 0.3
                )
            # It may have been cancelled before it began.
            assert await asyncio.get_running_loop().run_in_executor(pool, tasks.double, 2) == 4

        with kind.make(1, cancel_running=True) as pool:
            pool.submit(tasks.nothing).result(AMPLE)
            self.run(main(pool))
        assert list(iter(told.get_nowait, "KeyboardInterrupt")) == ["running"]

    def test_the_default_executor_of_a_loop(self) -> None:
        async def main() -> tuple[int, int]:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(multigil.InterpreterPoolExecutor(1))
            return await loop.run_in_executor(None, tasks.worker)

        assert self.run(main()) != tasks.worker()


class TestInterrupts:
    """Ctrl-C where the main program waits."""

    @pytest.mark.parametrize(
        "wait",
        [
            "future.result()",
            "future.exception(60)",
            "concurrent.futures.wait([future])",
            "next(concurrent.futures.as_completed([future]))",
            "next(pool.map(tasks.tell_and_wait, [told], [go]))",
            "pool.shutdown()",
        ],
    )
    def test_ctrl_c_ends_a_wait(self, run_program: ProgramRunner, kind: Kind, wait: str) -> None:
        outcome = run_program(
            f"""
            import concurrent.futures
            import multigil, tasks
            if __name__ == "__main__":
                told, go = multigil.SimpleQueue(), multigil.Event()
                with multigil.{kind.make.__name__}(1) as pool:
                    future = pool.submit(tasks.tell_and_wait, told, go, "value")
                    told.get()
                    print("ready", flush=True)
                    try:
                        {wait}
                    except KeyboardInterrupt:
                        print("interrupted")
                    go.set()
                    print(future.result())
            """,
            interrupt_after="ready",
        )
        assert (outcome.stdout, outcome.stderr, outcome.status) == ("ready\ninterrupted\nvalue\n", "", 0)
