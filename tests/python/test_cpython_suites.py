"""CPython's own tests of queues and locks, run with ours in threads.

A test that is left out is set to None, with the reason.
"""

from __future__ import annotations

import threading
import types
import unittest
from typing import Any

import pytest

import multigil

REASON = "this Python was installed without its package `test`"
support = pytest.importorskip("test.support", reason=REASON)
lock_tests = pytest.importorskip("test.lock_tests", reason=REASON)
queue_tests = pytest.importorskip("test.test_queue", reason=REASON)

# Where the tests look up classes and exceptions.
OUR_QUEUE = types.SimpleNamespace(
    Queue=multigil.Queue,
    LifoQueue=multigil.LifoQueue,
    PriorityQueue=multigil.PriorityQueue,
    SimpleQueue=multigil.SimpleQueue,
    Empty=multigil.Empty,
    Full=multigil.Full,
    ShutDown=multigil.ShutDown,
)


class TestLock(lock_tests.LockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.Lock)


class TestRLock(lock_tests.RLockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.RLock)


class TestConditionAsRLock(lock_tests.RLockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.Condition)

    # A condition has no _recursion_count() and takes an argument, both threading's and ours.
    test_recursion_count = None
    test_constructor_noargs = None


class TestCondition(lock_tests.ConditionTests):  # type: ignore[misc, name-defined]
    condtype = staticmethod(multigil.Condition)


class TestConditionOverLock(lock_tests.ConditionTests):  # type: ignore[misc, name-defined]
    make_lock: Any = multigil.Lock

    # Asks for the lock that a condition has if none is given.
    test_acquire = None

    def condtype(self) -> multigil.Condition:
        return multigil.Condition(type(self).make_lock())


class TestConditionOverRLock(TestConditionOverLock):
    make_lock = multigil.RLock


class TestConditionOverThreadingLock(TestConditionOverLock):
    make_lock = staticmethod(threading.Lock)


class TestConditionOverThreadingRLock(TestConditionOverLock):
    make_lock = staticmethod(threading.RLock)


class TestQueue(queue_tests.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE
    type2test: Any = multigil.Queue


class TestLifoQueue(queue_tests.LifoQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE


class TestPriorityQueue(queue_tests.PriorityQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE


def with_hook(base: type[multigil.Queue[Any]]) -> type[multigil.Queue[Any]]:
    """Make a subclass that has a hook of its own, which does nothing else, and the name that the tests know."""

    def qsize(self: multigil.Queue[Any]) -> int:
        return base._qsize(self)

    return type(base.__name__, (base,), {"_qsize": qsize})


class TestQueueWithHook(queue_tests.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE
    type2test: Any = with_hook(multigil.Queue)


class TestLifoQueueWithHook(queue_tests.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE
    type2test: Any = with_hook(multigil.LifoQueue)


class TestPriorityQueueWithHook(queue_tests.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE
    type2test: Any = with_hook(multigil.PriorityQueue)


class TestFailingQueue(queue_tests.FailingQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE


class TestSimpleQueue(queue_tests.BaseSimpleQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = OUR_QUEUE
    type2test: Any = multigil.SimpleQueue

    # Puts objects of a class that is local to the test, which cannot be pickled;
    # test_simple_queue.py has it with a class of the module.
    test_references = None

    # The collector of garbage calls `put` within `put`: asked of the native SimpleQueue only.
    test_reentrancy = queue_tests.CSimpleQueueTest.test_reentrancy

    @pytest.fixture(autouse=True)
    def _fifty_threads_are_not_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The tests with 50 threads ask for 100 MiB each, which is address space for their stacks.
        monkeypatch.setattr(support, "max_memuse", 2**40)
        monkeypatch.setattr(support, "real_max_memuse", 2**40)


class TestEvent(lock_tests.EventTests):  # type: ignore[misc, name-defined]
    eventtype = staticmethod(multigil.Event)

    # Looks at the condition that CPython's event consists of; test_event.py has it without.
    test_at_fork_reinit = None


class TestSemaphore(lock_tests.SemaphoreTests):  # type: ignore[misc, name-defined]
    semtype = staticmethod(multigil.Semaphore)


class TestBoundedSemaphore(lock_tests.BoundedSemaphoreTests):  # type: ignore[misc, name-defined]
    semtype = staticmethod(multigil.BoundedSemaphore)


class TestBarrier(lock_tests.BarrierTests):  # type: ignore[misc, name-defined]
    barriertype = staticmethod(multigil.Barrier)
