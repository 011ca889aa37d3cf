"""CPython's own tests of locks, run with ours, where the workers are interpreters instead of threads.

The workers are closures. They travel by value, so a list that one of them appends to is a copy of its own; it is
copied back into the test's list when the worker has ended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

lock_tests = pytest.importorskip("test.lock_tests", reason="this Python was installed without its package `test`")


class InterpreterBunch:
    """Takes the place of `lock_tests.Bunch`: calls a function in several interpreters at once."""

    def __init__(self, function: Callable[[], object], count: int, wait_before_exit: bool = False) -> None:
        self.function = function
        self.begun: multigil.SimpleQueue[None] = multigil.SimpleQueue()
        self.may_end: multigil.SimpleQueue[None] = multigil.SimpleQueue()
        self.interpreters = [
            multigil.Interpreter(target=workers.call_and_send_lists, args=(function, self.begun, self.may_end))
            for _ in range(count)
        ]
        if not wait_before_exit:
            self.do_finish()

    @property
    def finished(self) -> list[multigil.Interpreter]:
        return [interpreter for interpreter in self.interpreters if interpreter.done()]

    def do_finish(self) -> None:
        for _ in self.interpreters:
            self.may_end.put(None)

    def __enter__(self) -> Self:
        for interpreter in self.interpreters:
            interpreter.start()
        for _ in self.interpreters:
            self.begun.get(timeout=AMPLE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for interpreter in self.interpreters:
            for ours, theirs in zip(workers.lists_of(self.function), interpreter.result(AMPLE), strict=True):
                ours.extend(theirs)


@pytest.fixture(autouse=True)
def _workers_are_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_tests, "Bunch", InterpreterBunch)
    # From its beginning until it is blocked, an interpreter may take longer than a thread.
    monkeypatch.setattr(lock_tests, "wait_threads_blocked", lambda _: time.sleep(10 * MOMENT))


class TestLock(lock_tests.LockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.Lock)

    # Looks at the worker's list while the worker is still blocked;
    # test_lock_interpreters.py has it with a queue in place of the list.
    test_reacquire = None

    def test_the_workers_are_interpreters(self) -> None:
        seen: list[Any] = []

        def see() -> None:
            seen.append(multigil.current_interpreter().ident)

        with lock_tests.Bunch(see, 3):
            pass
        assert len({*seen, multigil.main_interpreter().ident}) == 4


class TestRLock(lock_tests.RLockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.RLock)


class TestConditionAsRLock(lock_tests.RLockTests):  # type: ignore[misc, name-defined]
    locktype = staticmethod(multigil.Condition)

    # A condition has no _recursion_count() and takes an argument, both threading's and ours.
    test_recursion_count = None
    test_constructor_noargs = None


class TestCondition(lock_tests.ConditionTests):  # type: ignore[misc, name-defined]
    condtype = staticmethod(multigil.Condition)

    # They change numbers that the workers have copies of, and look at their lists while they wait;
    # test_condition.py has both with what interpreters share.
    test_notify = test_waitfor = None

    def __reduce__(self) -> Any:
        """A worker's closure uses the test, whose methods need nothing of it."""
        return lock_tests.ConditionTests, (self._testMethodName,)


class TestEvent(lock_tests.EventTests):  # type: ignore[misc, name-defined]
    eventtype = staticmethod(multigil.Event)

    # Looks at the condition that CPython's event consists of; test_event.py has it without.
    test_at_fork_reinit = None


class TestSemaphore(lock_tests.SemaphoreTests):  # type: ignore[misc, name-defined]
    semtype = staticmethod(multigil.Semaphore)

    # Count what the workers have done while they are still blocked;
    # test_semaphore.py has it with a queue in place of the lists.
    test_acquire_contended = None
    test_multirelease = None


class TestBoundedSemaphore(lock_tests.BoundedSemaphoreTests):  # type: ignore[misc, name-defined]
    semtype = staticmethod(multigil.BoundedSemaphore)

    # As above.
    test_acquire_contended = None
    test_multirelease = None


class TestBarrier(lock_tests.BarrierTests):  # type: ignore[misc, name-defined]
    barriertype = staticmethod(multigil.Barrier)
    defaultTimeout = 8.0  # noqa: N815 - CPython's name

    # Workers look at what the others have noted; test_barrier.py has it with semaphores in place of the lists.
    test_barrier = None
    test_barrier_10 = None
    test_action = None

    def __reduce__(self) -> Any:
        """The workers' closures use the test: what its methods need travels."""
        return (
            lock_tests.BarrierTests,
            (self._testMethodName,),
            {
                "barrier": self.barrier,
                "defaultTimeout": self.defaultTimeout,
            },
        )
