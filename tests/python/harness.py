"""What the test modules share: running programs, work in a thread, and in interpreters."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import pytest

from multigil import Interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Seconds within which everything that is not meant to wait must have happened, however busy the machine is.
AMPLE = 20.0
# Seconds that make it likely that a thread or program just started waits where it was sent. No result depends on it.
MOMENT = 0.05

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """How a program ended: what it wrote, its exit status (negative: killed by that signal) and how long it took."""

    stdout: str
    stderr: str
    status: int
    seconds: float


class HowToRun(TypedDict, total=False):
    """The optional arguments of `run_program`."""

    how: Literal["script", "-m", "-c", "stdin", "repl"]
    args: Sequence[str]
    options: Sequence[str]
    environment: Mapping[str, str]
    interrupt_after: str
    time_limit: float


def plain_environment() -> dict[str, str]:
    """The environment without what changes how Python works, as PYTHONUNBUFFERED does."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class ProgramRunner:
    """Runs Python programs, each in a fresh process with a time limit; made by the fixture `run_program`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, source: str, **how_to_run: Unpack[HowToRun]) -> Outcome:
        """Run `source` and return its outcome; fail the test with all stacks if it takes too long.

        how: a script file (the default), a module, the option -c, the standard input, or typed into the console.
        args, options: what follows the program, and what Python itself is given.
        environment: variables to set; of the tests' own environment, those that change how Python works are left out.
        interrupt_after: a line of the program's output after which it is sent SIGINT, as by Ctrl-C.
        time_limit: in seconds.
        """
        time_limit = how_to_run.get("time_limit", 2 * AMPLE)
        interrupt_after = how_to_run.get("interrupt_after")
        stdin = ""
        source = dedent(source)
        command = [sys.executable, "-X", "faulthandler", *how_to_run.get("options", ())]
        match how_to_run.get("how", "script"):
            case "script":
                script = self.folder / "program.py"
                script.write_text(source)
                command.append(str(script))
            case "-m":
                (self.folder / "program.py").write_text(source)
                command += ["-m", "program"]
            case "-c":
                command += ["-c", source]
            case "stdin":
                command.append("-")
                stdin = source
            case "repl":
                command += ["-i", "-q"]
                stdin = source
        start = time.monotonic()
        # Unbuffered, so that `communicate` does not miss what `readline` has read ahead.
        process = subprocess.Popen(
            [*command, *how_to_run.get("args", ())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self.folder,
            process_group=0,
            env={
                **plain_environment(),
                "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
                **how_to_run.get("environment", {}),
            },
        )
        late = threading.Event()

        def kill() -> None:
            # With all that it started, which may hold its pipes open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def abort() -> None:
            late.set()
            process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            kill()

        limit = threading.Timer(time_limit, abort)
        limit.start()
        head = b""
        try:
            if interrupt_after is not None:
                assert process.stdout is not None
                while line := process.stdout.readline():
                    head += line
                    if line.strip() == interrupt_after.encode():
                        break
                time.sleep(2 * MOMENT)
                process.send_signal(signal.SIGINT)
            tail, errors = process.communicate(stdin.encode())
        finally:
            limit.cancel()
            limit.join()
            kill()
            process.wait()
        outcome = Outcome((head + tail).decode(), errors.decode(), process.returncode, time.monotonic() - start)
        if late.is_set():
            pytest.fail(f"not ended after {time_limit} s; its output and stacks:\n{outcome.stdout}\n{outcome.stderr}")
        return outcome

    def output(self, source: str, **how_to_run: Unpack[HowToRun]) -> str:
        """Run a program that must end well and write nothing to stderr; return what it printed."""
        outcome = self(source, **how_to_run)
        if outcome.status != 0 or outcome.stderr:
            pytest.fail(f"status {outcome.status}\n{outcome.stdout}\n{outcome.stderr}", pytrace=False)
        return outcome.stdout


# The bodies of the tests that `in_fresh_process` has wrapped, by module and name.
bodies: dict[tuple[str, str], Callable[..., None]] = {}


def in_fresh_process(test: Callable[..., None]) -> Callable[..., None]:
    """Make a test run in a Python of its own: where nothing else uses shared memory, and where it may crash or hang.

    The arguments of a parametrized one must have a repr that gives them back.
    """
    key = (test.__module__, test.__name__)
    bodies[key] = test

    def run(run_program: ProgramRunner, **arguments: object) -> None:
        run_program.output(f"""
            import harness, {test.__module__}
            harness.bodies[{key}](**{arguments})
        """)

    signature = inspect.signature(test)
    fixture = inspect.Parameter("run_program", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), fixture])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


def in_thread[T](fn: Callable[..., T], *args: object, **kwargs: object) -> Future[T]:
    """Call `fn` in a thread of its own; one that is stuck fails its test instead of holding up the end of the run."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def started(target: Callable[..., object], *args: object, **kwargs: object) -> Interpreter:
    """Call `target` in an interpreter of its own; the counterpart of `in_thread`."""
    interpreter = Interpreter(target=target, args=args, kwargs=kwargs)
    interpreter.start()
    return interpreter


def assert_waits(*futures: Future[Any]) -> None:
    """Check that calls begun with `in_thread` have not returned, after the time in which they would have."""
    time.sleep(MOMENT)
    assert [future for future in futures if future.done()] == []
