"""A worker dies, at every place where it can: what the user sees, what becomes of the other tasks and of the pool.

The table of deaths: who dies (`DEATHS`), where (`PLACES`), and how often a task is run again (`retries`).
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import tasks
from harness import AMPLE, in_thread
from pools import KINDS, WORKERS, Kind, warmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import ProgramRunner

pytestmark = pytest.mark.timeout(60)

processes = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name == "process"], ids=lambda kind: kind.name, scope="module"
)


# --- who dies, and where ------------------------------------------------------------------------------------------

# How a process dies by itself, and what the user is told of it.
DEATHS = {"exit": "7", "kill": "SIGKILL", "crash": "SIGSEGV"}


def while_running(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    return function, *args


def while_unpickling_an_argument(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    return tasks.identity, tasks.EndsWhenUnpickled(function, *args)


def while_unpickling_the_function(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    return (tasks.EndsWhenUnpickled(function, *args),)


def while_pickling_the_result(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    return tasks.make_ends_when_pickled, function, *args


def while_pickling_the_exception(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    return tasks.raise_what_ends_when_pickled, function, *args


PLACES = [
    while_running,
    while_unpickling_an_argument,
    while_unpickling_the_function,
    while_pickling_the_result,
    while_pickling_the_exception,
]
places = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)


def text_of(error: BaseException | None) -> str:
    """All that is printed of an exception, causes included."""
    assert error is not None
    return "".join(traceback.format_exception(error))


def assert_broken(pool: Executor, kind: Kind) -> None:
    with pytest.raises(kind.broken):
        pool.submit(tasks.nothing)
    with pytest.raises(kind.broken):
        pool.map(tasks.double, [1])


def assert_works(pool: Executor) -> None:
    warmed(pool)
    assert [pool.submit(tasks.double, number).result(AMPLE) for number in range(5)] == [0, 2, 4, 6, 8]


def submit_for_ever(pool: Executor) -> None:
    while True:
        pool.submit(tasks.nothing).result(AMPLE)


@pytest.fixture
def fresh(kind: Kind) -> Iterator[Executor]:
    """A pool that the test may break."""
    with kind.make(WORKERS) as pool:
        yield pool


@pytest.fixture
def retrying(kind: Kind) -> Iterator[Executor]:
    """A pool that a dead worker does not break: each task is run again, twice at most."""
    with kind.make(WORKERS, retries=2) as pool:
        yield warmed(pool)


def end_worker(told: Any) -> None:
    """End the worker that says where it is: by SIGKILL, or by `terminate()` for an interpreter."""
    pid, interpreter = told.get(timeout=AMPLE)
    if pid == os.getpid():
        interpreter.terminate(AMPLE)
    else:
        os.kill(pid, signal.SIGKILL)


class Victim:
    """A task that somebody else ends the worker of; the only way for interpreters."""

    def __init__(self, pool: Executor, place: Callable[..., tuple[Any, ...]] = while_running) -> None:
        self.told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        self.future: Future[Any] = pool.submit(*place(tasks.tell_and_be_ended, self.told))

    def end(self) -> None:
        """Wait until it runs, and end its worker."""
        end_worker(self.told)


# --- a dead worker breaks the pool ------------------------------------------------------------------------------------


@processes
class TestProcessThatDies:
    """With `retries=0`, as in the standard library."""

    @places
    @pytest.mark.parametrize("how", DEATHS)
    def test_at_each_place(self, kind: Kind, place: Callable[..., tuple[Any, ...]], how: str) -> None:
        if place is not while_running and how == "exit":
            pytest.skip("differs from the others only in how it is reported")
        with kind.make(1) as pool:
            future = pool.submit(*place(tasks.die, how))
            pending = pool.submit(tasks.double, 1)
            for each in (future, pending):
                error = each.exception(AMPLE)
                assert isinstance(error, kind.broken)
                assert DEATHS[how] in text_of(error)
            assert future.exception(0) is not pending.exception(0)
            assert_broken(pool, kind)

    def test_while_it_is_idle(self, kind: Kind, fresh: Executor) -> None:
        warmed(fresh)
        pid, _ = fresh.submit(tasks.worker).result(AMPLE)
        os.kill(pid, signal.SIGKILL)
        # Nothing is pending. Whoever submits next is told, or by its future if that comes first.
        with pytest.raises(kind.broken):
            submit_for_ever(fresh)
        assert_broken(fresh, kind)

    def test_all_at_once(self, kind: Kind, fresh: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        futures = [fresh.submit(tasks.tell_and_be_ended, told) for _ in range(WORKERS)]
        pids = [told.get(timeout=AMPLE)[0] for _ in range(WORKERS)]
        pending = fresh.submit(tasks.double, 1)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for future in (*futures, pending):
            assert isinstance(future.exception(AMPLE), kind.broken)
        assert_broken(fresh, kind)

    @pytest.mark.parametrize("how", ["exit", "kill"])
    def test_in_the_initializer(self, kind: Kind, how: str) -> None:
        with kind.make(1, initializer=tasks.die, initargs=(how,)) as pool:
            futures: list[Future[Any]] = []
            try:
                futures += [pool.submit(tasks.double, number) for number in range(3)]
            except kind.broken:
                assert futures
            for future in futures:
                error = future.exception(AMPLE)
                assert isinstance(error, kind.broken)
                assert DEATHS[how] in text_of(error)
            assert_broken(pool, kind)

    def test_the_other_worker_is_not_left_behind(self, kind: Kind, fresh: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        futures = [fresh.submit(tasks.tell_and_be_ended, told) for _ in range(WORKERS)]
        pids = [told.get(timeout=AMPLE)[0] for _ in range(WORKERS)]
        os.kill(pids[0], signal.SIGKILL)
        for future in futures:
            assert isinstance(future.exception(AMPLE), kind.broken)
        in_thread(fresh.shutdown).result(AMPLE)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_during_a_map(self, kind: Kind, fresh: Executor) -> None:
        results = fresh.map(tasks.die_if, range(100), [50] * 100)
        with pytest.raises(kind.broken):
            list(results)
        assert_broken(fresh, kind)

    def test_with_a_large_result_on_the_way(self, kind: Kind, fresh: Executor) -> None:
        victims = [fresh.submit(tasks.zeros, 50_000_000), fresh.submit(tasks.die, "kill")]
        for future in victims:
            error = future.exception(AMPLE)
            assert error is None or isinstance(error, kind.broken)
        assert isinstance(victims[1].exception(0), kind.broken)

    def test_what_was_done_before_stays_done(self, fresh: Executor) -> None:
        done = [fresh.submit(tasks.double, number) for number in range(20)]
        assert [future.result(AMPLE) for future in done] == list(range(0, 40, 2))
        fresh.submit(tasks.die, "exit").exception(AMPLE)
        assert [future.result(0) for future in done] == list(range(0, 40, 2))

    def test_as_the_pool_is_shut_down(self, kind: Kind) -> None:
        pool = kind.make(1)
        victim = Victim(pool)
        pending = pool.submit(tasks.double, 1)
        ending = in_thread(pool.shutdown)
        victim.end()
        ending.result(AMPLE)
        for future in (victim.future, pending):
            assert isinstance(future.exception(0), kind.broken)

    def test_a_new_pool_is_not_affected(self, kind: Kind, fresh: Executor) -> None:
        fresh.submit(tasks.die, "exit").exception(AMPLE)
        with kind.make(1) as pool:
            assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_the_program_ends(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            f"""
            import concurrent.futures, multigil, tasks
            if __name__ == "__main__":
                pool = multigil.{kind.make.__name__}(2)
                future = pool.submit(tasks.die, "kill")
                print(isinstance(future.exception(), concurrent.futures.BrokenExecutor))
            """
        )
        assert output == "True\n"

    def test_with_a_lock_of_the_users(self, kind: Kind) -> None:
        lock = multigil.Lock()
        with kind.make(1, retries=1) as pool:
            # Who runs the task again is told, as whoever is next to acquire it.
            assert isinstance(pool.submit(tasks.die_with, lock, "kill").exception(AMPLE), multigil.OwnerDied)
            assert lock.acquire(timeout=AMPLE)


class TestWorkerThatIsEnded:
    """From elsewhere: by SIGKILL, or by `terminate()` for an interpreter."""

    @places
    def test_at_each_place(self, kind: Kind, place: Callable[..., tuple[Any, ...]]) -> None:
        with kind.make(1) as pool:
            victim = Victim(pool, place)
            pending = pool.submit(tasks.double, 1)
            victim.end()
            for future in (victim.future, pending):
                assert isinstance(future.exception(AMPLE), kind.broken)
            assert_broken(pool, kind)

    def test_it_is_told_how(self, kind: Kind, fresh: Executor) -> None:
        victim = Victim(fresh)
        victim.end()
        text = text_of(victim.future.exception(AMPLE))
        assert ("SIGKILL" if kind.name == "process" else "terminated") in text

    def test_while_it_is_idle(self, kind: Kind) -> None:
        with kind.make(1) as pool:
            pid, interpreter = pool.submit(tasks.who).result(AMPLE)
            if kind.name == "process":
                os.kill(pid, signal.SIGKILL)
            else:
                interpreter.terminate(AMPLE)
            with pytest.raises(kind.broken):
                submit_for_ever(pool)

    def test_the_program_ends(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(
            f"""
            import concurrent.futures, multigil, tasks, test_executor_deaths
            if __name__ == "__main__":
                pool = multigil.{kind.make.__name__}(2)
                victim = test_executor_deaths.Victim(pool)
                victim.end()
                print(isinstance(victim.future.exception(), concurrent.futures.BrokenExecutor))
            """
        )
        assert output == "True\n"


# --- or is replaced ---------------------------------------------------------------------------------------------------


class TestRetries:
    @pytest.mark.parametrize("number", [-1])
    def test_not_less_than_none(self, kind: Kind, number: int) -> None:
        with pytest.raises(ValueError, match="retries"):
            kind.make(1, retries=number)

    @pytest.mark.parametrize("number", ["1", 1.5])
    def test_a_whole_number(self, kind: Kind, number: object) -> None:
        with pytest.raises(TypeError, match="retries"):
            kind.make(1, retries=number)

    @places
    def test_ended_at_each_place(self, retrying: Executor, place: Callable[..., tuple[Any, ...]]) -> None:
        victim = Victim(retrying, place)
        for _ in range(3):
            assert not victim.future.done()
            victim.end()
        assert isinstance(victim.future.exception(AMPLE), BrokenExecutor)
        assert victim.told.empty()
        assert_works(retrying)

    def test_the_task_that_was_ended_is_done_in_the_end(self, retrying: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        runs = multigil.Value("q")
        future = retrying.submit(tasks.be_ended_unless, told, runs, 3, "result")
        for _ in range(2):
            end_worker(told)
        assert future.result(AMPLE) == "result"
        assert runs.value == 3

    @processes
    @pytest.mark.parametrize("how", DEATHS)
    def test_deaths_by_its_own_hand(self, retrying: Executor, how: str) -> None:
        runs = multigil.Value("q")
        assert retrying.submit(tasks.die_unless, how, runs, 3, "result").result(AMPLE) == "result"
        assert runs.value == 3
        runs.value = 0
        error = retrying.submit(tasks.die_unless, how, runs, 9).exception(AMPLE)
        assert isinstance(error, BrokenExecutor)
        assert DEATHS[how] in text_of(error)
        assert runs.value == 3
        assert_works(retrying)

    def test_other_tasks_are_done(self, retrying: Executor) -> None:
        victim = Victim(retrying)
        others = [retrying.submit(tasks.double, number) for number in range(100)]
        for _ in range(3):
            victim.end()
        assert [future.result(AMPLE) for future in others] == list(range(0, 200, 2))
        assert isinstance(victim.future.exception(AMPLE), BrokenExecutor)

    def test_each_task_is_done_once_if_its_worker_lives(self, retrying: Executor) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        victim = Victim(retrying)
        others = [retrying.submit(tasks.tell, told, number) for number in range(100)]
        victim.end()
        for other in others:
            other.result(AMPLE)
        for _ in range(2):
            victim.end()
        victim.future.exception(AMPLE)
        assert sorted(told.get_nowait() for _ in range(told.qsize())) == list(range(100))

    def test_an_idle_worker_is_replaced(self, retrying: Executor, kind: Kind) -> None:
        pid, interpreter = retrying.submit(tasks.who).result(AMPLE)
        if kind.name == "process":
            os.kill(pid, signal.SIGKILL)
        else:
            interpreter.terminate(AMPLE)
        assert_works(retrying)

    def test_all_at_once(self, retrying: Executor) -> None:
        victims = [Victim(retrying) for _ in range(WORKERS)]
        for _ in range(3):
            for victim in victims:
                victim.end()
        for victim in victims:
            assert isinstance(victim.future.exception(AMPLE), BrokenExecutor)
        assert_works(retrying)

    def test_an_item_of_a_map(self, retrying: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        runs = multigil.Value("q")
        results = retrying.map(tasks.be_ended_if, range(40), [20] * 40, [told] * 40, [runs] * 40)
        for _ in range(2):
            end_worker(told)
        assert list(results) == list(range(40))

    def test_an_item_of_a_map_too_often(self, retrying: Executor) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        results = retrying.map(tasks.be_ended_if, range(3), [1] * 3, [told] * 3)
        for _ in range(3):
            end_worker(told)
        assert next(results) == 0
        with pytest.raises(BrokenExecutor):
            next(results)
        assert_works(retrying)

    def test_the_initializer_runs_in_who_takes_its_place(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        with kind.make(1, initializer=tasks.set_state_and_tell, initargs=(told,), retries=1) as pool:
            victim = Victim(pool)
            victim.end()
            victim.end()
            assert pool.submit(tasks.get_state, "times").result(AMPLE) == 1
        assert told.qsize() == 3

    def test_workers_whose_initializer_dies_do_not_go_on_for_ever(self) -> None:
        with multigil.ProcessPoolExecutor(1, initializer=tasks.die, initargs=("kill",), retries=2) as pool:
            try:
                futures = [pool.submit(tasks.double, 1)]
                futures.append(pool.submit(tasks.double, 1))
            except BrokenExecutor:
                pass
            for future in futures:
                assert isinstance(future.exception(AMPLE), BrokenExecutor)

    def test_an_initializer_that_raises_breaks_the_pool_all_the_same(self, kind: Kind) -> None:
        with kind.make(1, initializer=tasks.fail, retries=2) as pool:
            assert isinstance(pool.submit(tasks.double, 1).exception(AMPLE), kind.broken)
            assert_broken(pool, kind)

    def test_a_task_that_was_cancelled_is_not_run_again(self, kind: Kind) -> None:
        with kind.make(1, retries=5) as pool:
            victim = Victim(pool)
            others = [pool.submit(tasks.double, number) for number in range(3)]
            assert others[1].cancel()
            for _ in range(6):
                victim.end()
            assert isinstance(victim.future.exception(AMPLE), BrokenExecutor)
            assert others[0].result(AMPLE) == 0
            assert others[1].cancelled()
            assert others[2].result(AMPLE) == 4

    def test_errors_of_tasks_are_no_deaths(self, retrying: Executor) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        future = retrying.submit(tasks.tell_and_fail, told)
        assert isinstance(future.exception(AMPLE), ArithmeticError)
        assert isinstance(retrying.submit(tasks.raise_it, SystemExit(3)).exception(AMPLE), SystemExit)
        retrying.submit(tasks.nothing).result(AMPLE)
        assert told.qsize() == 1

    def test_with_a_worker_that_has_done_its_tasks(self, kind: Kind) -> None:
        with kind.make(1, max_tasks_per_child=2, retries=1) as pool:
            victim = Victim(pool)
            others = [pool.submit(tasks.count_up, "count") for _ in range(4)]
            victim.end()
            victim.end()
            assert isinstance(victim.future.exception(AMPLE), BrokenExecutor)
            assert max(other.result(AMPLE) for other in others) <= 2

    def test_shutdown_waits_for_what_is_run_again(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        runs = multigil.Value("q")
        pool = kind.make(1, retries=1)
        future = pool.submit(tasks.be_ended_unless, told, runs, 2, "result")
        pending = pool.submit(tasks.double, 2)
        ending = in_thread(pool.shutdown)
        end_worker(told)
        ending.result(AMPLE)
        assert future.result(0) == "result"
        assert pending.result(0) == 4


# --- errors that are no deaths ----------------------------------------------------------------------------------------


class TestErrorsOnTheWay:
    """What is raised by pickling and unpickling is the future's own error, and the pool works on."""

    @pytest.mark.parametrize(
        ("function", "args", "error"),
        [
            (tasks.identity, (tasks.CannotBePickled(),), ArithmeticError),
            (tasks.identity, (tasks.ExitsWhenPickled(),), SystemExit),
            (tasks.CannotBePickled().__reduce__, (), ArithmeticError),
            (tasks.identity, (tasks.CannotBeUnpickled(),), ArithmeticError),
            (tasks.identity, (tasks.CannotBeUnpickled(SystemExit(1)),), SystemExit),
            (tasks.identity, (tasks.CannotBeUnpickled(pickle.UnpicklingError("own")),), pickle.UnpicklingError),
            (tasks.cannot_be_pickled, (), ArithmeticError),
            (tasks.exits_when_pickled, (), SystemExit),
            (tasks.cannot_be_unpickled, (), ArithmeticError),
            (tasks.cannot_be_unpickled, (SystemExit(1),), SystemExit),
            (tasks.cannot_be_unpickled, (EOFError(),), EOFError),
            (tasks.raise_unknown, (), LookupError),
            (tasks.raise_what_cannot_be_pickled, (), LookupError),
            (tasks.raise_what_cannot_be_unpickled, (), LookupError),
        ],
        ids=[
            *("argument in dumps", "argument exits in dumps", "function in dumps", "argument in loads"),
            *("argument exits in loads", "argument with a pickle's own error", "result in dumps"),
            *("result exits in dumps", "result in loads", "result exits in loads", "result with an end of file"),
            *("class of the exception unknown", "exception in dumps", "exception in loads"),
        ],
    )
    def test_each_is_of_its_own_type(
        self, pool: Executor, function: Callable[..., Any], args: tuple[Any, ...], error: type[BaseException]
    ) -> None:
        before = pool.submit(tasks.double, 1)
        future = pool.submit(function, *args)
        after = pool.submit(tasks.double, 2)
        assert isinstance(future.exception(AMPLE), error)
        assert (before.result(AMPLE), after.result(AMPLE)) == (2, 4)

    @pytest.mark.parametrize(
        ("item", "error"),
        [
            (tasks.CannotBePickled(), ArithmeticError),
            (tasks.ExitsWhenPickled(), SystemExit),
            (tasks.CannotBeUnpickled(), ArithmeticError),
        ],
        ids=["in dumps", "exits in dumps", "in loads"],
    )
    def test_of_an_item_of_many(self, pool: Executor, item: object, error: type[BaseException]) -> None:
        results = pool.map(tasks.identity, [*range(10), item, *range(10)])
        assert [next(results) for _ in range(10)] == list(range(10))
        with pytest.raises(error):
            next(results)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_an_error_on_the_way_back_says_so(self, pool: Executor) -> None:
        text = text_of(pool.submit(tasks.lock_of_threading).exception(AMPLE))
        assert "lock" in text
        assert "result" in text.lower()

    def test_shutdown_with_errors_on_the_way(self, kind: Kind) -> None:
        with kind.make(1) as pool:
            futures = [pool.submit(tasks.identity, tasks.CannotBePickled()) for _ in range(3)]
            futures.append(pool.submit(tasks.double, 1))
        assert all(future.exception(0) is not None for future in futures[:3])
        assert futures[3].result(0) == 2


# --- forced ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
class TestForcedEnds:
    def test_tasks_that_run_and_tasks_that_wait_are_given_up(self, kind: Kind, method: str) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        pool = kind.make(1)
        running = pool.submit(tasks.tell_and_be_ended, told)
        pending = [pool.submit(tasks.double, number) for number in range(5)]
        told.get(timeout=AMPLE)
        in_thread(getattr(pool, method)).result(AMPLE)
        for future in (running, *pending):
            assert future.cancelled() or isinstance(future.exception(AMPLE), BrokenExecutor)
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)
        pool.shutdown()

    def test_the_workers_are_gone(self, kind: Kind, method: str) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        pool = kind.make(WORKERS)
        for _ in range(WORKERS):
            pool.submit(tasks.tell_and_be_ended, told)
        found = [told.get(timeout=AMPLE) for _ in range(WORKERS)]
        getattr(pool, method)()
        in_thread(pool.shutdown).result(AMPLE)
        for pid, interpreter in found:
            if kind.name == "process":
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
            else:
                interpreter.join(AMPLE)
                assert not interpreter.is_alive()

    def test_of_a_pool_that_is_idle(self, kind: Kind, method: str) -> None:
        pool = kind.make(1)
        pool.submit(tasks.nothing).result(AMPLE)
        getattr(pool, method)()
        with pytest.raises(RuntimeError):
            pool.submit(tasks.nothing)
        pool.shutdown()

    def test_of_a_pool_that_was_never_used(self, kind: Kind, method: str) -> None:
        pool = kind.make(1)
        getattr(pool, method)()
        pool.shutdown()

    def test_again_and_after_shutdown(self, kind: Kind, method: str) -> None:
        pool = kind.make(1)
        pool.submit(tasks.nothing).result(AMPLE)
        pool.shutdown()
        getattr(pool, method)()
        getattr(pool, method)()

    def test_nothing_is_run_again(self, kind: Kind, method: str) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        pool = kind.make(1, retries=5)
        running = pool.submit(tasks.tell_and_be_ended, told)
        told.get(timeout=AMPLE)
        getattr(pool, method)()
        assert running.cancelled() or isinstance(running.exception(AMPLE), BrokenExecutor)
        pool.shutdown()
        assert told.empty()

    def test_within_its_context_manager(self, kind: Kind, method: str) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        with kind.make(1) as pool:
            future = pool.submit(tasks.tell_and_be_ended, told)
            told.get(timeout=AMPLE)
            getattr(pool, method)()
        assert future.done()


def test_terminated_workers_clean_up(kind: Kind) -> None:
    told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
    pool = kind.make(1)
    pool.submit(tasks.spin_and_clean_up, told, BaseException)
    assert told.get(timeout=AMPLE) == "running"
    pool.terminate_workers()
    assert told.get(timeout=AMPLE) == "InterpreterTerminated"
    pool.shutdown()


@processes
def test_killed_workers_do_not(kind: Kind) -> None:
    told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
    pool = kind.make(1)
    pool.submit(tasks.spin_and_clean_up, told, BaseException)
    assert told.get(timeout=AMPLE) == "running"
    pool.kill_workers()
    pool.shutdown()
    assert told.empty()


def test_a_storm_of_deaths(kind: Kind) -> None:
    """Workers end all the time; each task has its result in the end, and none has that of another."""
    told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()

    def end_workers() -> int:
        ended = 0
        for pid, interpreter in iter(told.get, None):
            ended += 1
            if pid == os.getpid():
                interpreter.terminate(AMPLE)
            else:
                os.kill(pid, signal.SIGKILL)
        return ended

    ending = in_thread(end_workers)
    with kind.make(WORKERS, retries=50) as pool:
        runs = [multigil.Value("q") for _ in range(10)]
        victims = [pool.submit(tasks.be_ended_unless, told, run, 2, number) for number, run in enumerate(runs)]
        others = [pool.submit(tasks.double, number) for number in range(500)]
        assert [future.result(AMPLE) for future in others] == [2 * number for number in range(500)]
        assert [future.result(AMPLE) for future in victims] == list(range(10))
    told.put(None)
    assert ending.result(AMPLE) == 10
