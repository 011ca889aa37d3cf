"""`LifoQueue` does between threads and interpreters what `queue.LifoQueue` does between threads."""

from __future__ import annotations

import gc
import inspect
import queue
import sys
import threading
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue, _core

BOTH = [LifoQueue, PriorityQueue]


class TestInterface:
    """And that of `PriorityQueue`, which is the same."""

    @pytest.mark.parametrize("kind", BOTH)
    def test_it_is_a_queue_as_in_the_standard_library(self, kind: type[Queue[Any]]) -> None:
        assert issubclass(kind, Queue)
        assert isinstance(kind(), Queue)
        assert not issubclass(Queue, kind)
        assert kind.__module__ == "multigil"

    @pytest.mark.parametrize("kind", BOTH)
    def test_every_method_has_the_signature_of_the_standard_librarys(self, kind: type[Queue[Any]]) -> None:
        theirs = getattr(queue, kind.__name__)
        for name, method in inspect.getmembers(theirs, inspect.isfunction):
            if not name.startswith("__"):
                ours = inspect.signature(getattr(kind, name))
                names = [
                    [parameter.name for parameter in each.parameters.values()]
                    for each in (ours, inspect.signature(method))
                ]
                assert names[0] == names[1], name

    @pytest.mark.parametrize("kind", BOTH)
    def test_maxsize_is_set_by_the_constructor_and_later(self, kind: type[Queue[Any]]) -> None:
        assert (kind().maxsize, kind(3).maxsize, kind(maxsize=3).maxsize) == (0, 3, 3)
        q = kind(1)
        q.put(1)
        with pytest.raises(Full):
            q.put_nowait(2)
        putting = in_thread(q.put, 2)
        assert_waits(putting)
        q.maxsize = 2
        putting.result(AMPLE)
        assert (q.qsize(), q.full()) == (2, True)

    @pytest.mark.parametrize("kind", BOTH)
    def test_a_subscript_gives_a_generic_alias(self, kind: Any) -> None:
        assert kind[int].__origin__ is kind
        assert kind[int](3).maxsize == 3

    @pytest.mark.parametrize("kind", BOTH)
    @pytest.mark.parametrize(
        ("method", "args", "kwargs"),
        [
            ("put", (), {}),
            ("put", (1, True, None, None), {}),
            ("get", (), {"item": 1}),
            ("put_nowait", (), {}),
            ("get_nowait", (1,), {}),
            ("shutdown", (True, True), {}),
        ],
    )
    def test_wrong_arguments_are_a_type_error_and_change_nothing(
        self, kind: type[Queue[Any]], method: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        q = kind()
        with pytest.raises(TypeError):
            getattr(q, method)(*args, **kwargs)
        assert (q.qsize(), q.unfinished_tasks, q.is_shutdown) == (0, 0, False)

    @pytest.mark.parametrize("kind", BOTH)
    def test_methods_of_queue_do_what_the_queue_they_are_called_on_does(self, kind: Any) -> None:
        q = kind()
        for number in (2, 1, 3):
            Queue.put(q, number)
        expected = [3, 1, 2] if kind is LifoQueue else [1, 2, 3]
        assert [Queue.get(q), Queue.get_nowait(q), next(q)] == expected

    def test_a_queue_cannot_be_had_as_another_kind(self) -> None:
        for kind, other in ((Queue, LifoQueue), (LifoQueue, PriorityQueue), (PriorityQueue, Queue)):
            q: Any = kind()
            attach, (number, *identity) = q.__reduce__()
            assert attach(number, *identity) is q
            with pytest.raises(TypeError):
                attach(number, *identity, other)
            if other is not Queue:
                with pytest.raises(ValueError, match="does not name an object of this kind"):
                    attach(other().__reduce__()[1][0], *identity)


class TestOrder:
    def test_the_item_that_was_put_last_comes_first(self) -> None:
        q: LifoQueue[object] = LifoQueue()
        items = [1, "text", b"bytes", None, {"a": [1]}, bytes(200), 2**100]
        for item in items:
            q.put(item)
        assert [q.get() for _ in items] == items[::-1]

    def test_ten_thousand_items_in_and_out_by_turns(self) -> None:
        q: LifoQueue[int] = LifoQueue()
        expected = []
        for number in range(10_000):
            q.put(number)
            expected.append(number)
            if number % 3 == 0:
                assert q.get() == expected.pop()
        assert workers.drain(q) == expected[::-1]

    def test_an_item_that_cannot_be_pickled_is_not_put(self) -> None:
        q: LifoQueue[object] = LifoQueue()
        with pytest.raises(TypeError):
            q.put(threading.Lock())
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)

    def test_an_item_that_cannot_be_unpickled_is_taken(self) -> None:
        q: LifoQueue[object] = LifoQueue()
        q.put(1)
        q.put(workers.RefusesToLoad())
        with pytest.raises(ArithmeticError):
            q.get()
        assert q.get() == 1

    def test_an_item_beyond_a_megabyte(self) -> None:
        q: LifoQueue[bytes] = LifoQueue()
        q.put(b"small")
        q.put(bytes(5_000_000))
        assert q.peek() == bytes(5_000_000)
        assert q.get() == bytes(5_000_000)
        assert q.get() == b"small"


@pytest.mark.parametrize("kind", BOTH)
class TestMore:
    """What queues have beyond the standard library's, which is the same for both."""

    def test_iteration_ends_at_the_shutdown(self, kind: Any) -> None:
        with kind() as q:
            q.put_many([1, 2, 3])
        assert sorted(q) == [1, 2, 3]

    def test_put_many_puts_all_and_get_many_takes_what_is_there(self, kind: Any) -> None:
        q = kind()
        q.put_many([2, 3, 1])
        expected = [1, 3, 2] if kind is LifoQueue else [1, 2, 3]
        assert q.get_many(2) == expected[:2]
        assert q.get_many() == expected[2:]
        with pytest.raises(Empty):
            q.get_many(block=False)
        assert q.unfinished_tasks == 3

    def test_put_many_puts_what_there_is_place_for(self, kind: Any) -> None:
        q = kind(2)
        with pytest.raises(Full) as caught:
            q.put_many([1, 2, 3], timeout=MOMENT)
        assert caught.value.count == 2  # type: ignore[attr-defined]
        assert q.qsize() == 2
        putting = in_thread(q.put_many, [3, 4, 5])
        assert sorted(q.get(timeout=AMPLE) for _ in range(5)) == [1, 2, 3, 4, 5]
        putting.result(AMPLE)

    def test_nothing_is_put_if_one_of_many_cannot_be_pickled(self, kind: Any) -> None:
        q = kind()
        with pytest.raises(TypeError):
            q.put_many([1, threading.Lock()])
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)

    def test_peek_shows_the_next_item_and_leaves_it(self, kind: Any) -> None:
        q = kind()
        with pytest.raises(Empty):
            q.peek(block=False)
        with pytest.raises(Empty):
            q.peek(timeout=MOMENT)
        peeking = in_thread(q.peek)
        assert_waits(peeking)
        q.put([3])
        assert peeking.result(AMPLE) == [3]
        q.put([1, bytes(1_000)])
        q.put([2])
        assert q.peek() == ([2] if kind is LifoQueue else [1, bytes(1_000)])
        assert (q.qsize(), q.unfinished_tasks) == (3, 3)

    def test_a_peek_leaves_the_wake_to_those_who_take(self, kind: Any) -> None:
        q = kind()
        peeking = [in_thread(q.peek) for _ in range(3)]
        getting = in_thread(q.get)
        assert_waits(getting, *peeking)
        q.put(1)
        assert getting.result(AMPLE) == 1
        q.put(2)
        assert {future.result(AMPLE) for future in peeking} <= {1, 2}

    def test_clear_throws_all_items_away_as_done(self, kind: Any) -> None:
        q = kind(3)
        q.put_many([1, 2, 3])
        putting, joining = in_thread(q.put, 4), in_thread(q.join)
        assert_waits(putting, joining)
        q.clear()
        putting.result(AMPLE)
        assert (q.get(), q.unfinished_tasks) == (4, 1)
        q.task_done()
        joining.result(AMPLE)

    def test_wait_any_gives_the_queue_that_has_an_item(self, kind: Any) -> None:
        q, other = kind(), kind()
        waiting = in_thread(multigil.wait_any, other, q)
        assert_waits(waiting)
        q.put(1)
        assert waiting.result(AMPLE) is q
        assert q.qsize() == 1

    def test_shutdown_ends_all_waits(self, kind: Any) -> None:
        full, empty = kind(1), kind()
        full.put(1)
        waiting = [in_thread(full.put, 2), in_thread(empty.get), in_thread(empty.peek)]
        joining = in_thread(full.join)
        assert_waits(joining, *waiting)
        full.shutdown(immediate=True)
        empty.shutdown()
        for future in waiting:
            with pytest.raises(ShutDown):
                future.result(AMPLE)
        joining.result(AMPLE)
        assert full.empty()

    def test_timeouts_are_kept(self, kind: Any) -> None:
        q = kind(1)
        with pytest.raises(Empty):
            q.get(timeout=MOMENT)
        q.put(1)
        with pytest.raises(Full):
            q.put(2, timeout=MOMENT)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.put(2, timeout=-1)
        assert q.qsize() == 1


@pytest.mark.parametrize("kind", BOTH)
class TestInterpreters:
    @pytest.mark.parametrize("maxsize", [0, 1, 10])
    @pytest.mark.parametrize(
        "producers",
        [(started, started, started), (started, in_thread)],
        ids=["3x3 interpreters", "2x2 mixed"],
    )
    def test_each_item_arrives_exactly_once(self, kind: Any, maxsize: int, producers: tuple[Any, ...]) -> None:
        each = 2_000
        q = kind(maxsize)
        consuming = [start(workers.take_numbers, q) for start in producers]
        producing = [
            start(workers.put_numbers, q, first, len(producers), each) for first, start in enumerate(producers)
        ]
        for producer in producing:
            producer.result(AMPLE)
        q.join()
        for _ in consuming:
            q.put((sys.maxsize, None))
        received = [consumer.result(AMPLE) for consumer in consuming]
        assert sorted(number for numbers in received for number in numbers) == list(range(each * len(producers)))
        q.join()
        assert q.empty()

    def test_items_outlive_the_interpreter_that_put_them(self, kind: Any) -> None:
        q = kind()
        producer = started(workers.put_all, q, "a", "b", "c")
        producer.join(AMPLE)
        del producer
        assert workers.drain(q) == (["c", "b", "a"] if kind is LifoQueue else ["a", "b", "c"])

    def test_a_queue_outlives_the_interpreter_that_made_it(self, kind: Any) -> None:
        carrier: SimpleQueue[Any] = SimpleQueue()
        started(workers.put_new_with, carrier, kind.__name__, [2, 1]).join(AMPLE)
        q = carrier.get_nowait()
        assert type(q) is kind
        assert workers.drain(q) == [1, 2]

    def test_an_item_wakes_an_interpreter_that_waits_for_it(self, kind: Any) -> None:
        requests, replies = kind(), kind()
        echo = started(workers.echo, requests, replies)
        for number in range(10):
            with pytest.raises(Empty):
                replies.get(timeout=MOMENT)
            requests.put(number)
            assert replies.get(timeout=AMPLE) == number
        requests.shutdown()
        echo.join(AMPLE)

    def test_the_state_is_shared(self, kind: Any) -> None:
        q = kind(5)
        started(workers.put_all, q, 1, 2, 3).result(AMPLE)
        assert (q.qsize(), q.unfinished_tasks) == (3, 3)
        started(workers.outcome, q, "task_done").result(AMPLE)
        q.get()
        started(workers.set_maxsize, q, 2).result(AMPLE)
        assert (q.maxsize, q.full()) == (2, True)
        q.shutdown()
        assert started(workers.state, q).result(AMPLE) == (2, 2, 2, True)

    def test_exceptions_are_the_classes_of_the_interpreter_that_gets_them(self, kind: Any) -> None:
        q = kind(1)
        assert started(workers.outcome, q, "get_nowait").result(AMPLE) == "Empty"
        q.put(1)
        assert started(workers.outcome, q, "put_nowait", 2).result(AMPLE) == "Full"
        q.shutdown()
        assert started(workers.outcome, q, "put", 2).result(AMPLE) == "ShutDown"

    def test_an_interpreter_can_be_interrupted_while_it_waits(self, kind: Any) -> None:
        q = kind()
        waiting = started(q.get)
        waiting.join(2 * MOMENT)
        waiting.interrupt()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(AMPLE)

    def test_timeouts_in_an_interpreter_are_kept_and_cost_no_processor_time(self, kind: Any) -> None:
        elapsed, processor_time = started(workers.timed_get, kind(), 1).result(AMPLE)
        assert 1_000_000_000 <= elapsed < AMPLE * 1e9
        assert processor_time < 0.005


@pytest.mark.parametrize("kind", ["LifoQueue", "PriorityQueue"])
@in_fresh_process
def test_memory_of_items_comes_back(kind: str) -> None:
    before = _core.statistics()
    q = getattr(multigil, kind)()
    for number in range(20_000):
        q.put((number, bytes(number % 300)))
    q.put((20_000, bytes(5_000_000)))
    assert _core.statistics()["bytes_in_use"] > before["bytes_in_use"] + 20_000 * 150 + 5_000_000
    for _ in range(20_001):
        q.get()
    assert _core.statistics()["bytes_in_use"] < before["bytes_in_use"] + 20_000
    for number in range(20_000):
        q.put((number, multigil.Lock(), bytes(number % 300)))
    del q
    gc.collect()
    after = _core.statistics()
    assert all(after[name] == before[name] for name in ("bytes_in_use", "locks", "lifo_queues", "priority_queues"))
