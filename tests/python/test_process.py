"""`Process`: what a process has beyond an interpreter, and what its death does to others. Else see `each_backend`."""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, in_thread
from multigil import Event, Interpreter, InterpreterDied, Lock, Process, Queue, SimpleQueue, wait_any

if TYPE_CHECKING:
    from harness import ProgramRunner

# Within this time a death must be known: what is promised is 100 ms, on a machine that is not busy.
SOON = 1.0


def started(target: Any, *args: object, **how: Any) -> Process:
    process = Process(target=target, args=args, **how)
    process.start()
    return process


def running(target: Any, *args: object) -> Process:
    """A process that is where it was sent, or about to be."""
    told: SimpleQueue[None] = SimpleQueue()
    process = started(workers.tell_and_call, told, target, *args)
    told.get(timeout=AMPLE)
    return process


class TestClass:
    def test_it_takes_the_arguments_of_a_thread(self) -> None:
        ours = list(inspect.signature(Process).parameters.values())
        theirs = list(inspect.signature(threading.Thread).parameters.values())
        assert [parameter.name for parameter in ours[:5]] == [parameter.name for parameter in theirs[:5]]
        assert {parameter.name for parameter in ours[5:]} == {"daemon", "context", "executable", "inherit"}

    def test_it_is_an_interpreter_with_that_backend(self) -> None:
        process = Process(target=os.getpid)
        assert isinstance(process, Interpreter)
        assert process.backend == Interpreter(backend="process").backend == "process"
        assert process.name.startswith("Process-")
        assert process.name.endswith(" (getpid)")

    def test_its_identifiers_are_the_number_of_the_process(self) -> None:
        process = Process(target=os.getpid)
        assert (process.pid, process.ident, process.native_id, process.id, process.exitcode) == (None,) * 5
        process.start()
        pid = process.result(AMPLE)
        assert pid != os.getpid()
        assert (process.pid, process.ident, process.native_id, process.id) == (pid,) * 4

    def test_an_interpreters_process_is_this_one_and_cannot_be_killed(self) -> None:
        with Interpreter() as interpreter:
            assert interpreter.pid == os.getpid()
            for use in (interpreter.kill, lambda: interpreter.sentinel):
                with pytest.raises(RuntimeError, match="interpreter of this process"):
                    use()

    def test_before_the_start_there_is_nothing_to_kill(self) -> None:
        with pytest.raises(RuntimeError, match="before it is started"):
            Process().kill()

    def test_an_executable_is_for_processes_only(self) -> None:
        with pytest.raises(ValueError, match="backend='process'"):
            Interpreter(executable=sys.executable)

    def test_the_repr_tells_the_number_of_the_process(self) -> None:
        with Process(name="worker", daemon=True) as process:
            assert repr(process) == f"<Process(worker, started daemon {process.pid})>"
        assert repr(process) == f"<Process(worker, stopped daemon {process.pid})>"


class Doubling(Process):
    def __init__(self, number: int) -> None:
        super().__init__(name="doubling")
        self.number = number

    def run(self) -> tuple[int, bool, str]:
        current = multigil.current_interpreter()
        return 2 * self.number, current is self is multigil.main_interpreter(), self.name


class TestInside:
    def test_it_is_the_main_one_there_with_its_own_name(self) -> None:
        with Process(name="worker") as process:
            assert process.call(workers.listing) == (["worker"], 1, "worker", "worker")
            assert process.call(workers.identity, process) is process
            assert process.call(workers.identity, multigil.main_interpreter()) is multigil.main_interpreter()
            own = process.call(workers.errors_of, process)
            assert set(own[1:-1]) == {
                f"cannot {verb} current interpreter" for verb in ("wait for", "interrupt", "close", "call")
            }

    def test_others_can_see_and_join_it(self) -> None:
        go: Queue[None] = Queue()
        process = started(go.get, name="watched")
        with Process() as other, Interpreter() as interpreter:
            for watcher in (other, interpreter):
                assert watcher.call(lambda one: (one.name, one.pid, one.is_alive()), process) == (
                    "watched",
                    process.pid,
                    True,
                )
            joining = [
                watcher.submit(lambda one: one.join() or one.is_alive(), process) for watcher in (other, interpreter)
            ]
            go.put(None)
            assert [future.result(AMPLE) for future in joining] == [False, False]

    def test_run_may_be_overridden(self) -> None:
        process = Doubling(21)
        process.start()
        assert process.result(AMPLE) == (42, True, "doubling")

    def test_it_has_interpreters_and_processes_of_its_own(self) -> None:
        with Process() as process:
            assert process.call(workers.start_and_get_result, workers.identity, 5) == 5
            assert process.call(lambda: started(workers.identity, 6).result()) == 6

    def test_changes_of_environment_path_and_arguments_arrive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def seen() -> tuple[str | None, str | None, str, list[str]]:
            import subprocess  # the one of C, too

            shell = subprocess.run(["sh", "-c", "echo $CHANGED"], capture_output=True, text=True, check=True)
            return os.environ.get("CHANGED"), os.environ.get("MULTIGIL_REGION"), shell.stdout.strip(), sys.argv

        with Process() as process:
            for value in ("first", "second"):
                monkeypatch.setenv("CHANGED", value)
                monkeypatch.setattr(sys, "argv", [value])
                assert process.call(seen) == (value, None, value, [value])
            monkeypatch.delenv("CHANGED")
            assert process.call(seen)[0::2] == (None, "")
            monkeypatch.syspath_prepend("/no/such/folder")
            assert process.call(lambda: sys.path) == sys.path

    def test_the_options_of_python_are_handed_on(self, run_program: ProgramRunner) -> None:
        output = run_program.output(
            """
            import multigil, sys
            def options():
                return sys.flags.optimize, sys.warnoptions, sys._xoptions.get("frozen_modules")
            with multigil.Process() as process:
                print(process.call(options) == options())
            """,
            options=["-O", "-W", "ignore", "-X", "frozen_modules=off"],
        )
        assert output == "True\n"

    def test_what_does_not_load_in_an_interpreter_loads_there(self) -> None:
        pytest.importorskip("numpy")
        with Process() as process:
            assert process.call(lambda: int(__import__("numpy").arange(5).sum())) == 10

    def test_nothing_is_there_to_be_read(self) -> None:
        with Process() as process:
            assert process.call(lambda: sys.stdin.read()) == ""  # noqa: PLW0108


class TestExit:
    @pytest.mark.parametrize(
        ("code", "exitcode", "message"),
        [
            ("os._exit(3)", 3, "exited with status 3 without an outcome"),
            ("os._exit(0)", 0, "exited with status 0 without an outcome"),
            ("os.kill(os.getpid(), 9)", -9, "was killed by SIGKILL without an outcome"),
            ("os.abort()", -6, "was killed by SIGABRT without an outcome"),
            ("os.kill(os.getpid(), 40)", -40, "was killed by signal 40 without an outcome"),
        ],
    )
    def test_who_ends_without_an_outcome_has_died(self, code: str, exitcode: int, message: str) -> None:
        process = started(exec, f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {code}")
        with pytest.raises(InterpreterDied, match=f"{message}$"):
            process.result(AMPLE)
        process.join()
        assert process.exitcode == exitcode

    def test_the_process_exits_with_what_the_target_gave_to_exit(self) -> None:
        process = started(sys.exit, 7)
        assert isinstance(process.exception(AMPLE), SystemExit)
        process.join(AMPLE)
        assert process.exitcode == 7

    def test_the_sentinel_is_ready_when_it_has_ended(self) -> None:
        go: Queue[None] = Queue()
        process = started(go.get)
        assert multiprocessing.connection.wait([process.sentinel], 0) == []
        assert wait_any(process.sentinel, process, timeout=0) is None
        go.put(None)
        assert multiprocessing.connection.wait([process.sentinel], AMPLE) == [process.sentinel]
        assert wait_any(process, timeout=AMPLE) is process
        assert wait_any(process.sentinel, timeout=0) == process.sentinel

    def test_twenty_at_once_leave_nothing_behind(self) -> None:
        descriptors = set(os.listdir("/proc/self/fd"))
        processes = [started(workers.identity, number) for number in range(20)]
        assert [process.result(2 * AMPLE) for process in processes] == list(range(20))
        pids = [process.pid for process in processes]
        for process in processes:
            process.join(AMPLE)
            assert process.exitcode == 0
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        del process, processes
        started(int).join(AMPLE)  # which lets go of those that have ended
        # What remains is that one's, and the watcher's.
        assert len(set(os.listdir("/proc/self/fd")) - descriptors) <= 3

    def test_one_that_somebody_else_reaps_has_ended_too(self) -> None:
        process = running(workers.spin)
        assert process.pid is not None
        process.kill()
        with contextlib.suppress(ChildProcessError):  # whoever comes first
            os.waitpid(process.pid, 0)
        with pytest.raises(InterpreterDied):
            process.result(AMPLE)
        process.join(AMPLE)
        assert not process.is_alive()


class TestKill:
    def test_the_result_is_that_it_was_killed_at_once(self) -> None:
        process = running(workers.spin)
        start = time.monotonic()
        process.kill()
        with pytest.raises(InterpreterDied, match="was killed by SIGKILL without an outcome"):
            process.result(AMPLE)
        assert time.monotonic() - start < SOON
        process.join(AMPLE)
        assert process.exitcode == -signal.SIGKILL
        process.kill()

    def test_whoever_waits_for_it_in_whatever_way_goes_on(self) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        process = Process()
        futures = [process.submit(workers.tell_and_call, told, workers.spin), process.submit(int)]
        calling = in_thread(process.call, int)
        joining = in_thread(process.join)
        waiting = in_thread(wait_any, process)
        told.get(timeout=AMPLE)
        process.kill()
        for future in (*futures, calling):
            assert isinstance(future.exception(AMPLE), InterpreterDied | RuntimeError)
        assert joining.result(AMPLE) is None
        assert waiting.result(AMPLE) is process
        with pytest.raises(RuntimeError, match="was killed by SIGKILL"):
            process.call(int)

    def test_a_queue_in_which_it_waited_goes_on(self) -> None:
        q: Queue[int] = Queue()
        process = running(q.get)
        time.sleep(MOMENT)
        process.kill()
        process.join(AMPLE)
        for number in range(1000):
            q.put(number)
        assert [q.get_nowait() for _ in range(1000)] == list(range(1000))

    def test_a_lock_that_it_held_is_free(self) -> None:
        lock = Lock()
        held = Event()

        def hold() -> None:
            lock.acquire()
            held.set()
            workers.spin()

        process = started(hold)
        assert held.wait(AMPLE)
        acquiring = in_thread(lock.acquire)
        start = time.monotonic()
        process.kill()
        with pytest.raises(OSError, match="died"):
            acquiring.result(AMPLE)
        assert time.monotonic() - start < SOON
        assert lock.acquire(timeout=AMPLE)
        lock.release()

    def test_what_it_had_sent_arrives(self) -> None:
        q: Queue[Any] = Queue()

        def send() -> None:
            q.put_many(range(100))
            q.put(Queue())
            os.kill(os.getpid(), signal.SIGKILL)

        process = started(send)
        process.join(AMPLE)
        assert q.get_many(100) == list(range(100))
        assert q.get(timeout=AMPLE).empty()


class TestTerminate:
    def test_one_that_does_not_listen_is_ended_by_signals(self) -> None:
        def deaf() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            workers.spin()

        process = running(deaf)
        time.sleep(MOMENT)
        process.terminate(0.1)
        assert process.exitcode == -signal.SIGKILL
        with pytest.raises(InterpreterDied, match="was terminated"):
            process.result()

    def test_one_that_is_stopped_is_ended_too(self) -> None:
        process = running(workers.spin)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        process.terminate(0.1)
        assert not process.is_alive()

    def test_one_that_has_hardly_been_started_ends(self) -> None:
        process = started(workers.spin)
        process.terminate(AMPLE)
        assert not process.is_alive()


class TestInterrupt:
    @pytest.mark.parametrize("method", ["interrupt", "terminate"])
    def test_a_system_call_is_ended(self, method: str) -> None:
        process = running(time.sleep, 3600)
        start = time.monotonic()
        getattr(process, method)()
        assert process.exception(AMPLE) is not None if method == "interrupt" else not process.is_alive()
        assert time.monotonic() - start < SOON

    def test_the_signal_alone_does_nothing(self) -> None:
        q: Queue[int] = Queue()
        process = running(q.get)
        assert process.pid is not None
        for _ in range(20):
            os.kill(process.pid, signal.SIGINT)
        q.put(5)
        assert process.result(AMPLE) == 5

    def test_many_strike_as_often_as_they_are_caught(self) -> None:
        told: SimpleQueue[str] = SimpleQueue()
        process = started(workers.spin_and_survive_interrupts, told, 50)
        for _ in range(50):
            assert told.get(timeout=AMPLE) == "spinning"
            process.interrupt()
        assert process.result(AMPLE) == "survived"


class TestExecutable:
    def test_one_that_is_not_there_is_an_error_of_start(self) -> None:
        process = Process(target=int, executable="/no/such/python")
        with pytest.raises(FileNotFoundError):
            process.start()
        assert not process.is_alive()

    @pytest.mark.parametrize(("executable", "message"), [("/bin/true", "is not a Python"), ("/bin/false", "status 1")])
    def test_one_that_is_no_python_is_an_error_of_start(self, executable: str, message: str) -> None:
        process = Process(target=int, executable=executable)
        with pytest.raises(RuntimeError, match=message):
            process.start()

    def test_a_python_without_multigil_is_an_error_of_start(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        python.chmod(0o755)
        with pytest.raises(RuntimeError, match="No module named 'multigil'"):
            Process(target=int, executable=python).start()

    def test_another_one_has_its_own_modules_and_the_programs(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        with Process(executable=python) as process:
            assert process.call(workers.identity, 5) == 5
            assert process.call(lambda: 6) == 6

    def test_code_of_another_version_is_refused(self) -> None:
        by_value = pytest.importorskip("multigil._by_value")
        with pytest.raises(multigil.NotShareable, match="cpython-311 to cpython"):
            by_value._loads(b"", "cpython-311")


class TestEndOfTheProgram:
    def test_those_that_were_started_are_waited_for_and_daemons_are_not(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, sys, time
            from multigil import Process, Queue
            def work(q):
                q.get()
                print("worked", flush=False)
            def daemon():
                try:
                    time.sleep(3600)
                finally:
                    print("cleaned up")
            q, told = Queue(), Queue()
            Process(target=daemon, daemon=True).start()
            Process(target=work, args=(q,)).start()
            opened = Process()
            opened.submit(time.sleep, 0)
            q.put(None)
        """)
        assert sorted(output.splitlines()) in (["cleaned up", "worked"], ["worked"])

    def test_the_status_is_the_programs(self, run_program: ProgramRunner) -> None:
        outcome = run_program("""
            import multigil, sys, time
            multigil.Process(target=time.sleep, args=(3600,), daemon=True).start()
            multigil.Process(target=sys.exit, args=(5,)).start()
            sys.exit(3)
        """)
        assert (outcome.status, outcome.stdout, outcome.stderr) == (3, "", "")

    def test_ctrl_c_is_the_parents_alone(self, run_program: ProgramRunner) -> None:
        outcome = run_program(
            """
            import multigil, os, signal, time
            q = multigil.Queue()
            def work():
                q.put(None)
                return q.get()
            processes = [multigil.Process(target=multigil.Queue().get) for _ in range(3)]
            for process in processes:
                process.start()
            opened = multigil.Process()
            opened.call(int)
            try:
                signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGINT))
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                processes[0].join()
            except KeyboardInterrupt:
                print("interrupted", opened.call(len, "alive"), [process.is_alive() for process in processes])
                for process in processes:
                    process.terminate()
            """
        )
        assert (outcome.stdout, outcome.stderr) == ("interrupted 5 [True, True, True]\n", "")

    def test_when_the_parent_is_killed_the_children_end(self, run_program: ProgramRunner) -> None:
        outcome = run_program("""
            import multigil, os, signal, sys, time
            from multigil import Process, Queue
            def tell_and_call(told, function, *args):
                told.put(None)
                try:
                    function(*args)
                finally:
                    print("cleaned up", flush=True)
            def spin():
                while True:
                    pass
            told = Queue()
            for daemon in (False, True):
                for target in [(spin,), (time.sleep, 3600), (Queue().get,)]:
                    Process(target=tell_and_call, args=(told, *target), daemon=daemon).start()
            idle = Process()
            idle.call(int)
            for _ in range(6):
                told.get()
            os.kill(os.getpid(), signal.SIGKILL)
        """)
        # All have ended who had its output: else that would not have ended.
        assert (outcome.status, outcome.stdout) == (-signal.SIGKILL, "cleaned up\n" * 6)
        assert outcome.seconds < AMPLE / 4

    def test_a_child_that_keeps_its_gil_ends_as_well(self, run_program: ProgramRunner) -> None:
        outcome = run_program("""
            import multigil, os, signal
            def keep_the_gil(told):
                told.put(None)
                2 ** (10 ** 10)
            told = multigil.Queue()
            multigil.Process(target=keep_the_gil, args=(told,)).start()
            told.get()
            os.kill(os.getpid(), signal.SIGKILL)
        """)
        assert outcome.status == -signal.SIGKILL
        assert outcome.seconds < AMPLE / 2

    def test_a_forked_child_has_no_processes(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, os, warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, about threads
            process = multigil.Process()
            process.call(int)
            if os.fork() == 0:
                assert multigil.enumerate() == [multigil.main_interpreter()]
                raise SystemExit
            print(os.wait()[1], process.call(int))
        """)
        assert output == "0 0\n"
