"""What the tests let other interpreters run. Imports little, because each interpreter imports it anew."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import multigil
from multigil import Empty, Full, ShutDown, _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from multigil import Barrier, Condition, Event, Lock, Queue, RLock, Semaphore, SimpleQueue


class Record:
    def __init__(self, number: int) -> None:
        self.number = number


def produce(q: Queue[Any], number: int, count: int) -> None:
    """Put `count` numbered items of various sizes."""
    for i in range(count):
        q.put((number, i, bytes((number + i) % 256 for _ in range(i % 300))))


def consume(q: Queue[Any]) -> list[tuple[int, int]]:
    """Get the items of `produce` until None comes; check their content."""
    received = []
    while (item := q.get()) is not None:
        number, i, content = item
        if content != bytes([(number + i) % 256]) * (i % 300):
            raise AssertionError(f"item {i} of producer {number} has wrong content: {content!r}")
        received.append((number, i))
        q.task_done()
    q.task_done()
    return received


def produce_batches(q: Queue[Any], number: int, count: int) -> None:
    """As `produce`, in batches of 1 to 20."""
    lengths = itertools.cycle(range(1, 21))
    done = 0
    while done < count:
        end = min(done + next(lengths), count)
        q.put_many((number, i, bytes([(number + i) % 256]) * (i % 300)) for i in range(done, end))
        done = end


def consume_batches(q: Queue[Any]) -> list[tuple[int, int]]:
    """Get such items, up to 15 at a time, until the queue is shut down; check their content."""
    received = []
    with contextlib.suppress(ShutDown):
        while True:
            for number, i, content in q.get_many(15):
                if content != bytes([(number + i) % 256]) * (i % 300):
                    raise AssertionError(f"item {i} of producer {number} has wrong content: {content!r}")
                received.append((number, i))
                q.task_done()
    return received


def consume_until_shut_down(q: Queue[Any]) -> list[tuple[int, int]]:
    """Get such items one by one."""
    received = []
    for number, i, content in q:
        if content != bytes([(number + i) % 256]) * (i % 300):
            raise AssertionError(f"item {i} of producer {number} has wrong content: {content!r}")
        received.append((number, i))
    return received


def peek_until_shut_down(q: Queue[Any]) -> list[tuple[int, int]]:
    """Look at such items until the queue is shut down; what was seen, once each time that it changed."""
    seen: list[tuple[int, int]] = []
    with contextlib.suppress(ShutDown):
        while True:
            number, i, content = q.peek()
            if content != bytes([(number + i) % 256]) * (i % 300):
                raise AssertionError(f"item {i} of producer {number} has wrong content: {content!r}")
            if seen[-1:] != [(number, i)]:
                seen.append((number, i))
            time.sleep(0)  # to let the other threads run
    return seen


def lengths_until_shut_down(q: Queue[bytes]) -> set[int]:
    """Look at items again and again; the lengths that they had."""
    lengths = set()
    with contextlib.suppress(ShutDown):
        while True:
            lengths.add(len(q.peek()))
    return lengths


def count_of_put_many(q: Queue[Any], count: int) -> tuple[int, list[str]]:
    """Put numbers until interrupted; what the exception says."""
    try:
        q.put_many(range(count))
    except KeyboardInterrupt as error:
        return error.count, error.__notes__  # type: ignore[attr-defined]
    raise AssertionError("there was room for all")


def echo(requests: Queue[Any], replies: Queue[Any]) -> None:
    """Send back each item until the queue is shut down."""
    while True:
        try:
            replies.put(requests.get())
        except ShutDown:
            return


def put_all(q: Queue[Any], *items: object) -> None:
    for item in items:
        q.put(item)


def put_records(q: Queue[Any], count: int) -> None:
    for number in range(count):
        q.put(Record(number))


def timed_get(q: Queue[Any], timeout: float) -> tuple[int, float]:
    """Nanoseconds of waiting and seconds of processor time until Empty was raised."""
    start, processor_start = time.monotonic_ns(), time.thread_time()
    try:
        q.get(timeout=timeout)
    except Empty:
        return time.monotonic_ns() - start, time.thread_time() - processor_start
    raise AssertionError("the queue was not empty")


def outcome(q: Queue[Any], method: str, *args: object, **kwargs: object) -> str:
    """The name of what a call raises, or the repr of what it returns."""
    try:
        return repr(getattr(q, method)(*args, **kwargs))
    except (Empty, Full, ShutDown, ValueError) as error:
        return type(error).__name__


def set_maxsize(q: Queue[Any], maxsize: int) -> None:
    q.maxsize = maxsize


def state(q: Queue[Any]) -> tuple[int, int, int, bool]:
    return q.maxsize, q.qsize(), q.unfinished_tasks, q.is_shutdown


def put_and_forget(carrier: SimpleQueue[Any]) -> None:
    """Put a new queue with an item in it; every handle here is gone when this returns."""
    from multigil import Lock, Queue

    q: Queue[str] = Queue()
    q.put("made elsewhere")
    lock = Lock()
    lock.acquire()
    carrier.put([q, lock])


def count_in_file(path: Path, lock: Lock | RLock, times: int) -> None:
    """Add 1 to the number in a file, in three steps that only the lock holds together."""
    for _ in range(times):
        with lock:
            number = int(path.read_text())
            path.write_text(str(number + 1))


def acquire_and_tell(lock: Lock | Semaphore, told: SimpleQueue[str], name: str) -> None:
    lock.acquire()
    told.put(name)


def timed_acquire(lock: Lock, timeout: float) -> tuple[bool, int]:
    start = time.monotonic_ns()
    return lock.acquire(timeout=timeout), time.monotonic_ns() - start


def acquire_twice(lock: Lock, told: SimpleQueue[str]) -> None:
    lock.acquire()
    told.put("once")
    lock.acquire()
    told.put("twice")


def hold(lock: RLock, told: SimpleQueue[None], go: SimpleQueue[None]) -> None:
    """Hold a lock, twice, until told to go."""
    with lock, lock:
        told.put(None)
        go.get()


def acquire_in_two_threads(lock: RLock) -> tuple[bool, bool]:
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(lock.acquire(False)))
    with lock:
        outcomes.append(lock.acquire(False))
        thread.start()
        thread.join()
    return outcomes[0], outcomes[1]


def put_new(carrier: SimpleQueue[Any], name: str, *args: object) -> None:
    """Put a new object of a class; every handle here is gone when this returns."""
    carrier.put(getattr(multigil, name)(*args))


def answer_events(there: Event, back: Event, times: int) -> int:
    """Wait for the one and set the other, so often."""
    for _ in range(times):
        there.wait()
        there.clear()
        back.set()
    return times


def put_and_set(results: Queue[int], event: Event) -> None:
    results.put(1)
    event.set()


def enter(semaphore: Semaphore, places: Semaphore, times: int) -> int:
    """Enter so often; each time there must be a place."""
    for _ in range(times):
        with semaphore:
            if not places.acquire(blocking=False):
                raise AssertionError("there are too many inside")
            places.release()
    return times


def pass_in_step(barrier: Barrier, ahead: Semaphore, times: int) -> int:
    """Pass a barrier so often; between two passes, everybody has been there. Gives the sum of the indices."""
    total = 0
    for _ in range(times):
        ahead.release()
        total += barrier.wait()
        # All have given one, and nobody can give the next before all have taken theirs.
        if not ahead.acquire(blocking=False):
            raise AssertionError("somebody has not been there")
        barrier.wait()
    return total


class PutsName:
    """Puts the name of the interpreter in which it is called."""

    def __init__(self, names: Queue[str]) -> None:
        self.names = names

    def __call__(self) -> None:
        self.names.put(own_name())


class Spins:
    """Says that it was called, and never comes back."""

    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told = told

    def __call__(self) -> None:
        self.told.put(None)
        spin()


class SetsAndWaits:
    """Sets an event, then waits for another one."""

    def __init__(self, called: Event, go: Event) -> None:
        self.called = called
        self.go = go

    def __call__(self) -> None:
        self.called.set()
        self.go.wait()


class Counting(multigil.Barrier):
    """Counts, in each interpreter for itself, how often the last one came there."""

    count = 0

    def __init__(self, parties: int) -> None:
        super().__init__(parties, self.add)

    def add(self) -> None:
        self.count += 1


def wait_and_count(barrier: Counting) -> int:
    barrier.wait()
    return barrier.count


def wait_for_any(*things: Any) -> int:
    """The place of the first that is ready."""
    first = multigil.wait_any(*things)
    return next(place for place, thing in enumerate(things) if thing is first)


def take_from_any(*queues: Queue[int]) -> list[int]:
    """What can be got from any of the queues until all are shut down."""
    got, left = [], list(queues)
    while left:
        ready = multigil.wait_any(*left)
        if ready is None:
            raise AssertionError("nobody has said how long to wait")
        try:
            got.append(ready.get_nowait())
        except Empty:
            continue
        except ShutDown:
            left.remove(ready)
    return got


def make_one_of_each() -> list[Any]:
    """What can be waited for, and is not ready."""
    lock = multigil.Lock()
    lock.acquire()
    return [multigil.Queue(), multigil.SimpleQueue(), multigil.Event(), multigil.Semaphore(0), lock]


class NamedCondition(multigil.Condition):
    def __init__(self, name: str, lock: Any) -> None:
        super().__init__(lock)
        self.name = name


def wait_on(condition: Condition) -> bool:
    with condition:
        return condition.wait()


def locks_of(conditions: Iterable[Condition]) -> list[Any]:
    return [condition._lock for condition in conditions]


def classes_of(condition: Condition) -> tuple[str, str]:
    return type(condition).__name__, type(condition._lock).__name__


def produce_under(not_empty: Condition, not_full: Condition, items: SimpleQueue[int], numbers: Iterable[int]) -> None:
    """Put numbers, of which there are never more than two."""
    for number in numbers:
        with not_full:
            while items.qsize() == 2:
                not_full.wait()
            items.put(number)
            not_empty.notify()


def consume_under(not_empty: Condition, not_full: Condition, items: SimpleQueue[int], count: int) -> list[int]:
    received = []
    for _ in range(count):
        with not_empty:
            assert not_empty.wait_for(lambda: not items.empty())
            assert items.qsize() <= 2
            received.append(items.get_nowait())
            not_full.notify()
    return received


def lists_of(function: Any) -> list[list[object]]:
    """The lists that a closure has from the function around it."""
    contents = [cell.cell_contents for cell in function.__closure__ or ()]
    return [content for content in contents if isinstance(content, list)]


def call_and_send_lists(
    function: Callable[[], object], begun: SimpleQueue[None], may_end: SimpleQueue[None]
) -> list[list[object]]:
    begun.put(None)
    function()
    may_end.get()
    return lists_of(function)


def identity(value: Any) -> Any:
    return value


def places(marker: bytes) -> list[tuple[int, int]]:
    """Where in the region's blocks a marker is: numbers of blocks, and offsets in them."""
    return [
        (number, match.start())
        for number, block in enumerate(_core.blocks())
        for match in re.finditer(re.escape(marker), block)
    ]


def describe_call(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    return args, kwargs


def start_and_get_result(target: Callable[..., Any], *args: object) -> Any:
    interpreter = multigil.Interpreter(target=target, args=args)
    interpreter.start()
    return interpreter.result()


def join_itself() -> None:
    multigil.current_interpreter().join()


def own_name() -> str:
    return multigil.current_interpreter().name


def identifiers() -> tuple[int | None, int | None, int | None]:
    return multigil.get_ident(), multigil.get_native_id(), _core.current_interpreter_id()


def daemon_of_a_new_interpreter() -> bool:
    return multigil.Interpreter().daemon


def is_main() -> bool:
    return multigil.current_interpreter() is multigil.main_interpreter()


def keep_the_gil(ready: SimpleQueue[None], go: SimpleQueue[None], times: int) -> list[tuple[int, int]]:
    """Make calls that do not let go of the GIL, and give the nanoseconds at which each began and ended."""
    base = 3**40_000
    ready.put(None)
    go.get()
    spans = []
    for _ in range(times):
        begin = time.monotonic_ns()
        base * base * base
        spans.append((begin, time.monotonic_ns()))
    return spans


def tell_and_call(told: SimpleQueue[None], function: Callable[..., Any], *args: object) -> Any:
    """Say that it is running, then call."""
    told.put(None)
    return function(*args)


def spin() -> None:
    while True:
        pass


def spin_and_survive_interrupts(told: SimpleQueue[str], count: int) -> str:
    for _ in range(count):
        try:
            told.put("spinning")
            spin()
        except KeyboardInterrupt:
            pass
    return "survived"


def spin_and_survive_termination(told: SimpleQueue[str]) -> str:
    with contextlib.suppress(_core.InterpreterTerminated):
        told.put("spinning")
        spin()
    return "survived"


def spin_and_clean_up(told: SimpleQueue[str], lock: Lock) -> None:
    try:
        with lock:
            told.put("spinning")
            spin()
    finally:
        told.put("cleaned up")


def spin_through_exceptions(told: SimpleQueue[None]) -> None:
    told.put(None)
    while True:
        with contextlib.suppress(Exception):
            spin()


class SpinsWhenUnpickled:
    """As all of these, it tells where it spins before it does, and does it once."""

    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told = told

    def __reduce__(self) -> Any:
        return tell_and_call, (self.told, spin)


class SpinsWhenPickled:
    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told = told

    def __reduce__(self) -> Any:
        tell_and_call(self.told, spin)


class SpinsWhenDeleted:
    """Arrives as 0."""

    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told = told

    def __reduce__(self) -> Any:
        return int, ()

    def __del__(self) -> None:
        tell_and_call(self.told, spin)


class SpinsWhenFlushed:
    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told: SimpleQueue[None] | None = told

    def flush(self) -> None:
        told, self.told = self.told, None
        if told is not None:
            tell_and_call(told, spin)


class SpinsWhenCalled:
    def __init__(self, told: SimpleQueue[None]) -> None:
        self.told = told

    def __call__(self, _: object) -> None:
        tell_and_call(self.told, spin)


def spin_in_flush(told: SimpleQueue[None]) -> None:
    sys.stdout = SpinsWhenFlushed(told)  # type: ignore[assignment]


def wait_for_event_or_descriptor(event: Event) -> None:
    """Wait for whichever is ready first: neither ever is."""
    silent, _ = os.pipe()
    multigil.wait_any(event, silent)


def start_and_leave(told: SimpleQueue[None]) -> None:
    """Start an interpreter that never ends, so that the end of this one waits for it."""
    multigil.Interpreter(target=tell_and_call, args=(told, spin)).start()


class Slowly:
    """Finds one module as slowly as it was told, wherever it is."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == self.name:
            time.sleep(self.seconds)


def import_slowly(name: str, seconds: float) -> None:
    """Have the next import of a module take its time."""
    sys.modules.pop(name, None)
    sys.meta_path.insert(0, Slowly(name, seconds))  # type: ignore[arg-type]


def started_and_joined(target: Callable[..., Any], *args: object) -> None:
    interpreter = multigil.Interpreter(target=target, args=args, daemon=True)
    interpreter.start()
    interpreter.join()


def started_and_waited_for(target: Callable[..., Any], *args: object) -> Any:
    interpreter = multigil.Interpreter(target=target, args=args, daemon=True)
    interpreter.start()
    return interpreter.result()


def refuse() -> None:
    raise ArithmeticError("not here")


class RefusesToLoad:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ()


def call_itself() -> None:
    multigil.current_interpreter().call(identity, 5)


def start_thread(function: Callable[..., Any], argument: object, q: Queue[str], text: str) -> None:
    """Start a thread that calls, and then puts."""

    def run() -> None:
        function(argument)
        q.put(text)

    threading.Thread(target=run).start()


def compute_briefly() -> int:
    return sum(i * i for i in range(1_000_000))


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def take_two(first: Lock, second: Lock, ready: Queue[None], go: Queue[None]) -> None:
    with first:
        ready.put(None)
        for _ in go:
            pass
        with second:
            pass


def take_and_give_back(lock: Lock) -> None:
    with lock:
        pass


def diagnose_until_main_is_silent(begin: int) -> str:
    """Look until the main interpreter does not answer, then write to the pipe; what was seen."""
    while not (diagnosis := multigil.diagnose()).silent:
        pass
    os.write(begin, b"!")
    return str(diagnosis)


def diagnose_in_words() -> str:
    return str(multigil.diagnose())


def listing() -> tuple[list[str], int, str, str]:
    names = [interpreter.name for interpreter in multigil.enumerate()]
    return names, multigil.active_count(), multigil.current_interpreter().name, multigil.main_interpreter().name


def start_named(target: Callable[..., Any], args: tuple[Any, ...], name: str, daemon: bool = False) -> None:
    multigil.Interpreter(target=target, args=args, name=name, daemon=daemon).start()


def default_name() -> str:
    return multigil.Interpreter().name


def rename(name: str) -> None:
    multigil.current_interpreter().name = name


def kernel_name() -> str:
    with open("/proc/thread-self/comm") as comm:
        return comm.read().rstrip("\n")


def facts(interpreter: multigil.Interpreter) -> tuple[Any, ...]:
    """What can be seen of an interpreter from elsewhere."""
    return (
        interpreter.name,
        interpreter.id,
        interpreter.ident,
        interpreter.native_id,
        interpreter.daemon,
        interpreter.is_alive(),
        repr(interpreter),
    )


def errors_of(interpreter: multigil.Interpreter) -> list[str]:
    """What is raised by what only works where an interpreter was started."""
    errors = []
    for attempt in (
        interpreter.start,
        interpreter.result,
        interpreter.interrupt,
        interpreter.close,
        lambda: interpreter.call(int),
        lambda: setattr(interpreter, "daemon", True),
    ):
        try:
            attempt()
        except RuntimeError as error:
            errors.append(str(error))
    return errors


def who_am_i() -> multigil.Interpreter:
    return multigil.current_interpreter()


def is_same(one: object, other: object) -> bool:
    return one is other


def visit(local: Any) -> tuple[int, int]:
    """Count the visits of this thread, and of a thread beside it that lives for one visit only."""

    def count() -> int:
        local.visits = getattr(local, "visits", 0) + 1
        return local.visits  # type: ignore[no-any-return]

    inner: list[int] = []
    thread = threading.Thread(target=lambda: inner.append(count()))
    thread.start()
    thread.join()
    return count(), inner[0]


class Numbered(multigil.local):
    def __init__(self, number: int, *, step: int = 1) -> None:
        self.number = number
        self.step = step


def advance(local: Numbered) -> int:
    local.number += local.step
    return local.number


def kept_locals() -> int:
    from multigil import _local

    return len(_local._kept)


def send_twice(local: Any, q: Queue[Any]) -> None:
    q.put(local)
    q.put([local])


def get_two(q: Queue[Any]) -> bool:
    first, (second,) = q.get(), q.get()
    return first is second and not vars(first)


def add(one: int, other: int) -> int:
    return one + other


def set_event(event: multigil.Event) -> None:
    event.set()


def tracing() -> tuple[bool, bool, bool, bool]:
    """Whether there are hooks here: those that this thread has, and those that what is started from here gets."""
    return (
        sys.gettrace() is not None,
        sys.getprofile() is not None,
        multigil.gettrace() is not None,
        multigil.getprofile() is not None,
    )


def tracing_of_a_nested_one() -> tuple[bool, bool, bool, bool]:
    return start_and_get_result(tracing)  # type: ignore[no-any-return]


def call_until(stop: multigil.Event, told: SimpleQueue[str], function: Callable[[], object]) -> None:
    told.put("calling")
    while not stop.is_set():
        function()
        time.sleep(0.001)


def to_be_traced() -> None:
    pass


def watch(seen: SimpleQueue[Any], frame: Any, event: str, _: object) -> None:
    """With its queue, a function for tracing and profiling."""
    if frame.f_code is to_be_traced.__code__:
        seen.put((event, multigil.get_ident()))


def raise_and_be_joined(target: Callable[..., object], *args: object) -> None:
    interpreter = multigil.Interpreter(target=target, args=args, name="inner")
    interpreter.start()
    interpreter.join()


def context_is_empty() -> bool:
    return len(contextvars.copy_context()) == 0


def thread_stack_size() -> int:
    size = threading.stack_size()
    threading.stack_size(size)
    return size


def stack_bytes() -> int:
    """The size of the calling thread's stack, as the C library knows it."""
    import ctypes

    library = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(256)
    address, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.pthread_self.restype = ctypes.c_void_p
    library.pthread_getattr_np(ctypes.c_void_p(library.pthread_self()), attributes)
    library.pthread_attr_getstack(attributes, ctypes.byref(address), ctypes.byref(size))
    library.pthread_attr_destroy(attributes)
    return size.value


def stack_bytes_of_a_nested_one() -> int:
    return start_and_get_result(stack_bytes)  # type: ignore[no-any-return]


def tell_call(calls: SimpleQueue[Any], done: multigil.Event, *args: object, **kwargs: object) -> None:
    calls.put((args, kwargs))
    done.set()


class Backwards:
    """Ordered by a `<` of its own: the larger number comes first."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: Backwards) -> bool:
        return self.number > other.number


def drain(q: Queue[Any]) -> list[Any]:
    """Get all items that are there."""
    items = []
    with contextlib.suppress(Empty):
        while True:
            items.append(q.get_nowait())
    return items


def drain_numbers(q: Queue[Any]) -> list[int]:
    return [item.number for item in drain(q)]


def put_backwards(q: Queue[Any], numbers: list[int]) -> None:
    for number in numbers:
        q.put(Backwards(number))


class Meddling:
    """Does something with a queue whenever it is compared."""

    def __init__(self, number: int, q: Queue[Any], method: str, *args: object) -> None:
        self.number = number
        self.call = q, method, args

    def __lt__(self, other: Meddling) -> bool:
        q, method, args = self.call
        getattr(q, method)(*args)
        return self.number < other.number


class Waiting:
    """Says that it is compared, and waits for leave to go on."""

    def __init__(self, number: int, told: Queue[Any], leave: Queue[Any]) -> None:
        self.number = number
        self.told = told
        self.leave = leave

    def __lt__(self, other: Waiting) -> bool:
        self.told.put(self.number)
        self.leave.get()
        return self.number < other.number


class Failing:
    """Cannot be compared as long as the queue is not empty that it has."""

    def __init__(self, number: int, faults: Queue[Any]) -> None:
        self.number = number
        self.faults = faults

    def __lt__(self, other: Failing) -> bool:
        if not self.faults.empty():
            raise self.faults.peek()
        return self.number < other.number


def put_numbers(q: Queue[Any], first: int, step: int, count: int) -> None:
    """Put numbers from `first` on as items with something beside them."""
    for number in range(first, first + count * step, step):
        q.put((number, bytes(number % 200)))


def take_numbers(q: Queue[Any]) -> list[int]:
    """Get the items of `put_numbers` until None comes."""
    numbers = []
    while (item := q.get())[1] is not None:
        numbers.append(item[0])
        q.task_done()
    q.task_done()
    return numbers


def put_new_with(carrier: SimpleQueue[Any], kind: str, items: list[object]) -> None:
    """Put a new queue of that kind with items in it; every handle here is gone when this returns."""
    q = getattr(multigil, kind)()
    for item in items:
        q.put(item)
    carrier.put(q)


def put_waiting(q: Queue[Any], told: Queue[Any], leave: Queue[Any]) -> None:
    q.put(Waiting(0, told, leave))


def describe(q: Queue[Any]) -> tuple[str, int]:
    return type(q).__name__, q.maxsize


class Named(multigil.PriorityQueue[int]):
    """A queue that is shared, since it leaves the hooks alone."""


def name_and_items(q: Queue[Any]) -> tuple[str, list[Any]]:
    return type(q).__name__, drain(q)


class WithHook(multigil.PriorityQueue[Any]):
    """A queue that works between the threads of one interpreter only."""

    def _put(self, item: object) -> None:
        super()._put(item)


def wait_with_hooks() -> object:
    return WithHook().get()


def use_hooks() -> list[object]:
    q = WithHook()
    thread = threading.Thread(target=q.put_many, args=([3, 1, 2],))
    thread.start()
    thread.join()
    return drain(q)


def get_some(q: Any, count: int, done: int) -> list[Any]:
    """Gets so many items, and reports so many of them done."""
    items = [q.get() for _ in range(count)]
    for _ in range(done):
        q.task_done()
    return items


def get_and_wait(q: Any, ready: Any, go: Any) -> None:
    ready.put(q.get())
    go.get()
