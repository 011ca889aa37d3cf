"""`Queue` does between threads what `queue.Queue` of 3.14 does."""

from __future__ import annotations

import gc
import inspect
import queue
import re
import threading
import time
import types
import weakref
from typing import Any

import pytest

import multigil
from harness import AMPLE, assert_waits, in_thread
from multigil import Empty, Full, Queue, ShutDown

# What `queue.Queue` is made of inside, though without an underscore.
INTERNALS = {"mutex", "not_empty", "not_full", "all_tasks_done", "queue"}
METHODS = [name for name, _ in inspect.getmembers(queue.Queue, inspect.isfunction) if not name.startswith("_")]


def parameters(function: object) -> list[tuple[str, object, object]]:
    """Name, default and kind of each parameter but `self`."""
    assert callable(function)
    return [
        (parameter.name, parameter.default, parameter.kind)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


class TestInterface:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_has_the_signature_of_queue_queues(self, method: str) -> None:
        assert parameters(getattr(Queue, method)) == parameters(getattr(queue.Queue, method))

    def test_everything_public_of_queue_queue_is_there(self) -> None:
        public = {name for name in dir(queue.Queue()) if not name.startswith("_")} - INTERNALS
        assert public | {"shutdown", "is_shutdown"} <= set(dir(Queue()))

    def test_the_exceptions_are_those_of_the_module_queue(self) -> None:
        # 3.12 has no `ShutDown` in its module.
        for name in ("Empty", "Full", "ShutDown"):
            assert getattr(multigil, name) is getattr(queue, name, multigil.ShutDown)
        assert not issubclass(ShutDown, (Empty, Full))

    def test_all_arguments_may_be_given_by_name(self) -> None:
        q: Queue[int] = Queue(maxsize=1)
        q.put(item=1, block=True, timeout=None)
        assert q.get(block=True, timeout=None) == 1
        q.put_nowait(item=2)
        q.shutdown(immediate=True)
        assert q.empty()

    @pytest.mark.parametrize(
        ("method", "args", "kwargs"),
        [
            ("put", (), {}),
            ("put", (1, True, None, None), {}),
            ("put", (1,), {"item": 1}),
            ("put", (), {"itm": 1}),
            ("get", (True, None, None), {}),
            ("get", (), {"item": 1}),
            ("get", (), {"timeout": "1"}),
            ("put_nowait", (), {}),
            ("get_nowait", (1,), {}),
            ("qsize", (1,), {}),
            ("join", (1,), {}),
            ("task_done", (1,), {}),
            ("shutdown", (True, True), {}),
        ],
    )
    def test_wrong_arguments_are_a_type_error_and_change_nothing(
        self, method: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        q: Queue[int] = Queue()
        with pytest.raises(TypeError):
            getattr(q, method)(*args, **kwargs)
        assert (q.qsize(), q.unfinished_tasks, q.is_shutdown) == (0, 0, False)

    @pytest.mark.parametrize("args", [(1, 2), ("1",), (None,)])
    def test_wrong_arguments_of_the_constructor_are_a_type_error(self, args: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError):
            Queue(*args)

    def test_a_subscript_gives_a_generic_alias(self) -> None:
        alias = Queue[int]
        assert isinstance(alias, types.GenericAlias)
        assert (alias.__origin__, alias.__args__) == (Queue, (int,))
        assert alias(3).maxsize == 3

    def test_the_repr_names_the_class_and_the_address(self) -> None:
        q: Queue[int] = Queue()
        assert re.fullmatch(rf"<multigil\S*\.Queue object at {id(q):#x}>", repr(q))

    def test_an_empty_queue_is_true_and_has_no_length(self) -> None:
        q: Any = Queue()
        assert q
        with pytest.raises(TypeError):
            len(q)

    def test_queues_are_equal_only_to_themselves_and_can_be_keys(self) -> None:
        one: Queue[int] = Queue()
        other: Queue[int] = Queue()
        assert one != other
        assert {one: 1, other: 2}[one] == 1

    def test_a_weak_reference_ends_with_the_last_strong_one(self) -> None:
        q: Queue[int] = Queue()
        reference = weakref.ref(q)
        assert reference() is q
        del q
        gc.collect()
        assert reference() is None

    def test_a_subclass_may_add_attributes_and_override_methods(self) -> None:
        class Doubling(Queue[int]):
            def __init__(self, maxsize: int, name: str) -> None:
                super().__init__(maxsize)
                self.name = name

            def put(self, item: int, block: bool = True, timeout: float | None = None) -> None:
                super().put(2 * item, block, timeout)

        q = Doubling(1, name="twice")
        q.put(21)
        assert (q.name, q.maxsize, q.full(), q.get()) == ("twice", 1, True, 42)

    def test_a_subclass_may_pass_maxsize_to_the_constructor_of_queue(self) -> None:
        class Inbox(Queue[int]):
            def __init__(self) -> None:
                super().__init__(maxsize=2)

        assert Inbox().maxsize == 2


class TestOrder:
    def test_items_come_out_in_the_order_in_which_they_were_put(self) -> None:
        q: Queue[int] = Queue()
        for i in range(10_000):
            q.put(i)
        assert [q.get() for _ in range(10_000)] == list(range(10_000))

    def test_items_come_out_in_order_while_the_queue_is_refilled_around_its_end(self) -> None:
        q: Queue[int] = Queue(7)
        received = []
        for i in range(1_000):
            q.put(i)
            if i % 7 >= 4:
                received += [q.get(), q.get()]
            while q.full():
                received.append(q.get())
        received += [q.get() for _ in range(q.qsize())]
        assert received == list(range(1_000))

    def test_sizes_are_counted(self) -> None:
        q: Queue[int] = Queue(2)
        assert (q.qsize(), q.empty(), q.full()) == (0, True, False)
        q.put(1)
        assert (q.qsize(), q.empty(), q.full()) == (1, False, False)
        q.put(2)
        assert (q.qsize(), q.empty(), q.full()) == (2, False, True)
        q.get()
        assert (q.qsize(), q.empty(), q.full()) == (1, False, False)

    def test_an_unbounded_queue_is_never_full(self) -> None:
        q: Queue[int] = Queue()
        for i in range(1_000):
            q.put_nowait(i)
        assert (q.full(), q.qsize()) == (False, 1_000)


class TestFullAndEmpty:
    def test_getting_without_blocking_from_an_empty_queue_raises_empty(self) -> None:
        q: Queue[int] = Queue()
        with pytest.raises(Empty):
            q.get(block=False)
        with pytest.raises(Empty):
            q.get_nowait()
        with pytest.raises(Empty):
            q.get(False, -1)

    def test_putting_without_blocking_into_a_full_queue_raises_full_and_puts_nothing(self) -> None:
        q: Queue[int] = Queue(1)
        q.put(1)
        with pytest.raises(Full):
            q.put(2, block=False)
        with pytest.raises(Full):
            q.put_nowait(2)
        with pytest.raises(Full):
            q.put(2, False, -1)
        assert (q.qsize(), q.unfinished_tasks, q.get()) == (1, 1, 1)

    def test_a_timeout_of_zero_does_not_wait(self) -> None:
        q: Queue[int] = Queue(1)
        with pytest.raises(Empty):
            q.get(timeout=0)
        q.put(1, timeout=0)
        with pytest.raises(Full):
            q.put(2, timeout=0)
        assert q.get(timeout=0) == 1

    def test_a_negative_timeout_is_a_value_error_even_when_nothing_would_wait(self) -> None:
        q: Queue[int] = Queue(2)
        q.put(1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.get(timeout=-1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.put(2, timeout=-0.001)
        assert q.qsize() == 1

    def test_a_negative_timeout_is_ignored_where_put_never_waits(self) -> None:
        q: Queue[int] = Queue()
        q.put(1, timeout=-1)
        assert q.get() == 1

    def test_a_blocked_get_returns_what_is_put(self) -> None:
        q: Queue[int] = Queue()
        getting = in_thread(q.get)
        assert_waits(getting)
        q.put(1)
        assert getting.result(AMPLE) == 1

    def test_a_get_with_the_longest_timeout_returns_what_is_put(self) -> None:
        q: Queue[int] = Queue()
        getting = in_thread(q.get, timeout=threading.TIMEOUT_MAX)
        assert_waits(getting)
        q.put(1)
        assert getting.result(AMPLE) == 1

    def test_a_blocked_put_goes_on_when_an_item_is_taken(self) -> None:
        q: Queue[int] = Queue(1)
        q.put(1)
        putting = in_thread(q.put, 2)
        assert_waits(putting)
        assert q.qsize() == 1
        assert q.get() == 1
        putting.result(AMPLE)
        assert q.get() == 2

    def test_each_item_wakes_one_of_many_blocked_getters(self) -> None:
        q: Queue[int] = Queue()
        getters = [in_thread(q.get) for _ in range(5)]
        assert_waits(*getters)
        for i in range(5):
            q.put(i)
        assert sorted(getter.result(AMPLE) for getter in getters) == [0, 1, 2, 3, 4]


class TestMaxsize:
    @pytest.mark.parametrize("maxsize", [0, -1, -5])
    def test_a_size_of_zero_or_less_is_unbounded_and_reads_back(self, maxsize: int) -> None:
        q: Queue[int] = Queue(maxsize)
        for i in range(100):
            q.put_nowait(i)
        assert (q.maxsize, q.full()) == (maxsize, False)

    def test_growing_makes_room(self) -> None:
        q: Queue[int] = Queue(1)
        q.put(1)
        q.maxsize = 2
        q.put_nowait(2)
        with pytest.raises(Full):
            q.put_nowait(3)
        assert (q.maxsize, q.qsize(), q.full()) == (2, 2, True)

    def test_shrinking_below_the_content_keeps_it_and_blocks_puts_until_it_is_used_up(self) -> None:
        q: Queue[int] = Queue(3)
        for i in range(3):
            q.put(i)
        q.maxsize = 1
        assert (q.qsize(), q.full()) == (3, True)
        assert (q.get(), q.get()) == (0, 1)
        with pytest.raises(Full):
            q.put_nowait(3)
        assert q.get() == 2
        q.put_nowait(3)
        assert q.get() == 3

    @pytest.mark.parametrize("maxsize", [3, 0])
    def test_producers_that_are_blocked_go_on_when_the_queue_grows(self, maxsize: int) -> None:
        q: Queue[int] = Queue(1)
        q.put(0)
        putting = [in_thread(q.put, i) for i in (1, 2)]
        assert_waits(*putting)
        q.maxsize = maxsize
        for future in putting:
            future.result(AMPLE)
        assert sorted(q.get() for _ in range(3)) == [0, 1, 2]

    def test_a_producer_that_is_blocked_stays_so_when_the_queue_shrinks(self) -> None:
        q: Queue[int] = Queue(2)
        q.put(0)
        q.put(1)
        putting = in_thread(q.put, 2)
        assert_waits(putting)
        q.maxsize = 1
        assert q.get() == 0
        assert_waits(putting)
        assert q.get() == 1
        putting.result(AMPLE)
        assert q.get() == 2

    def test_an_unbounded_queue_may_be_given_a_bound(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.maxsize = 1
        with pytest.raises(Full):
            q.put_nowait(2)


class TestTasks:
    def test_unfinished_tasks_count_puts_until_each_is_done(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.put(2)
        q.get()
        assert q.unfinished_tasks == 2
        q.task_done()
        assert q.unfinished_tasks == 1

    def test_one_task_done_too_many_is_a_value_error(self) -> None:
        q: Queue[int] = Queue()
        with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
            q.task_done()
        q.put(1)
        q.task_done()
        with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
            q.task_done()
        assert q.unfinished_tasks == 0

    def test_join_returns_at_once_when_nothing_was_put(self) -> None:
        q: Queue[int] = Queue()
        in_thread(q.join).result(AMPLE)

    def test_join_waits_for_the_last_task_and_all_who_join_go_on(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.put(2)
        joining = [in_thread(q.join) for _ in range(3)]
        q.get()
        q.get()
        q.task_done()
        assert_waits(*joining)
        q.task_done()
        for future in joining:
            future.result(AMPLE)

    def test_join_waits_again_for_what_is_put_later(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.task_done()
        in_thread(q.join).result(AMPLE)
        q.put(2)
        joining = in_thread(q.join)
        assert_waits(joining)
        q.task_done()
        joining.result(AMPLE)


class TestShutdown:
    def test_putting_raises_shutdown_afterwards(self) -> None:
        q: Queue[int] = Queue()
        q.shutdown()
        for put in (q.put, q.put_nowait):
            with pytest.raises(ShutDown):
                put(1)
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)

    def test_what_is_in_the_queue_can_still_be_taken(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.put(2)
        q.shutdown()
        assert (q.get(), q.get_nowait()) == (1, 2)
        with pytest.raises(ShutDown):
            q.get()
        with pytest.raises(ShutDown):
            q.get_nowait()
        with pytest.raises(ShutDown):
            q.get(timeout=1)

    def test_an_immediate_shutdown_empties_the_queue(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.shutdown(immediate=True)
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)
        with pytest.raises(ShutDown):
            q.get()

    def test_is_shutdown_tells_it_and_further_shutdowns_change_nothing(self) -> None:
        q: Queue[int] = Queue()
        assert q.is_shutdown is False
        q.shutdown()
        assert q.is_shutdown is True
        q.shutdown(immediate=True)
        q.shutdown()
        assert q.is_shutdown is True

    def test_a_later_immediate_shutdown_empties_the_queue(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        q.shutdown()
        q.shutdown(immediate=True)
        assert q.qsize() == 0

    def test_shutdown_comes_before_full_and_before_a_wrong_timeout(self) -> None:
        q: Queue[int] = Queue(1)
        q.put(1)
        q.shutdown()
        with pytest.raises(ShutDown):
            q.put_nowait(2)
        with pytest.raises(ShutDown):
            q.put(2, timeout=-1)

    @pytest.mark.parametrize("immediate", [False, True])
    def test_everyone_who_waits_to_get_is_woken_with_shutdown(self, immediate: bool) -> None:
        q: Queue[int] = Queue()
        waiting = [in_thread(q.get), in_thread(q.get, timeout=AMPLE), in_thread(q.get)]
        assert_waits(*waiting)
        q.shutdown(immediate)
        for future in waiting:
            with pytest.raises(ShutDown):
                future.result(AMPLE)

    @pytest.mark.parametrize("immediate", [False, True])
    def test_everyone_who_waits_to_put_is_woken_with_shutdown_and_puts_nothing(self, immediate: bool) -> None:
        q: Queue[int] = Queue(1)
        q.put(0)
        waiting = [in_thread(q.put, 1), in_thread(q.put, 2, timeout=AMPLE), in_thread(q.put, 3)]
        assert_waits(*waiting)
        q.shutdown(immediate)
        for future in waiting:
            with pytest.raises(ShutDown):
                future.result(AMPLE)
        assert q.unfinished_tasks == q.qsize() == (0 if immediate else 1)

    def test_a_shutdown_leaves_the_tasks_to_be_done_before_join_returns(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        joining = in_thread(q.join)
        q.shutdown()
        assert_waits(joining)
        q.get()
        q.task_done()
        joining.result(AMPLE)

    def test_an_immediate_shutdown_releases_join_when_all_tasks_were_still_in_the_queue(self) -> None:
        q: Queue[int] = Queue()
        q.put(1)
        joining = in_thread(q.join)
        assert_waits(joining)
        q.shutdown(immediate=True)
        joining.result(AMPLE)
        with pytest.raises(ValueError, match="too many times"):
            q.task_done()

    def test_an_immediate_shutdown_still_waits_for_tasks_that_were_taken(self) -> None:
        q: Queue[int] = Queue()
        for i in range(3):
            q.put(i)
        q.get()
        joining = in_thread(q.join)
        q.shutdown(immediate=True)
        assert q.unfinished_tasks == 1
        assert_waits(joining)
        q.task_done()
        joining.result(AMPLE)


class TestTimeouts:
    @pytest.mark.parametrize("milliseconds", [1, 10, 250])
    def test_a_get_waits_at_least_its_timeout_and_then_raises_empty(self, milliseconds: int) -> None:
        q: Queue[int] = Queue()
        start = time.monotonic_ns()
        with pytest.raises(Empty):
            q.get(timeout=milliseconds / 1_000)
        assert milliseconds * 1_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9

    @pytest.mark.parametrize("milliseconds", [1, 10, 250])
    def test_a_put_waits_at_least_its_timeout_and_then_raises_full(self, milliseconds: int) -> None:
        q: Queue[int] = Queue(1)
        q.put(1)
        start = time.monotonic_ns()
        with pytest.raises(Full):
            q.put(2, timeout=milliseconds / 1_000)
        assert milliseconds * 1_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        assert q.qsize() == 1

    def test_a_timeout_is_true_to_a_millisecond(self) -> None:
        q: Queue[int] = Queue()
        late = []
        for _ in range(20):
            start = time.monotonic()
            with pytest.raises(Empty):
                q.get(timeout=0.02)
            late.append(time.monotonic() - start - 0.02)
        # The best of many: a busy machine delays some of them.
        assert min(late) < 0.001

    def test_waiting_costs_no_processor_time(self) -> None:
        q: Queue[int] = Queue()
        start = time.thread_time()
        with pytest.raises(Empty):
            q.get(timeout=1)
        assert time.thread_time() - start < 0.02


class TestManyThreads:
    @pytest.mark.parametrize("maxsize", [0, 1, 10])
    def test_each_item_arrives_exactly_once_and_in_the_order_of_its_producer(self, maxsize: int) -> None:
        producers, consumers, each = 4, 3, 2_000
        q: Queue[tuple[int, int] | None] = Queue(maxsize)

        def produce(number: int) -> None:
            for i in range(each):
                q.put((number, i))

        def consume() -> list[tuple[int, int]]:
            received = []
            while (item := q.get()) is not None:
                received.append(item)
                q.task_done()
            q.task_done()
            return received

        consuming = [in_thread(consume) for _ in range(consumers)]
        producing = [in_thread(produce, number) for number in range(producers)]
        for future in producing:
            future.result(AMPLE)
        for _ in range(consumers):
            q.put(None)
        in_thread(q.join).result(AMPLE)
        received = [future.result(AMPLE) for future in consuming]
        for items in received:
            for number in range(producers):
                of_one = [i for producer, i in items if producer == number]
                assert of_one == sorted(of_one)
        expected = [(number, i) for number in range(producers) for i in range(each)]
        assert sorted(item for items in received for item in items) == expected
        assert q.empty()
