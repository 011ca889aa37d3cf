"""`Queue(redeliver=True)`: what its consumer got and did not report done comes back when the consumer ends."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

import workers
from harness import AMPLE, started
from multigil import Empty, LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue


def got_and_ended(q: Any, count: int, done: int) -> list[Any]:
    """What an interpreter got that has reported so many done and has ended."""
    consumer = started(workers.get_some, q, count, done)
    items: list[Any] = consumer.result(AMPLE)
    consumer.join(AMPLE)
    return items


ITEMS = [5, "中", b"bytes", bytes(500), [1, {"a": bytes(3_000_000)}]]


def test_it_is_off_unless_asked_for() -> None:
    assert not Queue().redeliver
    q: Queue[object] = Queue(3, redeliver=True)
    assert (q.redeliver, q.maxsize, q.redelivered) == (True, 3, False)
    assert pickle.loads(pickle.dumps(q)).redeliver


@pytest.mark.parametrize("kind", [SimpleQueue, LifoQueue, PriorityQueue])
def test_other_kinds_do_not_know_it(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind(redeliver=True)


def test_it_is_a_keyword_only() -> None:
    with pytest.raises(TypeError):
        Queue(0, True)  # type: ignore[misc]


def test_it_cannot_be_changed_once_items_were_put() -> None:
    q: Queue[object] = Queue()
    q.put(1)
    with pytest.raises(RuntimeError, match="redeliver cannot be changed any more"):
        q.__init__(redeliver=True)  # type: ignore[misc]


def test_it_is_a_queue_as_any_other() -> None:
    q: Queue[object] = Queue(5, redeliver=True)
    q.put_many(ITEMS)
    assert (q.qsize(), q.full(), q.peek()) == (5, True, ITEMS[0])
    assert q.get_many(2) == ITEMS[:2]
    assert [q.get(), q.get(), q.get()] == ITEMS[2:]
    assert (q.empty(), q.unfinished_tasks, q.redelivered) == (True, 5, False)
    for left in range(5, 0, -1):
        assert q.unfinished_tasks == left
        q.task_done()
    q.join()
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()
    with pytest.raises(Empty):
        q.get_nowait()


def test_a_task_is_done_by_who_got_it() -> None:
    q: Queue[object] = Queue(redeliver=True)
    q.put_many([1, 2])
    assert got_and_ended(q, 1, 0) == [1]
    assert (q.get(), q.redelivered) == (1, True)


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_items_come_back_from_an_interpreter_that_ends(done: int) -> None:
    q: Queue[object] = Queue(redeliver=True)
    q.put_many([*ITEMS, "last"])
    assert got_and_ended(q, len(ITEMS), done) == ITEMS
    assert q.qsize() == len(ITEMS) - done + 1
    for item in ITEMS[done:]:
        assert (q.get(), q.redelivered) == (item, True)
    assert (q.get(), q.redelivered) == ("last", False)
    for _ in range(len(ITEMS) - done + 1):
        q.task_done()
    assert q.unfinished_tasks == 0
    q.join()


def test_items_come_back_before_the_others_and_oldest_first() -> None:
    q: Queue[int] = Queue(redeliver=True)
    q.put_many(range(6))
    assert got_and_ended(q, 4, 0) == [0, 1, 2, 3]
    assert got_and_ended(q, 2, 0) == [0, 1]
    assert q.peek() == 0
    assert q.get_many() == [0, 1, 2, 3, 4, 5]


def test_what_came_back_is_cleared_and_shut_down_as_the_rest() -> None:
    for end in (lambda q: q.clear(), lambda q: q.shutdown(immediate=True)):
        q: Queue[int] = Queue(redeliver=True)
        q.put_many(range(4))
        got_and_ended(q, 2, 0)
        end(q)
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)


def test_what_comes_back_after_a_shutdown_is_thrown_away_with_the_rest() -> None:
    q: Queue[int] = Queue(redeliver=True)
    q.put(1)
    ready: Queue[object] = Queue()
    go: Queue[object] = Queue()
    consumer = started(workers.get_and_wait, q, ready, go)
    assert ready.get(timeout=AMPLE) == 1
    q.shutdown(immediate=True)
    go.put(None)
    consumer.join(AMPLE)
    with pytest.raises(ShutDown):
        q.get(timeout=AMPLE)
    assert (q.qsize(), q.unfinished_tasks) == (0, 0)


def test_each_thread_reports_its_own_and_one_without_the_oldest() -> None:
    q: Queue[int] = Queue(redeliver=True)
    q.put_many([1, 2, 3])

    def in_another_thread() -> None:
        assert q.get() == 2
        q.task_done()

    assert q.get() == 1
    thread = threading.Thread(target=in_another_thread)
    thread.start()
    thread.join()
    assert (q.get(), q.unfinished_tasks) == (3, 2)
    collector = threading.Thread(target=q.task_done)
    collector.start()
    collector.join()
    assert q.unfinished_tasks == 1
    q.task_done()
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()
