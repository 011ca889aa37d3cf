"""`RLock` does between threads and interpreters what `threading.RLock` does between threads.

See test_cpython_suites.py for CPython's own tests.
"""

from __future__ import annotations

import gc
import inspect
import os
import pickle
import re
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, ProgramRunner, assert_waits, in_thread, started
from multigil import Lock, RLock, SimpleQueue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("acquire", "(self, /, blocking=True, timeout=-1)"),
        ("release", "(self, /)"),
        ("locked", "(self, /)"),
        ("_is_owned", "(self, /)"),
        ("_recursion_count", "(self, /)"),
        ("_release_save", "(self, /)"),
        ("_acquire_restore", "(self, state, /)"),
    ],
)
def test_every_method_has_the_signature_of_threading_rlocks(method: str, signature: str) -> None:
    assert str(inspect.signature(getattr(RLock, method))) == signature


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {"timeout": -2}, ValueError, "timeout value must be a non-negative number"),
        ((False, 1), {}, ValueError, "can't specify a timeout for a non-blocking call"),
        ((), {"timeout": float("nan")}, ValueError, "NaN"),
        ((), {"timeout": threading.TIMEOUT_MAX * 2}, OverflowError, None),
        ((), {"timeout": "1"}, TypeError, None),
        ((), {"timeout": None}, TypeError, None),
        ((True, 1, 1), {}, TypeError, None),
        ((), {"block": True}, TypeError, None),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_wrong_arguments_of_acquire_are_the_errors_of_threading_rlocks(
    held: bool, args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str | None
) -> None:
    lock = RLock()
    if held:
        lock.acquire()
    for each in (threading.RLock(), lock):
        with pytest.raises(error, match=message if each is lock else None):
            each.acquire(*args, **kwargs)
    assert lock._recursion_count() == held


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), TypeError, r"takes exactly 1 argument \(0 given\)"),
        ((1, 2), TypeError, r"takes exactly 1 argument \(2 given\)"),
        ((None,), TypeError, "argument 1 must be 2-item (tuple|sequence), not None"),
        (((2,),), TypeError, "argument 1 must be (tuple|sequence) of length 2, not 1"),
        (((1, "a"),), TypeError, "argument 1, item 1 must be int, not str"),
        ((("a", 1),), TypeError, "'str' object cannot be interpreted as an integer"),
        (((2**70, 1),), OverflowError, "Python int too large to convert to C ssize_t"),
    ],
)
def test_wrong_arguments_of_acquire_restore_are_the_errors_of_threading_rlocks(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    lock = RLock()
    with pytest.raises(error, match=message):
        lock._acquire_restore(*arguments)
    assert not lock.locked()


@pytest.mark.parametrize("count", [0, -1, 2**32])
def test_a_lock_is_not_acquired_less_than_once_or_more_often_than_can_be_counted(count: int) -> None:
    lock = RLock()
    with pytest.raises(ValueError, match=f"cannot be acquired {count} times"):
        lock._acquire_restore((count, 1))
    assert not lock.locked()


def test_the_most_often_that_it_can_be_acquired_is_known() -> None:
    lock = RLock()
    lock._acquire_restore((2**32 - 1, 0))
    with pytest.raises(OverflowError, match="Internal lock count overflowed"):
        lock.acquire()
    assert lock._recursion_count() == 2**32 - 1
    lock._release_save()
    assert not lock.locked()


def test_the_constructor_takes_no_argument_and_a_subclass_may() -> None:
    class Named(RLock):
        def __init__(self, name: str) -> None:
            self.name = name

    lock: Any = RLock
    with pytest.raises(TypeError):
        lock(1)
    assert Named("a").name == "a"
    assert re.fullmatch(r"<unlocked test_rlock\S*\.Named object owner=0 count=0 at 0x\w+>", repr(Named("b")))


def test_its_owner_may_acquire_it_again_and_has_to_release_it_as_often() -> None:
    lock = RLock()
    for count in (1, 2, 3):
        assert lock.acquire() is True
        assert lock._recursion_count() == count
    for count in (2, 1, 0):
        assert in_thread(lock.acquire, False).result(AMPLE) is False
        lock.release()
        assert lock._recursion_count() == count
    assert not lock.locked()
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        lock.release()


@pytest.mark.parametrize("owner_is", ["a thread", "an interpreter"])
def test_nobody_but_its_owner_may_release_it(owner_is: str) -> None:
    lock, go = RLock(), SimpleQueue[None]()
    told = SimpleQueue[None]()
    hold = workers.hold
    owner = in_thread(hold, lock, told, go) if owner_is == "a thread" else started(hold, lock, told, go)
    told.get(timeout=AMPLE)
    for refused in (lock.release, lock._release_save):
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            refused()
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            started(refused).result(AMPLE)
    assert lock.locked()
    assert not lock._is_owned()
    assert lock._recursion_count() == 0
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.01) is False
    assert "locked multigil.RLock object owner=" in repr(lock)
    assert "count=2" in repr(lock)
    go.put(None)
    owner.result(AMPLE)
    assert lock.acquire(timeout=AMPLE)


def test_the_threads_of_one_interpreter_exclude_each_other() -> None:
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(workers.acquire_in_two_threads, RLock()) == (True, False)


def test_interpreters_and_threads_exclude_each_other(tmp_path: Path) -> None:
    lock, path, times = RLock(), tmp_path / "number", 1_000
    path.write_text("0")
    working = [started(workers.count_in_file, path, lock, times) for _ in range(3)]
    with lock:
        pass
    in_thread(workers.count_in_file, path, lock, times).result(2 * AMPLE)
    for interpreter in working:
        interpreter.result(AMPLE)
    assert path.read_text() == str(4 * times)


def test_release_save_and_acquire_restore_keep_the_count() -> None:
    lock = RLock()
    for _ in range(3):
        lock.acquire()
    saved = lock._release_save()
    assert saved == (3, threading.get_native_id())
    assert in_thread(lock.acquire).result(AMPLE)
    assert lock.locked()
    assert lock._recursion_count() == 0


def test_acquire_restore_waits_for_the_lock() -> None:
    lock = RLock()
    lock.acquire()

    def restore() -> int:
        lock._acquire_restore((5, 0))
        return lock._recursion_count()

    restoring = in_thread(restore)
    assert_waits(restoring)
    lock.release()
    assert restoring.result(AMPLE) == 5


def test_acquire_restore_of_a_lock_that_is_held_sets_the_count() -> None:
    lock = RLock()
    with lock:
        lock._acquire_restore((3, 0))
        assert lock._recursion_count() == 3
        lock._acquire_restore((1, 0))
    assert not lock.locked()


def test_a_signal_handler_runs_while_the_lock_is_acquired() -> None:
    lock = RLock()
    owner = in_thread(lock.acquire)
    owner.result(AMPLE)

    def handle(*_: object) -> None:
        raise ArithmeticError

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(ArithmeticError):
            lock.acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not lock._is_owned()


def test_acquire_restore_raises_only_when_the_lock_is_taken() -> None:
    lock, told, go = RLock(), SimpleQueue[None](), SimpleQueue[None]()
    owner = in_thread(workers.hold, lock, told, go)
    told.get(timeout=AMPLE)
    handled = []

    def handle(*_: object) -> None:
        handled.append(lock._is_owned())
        if len(handled) == 2:
            go.put(None)
        raise ArithmeticError(len(handled))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT, MOMENT)
        with pytest.raises(ArithmeticError) as raised:
            lock._acquire_restore((2, 0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert lock._recursion_count() == 2
    assert handled[:2] == [False, False]
    assert isinstance(raised.value.__context__, ArithmeticError)
    owner.result(AMPLE)


def test_an_interrupt_ends_the_wait_of_an_interpreter() -> None:
    lock, told = RLock(), SimpleQueue[None]()
    with lock:
        interpreter = started(workers.tell_and_call, told, lock.acquire)
        told.get(timeout=AMPLE)
        time.sleep(MOMENT)
        interpreter.interrupt()
        assert isinstance(interpreter.exception(AMPLE), KeyboardInterrupt)
    assert in_thread(lock.acquire, False).result(AMPLE)


def test_threadings_condition_works_with_it() -> None:
    condition = threading.Condition(RLock())  # type: ignore[arg-type]
    arrived: list[int] = []

    def wait() -> bool:
        with condition, condition:
            condition.wait_for(lambda: arrived)
            return condition._is_owned()  # type: ignore[attr-defined, no-any-return]

    waiting = in_thread(wait)
    assert_waits(waiting)
    with condition:
        arrived.append(1)
        condition.notify()
    assert waiting.result(AMPLE)


def test_wait_any_finds_it_ready_when_it_could_be_acquired() -> None:
    lock, told, go = RLock(), SimpleQueue[None](), SimpleQueue[None]()
    assert multigil.wait_any(lock) is lock
    with lock:
        assert multigil.wait_any(lock) is lock
        assert in_thread(multigil.wait_any, lock, timeout=0).result(AMPLE) is None
    owner = in_thread(workers.hold, lock, told, go)
    told.get(timeout=AMPLE)
    assert multigil.wait_any(lock, timeout=MOMENT) is None
    waiting = in_thread(multigil.wait_any, lock)
    assert_waits(waiting)
    go.put(None)
    assert waiting.result(AMPLE) is lock
    owner.result(AMPLE)
    assert not lock.locked()


def test_it_is_the_same_lock_when_it_comes_back() -> None:
    lock = RLock()
    assert pickle.loads(pickle.dumps(lock)) is lock
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(workers.identity, lock) is lock


def test_it_outlives_its_maker() -> None:
    carrier = SimpleQueue[RLock]()
    started(workers.put_new, carrier, "RLock").join(AMPLE)
    lock = carrier.get_nowait()
    assert lock.acquire()
    assert started(lock.acquire, False).result(AMPLE) is False


def test_a_weak_reference_ends_with_the_last_strong_one() -> None:
    lock = RLock()
    reference = weakref.ref(lock)
    lock.acquire()
    assert reference() is lock
    del lock
    gc.collect()
    assert reference() is None


def test_a_forked_child_makes_it_its_own(run_program: ProgramRunner) -> None:
    source = """
        import os, threading, multigil
        lock, other = multigil.RLock(), multigil.RLock()
        lock.acquire()
        thread = threading.Thread(target=lambda: (other.acquire(), other.acquire()))
        thread.start()
        thread.join()
        child = os.fork()
        if not child:
            theirs = not lock.acquire(False) and not other.acquire(False)
            lock._at_fork_reinit()
            other._at_fork_reinit()
            os._exit(not (theirs and lock.acquire(False) and other.acquire(False)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lock.locked(), other.locked())
    """
    # The thread has ended, but the kernel may not have counted it out.
    assert run_program.output(source, options=["-W", "ignore::DeprecationWarning"]) == "0 True True\n"


@pytest.mark.parametrize("make", [Lock, RLock])
def test_the_owner_of_a_lock_is_known_in_every_interpreter(make: type[Lock | RLock]) -> None:
    lock = make()
    assert lock.owner is None
    with multigil.Interpreter() as interpreter:
        interpreter.call(lock.acquire)
        assert lock.owner is not None
        assert lock.owner == (interpreter.id, interpreter.native_id)
        assert lock.owner.interpreter_id == interpreter.id
        assert lock.owner.native_id == interpreter.native_id
        assert interpreter.call(getattr, lock, "owner") == lock.owner
        assert repr(lock.owner) == f"multigil.Owner(interpreter_id={interpreter.id}, native_id={interpreter.native_id})"
        interpreter.call(lock.release)
        assert lock.owner is None
    with lock:
        assert lock.owner == (multigil.main_interpreter().id, os.getpid())
        assert in_thread(lambda: lock.owner).result(AMPLE) == lock.owner


@pytest.mark.parametrize("make", [Lock, RLock])
def test_the_owner_of_a_lock_may_have_ended(make: type[Lock | RLock]) -> None:
    lock = make()
    interpreter = started(lock.acquire)
    interpreter.join(AMPLE)
    for _ in range(3):  # they do not take the number of the one that has ended
        started(int).join(AMPLE)
    assert lock.locked()
    assert lock.owner is not None
    assert lock.owner.interpreter_id == -1
