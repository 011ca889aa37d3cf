"""`peek` shows the oldest item and leaves it: to nobody's loss, and in nobody's way."""

from __future__ import annotations

import gc
import inspect
import itertools
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import Empty, Lock, Queue, ShutDown, SimpleQueue, _core

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20


@pytest.mark.parametrize("kind", [Queue, SimpleQueue])
class TestBothKinds:
    def test_the_signature_is_that_of_get(self, kind: Any) -> None:
        assert inspect.signature(kind.peek) == inspect.signature(kind.get)

    @pytest.mark.parametrize(
        "item",
        [None, True, 5, 2**100, 0.5, "中", b"bytes", "x" * 113, bytes(MIB), bytes(MIB + 1), [1, {"a": bytes(5 * MIB)}]],
        ids=lambda item: f"{type(item).__name__}",
    )
    def test_the_oldest_item_is_shown_again_and_again(self, kind: Any, item: object) -> None:
        q = kind()
        q.put_many([item, "second"])
        for _ in range(3):
            assert q.peek() == item
        assert q.qsize() == 2
        assert q.get() == item
        assert (q.peek(), q.get()) == ("second", "second")

    def test_each_look_gives_an_object_of_its_own(self, kind: Any) -> None:
        q = kind()
        q.put(["list"])
        one, other = q.peek(), q.peek()
        one.append("changed")
        assert (other, q.get()) == (["list"], ["list"])

    def test_the_item_after_one_that_was_taken_is_shown(self, kind: Any) -> None:
        q = kind()
        q.put_many(range(10_000))
        for i in range(10_000):
            assert q.peek() == i
            assert q.get() == i
        with pytest.raises(Empty):
            q.peek(block=False)

    def test_an_empty_queue_is_as_for_get(self, kind: Any) -> None:
        q = kind()
        for block, timeout in ((False, None), (False, -1), (True, 0), (True, MOMENT)):
            with pytest.raises(Empty):
                q.peek(block, timeout)
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            q.peek(timeout=-1)
        for wrong in ((1, 2, 3), (True, "1")):
            with pytest.raises(TypeError):
                q.peek(*wrong)

    def test_it_waits_for_an_item(self, kind: Any) -> None:
        q = kind()
        peeking = in_thread(q.peek)
        assert_waits(peeking)
        q.put("item")
        assert peeking.result(AMPLE) == "item"
        assert q.get_nowait() == "item"

    def test_a_wait_takes_its_timeout_and_no_less(self, kind: Any) -> None:
        start = time.monotonic()
        with pytest.raises(Empty):
            kind().peek(timeout=0.25)
        assert 0.25 <= time.monotonic() - start < AMPLE

    def test_one_item_is_enough_for_many_who_look_and_one_who_takes(self, kind: Any) -> None:
        for _ in range(5):
            q = kind()
            peeking = [in_thread(q.peek) for _ in range(3)]
            assert_waits(*peeking)
            q.put("item")
            assert [future.result(AMPLE) for future in peeking] == ["item"] * 3
            # And those who look do not keep the wake to themselves.
            getting = in_thread(q.get_many, 2)
            assert getting.result(AMPLE) == ["item"]
            both = [in_thread(q.peek), in_thread(q.get), in_thread(q.get)]
            assert_waits(*both)
            q.put_many([1, 2, 3])
            assert [future.result(AMPLE) in (1, 2, 3) for future in both] == [True] * 3
            assert q.get_nowait() == 3

    def test_an_item_that_cannot_be_unpickled_stays(self, kind: Any) -> None:
        q = kind()
        q.put(workers.RefusesToLoad())
        for look in (q.peek, q.peek, q.get):
            with pytest.raises(ArithmeticError):
                look()
        assert q.empty()

    def test_queues_and_locks_in_an_item_are_the_same_objects(self, kind: Any) -> None:
        q = kind()
        inner: list[Any] = [Queue(), Lock(), q]
        q.put(inner)
        assert all(one is other for one, other in zip(q.peek(), inner, strict=True))


def test_tasks_are_not_counted() -> None:
    q: Queue[int] = Queue(1)
    q.put(1)
    q.peek()
    assert (q.unfinished_tasks, q.full()) == (1, True)
    q.get()
    q.task_done()
    q.join()


def test_a_queue_that_is_shut_down_shows_what_is_left() -> None:
    q: Queue[int] = Queue()
    q.put(1)
    waiting = in_thread(Queue[int]().peek, True, MOMENT)
    q.shutdown()
    assert q.peek() == 1
    q.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        q.peek()
    with pytest.raises(ShutDown):
        q.peek(timeout=-1)
    assert isinstance(waiting.exception(AMPLE), Empty)


def test_a_shutdown_wakes_who_looks() -> None:
    q: Queue[int] = Queue()
    peeking = [in_thread(q.peek), in_thread(q.peek, timeout=AMPLE)]
    assert_waits(*peeking)
    q.shutdown()
    assert all(isinstance(future.exception(AMPLE), ShutDown) for future in peeking)


def test_a_shown_queue_lives_on_when_the_item_is_gone() -> None:
    q: Queue[Any] = Queue()
    inner: Queue[str] = Queue()
    inner.put("inside")
    q.put([inner])
    del inner
    shown = q.peek()
    gc.collect()
    q.clear()
    assert shown[0].get_nowait() == "inside"


@in_fresh_process
def test_a_look_takes_and_keeps_nothing() -> None:
    q: Queue[Any] = Queue()
    q.put([Queue(), Lock(), bytes(5 * MIB)])
    gc.collect()
    before = _core.statistics()
    for _ in range(20):
        shown = q.peek()
        assert shown[0].empty()
        del shown
        gc.collect()
        after = _core.statistics()
        for name in ("queues", "locks", "blocks", "bytes_in_use"):
            assert after[name] == before[name]
    q.clear()
    after = _core.statistics()
    assert (after["queues"], after["locks"]) == (before["queues"] - 1, before["locks"] - 1)


@in_fresh_process
def test_a_look_without_memory_for_it_changes_nothing() -> None:
    import test_queue_memory as memory

    q: Queue[object] = Queue()
    q.put_many([1, bytes(200 * MIB)])
    memory.limit_address_space_to(100 * MIB)
    # The items before the one that there is no memory for are taken, and that one stays.
    assert q.get_many() == [1]
    for _ in range(2):
        with pytest.raises(MemoryError):
            q.peek()
    with pytest.raises(MemoryError):
        q.get_many()
    # Enough for the object or for the copy that it is made of, and not for both.
    memory.limit_address_space_to(300 * MIB)
    with pytest.raises(MemoryError):
        q.peek()
    memory.limit_address_space_to(None)
    assert q.qsize() == 1
    assert q.peek() == q.get() == bytes(200 * MIB)


class TestSignals:
    @pytest.fixture(autouse=True)
    def _handler(self) -> Iterator[None]:
        self.calls = 0

        def count(*_: object) -> None:
            self.calls += 1

        before = signal.signal(signal.SIGALRM, count)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    def test_an_exception_of_a_handler_ends_the_wait(self) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 2 * MOMENT)
        with pytest.raises(KeyboardInterrupt):
            Queue[int]().peek()

    def test_a_handler_that_returns_does_not(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, MOMENT / 2, MOMENT / 2)
        start = time.monotonic()
        with pytest.raises(Empty):
            Queue[int]().peek(timeout=0.25)
        assert time.monotonic() - start >= 0.25
        assert self.calls > 1


# Who is an interpreter, and who a thread of this one.
@pytest.mark.parametrize("start", [started, in_thread], ids=["interpreters", "threads"])
@pytest.mark.parametrize("maxsize", [0, 1, 10])
def test_with_some_who_look_each_item_is_got_once_and_in_order(start: Any, maxsize: int) -> None:
    each = 1_000
    q: Queue[Any] = Queue(maxsize)
    peeking = [start(workers.peek_until_shut_down, q) for _ in range(2)]
    consuming = [start(workers.consume_batches, q), start(workers.consume_until_shut_down, q)]
    producing = [start(workers.produce, q, 0, each), start(workers.produce_batches, q, 1, each)]
    for producer in producing:
        producer.result(AMPLE)
    q.shutdown()
    received = [consumer.result(AMPLE) for consumer in consuming]
    for items in [*received, *(peeker.result(AMPLE) for peeker in peeking)]:
        for number in range(2):
            of_one = [i for producer, i in items if producer == number]
            assert of_one == sorted(of_one)
    assert sorted(itertools.chain(*received)) == [(number, i) for number in range(2) for i in range(each)]


@pytest.mark.parametrize("start", [started, in_thread], ids=["interpreters", "threads"])
def test_a_queue_does_not_look_empty_because_somebody_looks(start: Any) -> None:
    q: Queue[Any] = Queue()
    q.put_many((0, i, bytes([i % 256]) * (i % 300)) for i in range(10_000))
    peeking = [start(workers.peek_until_shut_down, q) for _ in range(3)]
    while not any(peeker.done() for peeker in peeking) and q.qsize():
        q.get_nowait()
    assert q.qsize() == 0
    q.shutdown()
    for peeker in peeking:
        peeker.result(AMPLE)


def test_large_items_are_not_missed_while_somebody_copies_them() -> None:
    q: Queue[bytes] = Queue()
    content = bytes(16 * MIB)
    peeking = [started(workers.lengths_until_shut_down, q) for _ in range(2)]
    q.put(content)
    for _ in range(30):
        q.put(content)
        assert len(q.get_nowait()) == len(content)
    q.shutdown(immediate=True)
    for peeker in peeking:
        assert peeker.result(AMPLE) <= {len(content)}
