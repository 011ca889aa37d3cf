"""`Timer` calls a function later, in an interpreter, unless somebody cancels it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

import multigil
import workers
from harness import AMPLE, started
from multigil import Interpreter, InterpreterDied, SimpleQueue, Timer

if TYPE_CHECKING:
    from harness import ProgramRunner


def test_it_calls_the_function_after_the_interval() -> None:
    start = time.monotonic()
    timer = Timer(0.2, workers.add, [2, 3])
    timer.start()
    assert not timer.finished.is_set()
    assert timer.result(AMPLE) == 5
    assert time.monotonic() - start >= 0.2
    assert timer.finished.is_set()
    timer.join(AMPLE)


def test_the_function_runs_in_an_interpreter() -> None:
    timer = Timer(0, workers.identifiers)
    timer.start()
    assert timer.result(AMPLE) == (timer.ident, timer.native_id, timer.id)
    assert timer.id != multigil.main_interpreter().id


def test_positions_and_keywords_are_passed() -> None:
    timer = Timer(0, workers.describe_call, ("one",), {"two": 2})
    timer.start()
    assert timer.result(AMPLE) == (("one",), {"two": 2})


def test_the_function_may_be_a_closure() -> None:
    number = 41
    timer = Timer(0, lambda: number + 1)
    timer.start()
    assert timer.result(AMPLE) == 42


def test_its_arguments_are_its_own() -> None:
    one, other = Timer(1, int), Timer(1, int)
    one.args.append("x")
    one.kwargs["y"] = 1
    assert (other.args, other.kwargs) == ([], {})


def test_its_exception_is_its_result() -> None:
    timer = Timer(0, workers.refuse)
    timer.start()
    with pytest.raises(ArithmeticError, match="not here"):
        timer.result(AMPLE)
    assert not timer.finished.is_set()  # as in threading


class TestCancel:
    def test_one_that_waits_ends_at_once_and_calls_nothing(self) -> None:
        called: SimpleQueue[None] = SimpleQueue()
        timer = Timer(3_600, called.put, [None])
        timer.start()
        timer.cancel()
        timer.join(AMPLE)
        assert not timer.is_alive()
        assert timer.result() is None
        assert called.empty()

    def test_one_that_was_not_started_calls_nothing(self) -> None:
        timer = Timer(0, workers.refuse)
        timer.cancel()
        timer.start()
        assert timer.result(AMPLE) is None

    def test_another_interpreter_may_cancel_it(self) -> None:
        timer = Timer(3_600, workers.refuse)
        timer.start()
        started(workers.set_event, timer.finished).join(AMPLE)
        assert timer.result(AMPLE) is None

    def test_one_that_has_called_its_function_stays_as_it_is(self) -> None:
        timer = Timer(0, workers.add, [1, 1])
        timer.start()
        timer.join(AMPLE)
        timer.cancel()
        assert timer.result() == 2

    def test_one_that_waits_can_be_terminated(self) -> None:
        timer = Timer(3_600, workers.refuse)
        timer.start()
        timer.terminate(AMPLE)
        assert not timer.is_alive()
        with pytest.raises(InterpreterDied, match="was terminated"):
            timer.result()


def test_it_is_an_interpreter() -> None:
    timer = Timer(1, int)
    assert isinstance(timer, Interpreter)
    assert re.fullmatch(r"<Timer\(Interpreter-\d+, initial\)>", repr(timer))
    timer.name, timer.daemon = "alarm", True
    assert repr(timer) == "<Timer(alarm, initial daemon)>"


def test_the_end_of_the_program_waits_for_it_unless_it_is_a_daemon(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        multigil.Timer(0.2, print, ["called"]).start()
        never = multigil.Timer(3600, print, ["not called"])
        never.daemon = True
        never.start()
        print("end", flush=True)
    """)
    assert output == "end\ncalled\n"
