"""`fileno()`: a thing is ready to selectors when an attempt may succeed, and not after one has failed."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
from typing import TYPE_CHECKING, Any

import pytest

import async_workers
from harness import AMPLE, in_fresh_process, in_thread, started
from multigil import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Empty,
    Event,
    Interpreter,
    LifoQueue,
    Lock,
    PriorityQueue,
    Process,
    Queue,
    Region,
    RLock,
    Semaphore,
    ShutDown,
    SimpleQueue,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def is_ready(thing: Any, seconds: float = 0) -> bool:
    return select.select([thing], [], [], seconds)[0] == [thing]


def becomes_ready(thing: Any) -> bool:
    return is_ready(thing, AMPLE)


class Case:
    """What is not ready: an attempt, what makes one succeed, and what takes that back."""

    def __init__(
        self, make: Callable[[], Any], attempt: Callable[[Any], bool], remedy: str, args: tuple[Any, ...] = ()
    ) -> None:
        self.make = make
        self.attempt = attempt
        self.remedy = remedy
        self.args = args


def gets(q: Any) -> bool:
    try:
        q.get_nowait()
    except Empty:
        return False
    return True


def gets_in_time(q: Any) -> bool:
    with contextlib.suppress(Empty):
        q.get(timeout=0)
        return True
    return False


def gets_many(q: Any) -> bool:
    with contextlib.suppress(Empty):
        q.get_many(1, block=False)
        return True
    return False


def peeks_and_gets(q: Any) -> bool:
    with contextlib.suppress(Empty):
        q.peek(block=False)
        q.get()
        return True
    return False


def acquires(lock: Any) -> bool:
    return bool(lock.acquire(blocking=False))


def acquires_in_time(lock: Any) -> bool:
    return bool(lock.acquire(timeout=0))


def is_set(event: Event) -> bool:
    try:
        return event.is_set()
    finally:
        event.clear()


def waits(event: Event) -> bool:
    try:
        return event.wait(0)
    finally:
        event.clear()


def taken(lock: Any) -> Any:
    lock.acquire()
    return lock


CASES = {
    "Queue": Case(Queue, gets, "put", (1,)),
    "Queue, in time": Case(Queue, gets_in_time, "put", (1,)),
    "Queue, many": Case(Queue, gets_many, "put", (1,)),
    "Queue, peek": Case(Queue, peeks_and_gets, "put", (1,)),
    "redelivering": Case(lambda: Queue(redeliver=True), gets, "put", (1,)),
    "LifoQueue": Case(LifoQueue, gets, "put", (1,)),
    "PriorityQueue": Case(PriorityQueue, gets, "put", (1,)),
    "SimpleQueue": Case(SimpleQueue, gets, "put", (1,)),
    "Lock": Case(lambda: taken(Lock()), acquires, "release"),
    "Lock, in time": Case(lambda: taken(Lock()), acquires_in_time, "release"),
    "Semaphore": Case(lambda: Semaphore(0), acquires, "release"),
    "BoundedSemaphore": Case(lambda: taken(BoundedSemaphore()), acquires, "release"),
    "Event": Case(Event, is_set, "set"),
    "Event, in time": Case(Event, waits, "set"),
}


@pytest.fixture(scope="module")
def helpers() -> Iterator[dict[str, Callable[..., object]]]:
    """Those who do something elsewhere: a thread, an interpreter and a process."""
    with Interpreter() as interpreter, Process() as process:
        yield {"thread": in_thread, "interpreter": interpreter.submit, "process": process.submit}


@pytest.mark.parametrize("where", ["thread", "interpreter", "process"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_ready_when_an_attempt_may_succeed(
    helpers: dict[str, Callable[..., object]], name: str, where: str
) -> None:
    case = CASES[name]
    thing = case.make()
    assert not is_ready(thing)
    for _ in range(3):
        helpers[where](async_workers.do, thing, case.remedy, *case.args)
        assert becomes_ready(thing)
        assert is_ready(thing)  # still
        assert case.attempt(thing)
        assert is_ready(thing)  # nobody has looked since
        assert not case.attempt(thing)
        assert not is_ready(thing)


def test_an_rlock_is_ready_for_the_thread_that_looked() -> None:
    lock, go, held = RLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go.wait(AMPLE)

    holding = in_thread(hold)
    held.wait(AMPLE)
    assert not lock.acquire(blocking=False)
    assert not is_ready(lock)
    go.set()
    assert becomes_ready(lock)
    assert lock.acquire(blocking=False)
    holding.result(AMPLE)


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue, SimpleQueue])
def test_it_is_ready_at_once_if_there_is_something(kind: type[Queue[int]]) -> None:
    q = kind()
    q.put(1)
    assert is_ready(q)


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_a_queue_is_ready_when_it_is_shut_down(kind: type[Queue[int]]) -> None:
    q = kind()
    assert not is_ready(q)
    q.shutdown()
    assert becomes_ready(q)
    with pytest.raises(ShutDown):
        q.get_nowait()
    assert is_ready(q)


def test_an_event_that_is_cleared_at_once_is_ready_once() -> None:
    event = Event()
    assert not is_ready(event)
    event.set()
    event.clear()
    assert becomes_ready(event)
    assert not event.is_set()
    assert not is_ready(event)


@pytest.mark.parametrize("kind", [Interpreter, Process])
def test_an_interpreter_is_ready_when_it_has_ended(kind: type[Interpreter]) -> None:
    go: Queue[None] = Queue()
    interpreter = kind(target=go.get)
    with pytest.raises(RuntimeError, match="before it is started"):
        interpreter.fileno()
    interpreter.start()
    assert not is_ready(interpreter)
    go.put(None)
    assert becomes_ready(interpreter)
    assert not interpreter.is_alive()
    assert is_ready(interpreter)


def test_an_interpreter_that_has_ended_is_ready_at_once() -> None:
    interpreter = started(int)
    interpreter.join(AMPLE)
    assert is_ready(interpreter)


@pytest.mark.parametrize("make", [lambda: Condition(Lock()), lambda: Barrier(1)])
def test_what_wait_any_does_not_take_has_none(make: Callable[[], object]) -> None:
    assert not hasattr(make(), "fileno")


def test_a_queue_with_hooks_has_none() -> None:
    class Hooked(Queue[int]):
        def _get(self) -> int:
            return super()._get()

    with pytest.raises(NotImplementedError, match="Hooked"):
        Hooked().fileno()


def test_the_descriptor_is_one_and_goes_with_the_object() -> None:
    q: Queue[int] = Queue()
    descriptor = q.fileno()
    assert q.fileno() == descriptor
    assert not os.get_inheritable(descriptor)
    assert os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventfd]"
    del q
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_thing_of_another_region() -> None:
    """The thread that watches it is gone before its memory is."""
    for _ in range(3):
        with Region(f"fileno-{os.getpid()}") as region:
            q = region.Queue("q")
            assert not is_ready(q)
            in_thread(q.put, 1)
            assert becomes_ready(q)
            assert gets(q)
            assert not gets(q)
            region.unlink(Queue, "q")
        del q, region


def test_an_attempt_that_fails_is_repeated_without_a_system_call() -> None:
    """Only the first of them reads the descriptor."""
    q: Queue[int] = Queue()
    descriptor = q.fileno()
    os.write(descriptor, (7).to_bytes(8, "little"))  # nobody but this test may
    assert not gets(q)
    assert os.read(descriptor, 8) == (7).to_bytes(8, "little")


def test_two_selectors_are_told() -> None:
    q: Queue[int] = Queue()
    with selectors.DefaultSelector() as one, selectors.DefaultSelector() as other:
        for selector in (one, other):
            selector.register(q, selectors.EVENT_READ)
            assert selector.select(0) == []
        in_thread(q.put, 1)
        assert len(one.select(AMPLE)) == len(other.select(AMPLE)) == 1


@pytest.mark.parametrize("kind", [Queue, PriorityQueue])
def test_no_readiness_is_lost_among_threads(helpers: dict[str, Callable[..., object]], kind: type[Queue[int]]) -> None:
    """Several wait for the same descriptor, and whoever comes first takes what is there."""
    count = 2000
    q = kind()
    got: list[list[int]] = []

    def consume() -> list[int]:
        mine: list[int] = []
        with contextlib.suppress(ShutDown):
            while True:
                assert becomes_ready(q)
                with contextlib.suppress(Empty):
                    while True:
                        mine.append(q.get_nowait())
        return mine

    consuming = [in_thread(consume) for _ in range(3)]
    putting: Any = [
        helpers["interpreter"](async_workers.put_numbers, q, 0, count),
        helpers["process"](async_workers.put_numbers, q, count, count),
    ]
    for future in putting:
        future.result(AMPLE)
    q.shutdown()
    got = [future.result(AMPLE) for future in consuming]
    assert sorted(number for numbers in got for number in numbers) == list(range(2 * count))


@in_fresh_process
def test_a_forked_child_has_a_descriptor_of_its_own() -> None:
    there: Queue[int] = Queue()
    back: Queue[str] = Queue()
    assert not is_ready(there)
    assert not is_ready(back)
    child = os.fork()
    if child == 0:
        try:
            assert is_ready(there)  # once, for nothing
            assert not gets(there)
            assert not is_ready(there)
            back.put("asleep")
            assert becomes_ready(there)
            assert there.get_nowait() == 1
            os._exit(0)
        finally:
            os._exit(1)
    assert becomes_ready(back)
    assert back.get_nowait() == "asleep"
    assert not is_ready(there)  # the child's attempts are its own
    there.put(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not gets(there)
    assert not is_ready(there)
    there.put(2)
    assert becomes_ready(there)


def test_trio_waits_for_it(helpers: dict[str, Callable[..., object]]) -> None:
    trio = pytest.importorskip("trio")
    q: Queue[int] = Queue()

    async def get() -> int:
        while True:
            try:
                return q.get_nowait()
            except Empty:
                await trio.lowlevel.wait_readable(q)

    async def main() -> list[int]:
        got: list[int] = []

        async def consume() -> None:
            for _ in range(100):
                got.append(await get())  # noqa: PERF401

        with trio.fail_after(AMPLE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                helpers["interpreter"](async_workers.put_numbers, q, 0, 100)
        return got

    assert trio.run(main) == list(range(100))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_waits_for_it(helpers: dict[str, Callable[..., object]], backend: str) -> None:
    anyio = pytest.importorskip("anyio")
    pytest.importorskip(backend)
    q: Queue[int] = Queue()

    async def main() -> list[int]:
        got: list[int] = []
        helpers["interpreter"](async_workers.put_numbers, q, 0, 100)
        with anyio.fail_after(AMPLE):
            while len(got) < 100:
                try:
                    got.append(q.get_nowait())
                except Empty:
                    await anyio.wait_readable(q.fileno())
        return got

    assert anyio.run(main, backend=backend) == list(range(100))
