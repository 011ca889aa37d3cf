"""`Lock` does between threads what `threading.Lock` does; see test_cpython_suites.py for CPython's own tests."""

from __future__ import annotations

import concurrent.futures
import gc
import inspect
import re
import threading
import time
import weakref
from typing import Any

import pytest

from harness import AMPLE, assert_waits, in_thread
from multigil import Lock, MultigilError, OwnerDied


@pytest.mark.parametrize(
    ("method", "signature"),
    [("acquire", "(self, /, blocking=True, timeout=-1)"), ("release", "(self, /)"), ("locked", "(self, /)")],
)
def test_every_method_has_the_signature_of_threading_locks(method: str, signature: str) -> None:
    assert str(inspect.signature(getattr(Lock, method))) == signature


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {"timeout": -2}, ValueError, "timeout value must be a non-negative number"),
        ((True, -0.5), {}, ValueError, "timeout value must be a non-negative number"),
        ((False, 1), {}, ValueError, "can't specify a timeout for a non-blocking call"),
        ((False,), {"timeout": 0}, ValueError, "can't specify a timeout for a non-blocking call"),
        ((), {"timeout": float("nan")}, ValueError, "NaN"),
        ((), {"timeout": float("inf")}, OverflowError, None),
        ((), {"timeout": threading.TIMEOUT_MAX * 2}, OverflowError, None),
        ((), {"timeout": "1"}, TypeError, None),
        ((), {"timeout": None}, TypeError, None),
        ((True, 1, 1), {}, TypeError, None),
        ((), {"block": True}, TypeError, None),
    ],
)
def test_wrong_arguments_of_acquire_are_the_errors_of_threading_locks(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str | None
) -> None:
    with pytest.raises(error):
        threading.Lock().acquire(*args, **kwargs)
    lock = Lock()
    # The messages are those of 3.14, on every version.
    with pytest.raises(error, match=message):
        lock.acquire(*args, **kwargs)
    assert lock.locked() is False


def test_the_constructor_takes_no_argument() -> None:
    lock: Any = Lock
    with pytest.raises(TypeError):
        lock(1)


def test_acquire_tells_whether_it_was_acquired() -> None:
    lock = Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(blocking=False, timeout=-1) is False
    assert lock.acquire(timeout=0) is False
    lock.release()
    assert lock.acquire(True, 0) is True


def test_locked_tells_whether_anyone_holds_it() -> None:
    lock = Lock()
    assert lock.locked() is False
    lock.acquire()
    assert lock.locked() is True
    lock.release()
    assert lock.locked() is False


def test_releasing_a_lock_that_nobody_holds_is_a_runtime_error() -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    assert lock.acquire(timeout=0)


def test_with_holds_it_and_gives_true() -> None:
    lock = Lock()
    with lock as entered:
        assert entered is True
        assert lock.locked()
    assert not lock.locked()


def test_with_releases_it_when_an_exception_passes() -> None:
    lock = Lock()
    with pytest.raises(ArithmeticError), lock:
        raise ArithmeticError
    assert not lock.locked()


def test_with_waits_for_it() -> None:
    lock = Lock()
    lock.acquire()

    def enter() -> bool:
        with lock:
            return True

    entering = in_thread(enter)
    assert_waits(entering)
    lock.release()
    assert entering.result(AMPLE)


def test_another_thread_may_release_it() -> None:
    lock = Lock()
    lock.acquire()
    in_thread(lock.release).result(AMPLE)
    assert not lock.locked()


def test_one_release_lets_one_of_those_who_wait_go_on() -> None:
    lock = Lock()
    lock.acquire()
    waiting = [in_thread(lock.acquire) for _ in range(5)]
    assert_waits(*waiting)
    for left in (4, 3, 2, 1, 0):
        lock.release()
        gone_on, not_gone_on = concurrent.futures.wait(waiting, AMPLE, concurrent.futures.FIRST_COMPLETED)
        assert (len(gone_on), len(not_gone_on)) == (1, left)
        waiting = list(not_gone_on)


@pytest.mark.parametrize("milliseconds", [1, 10, 250])
def test_acquire_waits_at_least_its_timeout(milliseconds: int) -> None:
    lock = Lock()
    lock.acquire()
    start = time.monotonic_ns()
    assert lock.acquire(timeout=milliseconds / 1000) is False
    assert milliseconds * 1_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9


def test_acquire_with_a_timeout_goes_on_at_a_release() -> None:
    lock = Lock()
    lock.acquire()
    waiting = in_thread(lock.acquire, timeout=threading.TIMEOUT_MAX)
    assert_waits(waiting)
    lock.release()
    assert waiting.result(AMPLE) is True


def test_waiting_costs_no_processor_time() -> None:
    lock = Lock()
    lock.acquire()
    start = time.thread_time()
    assert not lock.acquire(timeout=1)
    assert time.thread_time() - start < 0.02


def test_threads_exclude_each_other() -> None:
    lock = Lock()
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(300):
            with lock:
                before = count
                # Lets other threads run, which without the lock would read the same number.
                time.sleep(0)
                count = before + 1

    for future in [in_thread(add) for _ in range(4)]:
        future.result(AMPLE)
    assert count == 1_200


def test_the_repr_tells_whether_it_is_locked() -> None:
    lock = Lock()
    assert re.fullmatch(rf"<unlocked multigil\S*\.Lock object at {id(lock):#x}>", repr(lock))
    with lock:
        assert re.fullmatch(rf"<locked multigil\S*\.Lock object at {id(lock):#x}>", repr(lock))


def test_a_weak_reference_ends_with_the_last_strong_one() -> None:
    lock = Lock()
    reference = weakref.ref(lock)
    assert reference() is lock
    del lock
    gc.collect()
    assert reference() is None


def test_a_lock_may_be_dropped_while_it_is_held() -> None:
    for _ in range(100):
        Lock().acquire()
    assert not Lock().locked()


def test_locks_are_equal_only_to_themselves_and_can_be_keys() -> None:
    one, other = Lock(), Lock()
    assert one != other
    assert {one: 1, other: 2}[one] == 1


def test_threadings_condition_works_with_it() -> None:
    condition = threading.Condition(Lock())  # type: ignore[arg-type]
    arrived: list[int] = []

    def wait() -> None:
        with condition:
            condition.wait_for(lambda: arrived)

    waiting = in_thread(wait)
    assert_waits(waiting)
    with condition:
        arrived.append(1)
        condition.notify()
    waiting.result(AMPLE)


def test_owner_died_is_an_error_of_the_system() -> None:
    assert issubclass(OwnerDied, MultigilError)
    assert issubclass(OwnerDied, OSError)
