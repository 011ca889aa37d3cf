"""Subclasses of queues: shared as long as they leave the hooks alone, those of the module `queue` if they do not."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import queue
import threading
import weakref
from collections import deque
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import (
    Empty,
    Full,
    Interpreter,
    LifoQueue,
    MultigilError,
    NotShareable,
    PriorityQueue,
    Queue,
    ShutDown,
    SimpleQueue,
    _core,
)

KINDS = [Queue, LifoQueue, PriorityQueue]
# What `queue.Queue` of 3.14 has in its `__dict__`.
ATTRIBUTES = {
    *("maxsize", "mutex", "not_empty", "not_full", "all_tasks_done", "unfinished_tasks", "is_shutdown", "queue"),
}


class Unique(Queue[Any]):
    """Keeps an item only once: the example of hooks that everybody writes."""

    def _init(self, maxsize: int) -> None:  # noqa: ARG002
        self.queue: set[Any] = set()

    def _put(self, item: Any) -> None:
        self.queue.add(item)

    def _get(self) -> Any:
        return self.queue.pop()

    def _qsize(self) -> int:
        return len(self.queue)


def noting(kind: type[Queue[Any]]) -> type[Queue[Any]]:
    """Make a subclass whose hooks call those of the class above and note it."""

    class Noting(kind):  # type: ignore[misc, valid-type]
        def _init(self, maxsize: int) -> None:
            self.calls: list[Any] = [("init", maxsize)]
            super()._init(maxsize)

        def _put(self, item: Any) -> None:
            self.calls.append(("put", item))
            super()._put(item)

        def _get(self) -> Any:
            item = super()._get()
            self.calls.append(("get", item))
            return item

    return Noting


class TestWithoutHooks:
    """They are shared."""

    def test_a_subclass_arrives_in_an_interpreter_as_what_it_is(self) -> None:
        q = workers.Named()
        q.put(3)
        q.put(1)
        assert started(workers.name_and_items, q).result(AMPLE) == ("Named", [1, 3])

    @pytest.mark.parametrize("kind", KINDS)
    def test_overriding_other_methods_changes_nothing_about_that(self, kind: Any) -> None:
        class Doubling(kind):  # type: ignore[misc]
            def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
                super().put(2 * item, block, timeout)

        q = Doubling(1)
        q.put(21)
        assert started(Queue.get, q).result(AMPLE) == 42

    @pytest.mark.parametrize("kind", KINDS)
    def test_they_have_no_python_queue_inside(self, kind: Any) -> None:
        q = kind()
        for name in ATTRIBUTES - {"maxsize", "unfinished_tasks", "is_shutdown"}:
            with pytest.raises(AttributeError):
                getattr(q, name)
        for name in ("unfinished_tasks", "is_shutdown"):
            with pytest.raises(AttributeError):
                setattr(q, name, 1)
        with pytest.raises(AttributeError):
            q._put(1)


class TestHooks:
    @pytest.mark.parametrize("kind", KINDS)
    def test_super_reaches_the_hooks_of_the_base(self, kind: Any) -> None:
        q = noting(kind)(3)
        q.put_many([2, 1, 3])
        expected = {Queue: [2, 1, 3], LifoQueue: [3, 1, 2], PriorityQueue: [1, 2, 3]}[kind]
        assert [q.get() for _ in range(3)] == expected
        calls = [("init", 3), ("put", 2), ("put", 1), ("put", 3), *(("get", item) for item in expected)]
        assert q.calls == calls  # type: ignore[attr-defined]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_object_has_the_attributes_of_the_standard_librarys(self, kind: Any) -> None:
        q = noting(kind)(2)
        theirs = getattr(queue, kind.__name__)(2)
        assert set(vars(q)) == ATTRIBUTES | {"calls"}
        assert type(q.queue) is type(theirs.queue)  # type: ignore[attr-defined]
        assert (q.maxsize, q.unfinished_tasks, q.is_shutdown) == (2, 0, False)
        with q.mutex:  # type: ignore[attr-defined]
            assert len(q.queue) == 0  # type: ignore[attr-defined]

    def test_one_hook_is_enough(self) -> None:
        for hook in ("_init", "_qsize", "_put", "_get"):
            overridden = getattr(Queue, hook)
            kind = type("OneHook", (Queue,), {hook: lambda self, *args, hook=overridden: hook(self, *args)})
            q = kind(1)
            q.put(threading.Lock())  # which cannot be pickled
            assert q.full()
            q.get()

    def test_hooks_may_come_from_another_base(self) -> None:
        class Counting:
            def _put(self, item: Any) -> None:
                self.count: int = getattr(self, "count", 0) + 1
                super()._put(item)  # type: ignore[misc]

        class Mixed(Counting, LifoQueue[int]):
            pass

        class Derived(Mixed):
            pass

        q = Derived()
        q.put(1)
        q.put(2)
        assert (q.count, q.get(), q.get()) == (2, 2, 1)

    def test_a_hook_that_decides_which_items_there_are(self) -> None:
        q = Unique(2)
        for item in ("a", "a", "b"):
            q.put(item)
        assert (q.qsize(), q.full(), q.unfinished_tasks) == (2, True, 3)
        with pytest.raises(Full):
            q.put("c", timeout=MOMENT)
        assert {q.get(), q.get()} == {"a", "b"}

    def test_items_are_references(self) -> None:
        q = Unique()
        item = object()
        q.put(item)
        assert q.get() is item

    def test_the_constructor_may_have_other_arguments(self) -> None:
        class Inbox(Unique):
            def __init__(self, name: str) -> None:
                super().__init__(maxsize=2)
                self.name = name

        assert (Inbox("in").maxsize, Inbox(name="in").name) == (2, "in")

    def test_without_the_constructor_of_the_base_it_does_not_work(self) -> None:
        class Forgetful(Unique):
            def __init__(self) -> None:
                pass

        with pytest.raises(AttributeError, match="not_full"):
            Forgetful().put(1)
        with pytest.raises(AttributeError, match="'Forgetful' object has no attribute 'maxsize'"):
            Forgetful().maxsize  # noqa: B018

    def test_attributes_may_be_changed_as_those_of_the_standard_library(self) -> None:
        q = Unique()
        q.maxsize = 1
        q.unfinished_tasks += 2  # type: ignore[misc]
        q.is_shutdown = True  # type: ignore[misc]
        assert (q.maxsize, q.unfinished_tasks) == (1, 2)
        with pytest.raises(ShutDown):
            q.put(1)
        del q.maxsize
        with pytest.raises(AttributeError):
            q.maxsize  # noqa: B018

    def test_methods_of_the_base_and_of_subclasses_work_together(self) -> None:
        class Logging(Unique):
            def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
                self.last = item
                super().put(item, block, timeout)

        q = Logging()
        q.put_nowait(1)
        Queue.put(q, 2, block=False)
        assert (q.last, q.qsize(), Queue.qsize(q), Queue.get(q, timeout=1)) == (1, 2, 2, 1)

    def test_an_exception_of_a_hook_leaves_the_counts_as_they_were(self) -> None:
        class Failing(Queue[Any]):
            def _put(self, item: Any) -> None:
                if item is None:
                    raise ArithmeticError
                super()._put(item)

        q = Failing()
        q.put(1)
        with pytest.raises(ArithmeticError):
            q.put(None)
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
        with pytest.raises(ArithmeticError) as caught:
            q.put_many([2, None, 3])
        assert (caught.value.count, q.qsize()) == (1, 2)  # type: ignore[attr-defined]


class TestThreads:
    def test_waits_end_when_somebody_puts_and_gets(self) -> None:
        q = Unique(1)
        getting = in_thread(q.get)
        assert_waits(getting)
        q.put(1)
        assert getting.result(AMPLE) == 1
        q.put(2)
        putting = in_thread(q.put, 3)
        joining = in_thread(q.join)
        assert_waits(putting, joining)
        assert (q.get(), q.get(timeout=AMPLE)) == (2, 3)
        putting.result(AMPLE)
        for _ in range(3):
            q.task_done()
        joining.result(AMPLE)
        with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
            q.task_done()

    def test_timeouts_and_refusals(self) -> None:
        q = Unique(1)
        with pytest.raises(Empty):
            q.get_nowait()
        with pytest.raises(Empty):
            q.get(timeout=MOMENT)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.get(timeout=-1)
        q.put(1)
        with pytest.raises(Full):
            q.put_nowait(2)
        with pytest.raises(Full):
            q.put(2, timeout=MOMENT)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.put(2, timeout=-1)
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)

    @pytest.mark.parametrize("immediate", [False, True])
    def test_a_shutdown_ends_all_waits(self, immediate: bool) -> None:
        full, empty = Unique(1), Unique()
        full.put(1)
        waiting = [in_thread(full.put, 2), in_thread(empty.get)]
        joining = in_thread(full.join)
        assert_waits(joining, *waiting)
        full.shutdown(immediate)
        empty.shutdown(immediate)
        for future in waiting:
            with pytest.raises(ShutDown):
                future.result(AMPLE)
        if not immediate:
            assert full.get() == 1
            full.task_done()
        joining.result(AMPLE)
        for call in (full.get, full.get_nowait, lambda: full.put(1), full.get_many, lambda: full.put_many([1])):
            with pytest.raises(ShutDown):
                call()

    def test_what_our_queues_have_beyond_the_standard_librarys(self) -> None:
        with noting(Queue)(10) as q:
            q.put_many(range(5))
            assert q.get_many(2) == [0, 1]
            assert q.get_many(count=0) == []
            with pytest.raises(ValueError, match="'count' must be a non-negative number"):
                q.get_many(-1)
            q.clear()
            assert (q.qsize(), q.unfinished_tasks) == (0, 2)
            with pytest.raises(Empty):
                q.get_many(block=False)
            with pytest.raises(NotImplementedError):
                q.peek()
            q.put("last")
        assert list(q) == ["last"]

    def test_many_threads(self) -> None:
        q = noting(PriorityQueue)(5)
        getting = [in_thread(lambda: [q.get() for _ in range(500)]) for _ in range(4)]
        putting = [in_thread(q.put_many, range(first, 2_000, 4)) for first in range(4)]
        for future in putting:
            future.result(AMPLE)
        assert sorted(number for future in getting for number in future.result(AMPLE)) == list(range(2_000))


class TestNotShareable:
    def test_the_error_is_one_of_ours_and_a_type_error(self) -> None:
        assert issubclass(NotShareable, MultigilError)
        assert issubclass(NotShareable, TypeError)

    @pytest.mark.parametrize("kind", KINDS)
    def test_whatever_would_send_it_says_what_is_wrong(self, kind: Any) -> None:
        q = noting(kind)()
        carrier: SimpleQueue[object] = SimpleQueue()
        sending = [
            lambda: pickle.dumps(q),
            lambda: copy.copy(q),
            lambda: carrier.put(q),
            lambda: carrier.put({"inside": [q]}),
            lambda: Interpreter(target=print, args=(q,)).start(),
        ]
        for send in sending:
            with pytest.raises(NotShareable, match="'Noting' overrides _init, _qsize, _put or _get"):
                send()
        assert carrier.empty()

    def test_native_functions_that_take_queues_refuse_it(self) -> None:
        with pytest.raises(TypeError, match="not for 'Unique'"):
            multigil.wait_any(Unique())
        for q in (Unique(), LifoQueue[Any](), PriorityQueue[Any]()):
            with pytest.raises(TypeError, match="must be a sequence of Queue"):
                _core.Subinterpreter("", [q])

    def test_an_interpreter_that_waits_in_it_can_be_interrupted(self) -> None:
        waiting = started(workers.wait_with_hooks)
        waiting.join(2 * MOMENT)
        waiting.interrupt()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(AMPLE)

    def test_it_works_inside_of_an_interpreter(self) -> None:
        assert started(workers.use_hooks).result(AMPLE) == [1, 2, 3]


def test_the_hooks_of_the_standard_library_have_the_same_signatures() -> None:
    for name in ("_init", "_qsize", "_put", "_get"):
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (Queue, queue.Queue))
        assert list(ours) == list(theirs)


@in_fresh_process
def test_an_object_with_hooks_is_no_shared_one_and_ends_with_its_cycle() -> None:
    before = _core.statistics()
    q = Unique()
    q.itself = q  # type: ignore[attr-defined]
    assert _core.statistics()["queues"] == before["queues"]
    reference = weakref.ref(q)
    del q
    gc.collect()
    assert reference() is None
    assert _core.statistics()["bytes_in_use"] == before["bytes_in_use"]


def test_a_deque_that_is_given_more_is_one_of_the_standard_librarys() -> None:
    class Bounded(Queue[int]):
        """Forgets the oldest items instead of being full."""

        def _init(self, maxsize: int) -> None:  # noqa: ARG002
            self.queue = deque[int](maxlen=3)

    q = Bounded()
    q.put_many(range(5))
    assert workers.drain(q) == [2, 3, 4]
