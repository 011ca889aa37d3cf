"""An open interpreter serves calls, one after another, until it is closed."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, in_thread, started
from multigil import Interpreter, Lock, Queue, SimpleQueue

pytestmark = pytest.mark.usefixtures("each_backend")


class TestCall:
    def test_it_gives_the_result_and_takes_any_arguments(self) -> None:
        with Interpreter() as interpreter:
            assert interpreter.call(workers.describe_call, 1, b=2) == ((1,), {"b": 2})
            assert interpreter.call(workers.describe_call, self=1, function=2) == ((), {"self": 1, "function": 2})

    def test_it_raises_the_exception_and_the_interpreter_goes_on(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(ZeroDivisionError):
                interpreter.call(divmod, 1, 0)
            with pytest.raises(SystemExit):
                interpreter.call(exit, 5)
            assert interpreter.call(divmod, 7, 2) == (3, 1)

    def test_all_calls_run_in_the_same_thread_of_the_same_interpreter(self) -> None:
        with Interpreter() as interpreter:
            (place,) = {interpreter.call(workers.identifiers) for _ in range(5)}
            assert place[1] == interpreter.native_id

    def test_an_argument_that_cannot_be_sent_is_an_error_and_the_interpreter_goes_on(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(TypeError, match="generator"):
                interpreter.call(workers.identity, (i for i in range(3)))
            assert interpreter.call(workers.identity, 5) == 5

    def test_a_result_that_cannot_be_sent_is_an_error_and_the_interpreter_goes_on(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(TypeError, match="generator"):
                interpreter.call(eval, "(i for i in range(3))")
            assert interpreter.call(workers.identity, 5) == 5

    def test_an_argument_that_cannot_be_unpickled_is_an_error_and_the_interpreter_goes_on(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(ArithmeticError, match="not here"):
                interpreter.call(workers.identity, workers.RefusesToLoad())
            assert interpreter.call(workers.identity, 5) == 5

    def test_a_result_that_cannot_be_unpickled_is_an_error_and_the_interpreter_goes_on(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(ArithmeticError, match="not here"):
                interpreter.call(workers.RefusesToLoad)
            assert interpreter.call(workers.identity, 5) == 5

    def test_calls_from_many_threads_get_their_own_results(self) -> None:
        with Interpreter() as interpreter:
            calls = [in_thread(interpreter.call, workers.identity, number) for number in range(50)]
            assert [call.result(AMPLE) for call in calls] == list(range(50))

    def test_it_may_not_call_itself(self) -> None:
        with Interpreter() as interpreter, pytest.raises(RuntimeError, match="current interpreter"):
            interpreter.call(workers.call_itself)

    def test_large_arguments_and_results(self) -> None:
        with Interpreter() as interpreter:
            content = os.urandom(5_000_000)
            assert interpreter.call(workers.identity, content) == content

    def test_queues_and_locks_are_shared(self) -> None:
        q: Queue[int] = Queue()
        lock = Lock()
        with Interpreter() as interpreter:
            interpreter.call(q.put, 5)
            interpreter.call(lock.acquire)
            assert interpreter.call(workers.identity, [q, lock]) == [q, lock]
            assert (q.get_nowait(), lock.locked()) == (5, True)

    def test_a_queue_that_only_the_result_holds_arrives(self) -> None:
        with Interpreter() as interpreter:
            q: Queue[Any] = interpreter.call(Queue, 3)
            interpreter.call(q.put, 5)
        assert (q.maxsize, q.get_nowait()) == (3, 5)


class TestSubmit:
    def test_it_gives_a_future_of_concurrent_futures(self) -> None:
        with Interpreter() as interpreter:
            future = interpreter.submit(workers.describe_call, 1, b=2)
            assert isinstance(future, concurrent.futures.Future)
            assert future.result(AMPLE) == ((1,), {"b": 2})
            failing = interpreter.submit(divmod, 1, 0)
            assert isinstance(failing.exception(AMPLE), ZeroDivisionError)

    def test_what_is_submitted_runs_in_order(self) -> None:
        told: SimpleQueue[int] = SimpleQueue()
        with Interpreter() as interpreter:
            futures = [interpreter.submit(told.put, number) for number in range(100)]
            assert concurrent.futures.wait(futures, AMPLE).not_done == set()
        assert [told.get_nowait() for _ in range(100)] == list(range(100))

    def test_submit_does_not_wait(self) -> None:
        q: Queue[int] = Queue()
        with Interpreter() as interpreter:
            futures = [interpreter.submit(q.get) for _ in range(3)]
            assert not any(future.done() for future in futures)
            for number in range(3):
                q.put(number)
            assert [future.result(AMPLE) for future in futures] == [0, 1, 2]

    def test_callbacks_of_the_future_are_called(self) -> None:
        called: SimpleQueue[int] = SimpleQueue()
        with Interpreter() as interpreter:
            interpreter.submit(workers.identity, 5).add_done_callback(lambda future: called.put(future.result()))
            assert called.get(timeout=AMPLE) == 5

    def test_calls_and_what_was_submitted_do_not_mix(self) -> None:
        with Interpreter() as interpreter:
            futures = [interpreter.submit(workers.identity, number) for number in range(20)]
            assert [interpreter.call(workers.identity, -number) for number in range(20)] == [-n for n in range(20)]
            assert [future.result(AMPLE) for future in futures] == list(range(20))


class TestExec:
    def test_names_stay_from_one_text_to_the_next(self) -> None:
        with Interpreter() as interpreter:
            interpreter.exec("number = 5")
            interpreter.exec("def double(): return 2 * number")
            interpreter.exec("number += double()")
            interpreter.exec("assert number == 15, number")

    def test_errors_are_raised_here(self) -> None:
        with Interpreter() as interpreter:
            with pytest.raises(NameError, match="no_such_name"):
                interpreter.exec("no_such_name")
            with pytest.raises(SyntaxError):
                interpreter.exec("1 +")
            with pytest.raises(SystemExit):
                interpreter.exec("raise SystemExit")
            interpreter.exec("import sys")

    def test_names_are_those_of_main_there_and_not_of_this_program(self) -> None:
        with Interpreter() as interpreter, Interpreter() as other:
            interpreter.exec("import __main__\nown = 5\nassert __main__.own == 5")
            with pytest.raises(NameError):
                other.exec("own")


class TestClose:
    def test_the_end_of_with_closes_it(self) -> None:
        with Interpreter() as interpreter:
            assert interpreter.is_alive()
        assert not interpreter.is_alive()
        for use in (interpreter.call, interpreter.submit):
            with pytest.raises(RuntimeError):
                use(workers.identity, 5)
        with pytest.raises(RuntimeError):
            interpreter.exec("pass")
        with pytest.raises(RuntimeError):
            interpreter.start()

    def test_an_exception_closes_it_too(self) -> None:
        with pytest.raises(ArithmeticError), Interpreter() as interpreter:
            raise ArithmeticError
        assert not interpreter.is_alive()

    def test_close_lets_finish_what_was_submitted(self) -> None:
        interpreter = Interpreter()
        futures = [interpreter.submit(time.sleep, 0.01), interpreter.submit(workers.identity, 5)]
        interpreter.close()
        assert not interpreter.is_alive()
        assert [future.result(AMPLE) for future in futures] == [None, 5]
        interpreter.close()

    def test_close_before_anything_was_called(self) -> None:
        interpreter = Interpreter()
        interpreter.close()
        with pytest.raises(RuntimeError):
            interpreter.call(workers.identity, 5)

    def test_one_that_nobody_holds_any_more_closes_itself(self) -> None:
        interpreter = Interpreter()
        interpreter.call(workers.identity, 5)
        thread = Path(f"/proc/{interpreter.native_id}")
        assert thread.exists()
        del interpreter
        gc.collect()
        deadline = time.monotonic() + AMPLE
        while thread.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def test_threads_that_a_call_started_are_waited_for(self) -> None:
        q: Queue[str] = Queue()
        with Interpreter() as interpreter:
            interpreter.call(workers.start_thread, time.sleep, 0.1, q, "the thread has ended")
        assert q.get_nowait() == "the thread has ended"


class TestTargetFirst:
    def test_with_runs_the_target_and_serves_calls_afterwards(self) -> None:
        q: Queue[int] = Queue()
        with Interpreter(target=q.get) as interpreter:
            calling = in_thread(interpreter.call, workers.identity, 5)
            assert not interpreter.done()
            q.put(1)
            assert calling.result(AMPLE) == 5
            assert interpreter.result(AMPLE) == 1
            assert interpreter.done()
            assert interpreter.is_alive()
            assert interpreter.call(workers.identity, 6) == 6

    def test_one_that_was_started_ends_with_its_target_and_refuses_calls_afterwards(self) -> None:
        interpreter = started(workers.identity, 1)
        interpreter.join(AMPLE)
        with pytest.raises(RuntimeError):
            interpreter.call(workers.identity, 5)


class TestListing:
    def test_open_ones_are_listed(self) -> None:
        with Interpreter() as interpreter:
            assert interpreter in multigil.enumerate()
        assert interpreter not in multigil.enumerate()
