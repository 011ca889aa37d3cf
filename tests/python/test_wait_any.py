"""`wait_any`: the first of several things that is ready, without taking anything, whatever they are."""

from __future__ import annotations

import gc
import inspect
import io
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import (
    Barrier,
    BoundedSemaphore,
    Event,
    Interpreter,
    Lock,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    wait_any,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Maker = Callable[[ExitStack], "Case"]


class Case:
    """Something that can be waited for, and how it becomes ready."""

    def __init__(self, thing: Any, make_ready: Callable[[], object]) -> None:
        self.thing = thing
        self.make_ready = make_ready


def queue_with_an_item(_: ExitStack) -> Case:
    q: Queue[int] = Queue()
    return Case(q, lambda: q.put(1))


def queue_that_is_shut_down(_: ExitStack) -> Case:
    q: Queue[int] = Queue()
    return Case(q, q.shutdown)


def queue_that_is_shut_down_at_once(_: ExitStack) -> Case:
    q: Queue[int] = Queue()
    return Case(q, lambda: q.shutdown(immediate=True))


def simple_queue(_: ExitStack) -> Case:
    q: SimpleQueue[int] = SimpleQueue()
    return Case(q, lambda: q.put(1))


def lock(_: ExitStack) -> Case:
    lock = Lock()
    lock.acquire()
    return Case(lock, lock.release)


def rlock_of_another_thread(_: ExitStack) -> Case:
    """Whoever made it ready holds it, and has to give it back."""
    lock, go, held = RLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, lock:
            held.set()
            go.wait(AMPLE)

    holding = in_thread(hold)
    held.wait(AMPLE)

    def let_go() -> None:
        go.set()
        holding.result(AMPLE)

    return Case(lock, let_go)


def event(_: ExitStack) -> Case:
    event = Event()
    return Case(event, event.set)


def event_that_is_cleared_at_once(_: ExitStack) -> Case:
    event = Event()

    def pulse() -> None:
        event.set()
        event.clear()

    return Case(event, pulse)


def semaphore(_: ExitStack) -> Case:
    semaphore = Semaphore(0)
    return Case(semaphore, semaphore.release)


def bounded_semaphore(_: ExitStack) -> Case:
    semaphore = BoundedSemaphore(1)
    semaphore.acquire()
    return Case(semaphore, semaphore.release)


def interpreter(_: ExitStack) -> Case:
    go: Queue[None] = Queue()
    interpreter = started(go.get)
    return Case(interpreter, lambda: go.put(None))


def both_ends_of_a_pipe(files: ExitStack) -> list[Any]:
    return [files.enter_context(os.fdopen(fd, mode, 0)) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]


def pipe(files: ExitStack) -> Case:
    reading, writing = both_ends_of_a_pipe(files)
    return Case(reading, lambda: writing.write(b"1"))


def pipe_that_is_closed(files: ExitStack) -> Case:
    reading, writing = both_ends_of_a_pipe(files)
    return Case(reading, writing.close)


def socket_by_number(files: ExitStack) -> Case:
    one, other = map(files.enter_context, socket.socketpair())
    return Case(one.fileno(), lambda: other.send(b"1"))


CASES = [
    *(queue_with_an_item, queue_that_is_shut_down, queue_that_is_shut_down_at_once, simple_queue),
    *(lock, rlock_of_another_thread, event, event_that_is_cleared_at_once, semaphore, bounded_semaphore),
    *(interpreter, pipe, pipe_that_is_closed, socket_by_number),
]
# What is not ready any more when it was.
PULSES = {event_that_is_cleared_at_once}


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def files() -> Iterator[ExitStack]:
    """What is entered here is closed when the test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
class TestEveryKind:
    def test_it_is_given_itself_when_it_becomes_ready(self, make: Maker, files: ExitStack) -> None:
        case = make(files)
        waiting = in_thread(wait_any, case.thing)
        assert_waits(waiting)
        case.make_ready()
        assert waiting.result(AMPLE) is case.thing

    def test_it_is_the_one_of_many_that_is_given(self, make: Maker, files: ExitStack) -> None:
        cases = [kind(files) for kind in CASES]
        case = cases[CASES.index(make)]
        waiting = in_thread(wait_any, *[case.thing for case in cases])
        assert_waits(waiting)
        case.make_ready()
        assert waiting.result(AMPLE) is case.thing
        for other in cases:
            if other is not case:
                other.make_ready()

    def test_it_is_given_at_once_when_it_is_ready_and_stays_so(self, make: Maker, files: ExitStack) -> None:
        case = make(files)
        case.make_ready()
        if make in PULSES:
            assert wait_any(case.thing, timeout=0) is None
        else:
            for timeout in (None, AMPLE, 0.0):
                # An interpreter takes a moment to end.
                assert wait_any(Event(), case.thing, timeout=timeout) is case.thing

    def test_it_is_not_given_when_it_does_not_become_ready(self, make: Maker, files: ExitStack) -> None:
        case = make(files)
        start = time.monotonic_ns()
        assert wait_any(case.thing, timeout=0.05) is None
        assert 50_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        assert wait_any(case.thing, timeout=0) is None
        assert wait_any(case.thing, timeout=-1) is None
        case.make_ready()


class TestArguments:
    def test_they_are_objects_and_a_timeout_by_name(self) -> None:
        assert str(inspect.signature(wait_any)) == "(*objects, timeout=None)"

    def test_without_any_it_is_a_value_error(self) -> None:
        with pytest.raises(ValueError, match="something to wait for"):
            wait_any()
        with pytest.raises(ValueError, match="something to wait for"):
            wait_any(timeout=1)

    @pytest.mark.parametrize(
        "thing", [object(), None, "1", 1.0, b"", [], threading.Lock(), Barrier(1), multigil.Condition(), Event]
    )
    def test_what_cannot_be_waited_for_is_a_type_error(self, thing: Any) -> None:
        ready = Event()
        ready.set()
        with pytest.raises(TypeError, match=f"not for '{type(thing).__name__}'"):
            wait_any(ready, thing)

    @pytest.mark.parametrize(
        ("kwargs", "error"),
        [
            ({"timeout": "1"}, TypeError),
            ({"timeout": float("nan")}, ValueError),
            ({"timeout": float("inf")}, OverflowError),
            ({"time": 1}, TypeError),
        ],
    )
    def test_wrong_timeouts_are_errors(self, kwargs: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            wait_any(Event(), **kwargs)

    def test_one_may_stand_there_more_than_once(self) -> None:
        event, q = Event(), Queue[int]()
        waiting = in_thread(wait_any, event, q, event, q)
        assert_waits(waiting)
        q.put(1)
        assert waiting.result(AMPLE) is q

    def test_of_several_that_are_ready_the_first_one_is_given(self) -> None:
        one, other = Semaphore(1), Semaphore(1)
        assert wait_any(Event(), one, other) is one
        assert wait_any(Event(), other, one) is other
        reading, writing = os.pipe()
        os.write(writing, b"1")
        assert wait_any(reading, one) == reading
        assert wait_any(one, reading) is one
        os.close(reading)
        os.close(writing)


class TestTaking:
    def test_nothing_is_taken(self) -> None:
        q, lock, semaphore, event = Queue[int](), Lock(), Semaphore(1), Event()
        q.put(5)
        event.set()
        for thing in (q, lock, semaphore, event):
            for _ in range(10):
                assert wait_any(thing) is thing
        assert (q.get_nowait(), lock.acquire(timeout=0), semaphore._value, event.is_set()) == (5, True, 1, True)

    def test_everybody_is_told(self) -> None:
        q: Queue[int] = Queue()
        interpreters = [started(workers.wait_for_any, q, Event()) for _ in range(2)]
        waiting = [in_thread(wait_any, q, Event()) for _ in range(3)]
        assert_waits(*waiting)
        q.put(1)
        assert [future.result(AMPLE) for future in waiting] == [q] * 3
        assert [interpreter.result(AMPLE) for interpreter in interpreters] == [0, 0]
        assert q.get_nowait() == 1

    def test_whoever_comes_too_late_has_taken_nobodys_wake(self) -> None:
        queues = [Queue[int](), Queue[int](1)]
        times = 3_000

        def take(q: Queue[int]) -> list[int]:
            return list(q)

        threads = [in_thread(workers.take_from_any, *queues) for _ in range(2)]
        threads += [in_thread(take, q) for q in queues]
        interpreters = [started(workers.take_from_any, *queues) for _ in range(2)]
        for number in range(times):
            queues[number % 2].put(number)
        for q in queues:
            q.shutdown()
        got = [number for thread in threads for number in thread.result(2 * AMPLE)]
        got += [number for interpreter in interpreters for number in interpreter.result(2 * AMPLE)]
        assert sorted(got) == list(range(times))

    def test_a_lock_passes_among_those_who_wait_for_it_in_one_way_and_the_other(self) -> None:
        lock, never, times, count = Lock(), Event(), 2_000, 0

        def add(*, any_way: bool) -> None:
            nonlocal count
            for _ in range(times):
                if any_way:
                    while wait_any(never, lock) is lock and not lock.acquire(blocking=False):
                        pass
                else:
                    lock.acquire()
                count += 1
                lock.release()

        for future in [in_thread(add, any_way=any_way) for any_way in (True, True, False, False)]:
            future.result(2 * AMPLE)
        assert count == 4 * times


class TestRLock:
    def test_to_its_owner_it_is_ready(self) -> None:
        lock = RLock()
        assert wait_any(lock) is lock
        with lock:
            assert wait_any(Event(), lock) is lock
            assert in_thread(wait_any, lock, timeout=MOMENT).result(AMPLE) is None


class TestInterpreters:
    def test_each_is_told_of_when_it_ends(self) -> None:
        q: Queue[None] = Queue()
        left = [started(q.get) for _ in range(3)]
        while left:
            waiting = in_thread(wait_any, *left)
            assert_waits(waiting)
            q.put(None)
            ended = waiting.result(AMPLE)
            assert ended is not None
            assert not ended.is_alive()
            left.remove(ended)

    def test_one_that_is_terminated_has_ended(self) -> None:
        interpreter = started(workers.spin)
        waiting = in_thread(wait_any, interpreter)
        assert_waits(waiting)
        interpreter.terminate(AMPLE)
        assert waiting.result(AMPLE) is interpreter

    def test_before_the_start_it_is_a_runtime_error(self) -> None:
        with pytest.raises(RuntimeError, match="cannot wait for interpreter before it is started"):
            wait_any(Event(), Interpreter())

    def test_the_current_one_cannot_be_waited_for(self) -> None:
        with pytest.raises(RuntimeError, match="cannot wait for"):
            wait_any(multigil.current_interpreter())

    def test_in_an_interpreter_everything_can_be_waited_for(self, files: ExitStack) -> None:
        for make in (queue_with_an_item, simple_queue, lock, event, semaphore, socket_by_number):
            case = make(files)
            interpreter = started(workers.wait_for_any, Event(), case.thing, Queue())
            interpreter.join(2 * MOMENT)
            assert interpreter.is_alive()
            case.make_ready()
            assert interpreter.result(AMPLE) == 1


class TestFileDescriptors:
    def test_many_at_once(self) -> None:
        pairs = [socket.socketpair() for _ in range(100)]
        for place in (0, 57, 99):
            waiting = in_thread(wait_any, *[one for one, _ in pairs])
            assert_waits(waiting)
            pairs[place][1].send(b"1")
            assert waiting.result(AMPLE) is pairs[place][0]
            pairs[place][0].recv(1)
        for pair in pairs:
            for end in pair:
                end.close()

    def test_several_may_wait_for_the_same(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            waiting = [in_thread(wait_any, one, Event()) for _ in range(5)]
            assert_waits(*waiting)
            other.send(b"1")
            assert [future.result(AMPLE) for future in waiting] == [one] * 5

    def test_a_file_is_ready(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        with path.open() as file:
            assert wait_any(file, timeout=AMPLE) is file

    def test_one_that_is_not_open_is_an_os_error(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(OSError, match="Bad file descriptor"):
            wait_any(Event(), reading)
        os.close(writing)

    def test_what_is_wrong_with_an_object_with_fileno_is_its_error(self) -> None:
        with pytest.raises(io.UnsupportedOperation):
            wait_any(io.BytesIO())
        with pytest.raises(ValueError, match="negative"):
            wait_any(-1)
        one, other = socket.socketpair()
        one.close()
        other.close()
        with pytest.raises(ValueError, match="negative"):
            wait_any(one)

    def test_nothing_is_left_of_what_polls(self, files: ExitStack) -> None:
        (silent, _), ready = both_ends_of_a_pipe(files), Event()
        wait_any(silent, timeout=0.001)
        gc.collect()  # what earlier tests left has descriptors, too
        threads, files = tasks(), len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            assert wait_any(silent, timeout=0.000_1) is None
            ready.clear()
            waiting = in_thread(wait_any, silent, ready)
            ready.set()
            assert waiting.result(AMPLE) is ready
        gc.collect()
        # One that has watched for an earlier test's `fileno()` may have ended meanwhile.
        assert tasks() <= threads
        assert len(os.listdir("/proc/self/fd")) == files


@in_fresh_process
def test_when_no_file_can_be_opened_it_is_an_os_error() -> None:
    silent, _ = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (silent + 2, silent + 2))
    with pytest.raises(OSError, match="Too many open files"):
        wait_any(silent)
    assert wait_any(silent, timeout=0) is None


@in_fresh_process
def test_waiting_costs_no_processor_time() -> None:
    with Interpreter() as interpreter:
        interpreter.call(workers.identity, 0)
        held = Lock()
        held.acquire()
        things = [Queue[int](), SimpleQueue[int](), held, Event(), Semaphore(0), interpreter, os.pipe()[0]]
        # What makes spare interpreters in the background shall have done so.
        time.sleep(1)
        start = time.process_time()
        assert wait_any(*things, timeout=1) is None
        assert time.process_time() - start < 0.02


@in_fresh_process
def test_an_interrupt_from_the_keyboard_ends_it() -> None:
    silent, _ = os.pipe()
    for things in ([Event()], [Event(), silent]):
        timer = threading.Timer(4 * MOMENT, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            wait_any(*things)
        assert time.monotonic() - start < AMPLE / 4
        timer.join()


@in_fresh_process
def test_it_goes_on_after_a_signal_whose_handler_raises_nothing() -> None:
    handled = []
    signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    silent, _ = os.pipe()
    for things in ([Event()], [Event(), silent]):
        event: Any = things[0]

        def signal_and_set(event: Event = event) -> None:
            time.sleep(4 * MOMENT)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(4 * MOMENT)
            event.set()

        setting = in_thread(signal_and_set)
        assert wait_any(*things) is event
        setting.result(AMPLE)
    assert handled == [1, 1]


def test_things_outlive_the_interpreter_that_made_them() -> None:
    interpreter = started(workers.make_one_of_each)
    things = interpreter.result(AMPLE)
    interpreter.join(AMPLE)
    assert wait_any(*things, timeout=MOMENT) is None
    waiting = in_thread(wait_any, *things)
    assert_waits(waiting)
    things[-1].release()
    assert waiting.result(AMPLE) is things[-1]


def test_arguments_are_given_back() -> None:
    event = Event()
    event.set()
    references = sys.getrefcount(event)
    for _ in range(100):
        wait_any(Queue(), event)
        wait_any(event, timeout=1)
    assert sys.getrefcount(event) == references
