"""Python's `threading`, with a GIL for every worker.

    from multigil import Interpreter, Lock, Queue

    interpreter = Interpreter(target=function, args=(1, 2))
    interpreter.start()
    print(interpreter.result())

`Interpreter` is `threading.Thread` with an interpreter and a GIL of its own, so that Python code runs in parallel in
one process. `Queue` and `Lock` are those of `queue` and `threading`, shared by threads and interpreters. The functions
of `threading` are here too, so that a program changes over by `import multigil as threading`.
"""

from __future__ import annotations

from multigil._core import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Empty,
    Event,
    Lock,
    MultigilError,
    Queue,
    RegionCorrupt,
    RLock,
    Semaphore,
    SimpleQueue,
    StaleHandle,
    __version__,  # noqa: F401
    wait_any,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multigil._core import BrokenBarrierError, Full, NotShareable, Owner, ShutDown
    from multigil._diagnosis import Diagnosis, diagnose
    from multigil._transfer import RemoteTraceback
    from multigil._worker import InterpreterDied
    from multigil.interpreter import (
        TIMEOUT_MAX,
        ExceptHookArgs,
        Interpreter,
        Thread,
        active_count,
        current_interpreter,
        current_thread,
        enumerate,
        excepthook,
        get_ident,
        get_native_id,
        main_interpreter,
        main_thread,
    )
else:
    # Imported when they are asked for: every interpreter imports this package, and most only need the queue.
    _HOMES = {
        "BrokenBarrierError": "multigil._core",
        "Diagnosis": "multigil._diagnosis",
        "Full": "multigil._core",
        "NotShareable": "multigil._core",
        "Owner": "multigil._core",
        "InterpreterDied": "multigil._worker",
        "RemoteTraceback": "multigil._transfer",
        "ShutDown": "multigil._core",
        "diagnose": "multigil._diagnosis",
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = _HOMES.get(name, "multigil.interpreter")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "TIMEOUT_MAX",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Diagnosis",
    "Empty",
    "Event",
    "ExceptHookArgs",
    "Full",
    "Interpreter",
    "InterpreterDied",
    "Lock",
    "MultigilError",
    "NotShareable",
    "Owner",
    "Queue",
    "RLock",
    "RegionCorrupt",
    "RemoteTraceback",
    "Semaphore",
    "ShutDown",
    "SimpleQueue",
    "StaleHandle",
    "Thread",
    "active_count",
    "current_interpreter",
    "current_thread",
    "diagnose",
    "enumerate",
    "excepthook",
    "get_ident",
    "get_native_id",
    "main_interpreter",
    "main_thread",
    "wait_any",
]
