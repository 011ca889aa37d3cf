"""What `import multigil` costs, loads, and where it works."""

from __future__ import annotations

import importlib
import pickle
import statistics
import sys
from typing import TYPE_CHECKING, Any

import pytest

from multigil import Queue

if TYPE_CHECKING:
    from harness import ProgramRunner

# Modules that take long to load and that most programs do without.
COSTLY = {
    *("asyncio", "cloudpickle", "concurrent.futures", "ctypes", "datetime", "dataclasses", "inspect", "logging"),
    *("multiprocessing", "subprocess", "typing"),
}


def modules_after(run_program: ProgramRunner, statement: str) -> set[str]:
    return set(run_program.output(f"{statement}\nimport sys\nprint(*sys.modules)", options=["-S"]).split())


def test_importing_loads_no_costly_module(run_program: ProgramRunner) -> None:
    loaded = modules_after(run_program, "import multigil") - modules_after(run_program, "pass")
    assert "multigil" in loaded
    assert loaded & COSTLY == set()


def test_importing_adds_little_to_the_start_of_an_empty_program(run_program: ProgramRunner) -> None:
    def seconds(source: str) -> float:
        return run_program(source, how="-c").seconds

    # Each difference of a pair that ran one after the other: what slows the machine down slows both.
    costs = [seconds("import multigil") - seconds("") for _ in range(9)]
    assert statistics.median(costs) < 0.04


def test_everything_in_all_is_there(run_program: ProgramRunner) -> None:
    run_program.output("from multigil import *; import multigil; [globals()[name] for name in multigil.__all__]")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import multigil

    with pytest.raises(AttributeError, match="no_such_name"):
        multigil.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def run_in_a_standard_interpreter(source: str) -> None:
    """Run source text in an interpreter with its own GIL, made by the standard library."""
    if sys.version_info >= (3, 13):
        interpreters: Any = importlib.import_module("_interpreters")
        interpreter = interpreters.create("isolated")
    else:
        interpreters = importlib.import_module("_xxsubinterpreters")
        interpreter = interpreters.create(isolated=True)
    try:
        # 3.12 raises what 3.13 returns.
        error = interpreters.run_string(interpreter, source)
    finally:
        interpreters.destroy(interpreter)
    assert error is None, error.errdisplay


def test_queues_and_locks_work_in_interpreters_that_the_standard_library_made() -> None:
    q: Queue[Any] = Queue()
    q.put([1, b"to the interpreter"])
    for _ in range(3):
        run_in_a_standard_interpreter(f"""if True:
            import sys
            sys.path[:] = {sys.path}
            import pickle
            import multigil
            q = pickle.loads({pickle.dumps(q)!r})
            item = q.get()
            lock = multigil.Lock()
            lock.acquire()
            q.put([*item, lock])
        """)
    *item, one, two, three = q.get()
    assert item == [1, b"to the interpreter"]
    assert [lock.locked() for lock in (one, two, three)] == [True, True, True]
    assert len({one, two, three}) == 3
    assert q.empty()
