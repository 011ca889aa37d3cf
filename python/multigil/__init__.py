"""Python's `threading`, with a GIL for every worker.

    from multigil import Interpreter, Lock, Queue

    interpreter = Interpreter(target=function, args=(1, 2))
    interpreter.start()
    print(interpreter.result())

`Interpreter` is `threading.Thread` with an interpreter and a GIL of its own, so that Python code runs in parallel in
one process. `Queue` and `Lock` are those of `queue` and `threading`, shared by threads and interpreters. The functions
of `threading` are here too, so that a program changes over by `import multigil as threading`
and `import multigil as queue`.
"""

from __future__ import annotations

from multigil._core import (
    Array,
    AuthenticationError,
    Barrier,
    BoundedSemaphore,
    Condition,
    Empty,
    Event,
    LifoQueue,
    Lock,
    MultigilError,
    PriorityQueue,
    Queue,
    RegionCorrupt,
    RLock,
    Semaphore,
    SimpleQueue,
    StaleHandle,
    Value,
    __version__,  # noqa: F401
    wait_any,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import ExceptHookArgs

    from multigil._core import BrokenBarrierError, Full, NotShareable, Owner, OwnerDied, ShutDown
    from multigil._diagnosis import Diagnosis, diagnose
    from multigil._hooks import __excepthook__ as __excepthook__
    from multigil._hooks import (
        excepthook,
        getprofile,
        gettrace,
        setprofile,
        setprofile_all_threads,
        settrace,
        settrace_all_threads,
    )
    from multigil._iterators import concurrent_tee, serialize_iterator, synchronized_iterator
    from multigil._local import local
    from multigil._timer import Timer
    from multigil._transfer import RemoteTraceback
    from multigil._worker import InterpreterDied, stack_size
    from multigil.futures import InterpreterPoolExecutor, ProcessPoolExecutor
    from multigil.interpreter import (
        TIMEOUT_MAX,
        Interpreter,
        Process,
        Thread,
        ThreadError,
        active_count,
        current_interpreter,
        current_thread,
        enumerate,
        get_ident,
        get_native_id,
        main_interpreter,
        main_thread,
    )
    from multigil.interpreter import activeCount as activeCount
    from multigil.interpreter import currentThread as currentThread
    from multigil.region import Region
    from multigil.shared_memory import SharedMemory
else:
    # Imported when they are asked for: every interpreter imports this package, and most only need the queue.
    _HOMES = {
        "multigil._core": ("BrokenBarrierError", "Full", "NotShareable", "Owner", "OwnerDied", "ShutDown"),
        "multigil._diagnosis": ("Diagnosis", "diagnose"),
        "multigil._hooks": (
            *("ExceptHookArgs", "__excepthook__", "excepthook", "getprofile", "gettrace", "setprofile"),
            *("setprofile_all_threads", "settrace", "settrace_all_threads"),
        ),
        "multigil._iterators": ("concurrent_tee", "serialize_iterator", "synchronized_iterator"),
        "multigil._local": ("local",),
        "multigil._timer": ("Timer",),
        "multigil._transfer": ("RemoteTraceback",),
        "multigil._worker": ("InterpreterDied", "stack_size"),
        "multigil.futures": ("InterpreterPoolExecutor", "ProcessPoolExecutor"),
        "multigil.region": ("Region",),
        "multigil.shared_memory": ("SharedMemory",),
    }

    def __getattr__(name: str) -> object:
        if name not in __all__ and name not in _NOT_IN_ALL:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        homes = (home for home, names in _HOMES.items() if name in names)
        value = globals()[name] = getattr(import_module(next(homes, "multigil.interpreter")), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_NOT_IN_ALL})


# As in threading.
_NOT_IN_ALL = ("__excepthook__", "activeCount", "currentThread")

__all__ = [
    "TIMEOUT_MAX",
    "Array",
    "AuthenticationError",
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
    "InterpreterPoolExecutor",
    "LifoQueue",
    "Lock",
    "MultigilError",
    "NotShareable",
    "Owner",
    "OwnerDied",
    "PriorityQueue",
    "Process",
    "ProcessPoolExecutor",
    "Queue",
    "RLock",
    "Region",
    "RegionCorrupt",
    "RemoteTraceback",
    "Semaphore",
    "SharedMemory",
    "ShutDown",
    "SimpleQueue",
    "StaleHandle",
    "Thread",
    "ThreadError",
    "Timer",
    "Value",
    "active_count",
    "concurrent_tee",
    "current_interpreter",
    "current_thread",
    "diagnose",
    "enumerate",
    "excepthook",
    "get_ident",
    "get_native_id",
    "getprofile",
    "gettrace",
    "local",
    "main_interpreter",
    "main_thread",
    "serialize_iterator",
    "setprofile",
    "setprofile_all_threads",
    "settrace",
    "settrace_all_threads",
    "stack_size",
    "synchronized_iterator",
    "wait_any",
]
