"""The native module: queues, locks and interpreters over the shared-memory engine (`ffi/python`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType, GenericAlias, TracebackType
from typing import Any, Final, Protocol, Self, final, overload

from _typeshed import structseq
from typing_extensions import deprecated, disjoint_base

__version__: Final[str]

class MultigilError(Exception):
    """Base of the errors that only multigil raises."""

class StaleHandle(MultigilError, ValueError):
    """A pickled queue or lock was unpickled after the last handle to it had gone."""

class AuthenticationError(MultigilError, ValueError):
    """A message in a region with a key was made or changed by somebody without the key."""

class RegionCorrupt(MultigilError, ValueError):
    """Shared memory holds something that no version of multigil wrote."""

class OwnerDied(MultigilError, OSError):
    """The process that held a lock died. What the lock guards may be half changed; the lock can be taken again."""

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
    @property
    def redeliver(self) -> bool:
        """Whether items come back that somebody got and did not report done before it died."""
    @property
    def redelivered(self) -> bool:
        """Whether the item that this thread got last, and did not report done, is one that somebody got before."""
    def __init__(self, maxsize: int = 0, *, redeliver: bool = False) -> None: ...
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> T: ...
    def put_nowait(self, item: T) -> None: ...
    def get_nowait(self) -> T: ...
    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put all items, in their order, with one wake for those who wait for them.

        What it raises has the attribute `count`: how many were put.
        """
    def get_many(self, count: int | None = None, block: bool = True, timeout: float | None = None) -> list[T]:
        """Wait for an item, and take it with all that are there, or up to `count`.

        What unpickling an item raises has the attribute `items`: those that were taken before it.
        """
    def peek(self, block: bool = True, timeout: float | None = None) -> T:
        """The next item, or rather a copy of it, which stays in the queue."""
    def clear(self) -> None:
        """Throw away all items that are there now, as done."""
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> T: ...
    def full(self) -> bool: ...
    def task_done(self) -> None: ...
    def join(self) -> None: ...
    def shutdown(self, immediate: bool = False) -> None: ...
    async def aget(self) -> T:
        """Await the next item, in a loop of asyncio's. Raises as `get` does; who is cancelled has taken nothing."""
    async def aput(self, item: T) -> None:
        """Await a place, and put an item there; raises as `put` does. Who is cancelled has put nothing."""
    async def ajoin(self) -> None:
        """Await that every item that was put is reported done."""
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> T: ...
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when there is an item or the queue is shut down.

        An attempt to get that finds nothing makes it unready, no other use of the queue does: get until there is
        nothing, then wait for it. It is closed with this object.
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Shut the queue down."""
    # A subclass that overrides one of these works between the threads of one interpreter only.
    def _init(self, maxsize: int, /) -> None: ...
    def _qsize(self) -> int: ...
    def _put(self, item: T, /) -> None: ...
    def _get(self) -> T: ...
    @property
    def is_shutdown(self) -> bool: ...
    @property
    def unfinished_tasks(self) -> int: ...

class LifoQueue[T](Queue[T]):
    """A queue of which the item that was put last comes first; `queue.LifoQueue` in every method."""

    def __new__(cls, maxsize: int = 0) -> Self: ...

class PriorityQueue[T](Queue[T]):
    """A queue of which the least item comes first; `queue.PriorityQueue` in every method."""

    def __new__(cls, maxsize: int = 0) -> Self: ...

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
    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put all items, in their order, with one wake for those who wait for them.

        What it raises has the attribute `count`: how many were put.
        """
    def get_many(self, count: int | None = None, block: bool = True, timeout: float | None = None) -> list[T]:
        """Wait for an item, and take it with all that are there, or up to `count`.

        What unpickling an item raises has the attribute `items`: those that were taken before it.
        """
    def peek(self, block: bool = True, timeout: float | None = None) -> T:
        """The next item, or rather a copy of it, which stays in the queue."""
    def clear(self) -> None:
        """Throw away all items that are there now, as done."""
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...
    async def aget(self) -> T:
        """Await the next item, as that of `Queue`."""
    async def aput(self, item: T) -> None:
        """Put an item, which never suspends."""
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when there is an item, as that of `Queue`."""

@disjoint_base
class Lock:
    """A mutual exclusion lock shared by threads and interpreters; `threading.Lock` in every method."""

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def acquire_lock(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release_lock(self) -> None: ...
    def locked_lock(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    async def aacquire(self) -> bool:
        """Await that it can be acquired, in an event loop of asyncio's, and do so; give True.

        Raises as `acquire` does. Who is cancelled has acquired nothing.
        """
    async def __aenter__(self) -> bool: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when the lock could be acquired.

        An `acquire` that does not succeed makes it unready, nothing else does: try first, then wait.
        It is closed with this object.
        """
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
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when the thread that asked last could acquire the lock.

        An `acquire` that does not succeed makes it unready, nothing else does: try first, then wait.
        It is closed with this object.
        """
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
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
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
        """`Interpreter.id` of its interpreter; -1 if that has ended or is in another process."""
    @property
    def native_id(self) -> int:
        """`threading.get_native_id()` in its thread."""
    @property
    def process_id(self) -> int:
        """`os.getpid()` in its process."""

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
    async def await_(self) -> bool:
        """Await that the event is set, in an event loop of asyncio's; give True.

        Whoever waits when it is set goes on, even if it is cleared at once.
        """
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when the event is set, or was since.

        An `is_set` or `wait` that gives False makes it unready, nothing else does: try first, then wait.
        It is closed with this object.
        """

@disjoint_base
class Semaphore:
    """A number to take from, shared by threads and interpreters; `threading.Semaphore` in every method.

    What a process that dies had taken, and nobody has given back, can be taken again.
    """

    _value: Final[int]
    def __init__(self, value: int = 1) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def release(self, n: int = 1) -> None: ...
    def __enter__(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    async def aacquire(self) -> bool:
        """Await that it can be acquired, in an event loop of asyncio's, and do so; give True.

        Raises as `acquire` does. Who is cancelled has acquired nothing.
        """
    async def __aenter__(self) -> bool: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def fileno(self) -> int:
        """A file descriptor that is ready to be read when its value is positive.

        An `acquire` that does not succeed makes it unready, nothing else does: try first, then wait.
        It is closed with this object.
        """

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

@disjoint_base
class Value:
    """A number that threads and interpreters share: `multiprocessing.Value`, with what takes a machine one step."""

    def __new__(cls, typecode: str | type, value: Any = 0, *, lock: Any = True) -> Self: ...
    value: Any
    @property
    def typecode(self) -> str: ...
    def fetch_add(self, n: Any) -> Any: ...
    def fetch_sub(self, n: Any) -> Any: ...
    def fetch_and(self, n: int) -> int: ...
    def fetch_or(self, n: int) -> int: ...
    def fetch_xor(self, n: int) -> int: ...
    def exchange(self, value: Any) -> Any: ...
    def compare_exchange(self, expected: Any, new: Any) -> bool: ...
    def wait(self, expected: Any, timeout: float | None = None) -> bool: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...
    def acquire(self, *args: Any, **kwargs: Any) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def get_lock(self) -> Any: ...
    def get_obj(self) -> Self: ...

@disjoint_base
class Array:
    """Numbers that threads and interpreters share: `multiprocessing.Array`, with what takes a machine one step."""

    def __new__(cls, typecode: str | type, size_or_values: int | Iterable[Any], *, lock: Any = True) -> Self: ...
    value: bytes
    raw: bytes
    @property
    def typecode(self) -> str: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    @overload
    def __getitem__(self, key: int, /) -> Any: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[Any] | bytes: ...
    @overload
    def __setitem__(self, key: int, value: Any, /) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Iterable[Any], /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def fetch_add(self, index: int, n: Any) -> Any: ...
    def fetch_sub(self, index: int, n: Any) -> Any: ...
    def fetch_and(self, index: int, n: int) -> int: ...
    def fetch_or(self, index: int, n: int) -> int: ...
    def fetch_xor(self, index: int, n: int) -> int: ...
    def exchange(self, index: int, value: Any) -> Any: ...
    def compare_exchange(self, index: int, expected: Any, new: Any) -> bool: ...
    def wait(self, index: int, expected: Any, timeout: float | None = None) -> bool: ...
    def notify(self, index: int, n: int = 1) -> None: ...
    def notify_all(self, index: int) -> None: ...
    def acquire(self, *args: Any, **kwargs: Any) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def get_lock(self) -> Any: ...
    def get_obj(self) -> Self: ...

@disjoint_base
class Memory:
    """Bytes that have a name and are shared by threads and interpreters, as a buffer; for `multigil.SharedMemory`."""

    @property
    def region(self) -> int:
        """The number of the region that it is in."""

    @property
    def views(self) -> int:
        """How many buffers of it are in use."""
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...

@final
class Alarm:
    """A file descriptor that is ready to be read when one of the things that are watched may be ready.

    What `multigil._asyncio` has one of for each loop. Watches have numbers; each goes off once.
    """

    def __new__(cls) -> Self: ...
    def fileno(self) -> int: ...
    def arm(self, number: int, thing: object, what: int, times_set: int) -> bool:
        """Watch a thing, in place of the watch of that number; False, and nothing is watched, if it is ready.

        `what` is 0 for what `wait_any` waits for, 1 for a place in a queue, 2 for what its `join` waits for, and 3 for
        an event that is set, or was since it had been set `times_set` times.
        """
    def disarm(self, number: int, /) -> None:
        """Take a watch away, if there is one."""
    def ring(self, number: int, /) -> None:
        """Do what a watch does that goes off."""
    def take(self) -> list[int]:
        """The numbers of the watches that went off since the last call; the descriptor is not ready then."""

@final
class Subinterpreter:
    """One interpreter with a GIL of its own, and the operating system's thread that runs it.

    The constructor returns at once. The new thread makes the interpreter, runs the source text
    `bootstrap` in a namespace of its own (not in `__main__`), then ends the interpreter and shuts the
    queues down, however it came to the end. Its stack has at least `stack_size` bytes; 0 means the usual 16 MiB.
    """

    name: str | None  # settable to a str only
    daemon: bool
    def __new__(cls, bootstrap: str, queues: Iterable[Queue[Any]] = (), stack_size: int = 0) -> Self: ...
    @property
    def number(self) -> int:
        """1, 2, 3 ...: which one of this process it is."""
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

        What the first of `queues` holds is dropped. Waits until the thread could be reached, as `interrupt` does, at
        most timeout seconds.
        """
    def abandon(self, timeout: float | None = None) -> bool:
        """End the interpreter although its thread is asleep in a call that knows nothing of us (`time.sleep`).

        Only for the end of the program: the thread never runs again, and what it holds is lost. False, and nothing
        has changed, if the thread is awake or the interpreter has other threads.
        """
    def tell(self, queue: Queue[Any], number: int) -> None:
        """Put (number, None, None) into the queue when the interpreter has ended."""
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
def frames() -> dict[int, FrameType]: ...
def interpreter_ids() -> list[int]: ...
def look_into(interpreter_id: int, source: str, timeout: float | None) -> bytes | None: ...
def wait_any[T](*objects: T, timeout: float | None = None) -> T | None:
    """Wait for the first of several things (seconds), and give that object; None if none was ready in time.

    Nothing is taken from any. A queue is ready when it has an item or is shut down, a lock when it could be acquired,
    an event when it is set, a semaphore when its value is positive, an Interpreter when it has ended, a file
    descriptor (an int, or an object with a method `fileno`) when a read would not wait.
    """

def times_set(event: Event, /) -> int:
    """How often an event was set."""

def create_memory(name: str, size: int) -> Memory | None:
    """Make memory of that name; None if there is some already."""

def open_memory(name: str, /) -> Memory | None:
    """Give the memory of that name; None if there is none."""

def unlink_memory(name: str, region: int) -> bool:
    """Take a name away from its memory; whether there was one."""

def open_region(name: str | None, create: bool | None) -> int | None:
    """Open a region until close_region(), and give its number.

    With None as name, a new one; with None as create, it is made if there is none. Gives None if there is one although
    create is true, or none although it is false.
    """

def join_region(number: int, location: str) -> None:
    """Open a region of another process until close_region()."""

def close_region(number: int, /) -> None:
    """The end of open_region() and join_region(); objects keep it open."""

def region_location(number: int, /) -> str:
    """How other processes get at a region."""

def region_names() -> list[str]:
    """The names of this user's regions."""

def retire_regions() -> None:
    """At the end of the program: take away the names of regions that nobody else uses."""

def set_key(number: int, key: bytes) -> None:
    """Have the messages of a region sealed with a key."""

def make_in(number: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function that makes its objects in a region."""

def find_object(number: int, class_: Callable[..., Any], name: str) -> Any:
    """Give the object of that name in a region; None if there is none."""

def name_object(number: int, class_: Callable[..., Any], name: str, object: object) -> bool:
    """Name an object of a region; False if another has the name."""

def unname_object(number: int, class_: Callable[..., Any], name: str) -> bool:
    """Take a name away from its object; whether there was one."""

def object_names(number: int, /) -> list[tuple[str, str]]:
    """The names in a region, as (name of the class, name)."""

def current_interpreter_id() -> int: ...
def new_number() -> int:
    """1, 2, 3 ...: a number that no interpreter of this process had yet."""

def subinterpreters() -> list[Subinterpreter]:
    """All interpreters of this process that `Subinterpreter` has made and that have not ended, in that order."""

def region_number() -> int:
    """The number of this process's region."""

def region_descriptor() -> int:
    """The file of this process's region, which stays open."""

def recover_dead() -> int:
    """Put right what processes left that have died, and give how many interpreters it were."""

def obey(control: int, parent: int, answered: Value, inboxes: Iterable[Queue[Any]]) -> None:
    """Let the parent strike the calling thread, the first of this process, as `Subinterpreter` does its thread.

    It asks through a pipe, of which this call takes the descriptor, and `answered` becomes the number of the last
    request that was seen to. SIGINT strikes, whose handler must be `answer_signal`. When the parent has died, the
    inboxes are shut down, the thread is terminated, and after two seconds the process killed.
    """

def answer_signal(signal: int, frame: FrameType | None, /) -> None:
    """Raise what the calling thread is struck with, if it is."""

def expose[T](number: int | None, function: Callable[..., T], /, *args: Any) -> T:
    """Call `function(*args)`, which belongs to the task of that number, and let interrupt() and terminate() strike.

    They strike a worker's thread nowhere else. What was asked for before is raised instead of the call, and what comes
    too late for the call strikes nothing. With None as number, only terminate() strikes.
    """

def perform(
    number: int | None,
    function: Callable[..., tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]],
    /,
    *args: Any,
) -> tuple[Any]:
    """As `expose`, and make the call (callable, args, kwargs) that the function gives; what that gave, in a tuple."""

def put_numbered(queue: Queue[Any], number: int, item: Any) -> int:
    """Put an item with a number, and give the bytes that it takes. `get()` gives (number, item, error).

    What unpickling the item raises is not raised, but the error, with None as the item; otherwise the error is None.
    """

def take_outcomes(
    results: Queue[Any], keep: Callable[[list[Any]], object], block: bool, timeout: float | None, spin: bool
) -> None:
    """Take all that is in a queue, wait for something as `get()` does, and call `keep(list of it)` in the same step.

    With `spin`, the wait begins with looking again and again for some microseconds. Raises Empty.
    """

def perform_next(
    tasks: Queue[Any],
    results: Queue[Any],
    tickets: Array,
    worker: int,
    count: int,
    changes: int,
    refresh: Callable[[], object],
    functions: Mapping[bytes, Callable[..., Any]],
) -> tuple[int, Any, BaseException | None] | tuple[()] | None:
    """Wait for the next task of a pool, and make the call (callable, args, kwargs) that it is, as `expose()` does.

    Bytes stand for the callable `functions[bytes]`. Gives (number, result, error), of which one is None; () if the task
    was cancelled; None if no more tasks come. A task's ticket, the element of the array that the low bits of its number
    name, tells from its beginning on which of the worker's tasks it is: the count-th. `interrupt()` knows it by that
    count. `refresh()` is called before if the element after the tickets is not `changes`. If the one after that is not
    0, a worker without a task says so in `results`.
    """

def attach(kind: int, region: int, location: str, index: int, generation: int, /, *more: Any) -> Any:
    """Give the shared object that an id names: what a pickled one is unpickled by."""
