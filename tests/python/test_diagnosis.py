"""`diagnose()`: who holds what, who waits for what, and who waits for ever."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from typing import TYPE_CHECKING

import multigil
import workers
from harness import AMPLE, in_fresh_process
from multigil import Interpreter, Lock, Queue, diagnose

if TYPE_CHECKING:
    from collections.abc import Callable

    from multigil._diagnosis import WaitingThread


def wait_until(condition: Callable[[], bool]) -> None:
    """A diagnosis wakes nobody, so it has to be made again and again."""
    deadline = time.monotonic() + AMPLE
    while not condition():
        assert time.monotonic() < deadline


def thread_called(name: str) -> WaitingThread | None:
    return next((thread for thread in diagnose().threads if thread.name == name), None)


@in_fresh_process
def test_nobody_waits() -> None:
    diagnosis = diagnose()
    assert (diagnosis.threads, diagnosis.deadlocks, diagnosis.silent) == ([], [], [])
    assert str(diagnosis) == "0 threads waiting, 0 deadlocks."


@in_fresh_process
def test_who_holds_a_lock_without_waiting() -> None:
    with Lock():
        (thread,) = diagnose().threads
        assert thread.native_id == threading.get_native_id()
        assert thread.waits_for == ""
        assert len(thread.holds) == 1
        assert thread.holds[0].startswith("Lock ")
        assert "test_who_holds_a_lock_without_waiting" in "".join(thread.stack)
    assert diagnose().threads == []


def test_a_deadlock_of_two_interpreters_and_who_waits_for_them() -> None:
    first, second = Lock(), Lock()
    ready: Queue[None] = Queue()
    go: Queue[None] = Queue()
    one = Interpreter(target=workers.take_two, args=(first, second, ready, go), name="one", daemon=True)
    other = Interpreter(target=workers.take_two, args=(second, first, ready, go), name="other", daemon=True)
    one.start()
    other.start()
    for _ in range(2):
        ready.get(timeout=AMPLE)
    assert diagnose().deadlocks == []
    go.shutdown()
    asker = threading.Thread(target=one.exception, name="asker")
    asker.start()
    wait_until(lambda: len(diagnose().deadlocks) == 1 and thread_called("asker") is not None)
    diagnosis = diagnose()
    ((left, right),) = diagnosis.deadlocks
    assert {left.name, right.name} == {"one", "other"}
    for thread in (left, right):
        assert thread.waits_for.startswith("Lock ")
        assert thread.seconds > 0
        assert len(thread.holds) == 1
        assert "in take_two" in thread.stack[-1]
        assert thread.interpreter_id in (one.id, other.id)
    assert left.holds[0] in right.waits_for
    assert right.name in left.waits_for
    waiting = thread_called("asker")
    assert waiting is not None
    assert waiting.waits_for == f"one (thread {one.native_id})"
    assert "Deadlock" in str(diagnosis)
    assert "take_two" in str(diagnosis)
    one.terminate(AMPLE)
    asker.join(AMPLE)
    other.join(AMPLE)
    assert diagnose().deadlocks == []


def test_a_thread_that_waits_for_its_own_lock() -> None:
    lock = Lock()

    def twice() -> None:
        lock.acquire()
        lock.acquire()

    thread = threading.Thread(target=twice, name="narcissus")
    thread.start()
    wait_until(lambda: diagnose().deadlocks != [])
    ((alone,),) = diagnose().deadlocks
    assert alone.name == "narcissus"
    lock.release()
    thread.join(AMPLE)


def test_a_cycle_through_the_end_of_an_interpreter() -> None:
    lock = Lock()
    found: list[list[list[WaitingThread]]] = []

    def rescue() -> None:
        wait_until(lambda: diagnose().deadlocks != [])
        found.append(diagnose().deadlocks)
        lock.release()

    patient = Interpreter(target=workers.take_and_give_back, args=(lock,), name="patient")
    rescuer = threading.Thread(target=rescue)
    lock.acquire()
    patient.start()
    rescuer.start()
    patient.join(AMPLE)
    rescuer.join(AMPLE)
    ((cycle,),) = found
    assert {thread.name for thread in cycle} == {"MainThread", "patient"}


def test_an_interpreter_that_keeps_its_gil_is_named() -> None:
    end, begin = os.pipe()
    with Interpreter() as interpreter:
        interpreter.call(workers.diagnose_in_words)
        future = interpreter.submit(workers.diagnose_until_main_is_silent, begin)
        # A call of C that keeps the GIL, until the other one has seen that.
        ctypes.PyDLL(None).poll(struct.pack("ihh", end, select.POLLIN, 0), 1, int(AMPLE * 1000))
        text = future.result(AMPLE)
    assert "Interpreter 0 did not show its stacks" in text
    os.close(end)
    os.close(begin)
    assert diagnose().silent == []


def test_diagnosing_from_within_an_interpreter() -> None:
    lock = Lock()
    with Interpreter() as interpreter, lock:
        text = interpreter.call(workers.diagnose_in_words)
        assert "holds Lock" in text
        assert "test_diagnosing_from_within_an_interpreter" in text


def test_it_is_there_by_its_name() -> None:
    assert isinstance(multigil.diagnose(), multigil.Diagnosis)
