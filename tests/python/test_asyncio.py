"""Queues, locks, events and interpreters that are awaited: the same as the methods without `a`, but for the thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import os
import random
import sys
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import async_workers
import multigil
from harness import AMPLE, in_fresh_process, in_thread, started
from multigil import (
    BoundedSemaphore,
    Event,
    Interpreter,
    InterpreterDied,
    LifoQueue,
    Lock,
    OwnerDied,
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
    from collections.abc import Awaitable, Callable, Coroutine

# CPython before 3.12.4 crashes when asyncio is first used in an interpreter (gh-119213).
loops_in_interpreters = pytest.mark.skipif(sys.version_info < (3, 12, 4), reason="gh-119213")


class Run(Protocol):
    def __call__[T](self, main: Coroutine[Any, Any, T]) -> T: ...


LOOPS = [
    "asyncio",
    pytest.param("uvloop", marks=pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="no uvloop")),
]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a loop of either kind, with a time limit."""

    def run_in_loop[T](main: Coroutine[Any, Any, T]) -> T:
        with loop_of(request.param) as runner:
            return runner.run(limited(main))

    return run_in_loop


def loop_of(kind: str) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=importlib.import_module(kind).new_event_loop)


async def limited[T](main: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(AMPLE):
        return await main


async def settle() -> None:
    """Let all tasks go as far as they can, until what they wait for is watched."""
    for _ in range(6):
        await asyncio.sleep(0)


async def suspended(*awaitables: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await settle()
    assert not any(task.done() for task in tasks)
    return tasks


def eventfds() -> set[str]:
    """The descriptors of this process that are eventfds."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]":
                found.add(name)
    return found


def threads() -> int:
    """How many threads this process has, Python's and others."""
    return len(os.listdir("/proc/self/task"))


# --- what does not suspend --------------------------------------------------------------------------------------


def filled(q: Any, *items: Any) -> Any:
    for item in items:
        q.put(item)
    return q


def set_event() -> Event:
    event = Event()
    event.set()
    return event


AT_ONCE: list[tuple[Callable[[], Coroutine[Any, Any, Any]], Any]] = [
    (lambda: filled(Queue(), 1, 2).aget(), 1),
    (lambda: filled(LifoQueue(), 1, 2).aget(), 2),
    (lambda: filled(PriorityQueue(), 2, 1).aget(), 1),
    (lambda: filled(SimpleQueue(), 1, 2).aget(), 1),
    (lambda: Queue(1).aput(1), None),
    (lambda: SimpleQueue().aput(1), None),
    (lambda: Queue().ajoin(), None),
    (lambda: Lock().aacquire(), True),
    (lambda: Semaphore().aacquire(), True),
    (lambda: BoundedSemaphore().aacquire(), True),
    (lambda: set_event().await_(), True),
]


@pytest.mark.parametrize(("make", "expected"), AT_ONCE)
def test_what_is_there_is_had_without_suspending_and_without_a_descriptor(
    run: Run, make: Callable[[], Coroutine[Any, Any, Any]], expected: Any
) -> None:
    async def main() -> None:
        before = eventfds()
        coroutine = make()
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        assert stop.value.value == expected
        assert eventfds() == before

    run(main())


def test_without_a_loop_nothing_is_taken() -> None:
    q = filled(Queue(), 1)
    coroutine = q.aget()
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)
    assert q.qsize() == 1


# --- what suspends, and who ends that ---------------------------------------------------------------------------


def full_queue() -> Queue[int]:
    q: Queue[int] = Queue(1)
    q.put(1)
    return q


def taken(lock: Any) -> Any:
    lock.acquire()
    return lock


CASES: dict[str, tuple[Callable[[], Any], str, tuple[Any, ...], tuple[Any, ...], Any]] = {
    "Queue.aget": (Queue, "aget", (), ("put", 5), 5),
    "LifoQueue.aget": (LifoQueue, "aget", (), ("put", 5), 5),
    "PriorityQueue.aget": (PriorityQueue, "aget", (), ("put", 5), 5),
    "SimpleQueue.aget": (SimpleQueue, "aget", (), ("put", 5), 5),
    "redeliver": (lambda: Queue(redeliver=True), "aget", (), ("put", 5), 5),
    "Queue.aput": (full_queue, "aput", (2,), ("get",), None),
    "Queue.aput, larger": (full_queue, "aput", (2,), ("__setattr__", "maxsize", 2), None),
    "PriorityQueue.aput": (lambda: filled(PriorityQueue(1), 1), "aput", (2,), ("get",), None),
    "Queue.ajoin": (full_queue, "ajoin", (), ("task_done",), None),
    "LifoQueue.ajoin": (lambda: filled(LifoQueue(), 1), "ajoin", (), ("task_done",), None),
    "Lock.aacquire": (lambda: taken(Lock()), "aacquire", (), ("release",), True),
    "Semaphore.aacquire": (lambda: Semaphore(0), "aacquire", (), ("release",), True),
    "BoundedSemaphore.aacquire": (lambda: taken(BoundedSemaphore(1)), "aacquire", (), ("release",), True),
    "Event.await_": (Event, "await_", (), ("set",), True),
}


@pytest.mark.parametrize("where", ["thread", "interpreter", "process"])
@pytest.mark.parametrize("case", CASES)
def test_a_wait_ends_when_somebody_elsewhere_ends_it(helpers: Helpers, case: str, where: str) -> None:
    make, method, args, remedy, expected = CASES[case]
    thing = make()

    async def main() -> None:
        (waiting,) = await suspended(getattr(thing, method)(*args))
        helpers[where](async_workers.do, thing, *remedy)
        assert await waiting == expected

    asyncio.run(limited(main()))


@pytest.mark.parametrize("case", CASES)
def test_a_wait_ends_in_either_loop_when_a_thread_ends_it(run: Run, case: str) -> None:
    make, method, args, remedy, expected = CASES[case]
    thing = make()

    async def main() -> None:
        (waiting,) = await suspended(getattr(thing, method)(*args))
        done = in_thread(async_workers.do, thing, *remedy)
        assert await waiting == expected
        await asyncio.wrap_future(done)

    run(main())


Helpers = dict[str, "Callable[..., object]"]


@pytest.fixture(scope="module")
def helpers() -> Any:
    """Those who do something elsewhere: a thread, an interpreter and a process."""
    with Interpreter() as interpreter, Process() as process:
        yield {"thread": in_thread, "interpreter": interpreter.submit, "process": process.submit}


def test_an_event_that_is_cleared_at_once_ends_the_waits_that_had_begun(run: Run) -> None:
    event = Event()

    async def main() -> None:
        before = await suspended(event.await_(), event.await_())
        event.set()
        event.clear()
        (after,) = await suspended(event.await_())
        assert await asyncio.gather(*before) == [True, True]
        await settle()
        assert not after.done()
        event.set()
        assert await after

    run(main())


def test_an_event_pulsed_before_the_loop_goes_round_is_seen(run: Run) -> None:
    event = Event()

    async def main() -> None:
        waiting = asyncio.ensure_future(event.await_())
        await asyncio.sleep(0)
        event.set()
        event.clear()
        assert await waiting

    run(main())


def test_join_goes_on_when_the_last_task_is_done(run: Run) -> None:
    q = filled(Queue(), 1, 2)

    async def main() -> None:
        joining = await suspended(q.ajoin(), q.ajoin())
        q.get()
        q.task_done()
        await settle()
        assert not any(task.done() for task in joining)
        q.get()
        q.task_done()
        await asyncio.gather(*joining)

    run(main())


# --- one loop ---------------------------------------------------------------------------------------------------


def test_who_came_first_is_served_first(run: Run) -> None:
    q: Queue[int] = Queue()

    async def main() -> None:
        tasks = await suspended(*(q.aget() for _ in range(100)))
        in_thread(q.put_many, range(100))
        assert await asyncio.gather(*tasks) == list(range(100))

    run(main())


def test_two_tasks_answer_each_other(run: Run) -> None:
    there: Queue[int] = Queue()
    back: Queue[int] = Queue(1)

    async def answer() -> None:
        async for number in there:
            await back.aput(number)

    async def main() -> None:
        answering = asyncio.ensure_future(answer())
        for number in range(300):
            await there.aput(number)
            assert await back.aget() == number
        there.shutdown()
        await answering

    run(main())


def test_producers_and_consumers_of_a_bounded_queue(run: Run) -> None:
    q: Queue[int] = Queue(3)

    async def produce(first: int) -> None:
        for number in range(first, first + 200):
            await q.aput(number)

    async def consume() -> list[int]:
        return [number async for number in q]

    async def main() -> None:
        consuming = [asyncio.ensure_future(consume()) for _ in range(4)]
        await asyncio.gather(*(produce(first) for first in range(0, 1000, 200)))
        q.shutdown()
        got = await asyncio.gather(*consuming)
        assert sorted(number for numbers in got for number in numbers) == list(range(1000))

    run(main())


@pytest.mark.parametrize(("make", "at_once"), [(Lock, 1), (lambda: Semaphore(3), 3), (lambda: BoundedSemaphore(2), 2)])
def test_async_with_lets_in_as_many_as_may(run: Run, make: Callable[[], Any], at_once: int) -> None:
    lock = make()
    inside = most = 0

    async def enter() -> None:
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(enter() for _ in range(50)))
        assert most == at_once
        for _ in range(at_once):
            assert lock.acquire(blocking=False)

    run(main())


def test_async_with_gives_the_lock_back_after_an_exception(run: Run) -> None:
    lock = Lock()

    async def main() -> None:
        with pytest.raises(ValueError, match="inside"):
            await fail()
        assert not lock.locked()

    async def fail() -> None:
        async with lock:
            assert lock.locked()
            raise ValueError("inside")

    run(main())


def test_an_rlock_belongs_to_a_thread_and_not_to_a_task() -> None:
    async def main() -> None:
        async with RLock():  # type: ignore[attr-defined]
            pass

    with pytest.raises(TypeError, match="asynchronous context manager"):
        asyncio.run(main())


def test_priorities_are_kept(run: Run) -> None:
    q: PriorityQueue[tuple[int, str]] = PriorityQueue()

    async def main() -> None:
        (first,) = await suspended(q.aget())
        done = in_thread(q.put_many, [(3, "c"), (1, "a"), (2, "b")])
        await first
        await asyncio.wrap_future(done)
        rest = [await q.aget(), await q.aget()]
        assert sorted([await first, *rest]) == [(1, "a"), (2, "b"), (3, "c")]
        assert rest == sorted(rest)

    run(main())


def test_asyncio_limits_the_time(run: Run) -> None:
    q, lock, event = full_queue(), taken(Lock()), Event()

    async def main() -> None:
        for waiting in (Queue[int]().aget(), q.aput(2), q.ajoin(), lock.aacquire(), event.await_()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.001)
        assert q.qsize() == 1
        lock.release()
        assert lock.acquire(blocking=False)

    run(main())


# --- the end of a queue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_shutdown_wakes_all(run: Run, kind: type[Queue[int]], immediate: bool) -> None:
    empty, full = kind(), filled(kind(1), 1)

    async def main() -> None:
        waiting = await suspended(*(empty.aget() for _ in range(20)), *(full.aput(2) for _ in range(20)))
        in_thread(empty.shutdown, immediate=immediate)
        in_thread(full.shutdown, immediate=immediate)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ShutDown] * 40
        assert all(outcome.__context__ is None for outcome in outcomes)
        if not immediate:
            assert await full.aget() == 1
        with pytest.raises(ShutDown):
            await full.aget()
        with pytest.raises(ShutDown):
            await full.aput(1)

    run(main())


def test_an_immediate_shutdown_ends_join(run: Run) -> None:
    q = filled(Queue(), 1, 2)

    async def main() -> None:
        (joining,) = await suspended(q.ajoin())
        in_thread(q.shutdown, immediate=True)
        await joining

    run(main())


def test_async_for_takes_what_is_there_and_ends(run: Run) -> None:
    q = filled(Queue(), *range(10))
    q.shutdown()

    async def main() -> None:
        assert [number async for number in q] == list(range(10))
        assert [number async for number in q] == []

    run(main())


# --- cancelling -------------------------------------------------------------------------------------------------


def test_who_is_cancelled_has_taken_nothing(run: Run) -> None:
    q: Queue[int] = Queue()

    async def main() -> None:
        (waiting,) = await suspended(q.aget())
        waiting.cancel()
        q.put(1)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert q.get_nowait() == 1

    run(main())


def test_who_is_cancelled_when_woken_passes_the_wake_on(run: Run) -> None:
    q: Queue[int] = Queue()

    async def main() -> None:
        first, second = await suspended(q.aget(), q.aget())
        await q.aput(1)  # wakes the first one, which has not run yet
        first.cancel()
        assert await second == 1
        assert first.cancelled()

    run(main())


def test_who_fails_when_woken_passes_the_wake_on(run: Run) -> None:
    q: Queue[Any] = Queue()

    async def main() -> None:
        first, second = await suspended(q.aget(), q.aget())
        in_thread(q.put_many, [Unpicklable(), 1])
        with pytest.raises(ArithmeticError):
            await first
        assert await second == 1

    run(main())


def raise_arithmetic_error() -> None:
    raise ArithmeticError("by unpickling")


class Unpicklable:
    def __reduce__(self) -> Any:
        return raise_arithmetic_error, ()


def test_who_is_too_late_waits_again(run: Run) -> None:
    q: Queue[int] = Queue()

    async def main() -> None:
        (waiting,) = await suspended(q.aget())
        await q.aput(1)
        assert q.get_nowait() == 1  # before the one who was woken
        await settle()
        assert not waiting.done()
        q.put(2)
        assert await waiting == 2

    run(main())


def test_an_item_is_got_exactly_once_however_many_are_cancelled(run: Run, helpers: Helpers) -> None:
    count, dice = 3000, random.Random(1)
    q: Queue[int] = Queue(50)
    got: list[int] = []

    async def consume() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.choice([0, 0, 0.0001, 0.001, None])):
                    got.append(await q.aget())

    async def cancel(tasks: list[asyncio.Future[None]]) -> None:
        while len(got) < 2 * count:
            victim = dice.randrange(len(tasks))
            tasks[victim].cancel()
            tasks[victim] = asyncio.ensure_future(consume())
            await asyncio.sleep(dice.choice([0, 0, 0, 0.0005]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def main() -> None:
        helpers["interpreter"](async_workers.put_numbers, q, 0, count)
        helpers["thread"](async_workers.put_numbers, q, count, count)
        await cancel([asyncio.ensure_future(consume()) for _ in range(20)])
        assert sorted(got) == list(range(2 * count))
        assert q.empty()

    run(main())


def test_a_lock_is_not_lost_however_many_are_cancelled(run: Run) -> None:
    lock, dice = Lock(), random.Random(2)
    rounds = 0

    async def use() -> None:
        nonlocal rounds
        while True:
            async with lock:
                rounds += 1
                await asyncio.sleep(0)
            if dice.random() < 0.5:
                await asyncio.sleep(0)

    async def main() -> None:
        tasks = [asyncio.ensure_future(use()) for _ in range(10)]
        while rounds < 500:
            victim = dice.randrange(len(tasks))
            tasks[victim].cancel()
            tasks[victim] = asyncio.ensure_future(use())
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not lock.locked()

    run(main())


# --- what it costs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOOPS)
@in_fresh_process
def test_ten_thousand_waits_take_one_thread_and_one_descriptor(kind: str) -> None:
    count = 10_000
    q: Queue[int] = Queue()

    async def main() -> None:
        await asyncio.sleep(0)
        descriptors, before = set(os.listdir("/proc/self/fd")), threads()
        tasks = await suspended(*(q.aget() for _ in range(count)))
        assert len(set(os.listdir("/proc/self/fd")) - descriptors) == 1
        assert threads() == before + 1
        putting = in_thread(async_workers.put_numbers, q, 0, count)
        assert await asyncio.gather(*tasks) == list(range(count))
        await asyncio.wrap_future(putting)

    with loop_of(kind) as runner:
        runner.run(limited(main()))


@pytest.mark.parametrize("kind", LOOPS)
@in_fresh_process
def test_a_thousand_queues_take_one_thread_and_one_descriptor(kind: str) -> None:
    queues: list[Queue[int]] = [Queue() for _ in range(1000)]

    async def main() -> None:
        descriptors, before = eventfds(), threads()
        tasks = await suspended(*(q.aget() for q in queues))
        assert len(eventfds() - descriptors) == 1
        assert threads() == before + 1
        for number, q in enumerate(queues):
            q.put(number)
        assert await asyncio.gather(*tasks) == list(range(1000))

    with loop_of(kind) as runner:
        runner.run(limited(main()))


@in_fresh_process
def test_the_thread_ends_when_nobody_waits() -> None:
    q: Queue[int] = Queue()

    async def main() -> None:
        await suspended(q.aget())
        assert threads() == before + 1

    before = threads()
    asyncio.run(limited(main()))
    while threads() > before:
        os.sched_yield()


def test_a_loop_that_is_closed_leaves_nothing_behind(run: Run) -> None:
    before = eventfds()
    q: Queue[int] = Queue()

    async def main() -> None:
        await suspended(q.aget(), q.aget())

    run(main())
    assert eventfds() == before


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_with_waits_pending_leaves_nothing_behind(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    q: Queue[int] = Queue()
    before = eventfds()
    loop = importlib.import_module(kind).new_event_loop()
    pending = loop.run_until_complete(suspended(q.aget(), q.aget()))
    assert eventfds() > before
    loop.close()
    assert eventfds() == before
    q.put(1)  # nobody is told
    assert q.get() == 1
    del pending, loop
    gc.collect()
    assert "Task was destroyed but it is pending!" in caplog.text


# --- several loops ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", pytest.param("interpreter", marks=loops_in_interpreters), "process"])
def test_two_loops_share_a_queue(where: str) -> None:
    q: Queue[int] = Queue(20)
    make = {"interpreter": Interpreter, "process": Process}
    others: list[Any]
    if where == "thread":
        others = [in_thread(async_workers.get_all_in_a_loop, q, 5) for _ in range(2)]
    else:
        others = [make[where](target=async_workers.get_all_in_a_loop, args=(q, 5)) for _ in range(2)]
        for other in others:
            other.start()
    for number in range(2000):
        q.put(number)
    q.shutdown()
    got = [number for other in others for number in other.result(AMPLE)]
    assert sorted(got) == list(range(2000))


@pytest.mark.parametrize("make", [pytest.param(Interpreter, marks=loops_in_interpreters), Process])
def test_two_loops_answer_each_other(make: type[Interpreter], run: Run) -> None:
    there: Queue[int] = Queue()
    back: Queue[int] = Queue()
    other = make(target=async_workers.answer_in_a_loop, args=(there, back))
    other.start()

    async def main() -> None:
        for number in range(100):
            await there.aput(number)
            assert await back.aget() == number
        there.shutdown()
        assert await other is None

    run(main())


def test_a_queue_of_another_region(run: Run) -> None:
    """Its thread is gone before the region is."""

    async def main(region: Region) -> None:
        q = region.Queue("q")
        (waiting,) = await suspended(q.aget())
        in_thread(q.put, 1)
        assert await waiting == 1
        (waiting,) = await suspended(q.aget())
        waiting.cancel()
        await asyncio.wait([waiting])

    for _ in range(3):
        with Region(f"asyncio-{os.getpid()}") as region:
            run(main(region))
        del region
        gc.collect()


@loops_in_interpreters
@pytest.mark.usefixtures("each_backend")
def test_an_interpreter_that_sleeps_in_its_loop_can_be_interrupted_and_terminated() -> None:
    q: Queue[int] = Queue()
    waits: Queue[None] = Queue()
    with Interpreter() as interpreter:
        waiting = interpreter.submit(async_workers.wait_in_a_loop, q, waits)
        waits.get(timeout=AMPLE)
        interpreter.interrupt()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(AMPLE)
    interpreter = started(async_workers.wait_in_a_loop, q, waits)
    waits.get(timeout=AMPLE)
    interpreter.terminate(AMPLE)
    assert not interpreter.is_alive()


@in_fresh_process
def test_a_forked_child_awaits_in_a_loop_of_its_own() -> None:
    q: Queue[int] = Queue()
    waits: Queue[None] = Queue()

    async def main() -> None:
        (waiting,) = await suspended(q.aget())
        q.put(1)
        assert await waiting == 1

    asyncio.run(limited(main()))
    child = os.fork()
    if child == 0:
        try:
            async_workers.wait_in_a_loop(q, waits)
            asyncio.run(limited(main()))
            os._exit(0)
        finally:
            os._exit(1)
    waits.get(timeout=AMPLE)
    q.put(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(limited(main()))


@loops_in_interpreters
@in_fresh_process
def test_an_interpreter_may_end_with_a_loop_in_which_somebody_waits() -> None:
    q: Queue[int] = Queue()
    for _ in range(5):
        waits: Queue[None] = Queue()
        with Interpreter() as interpreter:
            interpreter.call(async_workers.leave_a_loop_waiting, q, waits)
            assert waits.get(timeout=AMPLE) is None
        q.put(1)
        assert q.get(timeout=AMPLE) == 1


# --- interpreters, and the death of others ----------------------------------------------------------------------


@pytest.mark.usefixtures("each_backend")
def test_an_interpreter_is_awaited_for_its_result(run: Run) -> None:
    async def main() -> None:
        one, other = started(pow, 2, 10), started(async_workers.fail)
        assert await one == 1024
        assert await one == 1024
        with pytest.raises(ValueError, match="as asked") as raised:
            await other
        assert isinstance(raised.value.__cause__, multigil.RemoteTraceback)

    run(main())


def test_interpreters_are_awaited_together(run: Run) -> None:
    go: Queue[int] = Queue()

    async def main() -> None:
        interpreters = [started(go.get) for _ in range(3)]
        tasks = await suspended(*interpreters)
        for number in range(3):
            await go.aput(number)
        assert sorted(await asyncio.gather(*tasks)) == [0, 1, 2]

    run(main())


def test_awaiting_what_was_not_started_is_an_error(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="before it is started"):
            await Interpreter(target=int)

    run(main())


def test_whoever_awaits_a_process_that_is_killed_is_told(run: Run) -> None:
    never: Queue[None] = Queue()

    async def main() -> None:
        process = Process(target=never.get)
        process.start()
        (waiting,) = await suspended(process)
        process.kill()
        with pytest.raises(InterpreterDied, match="killed by SIGKILL"):
            await waiting

    run(main())


def test_whoever_awaits_a_lock_is_told_that_its_owner_died(run: Run) -> None:
    lock = Lock()
    held: Queue[None] = Queue()
    never: Queue[None] = Queue()

    async def main() -> None:
        process = Process(target=async_workers.hold_for_ever, args=(lock, held, never))
        process.start()
        await held.aget()
        first, second = await suspended(lock.aacquire(), lock.aacquire())
        process.kill()
        with pytest.raises(OwnerDied):
            await first
        assert await second is True
        process.join()

    run(main())


# --- queues with hooks ------------------------------------------------------------------------------------------


class Hooked(Queue[Any]):
    def _put(self, item: Any) -> None:
        super()._put(("hooked", item))


def test_a_queue_with_hooks_can_be_awaited(run: Run) -> None:
    q = Hooked(1)

    async def main() -> None:
        (waiting,) = await suspended(q.aget())
        in_thread(q.put, 1)
        assert await waiting == ("hooked", 1)
        q.put(2)
        putting, joining = await suspended(q.aput(3), q.ajoin())
        assert await q.aget() == ("hooked", 2)
        await putting
        assert q.get() == ("hooked", 3)
        for _ in range(3):
            assert not joining.done()
            in_thread(q.task_done)
            await settle()
        await joining
        (waiting,) = await suspended(q.aget())
        in_thread(q.shutdown)
        with pytest.raises(ShutDown):
            await waiting
        assert [item async for item in q] == []

    run(main())
