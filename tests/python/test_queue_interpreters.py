"""One queue is the same queue in every interpreter and thread."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import workers
from harness import AMPLE, MOMENT, in_thread, started
from multigil import Empty, Queue, ShutDown, SimpleQueue


@pytest.mark.parametrize("kind", [Queue, SimpleQueue])
def test_items_go_to_an_interpreter_and_come_back(kind: Any) -> None:
    requests: Queue[object] = Queue()
    replies = kind()
    echo = started(workers.echo, requests, replies)
    items = [
        1,
        2**100,
        0.5,
        None,
        True,
        "中",
        b"bytes",
        bytes(1_000_000),
        {"a": [1, (2,)]},
        workers.Record(5),
        ValueError(1),
    ]
    for item in items:
        requests.put(item)
        reply = replies.get(timeout=AMPLE)
        assert type(reply) is type(item)
        assert pickle.dumps(reply) == pickle.dumps(item)
    requests.shutdown()
    echo.result(AMPLE)


# Who is an interpreter, and who a thread of this one.
@pytest.mark.parametrize(
    ("producers", "consumers"),
    [((started,) * 3, (started,) * 3), ((started, in_thread), (started, in_thread)), ((started,), (in_thread,) * 4)],
    ids=["3x3 interpreters", "2x2 mixed", "1 interpreter to 4 threads"],
)
@pytest.mark.parametrize("maxsize", [0, 1, 10])
def test_each_item_arrives_exactly_once_and_in_the_order_of_its_producer(
    producers: tuple[Any, ...], consumers: tuple[Any, ...], maxsize: int
) -> None:
    each = 3_000
    q: Queue[object] = Queue(maxsize)
    consuming = [start(workers.consume, q) for start in consumers]
    producing = [start(workers.produce, q, number, each) for number, start in enumerate(producers)]
    for producer in producing:
        producer.result(AMPLE)
    for _ in consuming:
        q.put(None)
    received = [consumer.result(AMPLE) for consumer in consuming]
    for items in received:
        for number in range(len(producers)):
            of_one = [i for producer, i in items if producer == number]
            assert of_one == sorted(of_one)
    assert sorted(item for items in received for item in items) == [
        (number, i) for number in range(len(producers)) for i in range(each)
    ]
    q.join()
    assert q.empty()


def test_items_outlive_the_interpreter_that_put_them() -> None:
    q: Queue[Any] = Queue()
    producer = started(workers.put_records, q, 100)
    producer.join(AMPLE)
    del producer
    assert [q.get_nowait().number for _ in range(100)] == list(range(100))


def test_queues_and_locks_outlive_the_interpreter_that_made_them() -> None:
    carrier: SimpleQueue[Any] = SimpleQueue()
    started(workers.put_and_forget, carrier).join(AMPLE)
    q, lock = carrier.get_nowait()
    assert q.get_nowait() == "made elsewhere"
    assert lock.locked()


def test_an_item_wakes_an_interpreter_that_waits_for_it() -> None:
    requests: Queue[object] = Queue()
    replies: Queue[object] = Queue()
    echo = started(workers.echo, requests, replies)
    for i in range(20):
        with pytest.raises(Empty):
            replies.get(timeout=MOMENT)
        requests.put(i)
        assert replies.get(timeout=AMPLE) == i
    requests.shutdown()
    echo.join(AMPLE)


def test_an_item_taken_by_an_interpreter_makes_room_for_a_waiting_put() -> None:
    q: Queue[int] = Queue(1)
    q.put(1)
    putting = in_thread(q.put, 2)
    assert started(workers.outcome, q, "get").result(AMPLE) == "1"
    putting.result(AMPLE)
    assert q.get() == 2


def test_the_state_of_a_queue_is_shared() -> None:
    q: Queue[int] = Queue(5)
    started(workers.put_all, q, 1, 2, 3).result(AMPLE)
    assert (q.qsize(), q.unfinished_tasks) == (3, 3)
    started(workers.outcome, q, "task_done").result(AMPLE)
    q.get()
    started(workers.set_maxsize, q, 2).result(AMPLE)
    assert (q.maxsize, q.full()) == (2, True)
    q.shutdown()
    assert started(workers.state, q).result(AMPLE) == (2, 2, 2, True)


def test_the_exceptions_are_the_classes_of_the_interpreter_that_gets_them() -> None:
    q: Queue[int] = Queue(1)
    assert started(workers.outcome, q, "get_nowait").result(AMPLE) == "Empty"
    q.put(1)
    assert started(workers.outcome, q, "put_nowait", 2).result(AMPLE) == "Full"
    assert started(workers.outcome, q, "get", timeout=-1).result(AMPLE) == "ValueError"
    q.shutdown()
    assert started(workers.outcome, q, "put", 2).result(AMPLE) == "ShutDown"


def test_a_shutdown_here_wakes_an_interpreter_that_waits() -> None:
    q: Queue[int] = Queue()
    waiting = [started(workers.outcome, q, "get"), started(workers.outcome, q, "get", timeout=AMPLE)]
    waiting[0].join(MOMENT)
    q.shutdown()
    assert [interpreter.result(AMPLE) for interpreter in waiting] == ["ShutDown", "ShutDown"]


def test_a_shutdown_by_an_interpreter_wakes_all_who_wait_here() -> None:
    q: Queue[int] = Queue(1)
    q.put(0)
    putting = [in_thread(q.put, 1), in_thread(q.put, 2, timeout=AMPLE)]
    joining = in_thread(q.join)
    started(workers.outcome, q, "shutdown", immediate=True).result(AMPLE)
    for future in putting:
        with pytest.raises(ShutDown):
            future.result(AMPLE)
    joining.result(AMPLE)


def test_the_last_task_done_by_an_interpreter_wakes_join() -> None:
    q: Queue[int] = Queue()
    q.put(0)
    joining = in_thread(q.join)
    started(workers.outcome, q, "task_done").result(AMPLE)
    joining.result(AMPLE)


def test_timeouts_in_an_interpreter_are_kept_and_cost_no_processor_time() -> None:
    q: Queue[int] = Queue()
    elapsed, processor_time = started(workers.timed_get, q, 1).result(AMPLE)
    assert 1_000_000_000 <= elapsed < AMPLE * 1e9
    assert processor_time < 0.005


def test_an_interpreter_gets_one_object_for_all_handles_of_a_queue() -> None:
    q: Queue[int] = Queue()
    interpreter = started(lambda one, other: one is other and one is pickle.loads(pickle.dumps(other)), q, q)
    assert interpreter.result(AMPLE) is True
