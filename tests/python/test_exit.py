"""However a program ends, and whatever its interpreters do then: it ends, with its own status, and silently."""

from __future__ import annotations

import signal
import textwrap

import pytest

from harness import ProgramRunner

# What an interpreter may be doing when the main program ends: code that makes it so. Each sets `blocked_in`, what
# Ctrl-C finds the main program in.
STATES = {
    "ended and never joined": "start(int)",
    "never started": "multigil.Interpreter(target=int)",
    "running, not a daemon": "start(workers.compute_briefly)",
    "running daemon": "start(workers.spin, daemon=True)",
    "sleeping daemon": "start(time.sleep, 60, daemon=True)",
    "daemon blocked in get": "start(multigil.Queue().get, daemon=True)",
    "daemon blocked in put": "start(full.put, 1, daemon=True)",
    "daemon blocked in acquire": "start(held.acquire, daemon=True)",
    "daemon blocked in join of a queue": "start(full.join, daemon=True)",
    "daemon blocked in join of an interpreter": "start(workers.started_and_joined, workers.spin, daemon=True)",
    "daemon that catches exceptions": "start(workers.spin_through_exceptions, multigil.SimpleQueue(), daemon=True)",
    "open": "service = multigil.Interpreter(); service.call(int)",
    "open and used by nobody but a future": "future = multigil.Interpreter().submit(int)",
    "open daemon that runs": "service = multigil.Interpreter(daemon=True); service.submit(workers.spin)",
    "many of all kinds": """
        for _ in range(3):
            start(workers.spin, daemon=True)
            start(multigil.Queue().get, daemon=True)
            start(workers.compute_briefly)
            start(int)
        service = multigil.Interpreter(); service.call(int)
    """,
}

PREPARATION = """
    import sys, time
    import multigil, workers
    full = multigil.Queue(1)
    full.put(0)
    held = multigil.Lock()
    held.acquire()
    def enter(lock):
        with lock:
            pass
    def start(target, *args, daemon=False):
        interpreter = multigil.Interpreter(target=target, args=args, daemon=daemon)
        interpreter.start()
        return interpreter
"""

ENDINGS = {
    "normal end": ("print('end')", 0, ""),
    "exception": ("print('end'); raise ArithmeticError('own')", 1, "ArithmeticError: own"),
    "sys.exit": ("print('end'); sys.exit(3)", 3, ""),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_program_ends_with_its_own_status_and_prints_only_what_is_its_own(
    run_program: ProgramRunner, state: str, ending: str
) -> None:
    end, status, last_line = ENDINGS[ending]
    program = "\n".join(textwrap.dedent(part) for part in (PREPARATION, STATES[state], end))
    outcome = run_program(program, time_limit=10)
    assert (outcome.stdout, outcome.status) == ("end\n", status), outcome.stderr
    lines = outcome.stderr.splitlines()
    assert lines[-1:] == ([last_line] if last_line else [])
    # One traceback, of the main program alone: head, place, source line with or without marks below it, message.
    assert len(lines) <= 5
    assert outcome.stderr.count("Traceback") == (1 if last_line else 0)


# What the main program may be blocked in at Ctrl-C.
WAITS = {
    "Queue.get": "multigil.Queue().get()",
    "Queue.get with a timeout": "multigil.Queue().get(timeout=60)",
    "SimpleQueue.get": "multigil.SimpleQueue().get()",
    "Queue.put": "full.put(1)",
    "Queue.join": "full.join()",
    "Lock.acquire": "held.acquire()",
    "with a lock": "enter(held)",
    "Interpreter.join": "start(multigil.Queue().get, daemon=True).join()",
    "Interpreter.result": "start(multigil.Queue().get, daemon=True).result()",
    "Interpreter.exception": "start(multigil.Queue().get, daemon=True).exception()",
    "Interpreter.call": "multigil.Interpreter(daemon=True).call(multigil.Queue().get)",
    "Future.result": "multigil.Interpreter(daemon=True).submit(multigil.Queue().get).result()",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_raises_keyboard_interrupt_in_the_main_program_where_it_waits(
    run_program: ProgramRunner, wait: str
) -> None:
    outcome = run_program(
        textwrap.dedent(PREPARATION)
        + textwrap.dedent(f"""
            print("ready", flush=True)
            start_of_wait = time.monotonic()
            try:
                {WAITS[wait]}
            except KeyboardInterrupt:
                print("interrupted")
            else:
                print("went on")
        """),
        interrupt_after="ready",
        time_limit=10,
    )
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("ready\ninterrupted\n", "", 0)


@pytest.mark.parametrize(
    "state", ["running daemon", "daemon blocked in get", "sleeping daemon", "open daemon that runs", "open"]
)
def test_ctrl_c_that_nobody_catches_ends_the_program_as_ever(run_program: ProgramRunner, state: str) -> None:
    program = textwrap.dedent(PREPARATION) + STATES[state] + "\nprint('ready', flush=True)\nmultigil.Queue().get()"
    outcome = run_program(program, interrupt_after="ready", time_limit=10)
    assert (outcome.stdout, outcome.status) == ("ready\n", -signal.SIGINT)
    assert outcome.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert outcome.stderr.count("Traceback") == 1


def test_ctrl_c_while_the_end_waits_for_an_interpreter_ends_the_program(run_program: ProgramRunner) -> None:
    outcome = run_program(
        PREPARATION + "    start(multigil.Queue().get)\n    print('ready', flush=True)\n",
        interrupt_after="ready",
        time_limit=10,
    )
    assert outcome.stdout == "ready\n"
    assert "KeyboardInterrupt" in outcome.stderr
    assert "Fatal" not in outcome.stderr
    assert outcome.status in (0, 1, 130, -signal.SIGINT)


def test_a_keyboard_interrupt_inside_of_an_interpreter_does_not_change_the_status(run_program: ProgramRunner) -> None:
    # CPython notes one that leaves the text it runs, in whichever interpreter, and kills the program at its end.
    run_program.output("""
        import multigil, workers
        for interrupted in (
            lambda interpreter: interpreter.exec("raise KeyboardInterrupt"),
            lambda interpreter: interpreter.call(exec, "raise KeyboardInterrupt"),
            lambda interpreter: interpreter.call(workers.raise_keyboard_interrupt),
        ):
            with multigil.Interpreter() as interpreter:
                try:
                    interrupted(interpreter)
                except KeyboardInterrupt:
                    pass
                else:
                    raise AssertionError
    """)


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "Lock"])
@pytest.mark.parametrize("where", ["the program", "an interpreter"])
def test_what_is_freed_after_the_module_uses_none_of_the_memory_of_the_module(
    run_program: ProgramRunner, kind: str, where: str
) -> None:
    # An object in a cycle is freed by the last collection, by when the module may be gone. All memory is malloc's, and
    # malloc overwrites what is freed, so that its use is noticed.
    make_cycle = f"import multigil\nclass Own(multigil.{kind}): pass\nown = Own()\nown.itself = own, Own\n"
    program = (
        make_cycle
        if where == "the program"
        else f"import multigil\nwith multigil.Interpreter() as interpreter:\n    interpreter.exec({make_cycle!r})\n"
    )
    environment = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "221"}
    assert run_program.output(program, environment=environment, time_limit=10) == ""


def test_interpreters_that_are_no_daemons_are_waited_for(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import time, multigil
        def late():
            time.sleep(0.2)
            print("late")
        multigil.Interpreter(target=late).start()
        print("main ends")
    """)
    assert output == "main ends\nlate\n"


def test_what_was_submitted_is_done_before_the_end(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        service = multigil.Interpreter()
        for number in range(3):
            service.submit(print, number)
    """)
    assert output == "0\n1\n2\n"


def test_a_daemon_cleans_up_when_the_program_ends(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        told = multigil.Queue()
        def work():
            try:
                told.put(None)
                while True:
                    pass
            finally:
                print("cleaned up")
        multigil.Interpreter(target=work, daemon=True).start()
        told.get()
        print("main ends")
    """)
    assert output == "main ends\ncleaned up\n"


def test_functions_of_atexit_may_use_queues_and_locks(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import atexit, multigil
        q, lock = multigil.Queue(), multigil.Lock()
        def at_the_end():
            with lock:
                q.put("at the end")
                print(q.get())
        atexit.register(at_the_end)
        multigil.Interpreter(target=q.qsize).start()
    """)
    assert output == "at the end\n"


def test_threads_that_wait_in_queues_do_not_hold_up_the_end(run_program: ProgramRunner) -> None:
    run_program.output(
        """
        import threading, time, multigil
        held = multigil.Lock()
        held.acquire()
        for function in (multigil.Queue().get, multigil.SimpleQueue().get, held.acquire):
            threading.Thread(target=function, daemon=True).start()
        time.sleep(0.05)
        """,
        time_limit=10,
    )


def test_starting_an_interpreter_when_the_program_is_ending_is_a_runtime_error(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import atexit, multigil
        def at_the_end():
            try:
                multigil.Interpreter(target=int).start()
            except RuntimeError:
                print("refused")
        atexit.register(at_the_end)
        multigil.Interpreter(target=int).start()
    """)
    assert output == "refused\n"


def test_os_exit_ends_at_once(run_program: ProgramRunner) -> None:
    outcome = run_program(PREPARATION + "    start(workers.spin)\n    import os\n    os._exit(7)\n", time_limit=10)
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("", "", 7)


class TestOtherProcesses:
    def test_a_fork_while_an_interpreter_is_open_warns_and_names_the_ways_that_work(
        self, run_program: ProgramRunner
    ) -> None:
        outcome = run_program("""
            import os, signal, warnings, multigil
            warnings.simplefilter("always")
            with multigil.Interpreter() as interpreter:
                interpreter.call(int)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    child = os.fork()
                    if not child:
                        os._exit(0)
                # CPython may crash the child, and on 3.12 it may hang.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                for warning in caught:
                    print(warning.category.__name__, warning.message)
        """)
        assert outcome.status == 0
        text = next(line for line in outcome.stdout.splitlines() if "interpreter" in line)
        assert "Warning" in text
        for way in ("subprocess", "spawn", "forkserver"):
            assert way in text

    def test_a_fork_without_any_interpreter_does_not_warn(self, run_program: ProgramRunner) -> None:
        output = run_program.output(
            """
            import os, multigil
            q = multigil.Queue()
            q.put("before the fork")
            child = os.fork()
            if not child:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            print(q.get())
            """,
            options=["-W", "error"],
        )
        assert output == "before the fork\n"

    def test_subprocesses_work_while_interpreters_are_alive(self, run_program: ProgramRunner) -> None:
        output = run_program.output(
            PREPARATION
            + """
    import os, subprocess
    start(workers.spin, daemon=True)
    start(multigil.Queue().get, daemon=True)
    print(subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True, check=True).stdout)
    child = os.posix_spawn("/bin/true", ["true"], os.environ)
    print(os.waitpid(child, 0)[1], os.system("exit 3") >> 8)
    """
        )
        assert output == "b'5\\n'\n0 3\n"

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_multiprocessing_works_while_interpreters_are_alive(self, run_program: ProgramRunner, method: str) -> None:
        output = run_program.output(f"""
            import multigil, multiprocessing, workers
            if __name__ == "__main__":
                multigil.Interpreter(target=workers.spin, daemon=True).start()
                multigil.Interpreter(target=multigil.Queue().get, daemon=True).start()
                with multiprocessing.get_context("{method}").Pool(2) as pool:
                    print(pool.map(workers.identity, range(5)))
        """)
        assert output == "[0, 1, 2, 3, 4]\n"

    def test_an_interpreter_may_start_a_subprocess(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, subprocess
            def work():
                return subprocess.run(["echo", "5"], capture_output=True, check=True).stdout
            interpreter = multigil.Interpreter(target=work)
            interpreter.start()
            print(interpreter.result())
        """)
        assert output == "b'5\\n'\n"
