"""`SimpleQueue` does between threads what `queue.SimpleQueue` of 3.14 does."""

from __future__ import annotations

import gc
import inspect
import queue
import re
import time
import types
import weakref
from typing import Any

import pytest

from harness import AMPLE, assert_waits, in_thread
from multigil import Empty, SimpleQueue

METHODS = [name for name in dir(queue.SimpleQueue) if not name.startswith("_")]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_signature_of_queue_simple_queues(method: str) -> None:
    assert inspect.signature(getattr(SimpleQueue, method)) == inspect.signature(getattr(queue.SimpleQueue, method))


def test_items_come_out_in_the_order_in_which_they_were_put() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    for i in range(10_000):
        q.put(i)
    assert (q.qsize(), q.empty()) == (10_000, False)
    assert [q.get() for _ in range(10_000)] == list(range(10_000))
    assert (q.qsize(), q.empty()) == (0, True)


def test_put_takes_the_arguments_of_a_bounded_queue_and_ignores_them() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    q.put(1, True, -1)
    q.put(item=2, block=False, timeout=None)
    q.put_nowait(3)
    assert [q.get(), q.get(timeout=AMPLE), q.get_nowait()] == [1, 2, 3]


def test_an_empty_queue_raises_empty_without_blocking() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    with pytest.raises(Empty):
        q.get(block=False)
    with pytest.raises(Empty):
        q.get_nowait()
    with pytest.raises(Empty):
        q.get(timeout=0)


def test_a_negative_timeout_is_a_value_error_only_when_get_may_block() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    with pytest.raises(Empty):
        q.get(block=False, timeout=-1)
    q.put(1)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-1)
    assert q.qsize() == 1


def test_a_get_waits_at_least_its_timeout_and_then_raises_empty() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    start = time.monotonic_ns()
    with pytest.raises(Empty):
        q.get(timeout=0.25)
    assert 0.25e9 <= time.monotonic_ns() - start < AMPLE * 1e9


def test_each_item_wakes_one_of_many_blocked_getters() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    getters = [in_thread(q.get) for _ in range(5)]
    assert_waits(*getters)
    for i in range(5):
        q.put(i)
    assert sorted(getter.result(AMPLE) for getter in getters) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("put", (), {}),
        ("put", (1, True, None, None), {}),
        ("get", (), {"timeout": "1"}),
        ("get", (), {"item": 1}),
        ("put_nowait", (), {}),
        ("get_nowait", (1,), {}),
        ("empty", (1,), {}),
    ],
)
def test_wrong_arguments_are_a_type_error_and_change_nothing(
    method: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    q: SimpleQueue[int] = SimpleQueue()
    with pytest.raises(TypeError):
        getattr(q, method)(*args, **kwargs)
    assert q.qsize() == 0


def test_the_constructor_takes_no_argument() -> None:
    simple_queue: Any = SimpleQueue
    with pytest.raises(TypeError):
        simple_queue(1)


def test_nothing_else_is_there_but_what_takes_several_items_or_none_and_what_is_awaited() -> None:
    public = {name for name in dir(SimpleQueue) if not name.startswith("_")}
    assert public == {*METHODS, "aget", "aput", "clear", "fileno", "get_many", "peek", "put_many"}


def test_the_repr_names_the_class_and_the_address() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    assert re.fullmatch(rf"<multigil\S*\.SimpleQueue object at {id(q):#x}>", repr(q))


def test_a_subscript_gives_a_generic_alias() -> None:
    alias = SimpleQueue[int]
    assert isinstance(alias, types.GenericAlias)
    assert (alias.__origin__, alias.__args__) == (SimpleQueue, (int,))


def test_a_weak_reference_ends_with_the_last_strong_one() -> None:
    q: SimpleQueue[int] = SimpleQueue()
    reference = weakref.ref(q)
    assert reference() is q
    del q
    gc.collect()
    assert reference() is None


def test_a_subclass_may_add_attributes() -> None:
    class Named(SimpleQueue[int]):
        name = "inbox"

    q = Named()
    q.put(1)
    assert (q.name, q.get()) == ("inbox", 1)


class Item:
    pass


def test_nothing_keeps_an_item_alive_that_has_left_the_queue() -> None:
    q: SimpleQueue[Item] = SimpleQueue()
    for _ in range(20):
        q.put(Item())
    for _ in range(20):
        reference = weakref.ref(q.get())
        gc.collect()
        assert reference() is None
