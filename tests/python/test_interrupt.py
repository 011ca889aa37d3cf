"""`interrupt()` and `terminate()` reach an interpreter in Python code and in every wait of ours."""

from __future__ import annotations

import time
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, in_thread, started
from multigil import Barrier, BoundedSemaphore, Empty, Event, Interpreter, Lock, Queue, Semaphore, SimpleQueue, wait_any

# Within this time a running loop must notice. It is 50 ms on an idle machine.
SOON = 1.0


def full_queue() -> Queue[int]:
    q: Queue[int] = Queue(1)
    q.put(0)
    return q


def held_lock() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


# What never returns: a function and its arguments, made anew for each test.
ENDLESS: dict[str, Any] = {
    "an endless loop": lambda: (workers.spin,),
    "Queue.get": lambda: (Queue().get,),
    "Queue.get with a timeout": lambda: (Queue().get, True, 3_600),
    "SimpleQueue.get": lambda: (SimpleQueue().get,),
    "Queue.put": lambda: (full_queue().put, 1),
    "Queue.put_many": lambda: (full_queue().put_many, [1, 2]),
    "Queue.get_many": lambda: (Queue().get_many,),
    "Queue.peek": lambda: (Queue().peek,),
    "Queue.join": lambda: (full_queue().join,),
    "Lock.acquire": lambda: (held_lock().acquire,),
    "Lock.acquire with a timeout": lambda: (held_lock().acquire, True, 3_600),
    "Event.wait": lambda: (Event().wait,),
    "Event.wait with a timeout": lambda: (Event().wait, 3_600),
    "Semaphore.acquire": lambda: (Semaphore(0).acquire,),
    "BoundedSemaphore.acquire with a timeout": lambda: (BoundedSemaphore(0).acquire, True, 3_600),
    "Barrier.wait": lambda: (Barrier(2).wait,),
    "Barrier.wait with a timeout": lambda: (Barrier(2, timeout=3_600).wait,),
    "wait_any": lambda: (wait_any, Queue(), held_lock(), Event(), Semaphore(0)),
    "wait_any with a file descriptor": lambda: (workers.wait_for_event_or_descriptor, Event()),
    "Interpreter.join": lambda: (workers.started_and_joined, Queue().get),
    "Interpreter.result": lambda: (workers.started_and_waited_for, Queue().get),
}


def running(endless: Any) -> Interpreter:
    told: SimpleQueue[None] = SimpleQueue()
    interpreter = started(workers.tell_and_call, told, *endless())
    told.get(timeout=AMPLE)
    time.sleep(MOMENT)
    return interpreter


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS.keys())
class TestBoth:
    def test_interrupt_raises_keyboard_interrupt_there(self, endless: Any) -> None:
        interpreter = running(endless)
        start = time.monotonic()
        interpreter.interrupt()
        with pytest.raises(KeyboardInterrupt):
            interpreter.result(AMPLE)
        assert time.monotonic() - start < SOON
        interpreter.join(AMPLE)
        assert not interpreter.is_alive()

    def test_terminate_ends_it_and_its_result_is_that_it_died(self, endless: Any) -> None:
        interpreter = running(endless)
        start = time.monotonic()
        interpreter.terminate()
        assert time.monotonic() - start < SOON
        assert not interpreter.is_alive()
        with pytest.raises(multigil.InterpreterDied, match="terminated"):
            interpreter.result(AMPLE)


# Where a task runs the user's code beside its call, and never comes to an end: a function and its arguments.
ENDLESS_BESIDE_THE_CALL: dict[str, Any] = {
    "unpickling the call": lambda told: (workers.identity, workers.SpinsWhenUnpickled(told)),
    "flushing what was printed": lambda told: (workers.spin_in_flush, told),
    "pickling the result": lambda told: (workers.SpinsWhenPickled, told),
    "freeing the result": lambda told: (workers.SpinsWhenDeleted, told),
}


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("endless", ENDLESS_BESIDE_THE_CALL.values(), ids=ENDLESS_BESIDE_THE_CALL.keys())
class TestBothBesideTheCall:
    def test_interrupt_strikes_there_and_the_next_call_works(self, endless: Any) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        with Interpreter() as interpreter:
            future = interpreter.submit(*endless(told))
            told.get(timeout=AMPLE)
            interpreter.interrupt()
            # Freeing comes after the result was sent.
            assert isinstance(future.exception(AMPLE), KeyboardInterrupt) or future.result() == 0
            assert interpreter.call(workers.identity, 5) == 5

    def test_terminate_ends_it(self, endless: Any) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        interpreter = Interpreter()
        interpreter.submit(*endless(told))
        told.get(timeout=AMPLE)
        interpreter.terminate(AMPLE)
        assert not interpreter.is_alive()


@pytest.mark.usefixtures("each_backend")
class TestExcepthook:
    @pytest.mark.parametrize("method", ["interrupt", "terminate"])
    def test_one_that_never_ends_is_struck(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        monkeypatch.setattr(multigil, "excepthook", workers.SpinsWhenCalled(told))
        interpreter = started(workers.refuse)
        told.get(timeout=AMPLE)
        getattr(interpreter, method)()
        interpreter.join(AMPLE)
        assert not interpreter.is_alive()


@pytest.mark.usefixtures("each_backend")
class TestInterrupt:
    def test_one_that_comes_right_after_the_start_is_not_lost(self) -> None:
        for _ in range(5):
            interpreter = started(workers.spin)
            interpreter.interrupt()
            assert isinstance(interpreter.exception(AMPLE), KeyboardInterrupt)
            interpreter.join(AMPLE)

    def test_it_strikes_what_runs_and_not_what_is_queued(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        with Interpreter() as interpreter:
            running = interpreter.submit(workers.tell_and_call, told, workers.spin)
            queued = [interpreter.submit(workers.identity, number) for number in range(3)]
            told.get(timeout=AMPLE)
            interpreter.interrupt()
            assert isinstance(running.exception(AMPLE), KeyboardInterrupt)
            assert [future.result(AMPLE) for future in queued] == [0, 1, 2]

    def test_the_target_may_catch_it_and_go_on(self) -> None:
        told: SimpleQueue[str] = SimpleQueue()
        interpreter = started(workers.spin_and_survive_interrupts, told, 3)
        for _ in range(3):
            assert told.get(timeout=AMPLE) == "spinning"
            interpreter.interrupt()
        assert interpreter.result(AMPLE) == "survived"

    def test_an_interpreter_that_waits_for_calls_is_left_alone(self) -> None:
        with Interpreter() as interpreter:
            for number in range(20):
                interpreter.interrupt()
                assert interpreter.call(workers.identity, number) == number

    def test_a_call_is_interrupted_and_the_next_one_works(self) -> None:
        with Interpreter() as interpreter:
            for _ in range(5):
                told: SimpleQueue[None] = SimpleQueue()
                calling = in_thread(interpreter.call, workers.tell_and_call, told, workers.spin)
                told.get(timeout=AMPLE)
                interpreter.interrupt()
                with pytest.raises(KeyboardInterrupt):
                    calling.result(AMPLE)
                assert interpreter.call(workers.identity, 5) == 5

    def test_a_wait_that_was_interrupted_takes_no_item(self) -> None:
        q: Queue[int] = Queue()
        for number in range(20):
            interpreter = running(lambda: (q.get,))
            interpreter.interrupt()
            q.put(number)
            try:
                assert interpreter.result(AMPLE) == number
            except KeyboardInterrupt:
                assert q.get(timeout=AMPLE) == number
        assert q.empty()

    def test_before_the_start_it_is_a_runtime_error_and_after_the_end_nothing(self) -> None:
        interpreter = Interpreter(target=workers.identity, args=(5,))
        with pytest.raises(RuntimeError, match="before it is started"):
            interpreter.interrupt()
        interpreter.start()
        interpreter.join(AMPLE)
        interpreter.interrupt()
        assert interpreter.result() == 5


@pytest.mark.usefixtures("each_backend")
class TestTerminate:
    def test_clauses_of_cleaning_up_are_run(self) -> None:
        told: SimpleQueue[str] = SimpleQueue()
        lock = Lock()
        interpreter = started(workers.spin_and_clean_up, told, lock)
        assert told.get(timeout=AMPLE) == "spinning"
        interpreter.terminate(AMPLE)
        assert told.get_nowait() == "cleaned up"
        assert not lock.locked()

    def test_it_passes_through_what_catches_exceptions(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        interpreter = started(workers.spin_through_exceptions, told)
        told.get(timeout=AMPLE)
        interpreter.terminate(AMPLE)
        assert not interpreter.is_alive()

    def test_a_queue_in_which_it_waited_goes_on(self) -> None:
        q: Queue[int] = Queue()
        interpreter = running(lambda: (q.get,))
        interpreter.terminate(AMPLE)
        q.put(1)
        assert q.get_nowait() == 1
        with pytest.raises(Empty):
            q.get_nowait()

    def test_a_lock_for_which_it_waited_goes_on(self) -> None:
        lock = held_lock()
        interpreter = running(lambda: (lock.acquire,))
        interpreter.terminate(AMPLE)
        lock.release()
        assert not lock.locked()
        assert lock.acquire(blocking=False)

    def test_a_call_that_runs_is_told_that_the_interpreter_died(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        interpreter = Interpreter()
        calling = in_thread(interpreter.call, workers.tell_and_call, told, workers.spin)
        told.get(timeout=AMPLE)
        interpreter.terminate(AMPLE)
        with pytest.raises(multigil.InterpreterDied):
            calling.result(AMPLE)
        with pytest.raises(RuntimeError):
            interpreter.call(workers.identity, 5)

    def test_it_ends_the_interpreters_that_its_end_waits_for(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        interpreter = started(workers.start_and_leave, told)
        told.get(timeout=AMPLE)
        assert interpreter.result(AMPLE) is None
        assert interpreter.is_alive()
        interpreter.terminate(AMPLE)
        assert not interpreter.is_alive()

    def test_one_that_the_target_catches_ends_the_interpreter_all_the_same(self) -> None:
        told: SimpleQueue[str] = SimpleQueue()
        interpreter = started(workers.spin_and_survive_termination, told)
        assert told.get(timeout=AMPLE) == "spinning"
        interpreter.terminate(AMPLE)
        assert not interpreter.is_alive()
        with pytest.raises(multigil.InterpreterDied, match="terminated"):
            interpreter.result(AMPLE)

    def test_what_was_submitted_is_told_that_the_interpreter_died(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        interpreter = Interpreter()
        futures = [
            interpreter.submit(workers.tell_and_call, told, workers.spin),
            interpreter.submit(workers.identity, 5),
        ]
        told.get(timeout=AMPLE)
        interpreter.terminate(AMPLE)
        for future in futures:
            with pytest.raises(multigil.InterpreterDied):
                future.result(AMPLE)

    def test_before_the_start_it_is_a_runtime_error_and_after_the_end_nothing(self) -> None:
        interpreter = Interpreter(target=workers.identity, args=(5,))
        with pytest.raises(RuntimeError, match="before it is started"):
            interpreter.terminate()
        interpreter.start()
        interpreter.join(AMPLE)
        interpreter.terminate()
        assert interpreter.result() == 5

    def test_death_is_one_of_our_errors_and_a_runtime_error(self) -> None:
        assert issubclass(multigil.InterpreterDied, multigil.MultigilError)
        assert issubclass(multigil.InterpreterDied, RuntimeError)


class TestTerminateInThisProcess:
    def test_a_call_into_c_that_takes_long_is_a_timeout_error(self) -> None:
        interpreter = running(lambda: (time.sleep, 0.5))
        with pytest.raises(TimeoutError):
            interpreter.terminate(timeout=0.05)
        interpreter.join(AMPLE)
        assert not interpreter.is_alive()
