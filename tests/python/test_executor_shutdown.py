"""How executors end: on request, when nobody has them any more, and with the program; and what they leave behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import textwrap
import threading
import weakref
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import tasks
from harness import AMPLE, assert_waits, in_fresh_process, in_thread
from multigil import _core
from pools import KINDS, WORKERS, warmed

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from harness import ProgramRunner
    from pools import Kind


def occupied(pool: Executor) -> tuple[multigil.Event, Future[Any]]:
    """Make a worker busy until the event is set."""
    told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
    go = multigil.Event()
    future = pool.submit(tasks.tell_and_wait, told, go, "done")
    told.get(timeout=AMPLE)
    return go, future


class TestShutdown:
    def test_nothing_can_be_submitted_afterwards(self, kind: Kind) -> None:
        pool = kind.make(1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(tasks.nothing)

    def test_it_waits_for_what_runs_and_what_is_pending(self, kind: Kind) -> None:
        pool = kind.make(1)
        go, running = occupied(pool)
        pending = [pool.submit(tasks.double, number) for number in range(20)]
        ending = in_thread(pool.shutdown)
        assert_waits(ending)
        go.set()
        ending.result(AMPLE)
        assert running.result(0) == "done"
        assert [future.result(0) for future in pending] == list(range(0, 40, 2))

    def test_without_waiting(self, kind: Kind) -> None:
        pool = kind.make(1)
        go, running = occupied(pool)
        pending = pool.submit(tasks.double, 2)
        pool.shutdown(wait=False)
        assert not running.done()
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)
        go.set()
        assert running.result(AMPLE) == "done"
        assert pending.result(AMPLE) == 4
        pool.shutdown()

    def test_the_context_manager_waits(self, kind: Kind) -> None:
        with kind.make(WORKERS) as pool:
            assert isinstance(pool, kind.make)  # type: ignore[arg-type]
            futures = [pool.submit(tasks.double, number) for number in range(10)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)

    def test_the_context_manager_lets_exceptions_through(self, kind: Kind) -> None:
        pool = kind.make(1)
        with pytest.raises(ArithmeticError), pool:
            tasks.fail(pool.submit(tasks.double, 1))
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)

    @pytest.mark.parametrize("wait", [True, False])
    def test_again_and_again(self, kind: Kind, wait: bool) -> None:
        pool = kind.make(1)
        future = pool.submit(tasks.double, 1)
        for _ in range(3):
            pool.shutdown(wait)
        pool.shutdown(cancel_futures=True)
        pool.shutdown()
        assert future.result(AMPLE) == 2 if wait else future.done()

    def test_before_any_task(self, kind: Kind) -> None:
        pool = kind.make(1)
        pool.shutdown()
        pool.shutdown(wait=False)

    def test_in_several_threads_at_once(self, kind: Kind) -> None:
        pool = kind.make(1)
        go, running = occupied(pool)
        endings = [in_thread(pool.shutdown) for _ in range(4)]
        assert_waits(*endings)
        go.set()
        for ending in endings:
            ending.result(AMPLE)
        assert running.done()

    @pytest.mark.parametrize("wait", [True, False])
    def test_pending_futures_can_be_cancelled(self, kind: Kind, wait: bool) -> None:
        pool = kind.make(1)
        go, running = occupied(pool)
        pending = [pool.submit(tasks.double, number) for number in range(50)]
        ending = in_thread(pool.shutdown, wait=wait, cancel_futures=True)
        if wait:
            assert_waits(ending)
        else:
            ending.result(AMPLE)
        go.set()
        ending.result(AMPLE)
        pool.shutdown()
        assert running.result(0) == "done"
        cancelled = [future.cancelled() for future in pending]
        assert cancelled == [True] * 50
        with pytest.raises(CancelledError):
            pending[-1].result(0)
        assert all(future.done() for future in pending)

    def test_cancelling_after_shutting_down(self, kind: Kind) -> None:
        pool = kind.make(1)
        go, _ = occupied(pool)
        pending = [pool.submit(tasks.double, number) for number in range(10)]
        pool.shutdown(wait=False)
        assert pending[-1].cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        go.set()
        pool.shutdown()
        assert pending[-2].cancelled()

    def test_as_tasks_are_submitted(self, kind: Kind) -> None:
        # Each task that was accepted is done.
        pool = kind.make(WORKERS)
        accepted: list[Future[Any]] = []
        many = threading.Event()

        def submit() -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    accepted.append(pool.submit(tasks.double, 1))
                    if len(accepted) > 50:
                        many.set()

        submitting = [in_thread(submit) for _ in range(3)]
        assert many.wait(AMPLE)
        pool.shutdown()
        for thread in submitting:
            thread.result(AMPLE)
        assert [future.result(0) for future in accepted] == [2] * len(accepted)

    @pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
    def test_after_a_forced_end(self, kind: Kind, method: str) -> None:
        pool = kind.make(1)
        occupied(pool)
        getattr(pool, method)()
        pool.shutdown()
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)


class TestCollection:
    """An executor that nobody has any more ends, and does what it was asked for."""

    def test_pending_tasks_are_done(self, kind: Kind) -> None:
        pool = kind.make(1)
        go, running = occupied(pool)
        pending = [pool.submit(tasks.double, number) for number in range(5)]
        reference = weakref.ref(pool)
        del pool
        gc.collect()
        assert reference() is None
        go.set()
        assert running.result(AMPLE) == "done"
        assert [future.result(AMPLE) for future in pending] == [0, 2, 4, 6, 8]

    def test_the_workers_end(self, kind: Kind) -> None:
        # Everything that was started since, however it is called; what serves all pools stays.
        with kind.make(1) as first:
            first.submit(tasks.nothing).result(AMPLE)
        before: list[Any] = [*threading.enumerate(), *multigil.enumerate()]
        pool = kind.make(1)
        pool.submit(tasks.nothing).result(AMPLE)
        started = [each for each in (*threading.enumerate(), *multigil.enumerate()) if each not in before]
        assert started
        del pool
        gc.collect()
        for each in started:
            each.join(AMPLE)
            assert not each.is_alive()

    def test_in_a_cycle(self, kind: Kind) -> None:
        class Holder:
            pool: Any

        holder = Holder()
        holder.pool = pool = kind.make(1)
        pool.holder = holder
        future = pool.submit(tasks.double, 1)
        reference = weakref.ref(holder)
        del holder, pool
        gc.collect()
        assert reference() is None
        assert future.result(AMPLE) == 2

    def test_only_a_callback_has_it(self, kind: Kind) -> None:
        def submit_again() -> Future[Future[int]]:
            pool = kind.make(1)
            inner: Future[Future[int]] = Future()
            pool.submit(tasks.double, 1).add_done_callback(lambda _: inner.set_result(pool.submit(tasks.double, 2)))
            return inner

        assert submit_again().result(AMPLE).result(AMPLE) == 4


# Programs that end with an executor in some state. `make` is the executor's class.
STATES = {
    "never used": "pool = make(2)",
    "idle": "pool = make(2); pool.submit(int).result()",
    "shut down": "pool = make(2); pool.submit(int); pool.shutdown()",
    "shut down without waiting": "pool = make(2); pool.submit(int); pool.shutdown(wait=False)",
    "results that nobody asked for": "pool = make(2); futures = [pool.submit(int) for _ in range(100)]",
    "a map that nobody asked for": "results = make(2).map(abs, range(100))",
    "a map that was left": "results = make(2).map(abs, range(100)); next(results)",
    "nobody has it": "make(2).submit(int)",
    "in a cycle": "pool = make(1); pool.itself = pool; pool.submit(int).result()",
    "made in a thread": """
        thread = threading.Thread(target=lambda: make(1).submit(int).result())
        thread.start()
        thread.join()
    """,
    "working": "pool = make(2); pool.submit(time.sleep, 0.1)",
    "working, shut down": "pool = make(2); pool.submit(time.sleep, 0.1); pool.shutdown(wait=False)",
    "working and cancelled": """
        pool = make(1)
        futures = [pool.submit(time.sleep, 0.05) for _ in range(1_000)]
        pool.shutdown(wait=False, cancel_futures=True)
    """,
    "broken": """
        pool = make(1, initializer=abs, initargs=("wrong",))
        assert pool.submit(int).exception() is not None
    """,
    "in an interpreter": """
        interpreter = multigil.Interpreter(target=tasks.leave_pool, args=(make,))
        interpreter.start()
        interpreter.join()
    """,
    "nested": "pool = make(1); pool.submit(tasks.leave_pool, make).result()",
}

ENDINGS = {
    "normal end": ("print('end')", 0, ""),
    "exception": ("print('end'); raise ArithmeticError('own')", 1, "ArithmeticError: own"),
    "sys.exit": ("print('end'); sys.exit(3)", 3, ""),
}

PREPARATION = """
import concurrent.futures, sys, threading, time
import multigil, tasks
make = {make}
if __name__ == "__main__":
"""


def program(kind: Kind, *parts: str) -> str:
    """A program that makes executors of that kind, with a guard that those of multiprocessing need."""
    make = f"multigil.{kind.make.__name__}"
    body = "\n".join(textwrap.dedent(part) for part in parts)
    return PREPARATION.format(make=make) + textwrap.indent(body, "    ")


class TestPrograms:
    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("ending", ["normal end"])
    def test_the_program_ends_with_its_own_status_and_prints_only_what_is_its_own(
        self, run_program: ProgramRunner, kind: Kind, state: str, ending: str
    ) -> None:
        end, status, last_line = ENDINGS[ending]
        outcome = run_program(program(kind, STATES[state], end), time_limit=AMPLE)
        assert (outcome.stdout, outcome.status) == ("end\n", status), outcome.stderr
        lines = outcome.stderr.splitlines()
        assert lines[-1:] == ([last_line] if last_line else [])
        assert outcome.stderr.count("Traceback") == (1 if last_line else 0)

    @pytest.mark.parametrize("state", ["idle", "working", "results that nobody asked for"])
    @pytest.mark.parametrize("ending", ["exception", "sys.exit"])
    def test_whatever_it_ends_with(self, run_program: ProgramRunner, kind: Kind, state: str, ending: str) -> None:
        self.test_the_program_ends_with_its_own_status_and_prints_only_what_is_its_own(run_program, kind, state, ending)

    def test_what_was_submitted_is_done_before_the_end(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            program(kind, "pool = make(1)\nfor number in range(5): pool.submit(tasks.print_flushed, number)")
        )
        assert output.split() == list("01234")

    def test_also_when_it_was_shut_down_without_waiting(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            program(
                kind,
                """
                pool = make(1)
                for number in range(5): pool.submit(tasks.print_flushed, number)
                pool.shutdown(wait=False)
                del pool
                """,
            )
        )
        assert output.split() == list("01234")

    def test_callbacks_are_called_before_the_end(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            program(
                kind,
                """
                pool = make(1)
                pool.submit(time.sleep, 0.1).add_done_callback(lambda future: print("called"))
                print("end")
                """,
            )
        )
        assert output == "end\ncalled\n"

    def test_nothing_can_be_submitted_when_the_program_has_ended(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            program(
                kind,
                """
                import atexit
                pool = make(1)
                pool.submit(int).result()
                def at_the_end():
                    try:
                        pool.submit(int)
                    except RuntimeError:
                        print("refused")
                atexit.register(at_the_end)
                """,
            )
        )
        assert output == "refused\n"

    def test_ctrl_c_while_the_end_waits_for_the_workers(self, run_program: ProgramRunner, kind: Kind) -> None:
        outcome = run_program(
            program(
                kind,
                """
                pool, told = make(1), multigil.SimpleQueue()
                pool.submit(tasks.tell_and_spin, told)
                told.get()
                print("ready", flush=True)
                """,
            ),
            interrupt_after="ready",
            time_limit=AMPLE,
        )
        assert outcome.stdout == "ready\n"
        assert "Fatal" not in outcome.stderr
        assert outcome.status in (0, 1, 130, -signal.SIGINT)

    @pytest.mark.parametrize("end", ["os._exit(7)", "os.kill(os.getpid(), signal.SIGKILL)"])
    def test_processes_do_not_outlive_a_program_that_is_gone_at_once(
        self, run_program: ProgramRunner, end: str, tmp_path: Any
    ) -> None:
        # They hold the other end of a pipe open as long as they live.
        path = tmp_path / "pipe"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            run_program(
                f"""
                import os, signal
                import multigil, tasks
                if __name__ == "__main__":
                    pool, told = multigil.ProcessPoolExecutor(2), multigil.SimpleQueue()
                    for _ in range(2):
                        pool.submit(tasks.open_and_spin, {str(path)!r}, told)
                    told.get(), told.get()
                    {end}
                """
            )
            os.set_blocking(reading, True)
            assert in_thread(os.read, reading, 1).result(AMPLE) == b""  # the end of the file
        finally:
            os.close(reading)


class TestForks:
    """A forked child has no workers; those of its parent work on."""

    @pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
    def test_the_child(self, run_program: ProgramRunner, end: str) -> None:
        output = run_program.output(
            f"""
            import os, sys
            import multigil, tasks
            if __name__ == "__main__":
                with multigil.ProcessPoolExecutor(2) as pool:
                    pending = pool.submit(tasks.sum_slowly, 0.1, 5)
                    child = os.fork()
                    if not child:
                        try:
                            pool.submit(tasks.double, 1)
                        except RuntimeError:
                            pool.shutdown()
                            {end}
                        os._exit(1)
                    assert os.waitpid(child, 0)[1] == 0
                    print(pending.result(), pool.submit(tasks.double, 2).result())
            """,
            options=["-W", "ignore::DeprecationWarning"],
        )
        assert output == "5 4\n"

    def test_a_pool_of_the_child(self, run_program: ProgramRunner) -> None:
        output = run_program.output(
            """
            import os
            import multigil, tasks
            if __name__ == "__main__":
                with multigil.ProcessPoolExecutor(1) as pool:
                    pool.submit(tasks.double, 1).result()
                    child = os.fork()
                    if not child:
                        with multigil.ProcessPoolExecutor(1) as own:
                            os._exit(own.submit(tasks.double, 3).result())
                    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), pool.submit(tasks.double, 2).result())
            """,
            options=["-W", "ignore::DeprecationWarning"],
        )
        assert output == "6 4\n"


def _state() -> dict[str, Any]:
    gc.collect()
    statistics = _core.statistics()
    del statistics["bytes_reserved"], statistics["bytes_retained"]
    return {
        **statistics,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "interpreters enumerated": len(multigil.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children")),
    }


def _make(name: str) -> Any:
    return next(kind.make for kind in KINDS if kind.name == name)


names = pytest.mark.parametrize("name", [kind.name for kind in KINDS])


@names
@in_fresh_process
def test_fifty_pools_leave_nothing(name: str) -> None:
    def use(count: int) -> None:
        for number in range(count):
            with _make(name)(1 + number % 2) as pool:
                assert pool.submit(tasks.double, number).result(AMPLE) == 2 * number
                assert list(pool.map(tasks.double, range(3))) == [0, 2, 4]
                pool.submit(tasks.fail)

    use(4)
    before = _state()
    use(50)
    assert _state() == before


@names
@in_fresh_process
def test_ten_thousand_tasks_leave_nothing(name: str) -> None:
    with _make(name)(WORKERS) as pool:
        warmed(pool)
        list(pool.map(tasks.identity, range(100)))
        before = _state()
        for future in [pool.submit(tasks.identity, bytes(100)) for _ in range(5_000)]:
            future.result(AMPLE)
        del future
        assert sum(pool.map(tasks.double, range(5_000))) == 24_995_000
        failed = [pool.submit(tasks.fail) for _ in range(100)]
        assert all(isinstance(future.exception(AMPLE), ArithmeticError) for future in failed)
        del failed
        warmed(pool)
        after = _state()
        # A message that a worker is about to give back may still be there.
        slack = after.pop("bytes_in_use") - before.pop("bytes_in_use")
        assert slack < 200_000
        for state in (before, after):
            del state["blocks"]
        assert after == before
