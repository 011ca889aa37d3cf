"""`Interpreter` and its parts, seen from inside: what no user could tell apart from luck."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import workers
from harness import AMPLE
from multigil import Interpreter, InterpreterDied, Queue, SimpleQueue, _core, _exit, _worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import ProgramRunner


@contextlib.contextmanager
def hail(interpreter: Interpreter) -> Iterator[None]:
    """Interrupt an interpreter all the time."""
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.is_set():
            interpreter.interrupt()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        yield
    finally:
        stop.set()
        interrupting.join()


def test_every_task_has_one_outcome_in_a_hail_of_interrupts() -> None:
    with Interpreter() as interpreter:
        interpreter.call(int)
        with hail(interpreter):
            futures = [interpreter.submit(workers.identity, number) for number in range(300)]
            outcomes = [future.exception(AMPLE) or future.result() for future in futures]
        for number, outcome in enumerate(outcomes):
            assert outcome == number or isinstance(outcome, KeyboardInterrupt)
        assert [interpreter.call(workers.identity, number) for number in range(20)] == list(range(20))
        worker = interpreter._worker
        assert worker is not None
        assert worker.resolved.empty()
        assert worker.replied.empty()


def test_calls_in_a_hail_of_interrupts_give_their_own_result_or_none() -> None:
    with Interpreter() as interpreter:
        interpreter.call(int)
        with hail(interpreter):
            for number in range(200):
                with contextlib.suppress(KeyboardInterrupt):
                    assert interpreter.call(workers.identity, number) == number
        assert interpreter.call(workers.identity, "after") == "after"


def test_a_hail_of_interrupts_does_not_hold_up_what_the_loop_itself_imports() -> None:
    with Interpreter() as interpreter:
        interpreter.call(workers.import_slowly, "multigil._transfer", 0.05)
        with hail(interpreter):
            error = interpreter.submit(workers.refuse).exception(AMPLE)
        assert isinstance(error, (ArithmeticError, KeyboardInterrupt))
        assert interpreter.call(workers.identity, "after") == "after"


def test_every_start_has_one_outcome_in_a_hail_of_interrupts() -> None:
    for number in range(20):
        interpreter = Interpreter(target=workers.identity, args=(number,))
        interpreter.start()
        with hail(interpreter):
            error = interpreter.exception(AMPLE)
            interpreter.join(AMPLE)
        assert not interpreter.is_alive()
        assert isinstance(error, KeyboardInterrupt) or interpreter.result() == number


def test_expose_calls_and_gives_what_was_given_or_raised() -> None:
    assert _core.expose(1, max, 2, 3) == 3
    assert _core.expose(None, _core.expose, 1, int) == 0
    with pytest.raises(ArithmeticError, match="not here"):
        _core.expose(1, workers.refuse)
    for wrong in [(), (1,), ("1", int), (-1, int), (2**64, int)]:
        with pytest.raises((TypeError, OverflowError)):
            _core.expose(*wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        _core.expose(1, int, base=2)  # type: ignore[call-arg]


def test_into_takes_and_keeps_in_one_step() -> None:
    slot: list[int] = []
    box: SimpleQueue[int] = SimpleQueue()
    box.put(1)
    _worker.into(slot, box.get_nowait)
    _worker.into(slot, max, 2, 3)
    assert slot == [1, 3]


def test_a_header_of_a_later_call_is_only_a_number() -> None:
    with Interpreter() as interpreter:
        interpreter.call(int)
        interpreter.call(int)
        worker = interpreter._worker
        assert worker is not None
        headers: list[object] = []
        inbox = worker.inbox

        class Watched:
            def put(self, header: object) -> None:
                headers.append(header)
                inbox.put(header)

        worker.inbox = Watched()  # type: ignore[assignment]
        interpreter.call(int)
        sys.path.append("/nowhere")
        interpreter.call(int)
        sys.path.pop()
        worker.inbox = inbox
        assert isinstance(headers[0], int)
        assert isinstance(headers[1], tuple)
        assert headers[1][3] == {"path": [*sys.path, "/nowhere"]}


def test_a_call_that_was_never_taken_out_is_no_outcome() -> None:
    go: Queue[None] = Queue()
    interpreter = Interpreter(target=go.get)
    interpreter.start()
    future = interpreter.submit(workers.identity, 1)
    interpreter.terminate(AMPLE)
    with pytest.raises(InterpreterDied, match="was terminated"):
        future.result(AMPLE)


def test_arguments_of_a_started_interpreter_are_not_kept() -> None:
    interpreter = Interpreter(target=workers.identity, args=(bytes(10),))
    interpreter.start()
    assert not hasattr(interpreter, "_args")
    interpreter.join()


def test_a_start_takes_a_spare_and_has_another_made() -> None:
    Interpreter(target=int).start()
    spare = _exit._all.spares[0]
    interpreter = Interpreter(target=int)
    interpreter.start()
    assert interpreter._worker is spare
    assert spare not in _exit._all.spares
    assert len(_exit._all.spares) >= 1
    interpreter.join()


def test_a_spare_that_died_is_not_given_out() -> None:
    Interpreter(target=int).start()
    for spare in _exit._all.spares:
        spare.terminate(AMPLE)
    interpreter = Interpreter(target=workers.identity, args=(5,))
    interpreter.start()
    assert interpreter.result(AMPLE) == 5
    interpreter.join()


def test_the_program_ends_those_that_nobody_has_taken_note_of(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        from multigil import _worker
        multigil.Interpreter(target=int).start()
        worker = _worker.Worker()  # as when an exception strikes whoever makes one
        print(worker.is_alive())
    """)
    assert output == "True\n"


def test_a_fork_ends_the_spares_and_needs_no_warning_then(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import os, warnings
        import multigil
        from multigil import _exit
        warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, about threads
        warnings.simplefilter("error", RuntimeWarning)
        interpreter = multigil.Interpreter(target=int)
        interpreter.start()
        interpreter.join()
        assert len(_exit._all.spares) == 1
        if os.fork() == 0:
            print("child", len(_exit._all.spares), flush=True)
            os._exit(0)
        os.wait()
        interpreter = multigil.Interpreter(target=int)
        interpreter.start()
        print("parent", interpreter.result())
    """)
    assert output == "child 0\nparent 0\n"


def test_a_program_that_only_imports_pays_for_no_interpreter() -> None:
    code = "import multigil, threading; multigil.Interpreter; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=AMPLE)


def test_a_callback_of_a_future_may_cancel_it_and_use_the_interpreter() -> None:
    go: Queue[None] = Queue()
    seen: list[int] = []
    with Interpreter() as interpreter:
        first = interpreter.submit(go.get)
        while not first.running():
            time.sleep(0.001)
        second = interpreter.submit(int)
        second.add_done_callback(lambda future: seen.append(future.cancel()))
        assert second.cancel()
        assert seen == [True]
        first.add_done_callback(lambda _: seen.append(interpreter.call(int)))
        go.put(None)
        assert first.result(AMPLE) is None
        deadline = time.monotonic() + AMPLE
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
    assert seen == [True, 0]
