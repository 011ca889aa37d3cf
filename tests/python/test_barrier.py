"""`Barrier` does between threads and interpreters what `threading.Barrier` does between threads, and never hangs.

test_cpython_suites.py has CPython's own tests.
"""

from __future__ import annotations

import gc
import inspect
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from multigil import Barrier, BrokenBarrierError, Event, Queue, Semaphore, SimpleQueue, StaleHandle, _core

if TYPE_CHECKING:
    from concurrent.futures import Future

    from harness import ProgramRunner


def wait_in_threads(barrier: Barrier, count: int, *args: Any) -> list[Future[int]]:
    """Let so many threads wait, which then do."""
    before = barrier.n_waiting
    waiting = [in_thread(barrier.wait, *args) for _ in range(count)]
    wait_until(barrier, before + count)
    return waiting


def wait_until(barrier: Barrier, count: int) -> None:
    """Give others time until so many wait."""
    deadline = time.monotonic() + AMPLE
    while barrier.n_waiting < count:
        assert time.monotonic() < deadline
        time.sleep(0)


def assert_broken(*waiting: Future[int]) -> None:
    for future in waiting:
        assert type(future.exception(AMPLE)) is threading.BrokenBarrierError


class TestSignature:
    def test_everything_is_called_as_in_threading(self) -> None:
        assert str(inspect.signature(Barrier)) == "(parties, action=None, timeout=None)"
        assert str(inspect.signature(Barrier.wait)) == "(self, /, timeout=None)"
        assert str(inspect.signature(Barrier.reset)) == "(self, /)"
        assert str(inspect.signature(Barrier.abort)) == "(self, /)"

    def test_the_error_is_that_of_threading(self) -> None:
        assert BrokenBarrierError is threading.BrokenBarrierError

    def test_a_barrier_that_holds_does_not_import_threading(self, run_program: ProgramRunner) -> None:
        program = "import multigil, sys; multigil.Barrier(1).wait(); print('threading' in sys.modules)"
        assert run_program.output(program, options=["-S"]) == "False\n"

    @pytest.mark.parametrize(
        ("args", "error", "message"),
        [
            ((0,), ValueError, "parties must be >= 1"),
            ((-1,), ValueError, "parties must be >= 1"),
            ((-(2**100),), ValueError, "parties must be >= 1"),
            ((2**24,), OverflowError, "parties must be <= 16777215"),
            ((2**100,), OverflowError, "parties must be <= 16777215"),
            (("1",), TypeError, None),
            ((1.0,), TypeError, None),
            ((), TypeError, "parties"),
            ((1, None, "1"), TypeError, None),
            ((1, None, float("inf")), OverflowError, None),
            ((1, None, None, None), TypeError, None),
        ],
    )
    def test_wrong_arguments_are_errors(
        self, args: tuple[Any, ...], error: type[Exception], message: str | None
    ) -> None:
        with pytest.raises(error, match=message):
            Barrier(*args)

    @pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (float("inf"), OverflowError)])
    def test_a_wrong_timeout_is_an_error_and_breaks_nothing(self, timeout: Any, error: type[Exception]) -> None:
        barrier = Barrier(2)
        with pytest.raises(error):
            barrier.wait(timeout)
        assert (barrier.broken, barrier.n_waiting) == (False, 0)

    def test_one_that_was_not_initialized_says_so(self) -> None:
        class Careless(Barrier):
            def __init__(self) -> None:
                pass

        with pytest.raises(RuntimeError, match=r"Barrier.__init__\(\) not called"):
            Careless().wait()

    def test_the_repr_tells_who_waits_and_whether_it_is_broken(self) -> None:
        barrier = Barrier(3)
        assert repr(barrier) == f"<multigil.Barrier at {id(barrier):#x}: waiters=0/3>"
        waiting = wait_in_threads(barrier, 2)
        assert repr(barrier) == f"<multigil.Barrier at {id(barrier):#x}: waiters=2/3>"
        barrier.abort()
        assert_broken(*waiting)
        assert repr(barrier) == f"<multigil.Barrier at {id(barrier):#x}: broken>"

    def test_its_state_can_be_read_but_not_written(self) -> None:
        barrier: Any = Barrier(parties=3)
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
        for name in ("parties", "n_waiting", "broken"):
            with pytest.raises(AttributeError):
                setattr(barrier, name, 1)


class TestPassing:
    def test_each_gets_another_index(self) -> None:
        barrier = Barrier(4)
        waiting = wait_in_threads(barrier, 3)
        assert_waits(*waiting)
        assert barrier.n_waiting == 3
        assert barrier.wait() == 3
        assert sorted(future.result(AMPLE) for future in waiting) == [0, 1, 2]
        assert (barrier.n_waiting, barrier.broken) == (0, False)

    def test_a_single_party_never_waits(self) -> None:
        barrier = Barrier(1)
        assert [barrier.wait() for _ in range(100)] == [0] * 100

    def test_fifty_threads_pass_again_and_again_and_never_two_rounds_at_a_time(self) -> None:
        barrier, times = Barrier(50), 40
        rounds = [0] * 50

        def work(place: int) -> int:
            total = 0
            for number in range(times):
                rounds[place] = number
                total += barrier.wait(AMPLE)
                assert set(rounds) == {number}
                barrier.wait(AMPLE)
            return total

        working = [in_thread(work, place) for place in range(50)]
        assert sum(future.result(2 * AMPLE) for future in working) == times * sum(range(50))

    def test_interpreters_and_threads_pass_together(self) -> None:
        barrier, ahead, times = Barrier(4), Semaphore(0), 500
        interpreters = [started(workers.pass_in_step, barrier, ahead, times) for _ in range(2)]
        threads = [in_thread(workers.pass_in_step, barrier, ahead, times) for _ in range(2)]
        totals = [thread.result(2 * AMPLE) for thread in threads]
        totals += [interpreter.result(2 * AMPLE) for interpreter in interpreters]
        assert sum(totals) == times * sum(range(4))
        assert ahead._value == 0

    def test_more_than_its_parties_may_use_it(self) -> None:
        barrier, rounds = Barrier(3), 400
        tickets = Semaphore(3 * rounds)

        def work() -> list[int]:
            indices = []
            while tickets.acquire(blocking=False):
                indices.append(barrier.wait(AMPLE))
            return indices

        indices = [index for future in [in_thread(work) for _ in range(6)] for index in future.result(2 * AMPLE)]
        assert [indices.count(index) for index in range(3)] == [rounds] * 3

    def test_waiting_costs_no_processor_time(self) -> None:
        barrier = Barrier(2)
        start = time.thread_time()
        with pytest.raises(BrokenBarrierError):
            barrier.wait(1)
        assert time.thread_time() - start < 0.02


class TestAction:
    def test_the_last_one_calls_it_before_the_others_go_on(self) -> None:
        acting, go = threading.Event(), threading.Event()
        seen: list[tuple[int, int, bool]] = []

        def act() -> None:
            seen.append((threading.get_ident(), barrier.n_waiting, barrier.broken))
            acting.set()
            go.wait(AMPLE)

        barrier = Barrier(3, act)
        waiting = wait_in_threads(barrier, 2)
        last = in_thread(lambda: (barrier.wait(), threading.get_ident()))
        assert acting.wait(AMPLE)
        # One of the next round may come meanwhile.
        early = in_thread(barrier.wait, AMPLE)
        assert_waits(*waiting, last, early)
        go.set()
        index, ident = last.result(AMPLE)
        assert index == 2
        assert seen == [(ident, 3, False)]
        assert sorted(future.result(AMPLE) for future in waiting) == [0, 1]
        wait_in_threads(barrier, 1)
        assert barrier.wait() == 2
        assert early.result(AMPLE) in (0, 1)

    def test_it_is_called_once_a_round(self) -> None:
        calls: list[None] = []
        barrier = Barrier(2, action=lambda: calls.append(None))
        for number in range(1, 100):
            (waiting,) = wait_in_threads(barrier, 1)
            barrier.wait()
            waiting.result(AMPLE)
            assert len(calls) == number

    def test_who_has_arrived_is_not_late_because_the_action_takes_its_time(self) -> None:
        barrier = Barrier(2, lambda: time.sleep(0.3))
        (waiting,) = wait_in_threads(barrier, 1, 0.2)
        assert barrier.wait() == 1
        assert waiting.result(AMPLE) == 0
        assert not barrier.broken

    def test_an_action_that_fails_breaks_the_barrier(self) -> None:
        def fail() -> None:
            raise ArithmeticError("on purpose")

        barrier = Barrier(3, fail)
        waiting = wait_in_threads(barrier, 2)
        with pytest.raises(ArithmeticError, match="on purpose"):
            barrier.wait()
        assert_broken(*waiting)
        assert barrier.broken

    @pytest.mark.parametrize("method", ["abort", "reset"])
    def test_an_action_may_break_or_reset_the_barrier(self, method: str) -> None:
        def act() -> None:
            getattr(barrier, method)()

        barrier = Barrier(3, act)
        waiting = wait_in_threads(barrier, 2)
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
        assert_broken(*waiting)
        assert barrier.broken == (method == "abort")

    def test_it_travels_with_the_barrier(self) -> None:
        done: Queue[str] = Queue()
        barrier = Barrier(2, workers.PutsName(done))
        interpreter = started(barrier.wait)
        wait_until(barrier, 1)
        assert barrier.wait() == 1
        assert interpreter.result(AMPLE) == 0
        assert done.get_nowait() == multigil.main_interpreter().name
        (waiting,) = wait_in_threads(barrier, 1)
        interpreter = started(barrier.wait)
        assert interpreter.result(AMPLE) == 1
        assert waiting.result(AMPLE) == 0
        assert done.get_nowait() == interpreter.name
        assert done.empty()

    def test_it_may_be_a_method_of_the_barrier_itself(self) -> None:
        barrier = workers.Counting(2)
        interpreter = started(workers.wait_and_count, barrier)
        wait_until(barrier, 1)
        assert workers.wait_and_count(barrier) == 1
        assert interpreter.result(AMPLE) == 0
        waiting = in_thread(workers.wait_and_count, barrier)
        wait_until(barrier, 1)
        assert started(workers.wait_and_count, barrier).result(AMPLE) == 1
        assert waiting.result(AMPLE) == 1

    def test_one_that_cannot_be_pickled_is_the_error_of_sending_the_barrier(self) -> None:
        barrier = Barrier(2, threading.Lock().acquire)
        with pytest.raises(TypeError, match="pickle"):
            Queue[Barrier]().put(barrier)
        assert (barrier.n_waiting, barrier.broken) == (0, False)


class TestTimeout:
    def test_who_waits_too_long_breaks_it_for_all(self) -> None:
        barrier = Barrier(3)
        waiting = wait_in_threads(barrier, 1)
        start = time.monotonic_ns()
        with pytest.raises(BrokenBarrierError):
            barrier.wait(0.1)
        assert 100_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        assert_broken(*waiting)
        assert barrier.broken
        with pytest.raises(BrokenBarrierError):
            barrier.wait()

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_without_time_it_breaks_at_once_unless_the_others_are_there(self, timeout: float) -> None:
        barrier = Barrier(2)
        with pytest.raises(BrokenBarrierError):
            barrier.wait(timeout)
        barrier.reset()
        (waiting,) = wait_in_threads(barrier, 1)
        assert barrier.wait(timeout) == 1
        assert waiting.result(AMPLE) == 0

    def test_the_constructor_has_one_for_those_who_give_none(self) -> None:
        barrier = Barrier(2, timeout=0.1)
        start = time.monotonic_ns()
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
        assert 100_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        barrier.reset()
        (waiting,) = wait_in_threads(barrier, 1, AMPLE)
        assert_waits(waiting)
        time.sleep(0.1)
        assert barrier.wait() == 1

    def test_the_constructors_arrives_in_interpreters(self) -> None:
        barrier = Barrier(2, None, 0.1)
        assert isinstance(started(barrier.wait).exception(AMPLE), BrokenBarrierError)
        assert barrier.broken

    def test_either_all_pass_or_none(self) -> None:
        barrier, times = Barrier(3), 300
        together = threading.Barrier(3)
        outcomes: list[list[int | None]] = [[] for _ in range(times)]

        def work(patience: float) -> None:
            for outcome in outcomes:
                try:
                    outcome.append(barrier.wait(patience))
                except BrokenBarrierError:
                    outcome.append(None)
                if together.wait(AMPLE) == 0:
                    barrier.reset()
                together.wait(AMPLE)

        for future in [in_thread(work, patience) for patience in (0.000_05, 0.001, AMPLE)]:
            future.result(2 * AMPLE)
        for outcome in outcomes:
            assert set(outcome) in ({None}, {0, 1, 2})


class TestBreaking:
    def test_abort_breaks_it_until_it_is_reset(self) -> None:
        barrier = Barrier(3)
        waiting = wait_in_threads(barrier, 2)
        barrier.abort()
        assert_broken(*waiting)
        assert (barrier.broken, barrier.n_waiting) == (True, 0)
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
        barrier.abort()
        barrier.reset()
        assert not barrier.broken
        waiting = wait_in_threads(barrier, 2)
        assert barrier.wait() == 2
        assert sorted(future.result(AMPLE) for future in waiting) == [0, 1]

    def test_reset_raises_in_those_who_wait_and_it_can_be_used_at_once(self) -> None:
        barrier = Barrier(3)
        for _ in range(50):
            waiting = wait_in_threads(barrier, 2)
            barrier.reset()
            assert (barrier.broken, barrier.n_waiting) == (False, 0)
            again = wait_in_threads(barrier, 2)
            assert barrier.wait(AMPLE) == 2
            assert sorted(future.result(AMPLE) for future in again) == [0, 1]
            assert_broken(*waiting)

    def test_resetting_one_that_nobody_waits_at_changes_nothing(self) -> None:
        barrier = Barrier(2)
        barrier.reset()
        (waiting,) = wait_in_threads(barrier, 1)
        assert barrier.wait() == 1
        assert waiting.result(AMPLE) == 0

    @pytest.mark.parametrize("method", ["abort", "reset"])
    def test_interpreters_hear_of_it_and_may_do_it(self, method: str) -> None:
        barrier = Barrier(3)
        here = wait_in_threads(barrier, 1)
        there = started(barrier.wait)
        wait_until(barrier, 2)
        started(getattr(barrier, method)).join(AMPLE)
        assert_broken(*here)
        assert isinstance(there.exception(AMPLE), BrokenBarrierError)
        assert barrier.broken == (method == "abort")

    @pytest.mark.parametrize("method", ["interrupt", "terminate"])
    def test_one_that_is_stopped_while_it_waits_breaks_it(self, method: str) -> None:
        barrier = Barrier(3)
        waiting = wait_in_threads(barrier, 1)
        interpreter = started(barrier.wait)
        wait_until(barrier, 2)
        getattr(interpreter, method)()
        assert_broken(*waiting)
        assert barrier.broken
        interpreter.join(AMPLE)

    @pytest.mark.parametrize("method", ["interrupt", "terminate"])
    def test_one_that_is_stopped_in_the_action_breaks_it(self, method: str) -> None:
        told: SimpleQueue[None] = SimpleQueue()
        barrier = Barrier(2, workers.Spins(told))
        (waiting,) = wait_in_threads(barrier, 1)
        interpreter = started(barrier.wait)
        told.get(timeout=AMPLE)
        assert_waits(waiting)
        getattr(interpreter, method)()
        assert_broken(waiting)
        assert barrier.broken
        interpreter.join(AMPLE)

    def test_one_that_comes_while_another_acts_can_be_interrupted_and_breaks_nothing(self) -> None:
        acting, go = Event(), Event()
        barrier = Barrier(1, workers.SetsAndWaits(acting, go))
        last = in_thread(barrier.wait)
        assert acting.wait(AMPLE)
        interpreter = started(barrier.wait)
        interpreter.join(10 * MOMENT)
        interpreter.interrupt()
        assert isinstance(interpreter.exception(AMPLE), KeyboardInterrupt)
        go.set()
        assert last.result(AMPLE) == 0
        assert not barrier.broken


class TestSignals:
    """The tests run in the main thread, where handlers are called."""

    @pytest.fixture(autouse=True)
    def _handler(self) -> Any:
        before = signal.signal(signal.SIGUSR1, self.handle)
        yield
        signal.signal(signal.SIGUSR1, before)

    handled = 0
    raises = False

    def handle(self, *_: object) -> None:
        self.handled += 1
        if self.raises:
            raise ArithmeticError("from the handler")

    def signal_when_waiting(self, barrier: Barrier) -> None:
        wait_until(barrier, 1)
        time.sleep(MOMENT)
        os.kill(os.getpid(), signal.SIGUSR1)

    def test_a_handler_that_raises_ends_the_wait_and_breaks_the_barrier(self) -> None:
        self.raises = True
        barrier = Barrier(2)
        signalling = in_thread(self.signal_when_waiting, barrier)
        with pytest.raises(ArithmeticError, match="from the handler"):
            barrier.wait(AMPLE)
        signalling.result(AMPLE)
        assert barrier.broken

    def test_the_wait_goes_on_after_one_that_raises_nothing(self) -> None:
        barrier = Barrier(2)

        def signal_and_arrive() -> int:
            self.signal_when_waiting(barrier)
            return barrier.wait(AMPLE)

        arriving = in_thread(signal_and_arrive)
        assert barrier.wait(AMPLE) == 0
        assert arriving.result(AMPLE) == 1
        assert self.handled == 1


class TestLife:
    def test_it_outlives_the_interpreter_that_made_it(self) -> None:
        interpreter = started(Barrier, 2, timeout=AMPLE)
        barrier = interpreter.result(AMPLE)
        interpreter.join(AMPLE)
        (waiting,) = wait_in_threads(barrier, 1)
        assert barrier.wait() == 1
        assert waiting.result(AMPLE) == 0

    @pytest.mark.parametrize("action", [None, gc.collect])
    def test_a_pickle_gives_the_same_object_while_there_is_one(self, action: Any) -> None:
        barrier = Barrier(2, action)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(barrier, protocol)
            assert pickle.loads(pickled) is barrier
        del barrier
        gc.collect()
        with pytest.raises(StaleHandle):
            pickle.loads(pickled)

    def test_a_weak_reference_ends_with_the_last_strong_one(self) -> None:
        barrier = Barrier(2)
        reference = weakref.ref(barrier)
        assert reference() is barrier
        del barrier
        gc.collect()
        assert reference() is None

    def test_one_that_its_action_leads_back_to_is_collected(self) -> None:
        barrier = workers.Counting(2)
        reference = weakref.ref(barrier)
        del barrier
        gc.collect()
        assert reference() is None

    def test_the_action_is_dropped_with_the_barrier(self) -> None:
        def act() -> None:
            pass

        references = sys.getrefcount(act)
        barrier = Barrier(1, act)
        assert sys.getrefcount(act) == references + 1
        del barrier
        gc.collect()
        assert sys.getrefcount(act) == references


@in_fresh_process
def test_the_seats_of_fifty_who_wait_come_back() -> None:
    before = _core.statistics()
    barrier = Barrier(51)
    waiting = wait_in_threads(barrier, 50)
    during = _core.statistics()
    assert during["barriers"] == before["barriers"] + 1
    assert during["benches"] == before["benches"] + 1
    barrier.wait()
    while waiting:
        waiting.pop().result(AMPLE)
    del barrier
    gc.collect()
    after = _core.statistics()
    for name in ("barriers", "benches", "bytes_in_use"):
        assert after[name] == before[name]
