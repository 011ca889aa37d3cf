"""`map` of executors: order, laziness, chunks, timeouts, and what becomes of the rest when it ends early."""

from __future__ import annotations

import gc
import itertools
import operator
import os
import threading
import time
import weakref
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import tasks
from harness import AMPLE, in_thread
from pools import WORKERS, Gate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from pools import Kind


class TestResults:
    def test_they_come_in_the_order_of_the_items(self, pool: Executor) -> None:
        assert list(pool.map(tasks.double, range(1_000))) == [2 * number for number in range(1_000)]

    def test_also_when_later_ones_are_ready_earlier(self, pool: Executor) -> None:
        assert list(pool.map(tasks.sum_slowly, [0.05, 0, 0, 0.02, 0], range(5))) == list(range(5))

    def test_of_several_iterables_until_the_shortest_ends(self, pool: Executor) -> None:
        assert list(pool.map(pow, range(5), [2] * 9, [7] * 7)) == [0, 1, 4, 2, 2]

    def test_of_no_items_and_of_no_iterables(self, pool: Executor) -> None:
        assert list(pool.map(tasks.double, [])) == []
        assert list(pool.map(tasks.double, [], range(5))) == []
        assert list(pool.map(tasks.double)) == []

    def test_it_is_an_iterator_that_ends_for_good(self, pool: Executor) -> None:
        results = pool.map(tasks.double, [1])
        assert iter(results) is results
        assert next(results) == 2
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(results)

    def test_all_items_are_taken_before_the_first_result_is_asked_for(self, pool: Executor) -> None:
        numbers = iter(range(100))
        results = pool.map(tasks.double, numbers)
        assert next(numbers, None) is None
        assert sum(results) == 9_900

    def test_tasks_run_before_the_first_result_is_asked_for(self, pool: Executor) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        results = pool.map(tasks.tell, [told] * 3, range(3))
        assert {told.get(timeout=AMPLE) for _ in range(3)} == {0, 1, 2}
        assert list(results) == [0, 1, 2]

    def test_those_that_are_ready_come_while_a_later_one_runs(self, pool: Executor, gate: Gate) -> None:
        results = pool.map(tasks.wait_if, range(3), [2] * 3, [gate.go] * 3)
        assert [next(results), next(results)] == [0, 1]
        gate.go.set()
        assert next(results) == 2

    def test_also_in_the_middle_of_many_that_are_quick(self, pool: Executor, gate: Gate) -> None:
        count, slow = 2_000, 1_500
        results = pool.map(tasks.wait_if, range(count), [slow] * count, [gate.go] * count)
        assert in_thread(list, itertools.islice(results, slow)).result(AMPLE) == list(range(slow))
        gate.go.set()
        assert list(results) == list(range(slow, count))

    def test_a_result_that_was_given_is_not_kept(self, pool: Executor) -> None:
        results = pool.map(tasks.Point, range(3))
        for point in results:
            gone = threading.Event()
            weakref.finalize(point, gone.set)
            del point
            assert gone.wait(AMPLE)

    def test_two_maps_at_once(self, pool: Executor) -> None:
        first, second = pool.map(tasks.double, range(100)), pool.map(tasks.double, range(100, 200))
        pairs = list(zip(first, second, strict=True))
        assert pairs == [(2 * number, 200 + 2 * number) for number in range(100)]

    def test_a_map_in_another_thread_than_the_one_that_made_it(self, pool: Executor) -> None:
        assert in_thread(list, pool.map(tasks.double, range(5))).result(AMPLE) == [0, 2, 4, 6, 8]

    def test_results_remain_after_shutdown(self, kind: Kind) -> None:
        with kind.make(1) as pool:
            results = pool.map(tasks.double, range(50))
        assert list(results) == [2 * number for number in range(50)]

    def test_after_shutdown(self, kind: Kind) -> None:
        pool = kind.make(1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.map(tasks.double, range(5))

    def test_the_pool_may_be_gone_before_its_results(self, kind: Kind) -> None:
        results = kind.make(1).map(tasks.double, range(50))
        gc.collect()
        assert list(results) == [2 * number for number in range(50)]

    def test_large_items_and_results(self, pool: Executor) -> None:
        sizes = [1_000_000] * 5
        assert [len(data) for data in pool.map(tasks.zeros, sizes)] == sizes
        assert list(pool.map(tasks.length, map(bytes, sizes))) == sizes


class TestAtTheSameTime:
    """Items are spread as if each were a task of its own, however many travel together."""

    def test_as_many_items_run_at_once_as_there_are_workers(self, pool: Executor) -> None:
        barrier = multigil.Barrier(WORKERS)
        assert list(pool.map(tasks.meet, [barrier] * WORKERS, range(WORKERS))) == list(range(WORKERS))

    def test_also_the_last_of_many_items(self, pool: Executor) -> None:
        barrier = multigil.Barrier(WORKERS)
        count = 500
        results = pool.map(tasks.meet_at_the_end, [barrier] * count, range(count), [count - WORKERS] * count)
        assert list(results) == list(range(count))

    def test_also_after_many_that_were_quick(self, pool: Executor) -> None:
        assert sum(pool.map(tasks.double, range(5_000))) == 24_995_000
        barrier = multigil.Barrier(WORKERS)
        assert list(pool.map(tasks.meet, [barrier] * WORKERS, range(WORKERS))) == list(range(WORKERS))

    def test_all_workers_have_a_part(self, pool: Executor) -> None:
        with_pauses = pool.map(tasks.worker_after, [0.005] * 40)
        assert len(set(with_pauses)) == WORKERS


class TestChunks:
    @pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 39, 40, 41, 1_000])
    def test_of_any_size(self, pool: Executor, chunksize: int) -> None:
        expected = [number**2 for number in range(40)]
        assert list(pool.map(pow, range(40), [2] * 40, chunksize=chunksize)) == expected

    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_not_of_less_than_one(self, pool: Executor, chunksize: int) -> None:
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            pool.map(tasks.double, range(5), chunksize=chunksize)

    @pytest.mark.parametrize("chunksize", [3, 100])
    @pytest.mark.parametrize("buffersize", [1, 2])
    def test_with_a_buffer(self, pool: Executor, chunksize: int, buffersize: int) -> None:
        results = pool.map(tasks.double, range(20), chunksize=chunksize, buffersize=buffersize)
        assert list(results) == list(range(0, 40, 2))

    def test_of_an_exception(self, pool: Executor) -> None:
        results = pool.map(tasks.raise_for, range(20), [10] * 20, chunksize=5)
        assert list(itertools.islice(results, 10)) == list(range(10))
        with pytest.raises(ValueError, match="10"):
            next(results)


class TestBuffersize:
    @pytest.mark.parametrize("buffersize", ["2", 2.0])
    def test_an_integer_or_none(self, pool: Any, buffersize: object) -> None:
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            pool.map(tasks.double, range(5), buffersize=buffersize)

    @pytest.mark.parametrize("buffersize", [0, -1])
    def test_at_least_one(self, pool: Executor, buffersize: int) -> None:
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            pool.map(tasks.double, range(5), buffersize=buffersize)

    @pytest.mark.parametrize("buffersize", [1, 2, 4, 9])
    def test_the_results_are_the_same(self, pool: Executor, buffersize: int) -> None:
        assert list(pool.map(operator.add, range(6), range(6), buffersize=buffersize)) == [0, 2, 4, 6, 8, 10]
        assert list(pool.map(tasks.double, [], buffersize=buffersize)) == []
        assert list(pool.map(tasks.double, buffersize=buffersize)) == []

    def test_of_items_without_end(self, pool: Executor) -> None:
        results = pool.map(operator.add, itertools.count(), itertools.count(), buffersize=2)
        assert [next(results) for _ in range(100)] == list(range(0, 200, 2))

    @pytest.mark.parametrize("buffersize", [1, 3, 50])
    def test_so_many_items_are_taken_ahead_and_no_more(self, pool: Executor, buffersize: int) -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for number in itertools.count():
                taken.append(number)
                yield number

        results = pool.map(tasks.double, items(), buffersize=buffersize)
        assert len(taken) == buffersize
        for given in range(200):
            assert next(results) == 2 * given
            assert given < len(taken) <= given + 1 + buffersize

    def test_only_what_is_in_the_buffer_is_run(self, kind: Kind) -> None:
        numbers = iter(range(10))
        pool = kind.make(1)
        results = pool.map(tasks.double, numbers, buffersize=2)
        pool.shutdown()
        assert next(numbers) == 2
        del results

    def test_an_error_of_the_items_comes_when_they_are_taken(self, pool: Executor) -> None:
        with pytest.raises(ArithmeticError):
            pool.map(tasks.double, failing_items(5))
        results = pool.map(tasks.double, failing_items(5), buffersize=2)
        with pytest.raises(ArithmeticError):
            list(results)


def failing_items(count: int) -> Iterator[int]:
    yield from range(count)
    raise ArithmeticError


class TestEarlyEnds:
    def test_an_exception_is_raised_in_its_place(self, pool: Executor) -> None:
        results = pool.map(divmod, [5, 6, 7, 8], [2, 3, 0, 4])
        assert [next(results), next(results)] == [(2, 1), (2, 0)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []

    def test_an_item_that_cannot_be_pickled_is_an_exception_in_its_place(self, pool: Executor) -> None:
        items = [1, 2, tasks.CannotBePickled(), 4]
        results = pool.map(tasks.identity, items)
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(Exception, match="in __reduce__"):
            next(results)

    def test_a_result_that_cannot_be_pickled_is_an_exception_in_its_place(self, pool: Executor) -> None:
        results = pool.map(tasks.cannot_be_pickled_if, range(4), [2] * 4)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(Exception, match="in __reduce__"):
            next(results)

    def test_an_item_that_cannot_be_unpickled_is_an_exception_in_its_place(self, pool: Executor) -> None:
        results = pool.map(tasks.identity, [1, 2, tasks.CannotBeUnpickled(), 4])
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(ArithmeticError):
            next(results)

    def test_a_result_that_cannot_be_unpickled_is_an_exception_in_its_place(self, pool: Executor) -> None:
        results = pool.map(tasks.cannot_be_unpickled_if, range(4), [2] * 4)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ArithmeticError):
            next(results)

    def test_stop_iteration_of_a_task_does_not_pass_for_the_end(self, pool: Executor) -> None:
        results = pool.map(tasks.raise_it, [StopIteration(1), ValueError()])
        with pytest.raises(RuntimeError):
            list(results)

    def test_a_timeout_error_of_a_task_is_its_own(self, pool: Executor) -> None:
        with pytest.raises(TimeoutError, match="of the task"):
            list(pool.map(tasks.raise_it, [TimeoutError("of the task")]))

    @pytest.mark.parametrize("end", ["exception", "close", "del", "timeout"])
    def test_what_has_not_begun_is_cancelled(self, kind: Kind, end: str) -> None:
        count = 1_000
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        go = multigil.Event()
        with kind.make(1) as pool:
            task = tasks.tell_and_raise_or_wait if end == "exception" else tasks.tell_and_give_or_wait
            timeout = 0.5 if end == "timeout" else None
            results = pool.map(task, [told] * count, [go] * count, range(count), timeout=timeout)
            if end == "exception":
                with pytest.raises(ArithmeticError):
                    next(results)
            else:
                assert next(results) == 0
            match end:
                case "close":
                    results.close()
                case "timeout":
                    with pytest.raises(TimeoutError):
                        next(results)
            del results
            gc.collect()
            go.set()
        # What had been sent to the worker has run.
        assert told.qsize() <= count / 2

    def test_one_of_which_no_result_was_asked_for_runs_to_its_end(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        with kind.make(1) as pool:
            pool.map(tasks.tell, [told] * 200, range(200))
            gc.collect()
        assert [told.get_nowait() for _ in range(200)] == list(range(200))

    def test_the_timeout_counts_from_the_call(self, pool: Executor, gate: Gate) -> None:
        results = pool.map(tasks.wait_if, range(3), [1] * 3, [gate.go] * 3, timeout=0.1)
        assert next(results) == 0
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            next(results)
        assert time.monotonic() - begun < AMPLE / 2
        assert list(results) == []

    def test_a_timeout_that_is_not_reached(self, pool: Executor) -> None:
        assert list(pool.map(tasks.double, range(100), timeout=AMPLE)) == list(range(0, 200, 2))

    def test_a_timeout_that_has_passed_already(self, pool: Executor, gate: Gate) -> None:
        results = pool.map(tasks.wait_if, [1], [1], [gate.go], timeout=0)
        with pytest.raises(TimeoutError):
            next(results)

    def test_a_timeout_with_a_buffer(self, pool: Executor, gate: Gate) -> None:
        which, go = itertools.repeat(5), itertools.repeat(gate.go)
        results = pool.map(tasks.wait_if, itertools.count(), which, go, timeout=0.5, buffersize=2)
        got: list[int] = []
        with pytest.raises(TimeoutError):
            got.extend(results)
        # What was extended by before the exception is there.
        assert got == [0, 1, 2, 3, 4][: len(got)]

    def test_shutdown_that_cancels_ends_it(self, kind: Kind) -> None:
        count = 1_000
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        go = multigil.Event()
        pool = kind.make(1)
        results = pool.map(tasks.tell_and_wait, [told] * count, [go] * count, range(count))
        assert told.get(timeout=AMPLE) == 0
        pool.shutdown(wait=False, cancel_futures=True)
        go.set()
        assert next(results) == 0
        with pytest.raises(CancelledError):
            list(results)
        pool.shutdown()
        assert 1 + told.qsize() <= count / 2


class TestCancelRunning:
    """A timeout that really ends what runs."""

    @pytest.mark.parametrize("where", ["pool", "map", "neither"])
    def test_a_timeout_interrupts_the_tasks_that_run(self, kind: Kind, where: str) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        go = multigil.Event()
        pool: Any
        with kind.make(1, cancel_running=where == "pool") as pool:
            how = {"cancel_running": True} if where == "map" else {}
            results = pool.map(tasks.spin_until, [told], [go], timeout=0.2, **how)
            assert told.get(timeout=AMPLE) == "running"
            with pytest.raises(TimeoutError):
                next(results)
            if where == "neither":
                with pytest.raises(multigil.Empty):
                    told.get(timeout=0.1)
                go.set()
                assert told.get(timeout=AMPLE) == "let go"
            else:
                assert told.get(timeout=AMPLE) == "KeyboardInterrupt"
            assert pool.submit(tasks.double, 2).result(AMPLE) == 4

    def test_a_map_may_be_spared(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        go = multigil.Event()
        with kind.make(1, cancel_running=True) as pool:
            results = pool.map(tasks.spin_until, [told], [go], timeout=0.2, cancel_running=False)
            assert told.get(timeout=AMPLE) == "running"
            with pytest.raises(TimeoutError):
                next(results)
            go.set()
            assert told.get(timeout=AMPLE) == "let go"

    def test_the_state_of_the_worker_is_kept(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        with kind.make(1, cancel_running=True) as pool:
            before = pool.submit(tasks.worker).result(AMPLE)
            with pytest.raises(TimeoutError):
                list(pool.map(tasks.tell_and_spin, [told], timeout=0.1))
            assert pool.submit(tasks.worker).result(AMPLE) == before

    def test_closing_interrupts_too(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        with kind.make(1, cancel_running=True) as pool:
            results = pool.map(tasks.give_or_spin, [told] * 3, range(3))
            assert next(results) == 0
            assert told.get(timeout=AMPLE) == "running"
            results.close()
            assert told.get(timeout=AMPLE) == "KeyboardInterrupt"
            assert pool.submit(os.getpid).result(AMPLE)
        assert told.qsize() == 0
