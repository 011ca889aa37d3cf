"""`put_many`, `get_many`, `clear` and `with`: several items in one call, and nothing lost when it ends early."""

from __future__ import annotations

import gc
import inspect
import itertools
import signal
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import Empty, Full, Lock, Queue, ShutDown, SimpleQueue, _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = [Queue, SimpleQueue]


class NotPicklable:
    def __reduce__(self) -> Any:
        raise ArithmeticError("not picklable")


class Calls:
    """Calls a function when it is pickled, and another one when it is unpickled."""

    def __init__(self, on_dump: Callable[[], object] = int, on_load: Callable[[], object] = int) -> None:
        self.on_dump, self.on_load = on_dump, on_load

    def __reduce__(self) -> Any:
        self.on_dump()
        return call, (self.on_load,)


def call(function: Callable[[], object]) -> object:
    return function()


def bounded(maxsize: int, *items: object) -> Queue[Any]:
    q: Queue[Any] = Queue(maxsize)
    for item in items:
        q.put(item)
    return q


def drained(q: Queue[Any] | SimpleQueue[Any]) -> list[Any]:
    return [q.get_nowait() for _ in range(q.qsize())]


def notes_of(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@pytest.mark.parametrize("kind", KINDS)
def test_the_signatures_are_like_those_of_put_and_get(kind: Any) -> None:
    assert str(inspect.signature(kind.put_many)) == "(self, /, items, block=True, timeout=None)"
    assert str(inspect.signature(kind.get_many)) == "(self, /, count=None, block=True, timeout=None)"
    assert str(inspect.signature(kind.clear)) == "(self, /)"


@pytest.mark.parametrize("kind", KINDS)
class TestBothKinds:
    @pytest.mark.parametrize(
        "items",
        [
            [],
            [None],
            list(range(10_000)),
            (1, 2.5, "three", b"four", None, True, 2**100),
            "characters",
            {"keys": 1, "of": 2, "dicts": 3},
            range(5),
            [["pickled"], {"too": 1}, bytes(200), bytes(2_000_000), "x" * 1_000],
        ],
        ids=lambda items: f"{type(items).__name__} of {len(items)}",
    )
    def test_items_come_out_as_they_were_put(self, kind: Any, items: Any) -> None:
        q = kind()
        assert q.put_many(items) is None
        assert q.qsize() == len(items)
        assert (q.get_many() if items else []) == list(items)
        assert q.empty()

    def test_any_iterable_will_do(self, kind: Any) -> None:
        q = kind()
        q.put_many(number * number for number in range(100))
        q.put_many(iter([1, 2]))
        q.put_many(items={7})
        assert q.get_many() == [*(number * number for number in range(100)), 1, 2, 7]

    def test_single_items_and_batches_share_one_order(self, kind: Any) -> None:
        q = kind()
        q.put(0)
        q.put_many([1, 2, 3])
        q.put(4)
        q.put_many([5, 6])
        assert [q.get(), *q.get_many(3), q.get(), *q.get_many()] == [0, 1, 2, 3, 4, 5, 6]

    def test_a_count_limits_what_is_taken(self, kind: Any) -> None:
        q = kind()
        q.put_many(range(10))
        assert q.get_many(3) == [0, 1, 2]
        assert q.get_many(count=1) == [3]
        assert q.get_many(True) == [4]
        assert q.get_many(10**30) == [5, 6, 7, 8, 9]
        assert q.get_many(0) == q.get_many(0, False) == []

    def test_getting_from_an_empty_queue_is_as_with_get(self, kind: Any) -> None:
        q = kind()
        for block, timeout in ((False, None), (False, -1), (True, 0), (True, MOMENT)):
            with pytest.raises(Empty):
                q.get_many(None, block, timeout)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.get_many(timeout=-1)

    @pytest.mark.parametrize(
        ("method", "args", "kwargs"),
        [
            ("put_many", (), {}),
            ("put_many", (5,), {}),
            ("put_many", (None,), {}),
            ("put_many", ([1], True, None, 1), {}),
            ("get_many", ("1",), {}),
            ("get_many", (1.0,), {}),
            ("get_many", (), {"timeout": "1"}),
            ("get_many", (), {"item": 1}),
            ("clear", (1,), {}),
        ],
    )
    def test_wrong_arguments_are_a_type_error_and_change_nothing(
        self, kind: Any, method: str, args: Any, kwargs: Any
    ) -> None:
        q = kind()
        q.put(0)
        with pytest.raises(TypeError):
            getattr(q, method)(*args, **kwargs)
        assert drained(q) == [0]

    def test_a_negative_count_is_a_value_error(self, kind: Any) -> None:
        q = kind()
        q.put(0)
        for count in (-1, -(10**30)):
            with pytest.raises(ValueError, match="'count' must be a non-negative number"):
                q.get_many(count)
        assert drained(q) == [0]

    def test_a_get_many_waits_for_one_item_and_not_for_more(self, kind: Any) -> None:
        q = kind()
        getting = in_thread(q.get_many, 3)
        assert_waits(getting)
        q.put("only one")
        assert getting.result(AMPLE) == ["only one"]

    def test_who_waits_for_a_batch_is_woken_when_all_of_it_is_there(self, kind: Any) -> None:
        q = kind()
        for _ in range(5):
            getting = in_thread(q.get_many)
            assert_waits(getting)
            q.put_many(range(10_000))
            assert getting.result(AMPLE) == list(range(10_000))

    def test_a_batch_wakes_as_many_as_it_has_items_for(self, kind: Any) -> None:
        q = kind()
        getting = [in_thread(q.get) for _ in range(5)]
        assert_waits(*getting)
        q.put_many(range(5))
        assert sorted(future.result(AMPLE) for future in getting) == list(range(5))

    @pytest.mark.parametrize("place", [0, 1, 99])
    def test_an_item_that_cannot_be_pickled_lets_none_in(self, kind: Any, place: int) -> None:
        q = kind()
        items: list[object] = list(range(100))
        items[place] = NotPicklable()
        with pytest.raises(ArithmeticError, match="not picklable") as caught:
            q.put_many(items)
        assert (caught.value.count, notes_of(caught.value)) == (0, [])  # type: ignore[attr-defined]
        assert (q.qsize(), q.empty()) == (0, True)

    def test_an_iterable_that_fails_lets_none_in(self, kind: Any) -> None:
        def failing() -> Iterator[int]:
            yield from range(100)
            raise KeyboardInterrupt

        q = kind()
        with pytest.raises(KeyboardInterrupt) as caught:
            q.put_many(failing())
        assert caught.value.count == 0  # type: ignore[attr-defined]
        assert q.empty()

    def test_all_is_pickled_before_the_first_item_is_there(self, kind: Any) -> None:
        q = kind()
        sizes: list[int] = []
        q.put_many([1, Calls(on_dump=lambda: sizes.append(q.qsize())), 3])
        assert sizes == [0]
        assert q.get_many() == [1, 0, 3]

    def test_what_pickling_puts_comes_before_the_batch(self, kind: Any) -> None:
        q = kind()
        q.put_many([1, Calls(on_dump=lambda: q.put_many(["inside", Calls(on_dump=lambda: q.put("innermost"))])), 3])
        assert q.get_many() == ["innermost", "inside", 0, 1, 0, 3]

    def test_an_item_that_cannot_be_unpickled_is_raised_with_those_before_it(self, kind: Any) -> None:
        q = kind()
        q.put_many([1, [2], workers.RefusesToLoad(), 3, [4]])
        with pytest.raises(ArithmeticError, match="not here") as caught:
            q.get_many()
        assert caught.value.items == [1, [2]]  # type: ignore[attr-defined]
        assert notes_of(caught.value) == ["get_many(): 2 items were taken before, see the attribute 'items'"]
        assert q.get_many() == [3, [4]]

    def test_a_first_item_that_cannot_be_unpickled_is_raised_as_by_get(self, kind: Any) -> None:
        q = kind()
        q.put_many([workers.RefusesToLoad(), 1])
        with pytest.raises(ArithmeticError) as caught:
            q.get_many()
        assert caught.value.items == []  # type: ignore[attr-defined]
        assert q.get_many() == [1]

    def test_unpickling_may_itself_put_and_take(self, kind: Any) -> None:
        q = shared[0] = kind()
        q.put_many(["first", Calls(on_load=put_and_take), "taken inside", "last"])
        assert q.get_many(3) == ["first", "taken inside", "last"]
        assert q.get_many() == ["put inside"]
        shared.clear()

    def test_clear_leaves_an_empty_queue_that_goes_on(self, kind: Any) -> None:
        q = kind()
        q.clear()
        q.put_many([1, bytes(1_000), bytes(2_000_000), [Queue(), Lock()], 5])
        q.clear()
        assert (q.qsize(), q.empty()) == (0, True)
        q.put("after")
        assert q.get_nowait() == "after"
        q.put_many(range(10_000))
        q.clear()
        with pytest.raises(Empty):
            q.get_nowait()

    def test_batches_of_queues_and_locks_give_the_same_objects(self, kind: Any) -> None:
        q = kind()
        inner: list[Any] = [Queue(), SimpleQueue(), Lock(), q]
        q.put_many(inner)
        assert all(got is put for got, put in zip(q.get_many(), inner, strict=True))


# What an item that is unpickled uses.
shared: dict[int, Any] = {}


def put_and_take() -> object:
    shared[0].put("put inside")
    return shared[0].get()


class TestFull:
    def test_as_many_as_there_are_places_for_are_put(self) -> None:
        q = bounded(5, "already there")
        with pytest.raises(Full) as caught:
            q.put_many(range(10), block=False)
        assert (caught.value.count, str(caught.value)) == (4, "")  # type: ignore[attr-defined]
        assert notes_of(caught.value) == ["put_many(): 4 of 10 items were put"]
        assert (q.unfinished_tasks, drained(q)) == (5, ["already there", 0, 1, 2, 3])

    def test_none_is_put_into_a_full_queue(self) -> None:
        q = bounded(1, "full")
        for block, timeout in ((False, None), (True, 0), (True, MOMENT)):
            with pytest.raises(Full) as caught:
                q.put_many([1, 2], block, timeout)
            assert caught.value.count == 0  # type: ignore[attr-defined]
        assert drained(q) == ["full"]

    def test_the_count_says_where_to_go_on(self) -> None:
        q = bounded(3)
        items = list(range(10))
        received = []
        while items:
            try:
                q.put_many(items, block=False)
                break
            except Full as full:
                items = items[full.count :]  # type: ignore[attr-defined]
                received += q.get_many()
        assert received + q.get_many() == list(range(10))

    def test_an_exact_fit_is_no_error(self) -> None:
        q = bounded(3, 0)
        q.put_many([1, 2], block=False)
        q.put_many([], block=False)
        assert q.full()

    def test_time_runs_for_all_items_together(self) -> None:
        q = bounded(2)
        start = time.monotonic()
        with pytest.raises(Full) as caught:
            q.put_many(range(5), timeout=0.25)
        assert 0.25 <= time.monotonic() - start < AMPLE
        assert caught.value.count == 2  # type: ignore[attr-defined]
        assert drained(q) == [0, 1]

    def test_a_batch_waits_for_places_and_may_be_larger_than_the_queue(self) -> None:
        q = bounded(3)
        putting = in_thread(q.put_many, range(1_000))
        assert_waits(putting)
        assert q.qsize() == 3
        assert [q.get(timeout=AMPLE) for _ in range(1_000)] == list(range(1_000))
        putting.result(AMPLE)

    def test_what_is_put_before_the_wait_is_there_for_others(self) -> None:
        q = bounded(2)
        getting = in_thread(q.get)
        assert_waits(getting)
        putting = in_thread(q.put_many, ["a", "b", "c", "d"])
        assert getting.result(AMPLE) == "a"
        assert q.get(timeout=AMPLE) == "b"
        putting.result(AMPLE)
        assert drained(q) == ["c", "d"]

    def test_bad_timeouts_are_as_with_put(self) -> None:
        q = bounded(1)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.put_many([1], timeout=-1)
        assert q.empty()
        unbounded: Queue[int] = Queue()
        unbounded.put_many([1], timeout=-1)
        simple: SimpleQueue[int] = SimpleQueue()
        simple.put_many([1], True, -1)
        assert drained(unbounded) == drained(simple) == [1]

    def test_get_many_makes_room_for_all_who_wait(self) -> None:
        q = bounded(3, 1, 2, 3)
        putting = [in_thread(q.put, item) for item in (4, 5, 6)]
        assert_waits(*putting)
        assert q.get_many() == [1, 2, 3]
        for future in putting:
            future.result(AMPLE)
        assert sorted(q.get_many()) == [4, 5, 6]

    def test_clear_makes_room_for_all_who_wait(self) -> None:
        q = bounded(3, 1, 2, 3)
        putting = [in_thread(q.put, item) for item in (4, 5, 6)]
        assert_waits(*putting)
        q.clear()
        for future in putting:
            future.result(AMPLE)
        assert sorted(drained(q)) == [4, 5, 6]

    def test_producers_go_on_while_items_are_unpickled(self) -> None:
        # The second item can only be unpickled when a producer who waits for the place of the first has gone on.
        q = bounded(2)
        told: SimpleQueue[str] = SimpleQueue()
        shared[1] = told
        q.put_many([1, Calls(on_load=wait_to_be_told)])

        def put_and_tell() -> None:
            q.put("third")
            told.put("gone on")

        putting = in_thread(put_and_tell)
        assert_waits(putting)
        assert in_thread(q.get_many, 2).result(AMPLE) == [1, "gone on"]
        putting.result(AMPLE)
        shared.clear()


def wait_to_be_told() -> object:
    return shared[1].get(timeout=AMPLE)


class TestShutDown:
    def test_nothing_is_put_any_more(self) -> None:
        q = bounded(0, "before")
        q.shutdown()
        for items in ([1, 2], []):
            with pytest.raises(ShutDown) as caught:
                q.put_many(items)
            assert caught.value.count == 0  # type: ignore[attr-defined]
        assert q.get_many() == ["before"]
        with pytest.raises(ShutDown):
            q.get_many()
        assert q.get_many(0) == []

    @pytest.mark.parametrize("immediate", [False, True])
    def test_a_batch_that_waits_tells_how_many_were_put(self, immediate: bool) -> None:
        q = bounded(2)
        putting = in_thread(q.put_many, range(5))
        assert_waits(putting)
        q.shutdown(immediate)
        error = putting.exception(AMPLE)
        assert isinstance(error, ShutDown)
        assert error.count == 2  # type: ignore[attr-defined]
        assert notes_of(error) == ["put_many(): 2 of 5 items were put"]
        assert drained(q) == ([] if immediate else [0, 1])

    def test_a_shutdown_wakes_a_get_many(self) -> None:
        q: Queue[int] = Queue()
        getting = in_thread(q.get_many)
        assert_waits(getting)
        q.shutdown()
        assert isinstance(getting.exception(AMPLE), ShutDown)

    def test_clear_after_a_shutdown(self) -> None:
        q = bounded(0, 1, 2)
        q.shutdown()
        q.clear()
        q.join()
        with pytest.raises(ShutDown):
            q.get()

    def test_iteration_ends_behind_the_last_batch(self) -> None:
        q: Queue[int] = Queue()
        iterating = in_thread(list, q)
        q.put_many(range(100))
        q.put_many([])
        q.put_many(range(100, 1_000))
        q.shutdown()
        assert iterating.result(AMPLE) == list(range(1_000))


class TestTasks:
    def test_items_of_batches_are_tasks(self) -> None:
        q = bounded(0)
        q.put_many(range(3))
        assert q.get_many() == [0, 1, 2]
        joining = in_thread(q.join)
        for _ in range(3):
            assert_waits(joining)
            q.task_done()
        joining.result(AMPLE)

    def test_what_clear_throws_away_is_done(self) -> None:
        q = bounded(0, 1, 2, 3)
        q.get()
        joining = in_thread(q.join)
        q.clear()
        assert q.unfinished_tasks == 1
        assert_waits(joining)
        q.task_done()
        joining.result(AMPLE)
        with pytest.raises(ValueError, match="task_done"):
            q.task_done()

    def test_clear_wakes_join(self) -> None:
        q = bounded(0, 1, 2, 3)
        joining = in_thread(q.join)
        assert_waits(joining)
        q.clear()
        joining.result(AMPLE)

    def test_tasks_that_were_done_before_they_were_got_do_not_count_twice(self) -> None:
        q = bounded(0, 1, 2, 3)
        q.task_done()
        q.task_done()
        q.clear()
        assert q.unfinished_tasks == 0


class TestWith:
    def test_it_is_the_queue_itself_and_shut_down_in_the_end(self) -> None:
        q: Queue[int] = Queue()
        with q as entered:
            assert entered is q
            q.put(1)
            assert not q.is_shutdown
        assert q.is_shutdown
        assert list(q) == [1]

    def test_an_exception_passes_and_shuts_it_down_too(self) -> None:
        q: Queue[int] = Queue()
        with pytest.raises(ArithmeticError), q:
            raise ArithmeticError
        assert q.is_shutdown

    def test_consumers_end_when_the_block_does(self) -> None:
        with Queue[int]() as q:
            consuming = [in_thread(list, q) for _ in range(3)]
            interpreter = started(list, q)
            q.put_many(range(100))
        received = [*itertools.chain(*(future.result(AMPLE) for future in consuming)), *interpreter.result(AMPLE)]
        assert sorted(received) == list(range(100))

    def test_the_shutdown_of_a_subclass_is_called(self) -> None:
        class Logging(Queue[int]):
            def shutdown(self, immediate: bool = False) -> None:
                log.append(immediate)
                super().shutdown(immediate)

        log: list[bool] = []
        with Logging() as q:
            pass
        assert (log, q.is_shutdown) == ([False], True)

    def test_a_simple_queue_cannot_be_shut_down_and_has_no_with(self) -> None:
        assert not hasattr(SimpleQueue, "__exit__")


class Interruption(Exception):
    pass


class TestSignals:
    @pytest.fixture(autouse=True)
    def _handler(self) -> Iterator[None]:
        self.calls = 0
        self.raises = True
        before = signal.signal(signal.SIGALRM, self.handle)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    def handle(self, *_: object) -> None:
        self.calls += 1
        if self.raises:
            raise Interruption

    def test_an_exception_of_a_handler_tells_how_many_were_put(self) -> None:
        q = bounded(2)
        signal.setitimer(signal.ITIMER_REAL, 4 * MOMENT)
        with pytest.raises(Interruption) as caught:
            q.put_many(range(5), timeout=AMPLE)
        assert caught.value.count == 2  # type: ignore[attr-defined]
        assert notes_of(caught.value) == ["put_many(): 2 of 5 items were put"]
        assert drained(q) == [0, 1]

    def test_an_exception_that_takes_no_attribute_tells_it_in_its_note(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class CountsItselfError(Interruption):
            @property
            def count(self) -> int:
                return 99

        def handle(*_: object) -> None:
            raise CountsItselfError

        unraisable: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda hook: unraisable.append((hook.exc_type, hook.object)))
        signal.signal(signal.SIGALRM, handle)
        q = bounded(2)
        signal.setitimer(signal.ITIMER_REAL, 4 * MOMENT)
        with pytest.raises(CountsItselfError) as caught:
            q.put_many(range(5), timeout=AMPLE)
        assert notes_of(caught.value) == ["put_many(): 2 of 5 items were put"]
        assert unraisable == [(AttributeError, 2)]
        assert drained(q) == [0, 1]

    def test_a_handler_that_returns_disturbs_no_wait(self) -> None:
        self.raises = False
        q = bounded(2)
        signal.setitimer(signal.ITIMER_REAL, MOMENT / 2, MOMENT / 2)
        start = time.monotonic()
        with pytest.raises(Full) as caught:
            q.put_many(range(5), timeout=0.25)
        assert time.monotonic() - start >= 0.25
        with pytest.raises(Empty):
            Queue[int]().get_many(timeout=0.25)
        assert self.calls > 2
        assert caught.value.count == 2  # type: ignore[attr-defined]

    def test_a_get_many_that_waits_takes_nothing_when_it_is_interrupted(self) -> None:
        q: Queue[int] = Queue()
        signal.setitimer(signal.ITIMER_REAL, 4 * MOMENT)
        with pytest.raises(Interruption):
            q.get_many(timeout=AMPLE)
        q.put(1)
        assert q.get_many() == [1]

    def test_a_handler_that_raises_while_an_item_is_unpickled_leaves_the_others(self) -> None:
        q = bounded(0)
        q.put_many([1, Calls(on_load=sleep_for_long), 3])
        signal.setitimer(signal.ITIMER_REAL, 4 * MOMENT)
        with pytest.raises(Interruption) as caught:
            q.get_many()
        assert caught.value.items == [1]  # type: ignore[attr-defined]
        assert drained(q) == [3]


def sleep_for_long() -> object:
    time.sleep(AMPLE)
    return None


class TestInterpreters:
    def test_an_interrupted_interpreter_knows_how_many_were_put(self) -> None:
        q = bounded(2)
        putting = started(workers.count_of_put_many, q, 5)
        while not q.full():
            time.sleep(MOMENT / 10)
        time.sleep(MOMENT)
        putting.interrupt()
        assert putting.result(AMPLE) == (2, ["put_many(): 2 of 5 items were put"])
        assert drained(q) == [0, 1]

    @pytest.mark.parametrize("start", [started, in_thread])
    @pytest.mark.parametrize("maxsize", [0, 1, 10])
    def test_each_item_arrives_exactly_once_and_in_the_order_of_its_producer(self, start: Any, maxsize: int) -> None:
        each = 3_000
        q: Queue[Any] = Queue(maxsize)
        consuming = [start(workers.consume_batches, q) for _ in range(3)]
        producing = [start(workers.produce_batches, q, number, each) for number in range(3)]
        for producer in producing:
            producer.result(AMPLE)
        q.shutdown()
        received = [consumer.result(AMPLE) for consumer in consuming]
        for items in received:
            for number in range(3):
                of_one = [i for producer, i in items if producer == number]
                assert of_one == sorted(of_one)
        assert sorted(itertools.chain(*received)) == [(number, i) for number in range(3) for i in range(each)]
        q.join()

    def test_queues_are_cleared_from_anywhere(self) -> None:
        q = bounded(0, 1, 2, 3)
        joining = in_thread(q.join)
        assert started(workers.outcome, q, "clear").result(AMPLE) == "None"
        joining.result(AMPLE)
        assert q.empty()


@in_fresh_process
def test_a_batch_that_ends_early_keeps_nothing_of_the_rest_alive() -> None:
    q = bounded(1, "full")
    shut = bounded(0)
    shut.shutdown()

    def failing() -> list[Any]:
        return [Queue(), [Lock(), bytes(5_000_000)], bytes(5_000_000)]

    before = _core.statistics()
    calls: list[Callable[[], object]] = [
        lambda: q.put_many(failing(), block=False),
        lambda: q.put_many(failing(), timeout=0.001),
        lambda: q.put_many([*failing(), NotPicklable()]),
        lambda: shut.put_many(failing()),
    ]
    for each in calls:
        for _ in range(5):
            with pytest.raises((Full, ArithmeticError, ShutDown)):
                each()
        gc.collect()
        after = _core.statistics()
        assert [after[name] for name in ("queues", "locks", "bytes_in_use")] == [
            before[name] for name in ("queues", "locks", "bytes_in_use")
        ]


@in_fresh_process
def test_clear_gives_back_what_the_items_held() -> None:
    q: Queue[Any] = Queue()
    q.clear()
    before = _core.statistics()
    q.put_many([Queue(), [Lock(), bytes(5_000_000)], bytes(5_000_000), *range(1_000)])
    q.clear()
    gc.collect()
    after = _core.statistics()
    for name in ("queues", "locks", "blocks"):
        assert after[name] == before[name]


def test_items_before_one_that_fails_are_kept_by_the_exception_alone() -> None:
    q = bounded(0)
    q.put_many([workers.Record(1), workers.RefusesToLoad()])
    with pytest.raises(ArithmeticError) as caught:
        q.get_many()
    reference = weakref.ref(caught.value.items[0])  # type: ignore[attr-defined]
    assert reference().number == 1  # type: ignore[union-attr]
    del caught
    gc.collect()
    assert reference() is None
