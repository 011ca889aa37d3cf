"""What others see when a process is killed: the table of deaths of ARCHITECTURE.md, as a program meets it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import multigil
from multigil import (
    Barrier,
    BrokenBarrierError,
    Condition,
    InterpreterDied,
    Lock,
    OwnerDied,
    Process,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds: the promise is 0.1 s on a quiet machine, and a machine of tests is not.
SOON = 10.0


def hold(lock: Any, ready: SimpleQueue[str]) -> None:
    lock.acquire()
    ready.put("held")
    multigil.Event().wait()


def wait_at(thing: Any, ready: SimpleQueue[str]) -> None:
    with thing if isinstance(thing, Condition) else Lock():
        ready.put("about to wait")
        thing.wait()
    ready.put("went on")


def get_and_hold(queue: Queue[Any], ready: SimpleQueue[Any]) -> None:
    ready.put(queue.get())
    multigil.Event().wait()


def put_for_ever(queue: Queue[int], ready: SimpleQueue[int]) -> None:
    for number in range(1 << 60):
        queue.put(number)
        ready.put(number)


class Started:
    """Processes that a test starts; they do not outlive it."""

    def __init__(self) -> None:
        self.all: list[Process] = []

    def __call__(self, target: Any, *args: Any) -> Process:
        process = Process(target=target, args=args, daemon=True)
        process.start()
        self.all.append(process)
        return process


@pytest.fixture
def started() -> Iterator[Started]:
    started = Started()
    yield started
    for process in started.all:
        process.kill()
        process.join(SOON)


@pytest.mark.parametrize("kind", [Lock, RLock])
class TestLocks:
    def test_whoever_waits_is_told_once_and_the_lock_is_free_then(self, started: Started, kind: Any) -> None:
        lock, ready = kind(), SimpleQueue[str]()
        holder = started(hold, lock, ready)
        assert ready.get(timeout=SOON) == "held"
        holder.kill()
        begun = time.monotonic()
        with pytest.raises(OwnerDied, match="owner of the lock died"):
            lock.acquire(timeout=SOON)
        assert time.monotonic() - begun < SOON / 2
        assert lock.acquire(timeout=SOON)
        lock.release()

    def test_whoever_does_not_wait_is_told_too(self, started: Started, kind: Any) -> None:
        lock, ready = kind(), SimpleQueue[str]()
        holder = started(hold, lock, ready)
        assert ready.get(timeout=SOON) == "held"
        assert not lock.acquire(blocking=False)
        holder.kill()
        holder.join(SOON)
        with pytest.raises(OwnerDied):
            lock.acquire(blocking=False)
        assert lock.acquire(blocking=False)
        lock.release()

    def test_who_exits_with_it_is_as_dead(self, started: Started, kind: Any) -> None:
        lock = kind()
        started(lock.acquire).join(SOON)
        with pytest.raises(OwnerDied):
            lock.acquire(timeout=SOON)
        assert lock.acquire(timeout=SOON)
        lock.release()


def test_permits_of_a_semaphore_come_back(started: Started) -> None:
    semaphore, ready = Semaphore(2), SimpleQueue[str]()
    holders = [started(hold, semaphore, ready) for _ in range(2)]
    assert [ready.get(timeout=SOON) for _ in holders] == ["held"] * 2
    assert not semaphore.acquire(blocking=False)
    holders[0].kill()
    assert semaphore.acquire(timeout=SOON)
    assert not semaphore.acquire(blocking=False)


def test_a_barrier_is_broken(started: Started) -> None:
    barrier, ready = Barrier(3), SimpleQueue[str]()
    party = started(wait_at, barrier, ready)
    assert ready.get(timeout=SOON) == "about to wait"
    while barrier.n_waiting == 0:
        time.sleep(0)
    party.kill()
    with pytest.raises(BrokenBarrierError):
        barrier.wait(SOON)
    assert barrier.broken


def test_a_call_goes_to_another_waiter(started: Started) -> None:
    condition, ready = Condition(Lock()), SimpleQueue[str]()
    waiters = [started(wait_at, condition, ready) for _ in range(2)]
    assert [ready.get(timeout=SOON) for _ in waiters] == ["about to wait"] * 2
    with condition:  # so both wait
        pass
    waiters[0].kill()
    waiters[0].join(SOON)
    with condition:
        condition.notify()
    assert ready.get(timeout=SOON) == "went on"


def test_what_a_producer_has_put_is_there(started: Started) -> None:
    queue, ready = Queue[int](), SimpleQueue[int]()
    producer = started(put_for_ever, queue, ready)
    for _ in range(1_000):
        ready.get(timeout=SOON)
    producer.kill()
    producer.join(SOON)
    acknowledged = 1_000 + ready.qsize()
    there = [queue.get_nowait() for _ in range(queue.qsize())]
    assert there == list(range(len(there)))
    assert acknowledged <= len(there) <= acknowledged + 1
    assert queue.empty()


def test_a_task_that_was_not_done_goes_to_the_next_consumer(started: Started) -> None:
    queue, ready = Queue[str](redeliver=True), SimpleQueue[str]()
    for task in ("first", "second"):
        queue.put(task)
    consumer = started(get_and_hold, queue, ready)
    assert ready.get(timeout=SOON) == "first"
    consumer.kill()
    consumer.join(SOON)
    assert (queue.get(timeout=SOON), queue.redelivered) == ("first", True)
    assert (queue.get(timeout=SOON), queue.redelivered) == ("second", False)
    queue.task_done()
    queue.task_done()
    queue.join()


def test_a_result_names_the_signal(started: Started) -> None:
    ready = SimpleQueue[str]()
    process = started(hold, Lock(), ready)
    assert ready.get(timeout=SOON) == "held"
    process.kill()
    begun = time.monotonic()
    with pytest.raises(InterpreterDied, match="SIGKILL"):
        process.result(SOON)
    assert time.monotonic() - begun < SOON / 2
