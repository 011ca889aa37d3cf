"""Queues and locks live as long as a handle to them does, handles inside of messages included, and no longer."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from harness import in_fresh_process
from multigil import (
    Barrier,
    BoundedSemaphore,
    Event,
    LifoQueue,
    Lock,
    MultigilError,
    PriorityQueue,
    Queue,
    Semaphore,
    SimpleQueue,
    StaleHandle,
    _core,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = [Queue, LifoQueue, PriorityQueue, SimpleQueue, Lock, Event, Semaphore, BoundedSemaphore]
Shared = Queue[Any] | SimpleQueue[Any] | Lock | Event | Semaphore


def identity_of(shared: Shared) -> tuple[int, int, str, int, int]:
    """Kind, region, its location, index and generation: what is pickled."""
    reduced: Any = shared.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    kind, region, location, index, generation = reduced[1]
    return kind, region, location, index, generation


def counted(name: str) -> int:
    gc.collect()
    return _core.statistics()[name]


class NotPicklable:
    def __reduce__(self) -> Any:
        raise ArithmeticError


def fail_to_load() -> None:
    raise ArithmeticError


class NotUnpicklable:
    def __reduce__(self) -> Any:
        return fail_to_load, ()


@pytest.mark.parametrize("kind", KINDS)
class TestIdentity:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_unpickling_in_the_same_interpreter_gives_the_same_object(self, kind: type[Shared], protocol: int) -> None:
        original = kind()
        assert pickle.loads(pickle.dumps(original, protocol)) is original

    def test_a_copy_is_the_same_object(self, kind: type[Shared]) -> None:
        original = kind()
        assert copy.copy(original) is original
        assert copy.deepcopy(original) is original

    def test_a_message_gives_the_same_object(self, kind: type[Shared]) -> None:
        original = kind()
        q: Queue[Shared] = Queue()
        q.put(original)
        q.put(original)
        assert q.get() is original
        assert q.get() is original

    def test_a_message_gives_the_same_object_inside_of_others(self, kind: type[Shared]) -> None:
        original = kind()
        q: Queue[object] = Queue()
        q.put({"key": [original, original]})
        assert q.get() == {"key": [original, original]}


class TestStaleHandles:
    def test_the_error_is_one_of_ours_and_a_value_error(self) -> None:
        assert issubclass(StaleHandle, MultigilError)
        assert issubclass(StaleHandle, ValueError)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_pickle_alone_keeps_nothing_alive_and_cannot_be_loaded_later(self, kind: type[Shared]) -> None:
        pickled = pickle.dumps(kind())
        with pytest.raises(StaleHandle):
            pickle.loads(pickled)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_old_pickle_never_gives_a_newer_object(self, kind: type[Shared]) -> None:
        old = [pickle.dumps(kind()) for _ in range(100)]
        new = [kind() for _ in range(100)]
        for pickled in old:
            with pytest.raises(StaleHandle):
                pickle.loads(pickled)
        assert len(set(new)) == 100


def test_attaching_gives_what_the_numbers_name_or_is_an_error() -> None:
    kind, region, location, index, generation = identity_of(Queue())
    for number in (
        0,
        1,
        2,
        7,
        10,
        11,
        -1,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        10**30,
    ):
        for identity in (
            (number, region, location, index, generation),
            (kind, number, location, index, generation),
            (kind, region, location, number, generation),
            (kind, region, location, index, number),
            (number, number, location, number, number),
        ):
            try:
                attached = _core.attach(*identity)
            except (ValueError, OverflowError):
                continue
            assert identity_of(attached) == identity


@in_fresh_process
def test_creating_and_dropping_leaves_nothing() -> None:
    Queue[int]().put(1)
    before = _core.statistics()
    for _ in range(1_000):
        Queue[int](5), SimpleQueue[int](), Lock()
    kept = [Queue[int](), SimpleQueue[int](), Lock()]
    assert counted("queues") == before["queues"] + 2
    assert counted("locks") == before["locks"] + 1
    assert counted("bytes_in_use") > before["bytes_in_use"]
    kept.clear()
    for name in ("queues", "locks", "bytes_in_use"):
        assert counted(name) == before[name]


@in_fresh_process
def test_creating_and_dropping_the_others_leaves_nothing() -> None:
    before = _core.statistics()
    makers: dict[str, Callable[[], object]] = {"events": Event, "semaphores": BoundedSemaphore}
    for name, maker in {**makers, "barriers": lambda: Barrier(2, gc.collect)}.items():
        for _ in range(1_000):
            maker()
        kept = [maker() for _ in range(3)]
        assert counted(name) == before[name] + 3
        kept.clear()
        assert counted(name) == before[name]
    assert counted("bytes_in_use") == before["bytes_in_use"]


@in_fresh_process
def test_a_queue_that_is_dropped_drops_the_items_in_it() -> None:
    before = counted("bytes_in_use")
    q: Queue[object] = Queue()
    for i in range(10_000):
        q.put(i)
        q.put(bytes(i))
    q.put(bytes(10_000_000))
    assert counted("bytes_in_use") > before + 60_000_000
    del q
    assert counted("bytes_in_use") == before


@in_fresh_process
def test_a_queue_and_a_lock_inside_of_a_message_stay_alive_without_any_other_handle() -> None:
    outer: Queue[Any] = Queue()
    inner: Queue[str] = Queue(3)
    lock = Lock()
    inner.put("still there")
    lock.acquire()
    references = weakref.ref(inner), weakref.ref(lock)
    outer.put({"queue": inner, "lock": lock})
    del inner, lock
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    message = outer.get()
    assert message["lock"].locked()
    assert (message["queue"].maxsize, message["queue"].get_nowait()) == (3, "still there")


@in_fresh_process
def test_queues_nested_in_messages_live_and_end_with_the_outermost() -> None:
    before = _core.statistics()
    outer: Queue[Any] = Queue()
    for depth in range(20):
        wrapping: Queue[Any] = Queue()
        wrapping.put((depth, outer, Lock()))
        outer = wrapping
    del wrapping
    assert counted("queues") == before["queues"] + 21
    depths = []
    for _ in range(10):
        depth, outer, _ = outer.get()
        depths.append(depth)
    assert depths == list(range(19, 9, -1))
    assert counted("queues") == before["queues"] + 11
    del outer, _
    for name in ("queues", "locks", "bytes_in_use"):
        assert counted(name) == before[name]


@in_fresh_process
def test_a_message_with_a_thousand_queues_keeps_each_of_them() -> None:
    before = counted("queues")
    carrier: SimpleQueue[list[Queue[int]]] = SimpleQueue()
    queues: list[Queue[int]] = [Queue() for _ in range(1_000)]
    for number, q in enumerate(queues):
        q.put(number)
    del q
    carrier.put(queues)
    queues.clear()
    assert counted("queues") == before + 1_001
    assert [q.get() for q in carrier.get()] == list(range(1_000))
    assert counted("queues") == before + 1


@in_fresh_process
def test_a_put_that_fails_keeps_nothing_alive_and_takes_no_memory() -> None:
    carrier: Queue[object] = Queue(1)
    carrier.put("full")
    before = _core.statistics()
    failing_puts: list[Callable[[], None]] = [
        lambda: carrier.put([Queue(), Lock(), NotPicklable()]),
        lambda: carrier.put([bytes(5_000_000), Queue(), NotPicklable()]),
        lambda: carrier.put_nowait([bytes(5_000_000), Queue(), Lock()]),
        lambda: carrier.put([Queue(), Lock(), bytes(100)], timeout=0.001),
        lambda: carrier.put([Queue(), Lock(), lambda: None, NotPicklable()]),
    ]
    for failing in failing_puts:
        for _ in range(10):
            with contextlib.suppress(Exception):
                failing()
        for name in ("queues", "locks", "bytes_in_use"):
            assert counted(name) == before[name]
    assert carrier.get() == "full"


@in_fresh_process
def test_a_message_that_cannot_be_unpickled_keeps_nothing_alive() -> None:
    carrier: Queue[object] = Queue()
    before = _core.statistics()
    for message in (
        [Queue(), NotUnpicklable()],
        [NotUnpicklable(), Queue(), Lock()],
        [bytes(5_000_000), NotUnpicklable()],
    ):
        carrier.put(message)
    del message
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            carrier.get()
    for name in ("queues", "locks", "bytes_in_use"):
        assert counted(name) == before[name]


@in_fresh_process
def test_an_immediate_shutdown_drops_what_the_messages_held() -> None:
    carrier: Queue[object] = Queue()
    before = _core.statistics()
    for _ in range(10):
        carrier.put([Queue(), Lock(), bytes(100_000)])
    carrier.shutdown(immediate=True)
    for name in ("queues", "locks", "bytes_in_use"):
        assert counted(name) == before[name]


@in_fresh_process
def test_a_queue_may_be_put_into_itself() -> None:
    q: Queue[object] = Queue()
    q.put(q)
    assert q.get() is q
    before = counted("queues")
    del q
    assert counted("queues") == before - 1


@in_fresh_process
def test_a_handle_that_is_part_of_a_cycle_is_collected() -> None:
    class Node(Queue[object]):
        itself: object

    before = counted("queues")
    node = Node()
    node.itself = node
    del node
    assert counted("queues") == before
