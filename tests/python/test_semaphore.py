"""`Semaphore` and `BoundedSemaphore` do between threads and interpreters what those of `threading` do between threads.

test_cpython_suites.py has CPython's own tests.
"""

from __future__ import annotations

import gc
import inspect
import pickle
import sys
import threading
import time
import weakref
from typing import Any

import pytest

import workers
from harness import AMPLE, MOMENT, assert_waits, in_thread, started
from multigil import BoundedSemaphore, Semaphore, SimpleQueue, StaleHandle

KINDS = [Semaphore, BoundedSemaphore]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "signature"),
    [("acquire", "(self, /, blocking=True, timeout=None)"), ("release", "(self, /, n=1)")],
)
def test_every_method_has_the_signature_of_threading_semaphores(
    kind: type[Semaphore], method: str, signature: str
) -> None:
    assert str(inspect.signature(getattr(kind, method))) == signature
    assert str(inspect.signature(kind)) == "(value=1)"


@pytest.mark.parametrize("kind", KINDS)
class TestBoth:
    def test_it_gives_what_there_is_and_then_nothing(self, kind: type[Semaphore]) -> None:
        semaphore = kind(2)
        assert semaphore.acquire() is True
        assert semaphore.acquire(blocking=False) is True
        assert semaphore.acquire(False) is False
        assert semaphore.acquire(timeout=0) is False
        assert semaphore.acquire(True, -1) is False
        semaphore.release()
        assert semaphore.acquire(timeout=0) is True

    def test_the_value_is_one_if_none_is_given(self, kind: type[Semaphore]) -> None:
        assert kind()._value == 1
        assert kind(value=0)._value == 0
        assert kind(sys.maxsize)._value == sys.maxsize

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (-1, ValueError, "semaphore initial value must be >= 0"),
            (-(2**100), ValueError, "semaphore initial value must be >= 0"),
            (2**63, OverflowError, "semaphore initial value is too large"),
            (2**100, OverflowError, "semaphore initial value is too large"),
            ("1", TypeError, None),
            (1.0, TypeError, None),
        ],
    )
    def test_wrong_values_are_errors(
        self, kind: type[Semaphore], value: Any, error: type[Exception], message: str | None
    ) -> None:
        with pytest.raises(error, match=message):
            kind(value)

    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "message"),
        [
            ((False, 1), {}, ValueError, "can't specify timeout for non-blocking acquire"),
            ((), {"blocking": False, "timeout": 0}, ValueError, "can't specify timeout for non-blocking acquire"),
            ((), {"timeout": float("inf")}, OverflowError, None),
            ((), {"timeout": threading.TIMEOUT_MAX * 2}, OverflowError, None),
            ((), {"timeout": "1"}, TypeError, None),
            ((True, 1, 1), {}, TypeError, None),
            ((), {"block": True}, TypeError, None),
        ],
    )
    def test_wrong_arguments_of_acquire_are_errors_and_nothing_is_taken(
        self,
        kind: type[Semaphore],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        error: type[Exception],
        message: str | None,
    ) -> None:
        semaphore = kind()
        with pytest.raises(error, match=message):
            semaphore.acquire(*args, **kwargs)
        assert semaphore._value == 1

    @pytest.mark.parametrize(
        ("n", "error", "message"),
        [
            (0, ValueError, "n must be one or more"),
            (-1, ValueError, "n must be one or more"),
            (2**63, ValueError, "Semaphore released too many times"),
            (2**100, ValueError, "Semaphore released too many times"),
            ("1", TypeError, None),
        ],
    )
    def test_wrong_arguments_of_release_are_errors_and_nothing_is_given(
        self, kind: type[Semaphore], n: Any, error: type[Exception], message: str | None
    ) -> None:
        semaphore = kind()
        semaphore.acquire()
        with pytest.raises(error, match=message):
            semaphore.release(n)
        assert semaphore._value == 0

    def test_with_takes_one_and_gives_it_back(self, kind: type[Semaphore]) -> None:
        semaphore = kind(2)
        with semaphore as entered:
            assert entered is True
            assert semaphore._value == 1
        with pytest.raises(ArithmeticError), semaphore:
            raise ArithmeticError
        assert semaphore._value == 2

    def test_as_many_go_on_as_are_released(self, kind: type[Semaphore]) -> None:
        semaphore = kind(50)
        for _ in range(50):
            semaphore.acquire()
        gone_on: SimpleQueue[None] = SimpleQueue()

        def take() -> None:
            semaphore.acquire()
            gone_on.put(None)

        taking = [in_thread(take) for _ in range(50)]
        assert_waits(*taking)
        for count in (1, 7, 1, 30, 11):
            semaphore.release(count)
            for _ in range(count):
                gone_on.get(timeout=AMPLE)
            time.sleep(MOMENT)
            assert gone_on.empty()
        assert semaphore.acquire(blocking=False) is False

    def test_as_many_interpreters_go_on_as_are_released(self, kind: type[Semaphore]) -> None:
        semaphore, told = kind(3), SimpleQueue[str]()
        for _ in range(3):
            semaphore.acquire()
        interpreters = [started(workers.acquire_and_tell, semaphore, told, str(number)) for number in range(3)]
        names = []
        for count in (1, 2):
            interpreters[0].join(2 * MOMENT)
            assert told.empty()
            semaphore.release(count)
            names += [told.get(timeout=AMPLE) for _ in range(count)]
        assert sorted(names) == ["0", "1", "2"]
        for interpreter in interpreters:
            interpreter.result(AMPLE)

    def test_no_more_than_its_value_are_inside_at_a_time(self, kind: type[Semaphore]) -> None:
        semaphore, places, times = kind(2), Semaphore(2), 2_000
        working = [started(workers.enter, semaphore, places, times) for _ in range(3)]
        threads = [in_thread(workers.enter, semaphore, places, times) for _ in range(3)]
        assert [thread.result(2 * AMPLE) for thread in threads] == [times] * 3
        assert [interpreter.result(2 * AMPLE) for interpreter in working] == [times] * 3
        assert semaphore._value == 2

    def test_acquire_waits_at_least_its_timeout(self, kind: type[Semaphore]) -> None:
        semaphore = kind(0)
        start = time.monotonic_ns()
        assert semaphore.acquire(timeout=0.1) is False
        assert 100_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9

    def test_waiting_costs_no_processor_time(self, kind: type[Semaphore]) -> None:
        semaphore = kind(0)
        start = time.thread_time()
        assert not semaphore.acquire(timeout=1)
        assert time.thread_time() - start < 0.02

    def test_it_outlives_the_interpreter_that_made_it(self, kind: type[Semaphore]) -> None:
        interpreter = started(kind, 3)
        semaphore = interpreter.result(AMPLE)
        interpreter.join(AMPLE)
        assert type(semaphore) is kind
        assert [semaphore.acquire(False) for _ in range(4)] == [True, True, True, False]

    def test_a_pickle_gives_the_same_object_while_there_is_one(self, kind: type[Semaphore]) -> None:
        semaphore = kind()
        pickled = pickle.dumps(semaphore)
        assert pickle.loads(pickled) is semaphore
        del semaphore
        gc.collect()
        with pytest.raises(StaleHandle):
            pickle.loads(pickled)

    def test_a_weak_reference_ends_with_the_last_strong_one(self, kind: type[Semaphore]) -> None:
        semaphore = kind()
        reference = weakref.ref(semaphore)
        assert reference() is semaphore
        del semaphore
        gc.collect()
        assert reference() is None

    def test_a_subclass_may_have_arguments_of_its_own(self, kind: type[Semaphore]) -> None:
        class Named(kind):  # type: ignore[valid-type, misc]
            def __init__(self, name: str) -> None:
                super().__init__(4)
                self.name = name

        semaphore = Named("a name")
        assert (semaphore.name, semaphore._value) == ("a name", 4)
        assert "Named at 0x" in repr(semaphore)


def test_the_reprs_tell_the_value() -> None:
    semaphore, bounded = Semaphore(3), BoundedSemaphore(3)
    semaphore.acquire()
    bounded.acquire()
    assert repr(semaphore) == f"<multigil.Semaphore at {id(semaphore):#x}: value=2>"
    assert repr(bounded) == f"<multigil.BoundedSemaphore at {id(bounded):#x}: value=2/3>"


def test_a_bounded_one_is_a_semaphore_that_is_not_released_too_often() -> None:
    semaphore = BoundedSemaphore(3)
    assert isinstance(semaphore, Semaphore)
    assert semaphore._initial_value == 3
    semaphore.acquire()
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        semaphore.release(2)
    semaphore.release()
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        semaphore.release()
    assert semaphore._value == 3


def test_a_bounded_one_is_bounded_in_every_interpreter() -> None:
    semaphore = BoundedSemaphore()
    interpreter = started(semaphore.release)
    assert isinstance(interpreter.exception(AMPLE), ValueError)
    assert semaphore._value == 1


def test_one_without_a_bound_may_be_released_more_often_than_it_was_acquired() -> None:
    semaphore = Semaphore(0)
    started(semaphore.release, 5).result(AMPLE)
    assert semaphore._value == 5
