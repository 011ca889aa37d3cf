"""The native module: queues, locks and interpreters over the shared-memory engine (`ffi/python`)."""

from collections.abc import Callable, Iterable
from types import GenericAlias, TracebackType
from typing import Any, Final, Protocol, Self, final

from _typeshed import structseq
from typing_extensions import deprecated, disjoint_base

__version__: Final[str]

class MultigilError(Exception):
    """Base of the errors that only multigil raises."""

class StaleHandle(MultigilError, ValueError):
    """A pickled queue or lock was unpickled after the last handle to it had gone."""

class RegionCorrupt(MultigilError, ValueError):
    """Shared memory holds something that no version of multigil wrote."""

class NotShareable(MultigilError, TypeError):
    """An object that only its own interpreter can use was to be sent to another one."""

class Empty(Exception):
    """`queue.Empty` itself."""

class Full(Exception):
    """`queue.Full` itself."""

class ShutDown(Exception):
    """`queue.ShutDown` itself, which the standard library has since 3.13."""

class BrokenBarrierError(RuntimeError):
    """`threading.BrokenBarrierError` itself."""

class InterpreterTerminated(BaseException):
    """Raised inside an interpreter that `terminate()` stops, wherever it runs or waits."""

@disjoint_base
class Queue[T]:
    """A first-in, first-out queue shared by threads and interpreters; `queue.Queue` in every method."""

    maxsize: int
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    def __init__(self, maxsize: int = 0) -> None: ...
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> T: ...
    def put_nowait(self, item: T) -> None: ...
    def get_nowait(self) -> T: ...
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> T: ...
    def full(self) -> bool: ...
    def task_done(self) -> None: ...
    def join(self) -> None: ...
    def shutdown(self, immediate: bool = False) -> None: ...
    @property
    def is_shutdown(self) -> bool: ...
    @property
    def unfinished_tasks(self) -> int: ...

@disjoint_base
class SimpleQueue[T]:
    """An unbounded queue shared by threads and interpreters; `queue.SimpleQueue` in every method."""

    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    def __new__(cls) -> Self: ...
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> T: ...
    def put_nowait(self, item: T) -> None: ...
    def get_nowait(self) -> T: ...
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...

@disjoint_base
class Lock:
    """A mutual exclusion lock shared by threads and interpreters; `threading.Lock` in every method."""

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    @property
    def owner(self) -> Owner | None:
        """The thread that acquired the lock and holds it; None if the lock is free."""

@disjoint_base
class RLock:
    """A lock that its owner may take again, shared by threads and interpreters; `threading.RLock` in every method."""

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    @property
    def owner(self) -> Owner | None:
        """The thread that holds the lock; None if the lock is free."""
    # What `threading.Condition` and other libraries use of a lock of `threading`.
    def _is_owned(self) -> bool: ...
    def _recursion_count(self) -> int: ...
    def _release_save(self) -> tuple[int, int]: ...
    def _acquire_restore(self, state: tuple[int, int], /) -> None: ...

class _Lockable(Protocol):
    """What a condition needs of a lock; it uses what else `threading.Condition` uses, if the lock has it."""

    @property
    def acquire(self) -> Callable[..., Any]: ...
    @property
    def release(self) -> Callable[[], Any]: ...

@disjoint_base
class Condition:
    """Where those who hold a lock wait for a notification; `threading.Condition` in every method.

    Only with a lock of multigil can it be sent to other interpreters.
    """

    def __init__(self, lock: _Lockable | None = None) -> None: ...
    @property
    def _lock(self) -> Any: ...
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def wait_for[T](self, predicate: Callable[[], T], timeout: float | None = None) -> T: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...
    @deprecated("notifyAll() is deprecated, use notify_all() instead")
    def notifyAll(self) -> None: ...  # noqa: N802
    def _is_owned(self) -> bool: ...
    def _release_save(self) -> Any: ...
    def _acquire_restore(self, state: Any, /) -> None: ...

@final
class Owner(structseq[int], tuple[int, int]):
    """Who holds a lock: the thread that acquired it."""

    __match_args__: Final = ("interpreter_id", "native_id")

    @property
    def interpreter_id(self) -> int:
        """`Interpreter.id` of its interpreter; -1 if that has ended."""
    @property
    def native_id(self) -> int:
        """`threading.get_native_id()` in its thread."""

@disjoint_base
class Event:
    """A flag to wait for, shared by threads and interpreters; `threading.Event` in every method."""

    def __new__(cls) -> Self: ...
    def is_set(self) -> bool: ...
    @deprecated("isSet() is deprecated, use is_set() instead")
    def isSet(self) -> bool: ...  # noqa: N802
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...

@disjoint_base
class Semaphore:
    """A number to take from, shared by threads and interpreters; `threading.Semaphore` in every method."""

    _value: Final[int]
    def __init__(self, value: int = 1) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def release(self, n: int = 1) -> None: ...
    def __enter__(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class BoundedSemaphore(Semaphore):
    """A semaphore that is not released more often than acquired; `threading.BoundedSemaphore` in every method."""

    _initial_value: Final[int]

@disjoint_base
class Barrier:
    """Where so many threads and interpreters wait for each other; `threading.Barrier` in every method."""

    def __init__(
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> None: ...
    @property
    def parties(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...
    @property
    def broken(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def reset(self) -> None: ...
    def abort(self) -> None: ...

@final
class Subinterpreter:
    """One interpreter with a GIL of its own, and the operating system's thread that runs it.

    The constructor returns at once. The new thread makes the interpreter, runs the source text
    `bootstrap` in a namespace of its own (not in `__main__`), then ends the interpreter and shuts the
    queues down, however it came to the end.
    """

    def __new__(cls, bootstrap: str, queues: Iterable[Queue[Any]] = ()) -> Self: ...
    @property
    def id(self) -> int | None:
        """CPython's id of the interpreter; None before it exists."""
    @property
    def ident(self) -> int | None:
        """`threading.get_ident()` of its thread."""
    @property
    def native_id(self) -> int | None:
        """The kernel's id of its thread; None if it could not begin."""
    @property
    def error(self) -> str | None:
        """Why it could not be made, or what escaped from `bootstrap`; None if nothing did."""
    def interrupt(self, last: int) -> None:
        """Raise KeyboardInterrupt in the task that its thread has exposed, if its number is at most `last`.

        It strikes in waits of ours too. Between tasks it is noted, and strikes the next one up to that number where
        that begins. Waits until the thread could be reached: it can't while it is in a call into C that keeps the GIL.
        """
    def terminate(self, timeout: float | None = None) -> None:
        """Raise InterpreterTerminated in whatever its thread has exposed, now, and in all that it would expose later.

        Waits until the thread could be reached, as `interrupt` does, at most timeout seconds.
        """
    def abandon(self, timeout: float | None = None) -> bool:
        """End the interpreter although its thread is asleep in a call that knows nothing of us (`time.sleep`).

        Only for the end of the program: the thread never runs again, and what it holds is lost. False, and nothing
        has changed, if the thread is awake or the interpreter has other threads.
        """
    def join(self, timeout: float | None = None) -> bool:
        """Wait until the interpreter and its thread have ended (seconds); True if they have."""
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""

def blocks() -> tuple[memoryview, ...]:
    """The memory blocks of this process's region, read-only, without a copy."""

def statistics() -> dict[str, int]:
    """Bytes and objects of the region: reserved, in use, resident and free, blocks, queues, locks."""

def waits() -> list[tuple[int, int, float, tuple[str, int, int]]]: ...
def held_locks() -> list[tuple[tuple[str, int, int], int, int]]: ...
def interpreter_ids() -> list[int]: ...
def look_into(interpreter_id: int, source: str, timeout: float | None) -> bytes | None: ...
def wait_any[T](*objects: T, timeout: float | None = None) -> T | None:
    """Wait for the first of several things (seconds), and give that object; None if none was ready in time.

    Nothing is taken from any. A queue is ready when it has an item or is shut down, a lock when it could be acquired,
    an event when it is set, a semaphore when its value is positive, an Interpreter when it has ended, a file
    descriptor (an int, or an object with a method `fileno`) when a read would not wait.
    """

def current_interpreter_id() -> int: ...
def expose[T](number: int | None, function: Callable[..., T], /, *args: Any) -> T:
    """Call `function(*args)`, which belongs to the task of that number, and let interrupt() and terminate() strike.

    They strike a worker's thread nowhere else. What was asked for before is raised instead of the call, and what comes
    too late for the call strikes nothing. With None as number, only terminate() strikes.
    """

def attach(kind: int, region: int, index: int, generation: int, /, *more: Any) -> Any:
    """Give the shared object that an id names: what a pickled one is unpickled by."""
