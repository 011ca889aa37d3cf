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
    from threading import ExceptHookArgs

    from multigil._core import BrokenBarrierError, Full, Owner, ShutDown
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
    from multigil.interpreter import (
        TIMEOUT_MAX,
        Interpreter,
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
else:
    # Imported when they are asked for: every interpreter imports this package, and most only need the queue.
    _HOMES = {
        "BrokenBarrierError": "multigil._core",
        "Diagnosis": "multigil._diagnosis",
        "ExceptHookArgs": "multigil._hooks",
        "Full": "multigil._core",
        "InterpreterDied": "multigil._worker",
        "Owner": "multigil._core",
        "RemoteTraceback": "multigil._transfer",
        "ShutDown": "multigil._core",
        "Timer": "multigil._timer",
        "__excepthook__": "multigil._hooks",
        "concurrent_tee": "multigil._iterators",
        "diagnose": "multigil._diagnosis",
        "excepthook": "multigil._hooks",
        "getprofile": "multigil._hooks",
        "gettrace": "multigil._hooks",
        "local": "multigil._local",
        "serialize_iterator": "multigil._iterators",
        "setprofile": "multigil._hooks",
        "setprofile_all_threads": "multigil._hooks",
        "settrace": "multigil._hooks",
        "settrace_all_threads": "multigil._hooks",
        "stack_size": "multigil._worker",
        "synchronized_iterator": "multigil._iterators",
    }

    def __getattr__(name: str) -> object:
        if name not in __all__ and name not in _NOT_IN_ALL:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = _HOMES.get(name, "multigil.interpreter")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_NOT_IN_ALL})


# As in threading.
_NOT_IN_ALL = ("__excepthook__", "activeCount", "currentThread")

__all__ = [
    "TIMEOUT_MAX",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Diagnosis",
    "Empty",
    "Event",
    "ExceptHookArgs",
    "Full",
    "Interpreter",
    "InterpreterDied",
    "Lock",
    "MultigilError",
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
    "ThreadError",
    "Timer",
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
