"""What `concurrent.futures` promises of every executor: submitting, callables, what travels, workers, their state."""

from __future__ import annotations

import functools
import gc
import inspect
import math
import multiprocessing
import operator
import os
import pickle
import sys
import threading
import traceback
import weakref
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import raising
import tasks
from harness import AMPLE, in_thread
from pools import WORKERS, warmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import ProgramRunner
    from pools import Gate, Kind


class TestSubmit:
    def test_a_future_of_concurrent_futures_has_the_result(self, pool: Executor) -> None:
        future = pool.submit(pow, 2, 8)
        assert isinstance(future, Future)
        assert future.result(AMPLE) == 256
        assert future.exception(AMPLE) is None
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)

    def test_keyword_arguments(self, pool: Executor) -> None:
        assert pool.submit(tasks.add, 1, other=2, third=3).result(AMPLE) == 6

    def test_names_that_the_method_itself_has_are_the_tasks(self, pool: Executor) -> None:
        future = pool.submit(tasks.capture, 1, self=2, fn=3)
        assert future.result(AMPLE) == ((1,), {"self": 2, "fn": 3})

    def test_a_function_is_needed_and_by_position(self, pool: Any) -> None:
        with pytest.raises(TypeError):
            pool.submit(fn=tasks.capture, arg=1)
        with pytest.raises(TypeError):
            pool.submit(arg=1)
        with pytest.raises(TypeError):
            pool.submit()

    def test_what_is_not_callable_is_the_futures_type_error(self, pool: Any) -> None:
        with pytest.raises(TypeError, match="not callable"):
            pool.submit(5).result(AMPLE)

    def test_an_exception_is_raised_by_result_and_given_by_exception(self, pool: Executor) -> None:
        future = pool.submit(tasks.raise_it, ValueError("wrong"))
        with pytest.raises(ValueError, match="wrong"):
            future.result(AMPLE)
        assert isinstance(future.exception(AMPLE), ValueError)

    def test_many_tasks_at_once(self, pool: Executor) -> None:
        futures = [pool.submit(tasks.double, number) for number in range(1_000)]
        assert [future.result(AMPLE) for future in futures] == [2 * number for number in range(1_000)]

    def test_more_than_workers_can_be_told_of_at_once(self, pool: Executor, gate: Gate) -> None:
        (first,) = gate.occupied()
        futures = [pool.submit(tasks.identity, number) for number in range(70_000)]
        gate.go.set()
        assert [future.result(AMPLE) for future in futures] == list(range(len(futures)))
        assert first.result(AMPLE) == 0

    def test_tasks_begin_in_the_order_in_which_they_were_submitted(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        with kind.make(1) as pool:
            for number in range(50):
                pool.submit(tasks.tell, told, number)
        assert [told.get_nowait() for _ in range(50)] == list(range(50))

    def test_as_many_tasks_run_at_once_as_there_are_workers(self, pool: Executor) -> None:
        barrier = multigil.Barrier(WORKERS)
        futures = [pool.submit(tasks.meet, barrier, number) for number in range(WORKERS)]
        assert [future.result(AMPLE) for future in futures] == list(range(WORKERS))

    def test_and_not_more(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        go = multigil.Event()
        with kind.make(1) as pool:
            futures = [pool.submit(tasks.tell_and_wait, told, go, number) for number in range(3)]
            assert told.get(timeout=AMPLE) == 0
            with pytest.raises(multigil.Empty):
                told.get(timeout=0.05)
            go.set()
            assert [future.result(AMPLE) for future in futures] == [0, 1, 2]

    def test_from_many_threads(self, pool: Executor) -> None:
        def submit(first: int) -> list[int]:
            futures = [pool.submit(tasks.double, number) for number in range(first, first + 100)]
            return [future.result(AMPLE) for future in futures]

        calls = [in_thread(submit, 100 * number) for number in range(8)]
        results = [result for call in calls for result in call.result(AMPLE)]
        assert results == [2 * number for number in range(800)]

    def test_from_a_callback(self, pool: Executor) -> None:
        second: Future[Future[int]] = Future()

        def submit_another(done: Future[int]) -> None:
            second.set_result(pool.submit(tasks.double, done.result()))

        pool.submit(tasks.double, 1).add_done_callback(submit_another)
        assert second.result(AMPLE).result(AMPLE) == 4

    def test_a_future_that_nobody_keeps(self, pool: Executor) -> None:
        told: multigil.SimpleQueue[str] = multigil.SimpleQueue()
        pool.submit(tasks.tell, told, "done all the same")
        gc.collect()
        assert told.get(timeout=AMPLE) == "done all the same"

    def test_arguments_and_the_function_are_let_go_in_the_parent(self, pool: Executor) -> None:
        point = tasks.Point(1)
        gone = threading.Event()
        weakref.finalize(point, gone.set)
        pool.submit(point.moved, 1).result(AMPLE)
        del point
        assert gone.wait(AMPLE)

    def test_a_result_is_let_go_with_its_future(self, pool: Executor) -> None:
        future = pool.submit(tasks.Point, 1)
        gone = threading.Event()
        weakref.finalize(future.result(AMPLE), gone.set)
        del future
        assert gone.wait(AMPLE)

    def test_an_idle_worker_is_used_before_another_one_is_started(self, kind: Kind) -> None:
        with kind.make(4) as pool:
            workers = {pool.submit(tasks.worker).result(AMPLE) for _ in range(5)}
        assert len(workers) == 1

    def test_what_is_printed_arrives(self, run_program: ProgramRunner, kind: Kind) -> None:
        output = run_program.output(f"""
            import multigil
            if __name__ == "__main__":
                with multigil.{kind.make.__name__}(1) as pool:
                    pool.submit(print, "from a worker").result()
                    print("from the main program")
        """)
        assert output.splitlines() == ["from a worker", "from the main program"]


def outer_function(number: int) -> Callable[[int], int]:
    def inner(other: int) -> int:
        return number * other

    return inner


class TestCallables:
    """What the standard library's executors take, and what they refuse because it cannot be pickled."""

    @pytest.mark.parametrize(
        ("function", "args", "expected"),
        [
            (pow, (2, 3), 8),
            (math.sqrt, (16,), 4.0),
            (str, (5,), "5"),
            (tasks.double, (4,), 8),
            (tasks.Point, (1, 2), tasks.Point(1, 2)),
            (tasks.Point(1, 2).moved, (1,), tasks.Point(2, 3)),
            (tasks.Point(1, 2), (3,), tasks.Point(3, 6)),
            (tasks.Point.origin, (), tasks.Point(0)),
            (tasks.Point.length_of, (3, 4), 5.0),
            (functools.partial(tasks.add, 1, third=5), (2,), 8),
            (operator.itemgetter(1), ("abc",), "b"),
            (operator.methodcaller("upper"), ("abc",), "ABC"),
            ("abc".upper, (), "ABC"),
            ([3, 1, 2].index, (2,), 2),
            (dict.fromkeys, ("ab", 0), {"a": 0, "b": 0}),
        ],
    )
    def test_whatever_pickles(
        self, pool: Executor, function: Callable[..., Any], args: tuple[Any, ...], expected: object
    ) -> None:
        assert pool.submit(function, *args).result(AMPLE) == expected

    def test_lambdas(self, pool: Executor) -> None:
        assert pool.submit(lambda number: number + 1, 1).result(AMPLE) == 2

    def test_closures(self, pool: Executor) -> None:
        assert pool.submit(outer_function(6), 7).result(AMPLE) == 42

    def test_partials_of_lambdas(self, pool: Executor) -> None:
        assert pool.submit(functools.partial(lambda one, other: one - other, 5), 2).result(AMPLE) == 3

    def test_methods_of_objects_of_a_local_class(self, pool: Executor) -> None:
        class Local:
            def __init__(self, number: int) -> None:
                self.number = number

            def plus(self, other: int) -> int:
                return self.number + other

        assert pool.submit(Local(40).plus, 2).result(AMPLE) == 42

    def test_lambdas_as_arguments_and_as_results(self, pool: Executor) -> None:
        function = pool.submit(lambda function: lambda: function(5), lambda number: number * 2).result(AMPLE)
        assert function() == 10

    def test_objects_of_the_parents_own_class_come_back_as_such(self, pool: Executor) -> None:
        class Local:
            pass

        assert type(pool.submit(tasks.identity, Local()).result(AMPLE)) is Local

    def test_a_map_of_a_lambda(self, pool: Executor) -> None:
        assert list(pool.map(lambda number: number**2, range(5))) == [0, 1, 4, 9, 16]

    @pytest.mark.parametrize("guard", ["if __name__ == '__main__':", "if True:"])
    @pytest.mark.parametrize("how", ["script", "-c"])
    def test_functions_and_classes_of_the_script(
        self, run_program: ProgramRunner, kind: Kind, guard: str, how: Any
    ) -> None:
        source = f"""
import multigil
factor = 3
class Number:
    def __init__(self, value):
        self.value = value
    def times(self):
        return Number(self.value * factor)
def work(number):
    return number.times()
{guard}
    with multigil.{kind.make.__name__}(2) as pool:
        print(pool.submit(work, Number(5)).result().value)
        print([each.value for each in pool.map(Number.times, map(Number, range(4)))])
        print(type(pool.submit(Number(1).times).result()) is Number)
"""
        assert run_program.output(source, how=how) == "15\n[0, 3, 6, 9]\nTrue\n"


class TestWhatTravels:
    @pytest.mark.parametrize(
        "value",
        [
            *(None, True, 5, -(2**70), 1.5, 1j, "täxt", b"bytes", (), [1, [2]], {"a": {1}}, range(3), slice(1, 2)),
            *(bytearray(b"x"), frozenset({1}), tasks.Point(1, 2), ValueError, NotImplemented, ..., int, len),
        ],
        ids=repr,
    )
    def test_there_and_back(self, pool: Executor, value: object) -> None:
        assert pool.submit(tasks.identity, value).result(AMPLE) == value

    def test_an_exception_that_is_returned_is_a_result(self, pool: Executor) -> None:
        future = pool.submit(ValueError, "a value")
        assert repr(future.result(AMPLE)) == "ValueError('a value')"
        assert future.exception(AMPLE) is None

    @pytest.mark.parametrize("size", [10_000, 1_000_000, 20_000_000])
    def test_large_arguments_and_results(self, pool: Executor, size: int) -> None:
        assert pool.submit(tasks.length, bytes(size)).result(AMPLE) == size
        assert len(pool.submit(tasks.zeros, size).result(AMPLE)) == size

    def test_a_copy_arrives(self, pool: Executor) -> None:
        numbers = [1]
        assert pool.submit(operator.iadd, numbers, [2]).result(AMPLE) == [1, 2]
        assert numbers == [1]

    def test_arguments_that_cannot_be_pickled_are_the_futures_error(self, pool: Executor) -> None:
        future = pool.submit(tasks.identity, threading.Lock())
        with pytest.raises(TypeError, match="cannot pickle"):
            future.result(AMPLE)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_so_are_errors_that_pickling_raises(self, pool: Executor) -> None:
        future = pool.submit(tasks.identity, tasks.CannotBePickled())
        assert isinstance(future.exception(AMPLE), ArithmeticError)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_a_result_that_cannot_be_pickled_is_the_futures_error(self, pool: Executor) -> None:
        with pytest.raises(TypeError, match="cannot pickle"):
            pool.submit(tasks.lock_of_threading).result(AMPLE)
        assert isinstance(pool.submit(tasks.cannot_be_pickled).exception(AMPLE), ArithmeticError)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_arguments_that_cannot_be_unpickled_are_the_futures_error(self, pool: Executor) -> None:
        # The standard library breaks the pool.
        assert isinstance(pool.submit(tasks.identity, tasks.CannotBeUnpickled()).exception(AMPLE), ArithmeticError)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_a_result_that_cannot_be_unpickled_is_the_futures_error(self, pool: Executor) -> None:
        # The standard library breaks the pool.
        future = pool.submit(tasks.cannot_be_unpickled)
        assert isinstance(future.exception(AMPLE), ArithmeticError)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_a_result_that_cannot_be_unpickled_here_alone(self, pool: Executor) -> None:
        assert pool.submit(tasks.identity, tasks.OnlyInWorkers()).result(AMPLE) == os.getpid()

    def test_shared_objects_as_arguments(self, pool: Executor) -> None:
        lock, value = multigil.Lock(), multigil.Value("q")
        for future in [pool.submit(tasks.count_under, lock, value, 200) for _ in range(WORKERS)]:
            future.result(AMPLE)
        assert value.value == 200 * WORKERS

    def test_a_queue_as_argument_and_as_result(self, pool: Executor) -> None:
        q: multigil.Queue[int] = multigil.Queue()
        assert pool.submit(tasks.put_all, q, 1, 2, 3).result(AMPLE) == 3
        assert [q.get_nowait() for _ in range(3)] == [1, 2, 3]
        back = pool.submit(tasks.identity, q).result(AMPLE)
        back.put(4)
        assert q.get_nowait() == 4

    def test_a_bound_method_of_a_shared_object(self, pool: Executor) -> None:
        q: multigil.Queue[int] = multigil.Queue()
        pool.submit(q.put, 5).result(AMPLE)
        assert q.get_nowait() == 5

    def test_the_path_and_the_environment_of_now(
        self, pool: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        (tmp_path / "made_just_now.py").write_text("def answer():\n    return 42\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("MULTIGIL_MADE_JUST_NOW", "yes")
        made_just_now = __import__("made_just_now")
        try:
            assert pool.submit(made_just_now.answer).result(AMPLE) == 42
            assert pool.submit(os.getenv, "MULTIGIL_MADE_JUST_NOW").result(AMPLE) == "yes"
        finally:
            del sys.modules["made_just_now"]


class TestExceptions:
    def test_its_own_type_and_arguments(self, pool: Executor) -> None:
        error = pool.submit(tasks.raise_it, KeyError("a", 1)).exception(AMPLE)
        assert type(error) is KeyError
        assert error.args == ("a", 1)

    def test_notes_and_cause(self, pool: Executor) -> None:
        error = pool.submit(tasks.raise_with_notes_and_cause).exception(AMPLE)
        assert isinstance(error, LookupError)
        assert error.__notes__ == ["a note"]

    def test_the_cause_and_the_context_themselves(self, pool: Executor) -> None:
        error = pool.submit(tasks.raise_with_notes_and_cause).exception(AMPLE)
        assert error is not None
        assert isinstance(error.__cause__, ValueError)
        assert isinstance(pool.submit(raising.with_context).exception(AMPLE).__context__, KeyError)  # type: ignore[union-attr]

    def test_the_remote_traceback_is_printed_with_it(self, pool: Executor) -> None:
        error = pool.submit(tasks.fail, "text").exception(AMPLE)
        assert error is not None
        printed = "".join(traceback.format_exception(error))
        assert "raise ArithmeticError(*args)" in printed
        assert "tasks.py" in printed

    def test_the_remote_traceback_has_no_frame_of_ours(self, pool: Executor) -> None:
        error = pool.submit(tasks.fail, "text").exception(AMPLE)
        assert error is not None
        assert isinstance(error.__cause__, multigil.RemoteTraceback)
        package = os.path.dirname(multigil.__file__)
        assert package not in str(error.__cause__)

    def test_one_that_pickle_cannot_rebuild(self, pool: Executor) -> None:
        error = pool.submit(raising.two_arguments).exception(AMPLE)
        assert isinstance(error, raising.TwoArgumentsError)
        assert (error.code, error.text) == (5, "wrong")

    def test_one_that_cannot_be_pickled(self, pool: Executor) -> None:
        error = pool.submit(raising.holds_lock).exception(AMPLE)
        assert isinstance(error, raising.HoldsLockError)
        assert error.args == ("held",)

    def test_one_whose_class_cannot_be_had_here(self, pool: Executor) -> None:
        error = pool.submit(tasks.raise_unknown).exception(AMPLE)
        assert isinstance(error, LookupError)
        assert type(error).__name__ == "UnknownError"
        assert str(error) == "unknown"
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_one_of_a_local_class(self, pool: Executor) -> None:
        error = pool.submit(raising.local_class).exception(AMPLE)
        assert isinstance(error, LookupError)
        assert error.detail == 5  # type: ignore[attr-defined]

    def test_groups(self, pool: Executor) -> None:
        group = ExceptionGroup("group", [ValueError(1), KeyError(2)])
        error = pool.submit(tasks.raise_it, group).exception(AMPLE)
        assert isinstance(error, ExceptionGroup)
        assert [type(each) for each in error.exceptions] == [ValueError, KeyError]

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("by hand"), GeneratorExit(), BaseException(1)])
    def test_those_that_are_no_errors_are_the_futures_too(self, pool: Executor, error: BaseException) -> None:
        got = pool.submit(tasks.raise_it, error).exception(AMPLE)
        assert type(got) is type(error)
        assert got.args == error.args
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    @pytest.mark.parametrize("error", [tasks.FalsyBoolError, tasks.FalsyLengthError])
    def test_those_that_are_false(self, pool: Executor, error: type[Exception]) -> None:
        with pytest.raises(error, match="text"):
            pool.submit(tasks.raise_it, error("text")).result(AMPLE)

    def test_each_future_has_an_exception_of_its_own(self, pool: Executor) -> None:
        error = ValueError("shared")
        first, second = (pool.submit(tasks.raise_it, error).exception(AMPLE) for _ in range(2))
        assert first is not second

    def test_recursion_without_end(self, pool: Executor) -> None:
        assert isinstance(pool.submit(raising.too_deep).exception(AMPLE), RecursionError)
        assert pool.submit(tasks.double, 1).result(AMPLE) == 2


class TestWorkers:
    @pytest.mark.parametrize("number", [0, -1])
    def test_at_least_one_worker(self, kind: Kind, number: int) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kind.make(max_workers=number)
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kind.make(number)

    @pytest.mark.parametrize("number", ["2", 1.5])
    def test_a_number_of_workers(self, kind: Kind, number: Any) -> None:
        with pytest.raises(TypeError):
            kind.make(number)

    def test_as_many_as_there_are_processors(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        # os.process_cpu_count is new in 3.13; whichever is asked, it is three here.
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
        monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        pool = kind.make()
        assert pool._max_workers == 3 if kind.name == "process" else pool._max_workers >= 3
        pool.shutdown()

    def test_a_pool_that_was_never_used(self, kind: Kind) -> None:
        with kind.make(WORKERS):
            pass

    def test_nested_pools(self, pool: Executor, kind: Kind) -> None:
        assert pool.submit(sum_in_a_pool, kind.make, 10).result(AMPLE) == 90

    def test_a_pool_of_the_other_kind_in_a_worker(self, pool: Executor, kind: Kind) -> None:
        other = multigil.ProcessPoolExecutor if kind.name == "interpreter" else multigil.InterpreterPoolExecutor
        assert pool.submit(sum_in_a_pool, other, 10).result(AMPLE) == 90

    def test_in_an_interpreter_that_is_no_worker(self, kind: Kind) -> None:
        with multigil.Interpreter() as interpreter:
            assert interpreter.call(sum_in_a_pool, kind.make, 10) == 90

    def test_a_pool_cannot_be_sent(self, pool: Executor) -> None:
        assert isinstance(pool.submit(tasks.identity, pool).exception(AMPLE), TypeError)
        with pytest.raises(TypeError, match="belongs to the interpreter"):
            pickle.dumps(pool)

    def test_a_worker_is_told_from_the_parent(self, pool: Executor, kind: Kind) -> None:
        process, _ = pool.submit(tasks.worker).result(AMPLE)
        assert (process == os.getpid()) is (kind.name == "interpreter")
        assert pool.submit(tasks.worker).result(AMPLE) != tasks.worker()


def use_once(make: Callable[..., Any], **kwargs: Any) -> None:
    with make(1, **kwargs) as pool:
        pool.submit(tasks.double, 2).result(AMPLE)


def sum_in_a_pool(make: Callable[..., Any], count: int) -> int:
    with make(1) as pool:
        return sum(pool.map(tasks.double, range(count)))


class TestInitializer:
    def test_once_for_each_worker_before_its_first_task(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        with kind.make(WORKERS, initializer=tasks.set_state_and_tell, initargs=(told,)) as pool:
            warmed(pool)
            workers = {pool.submit(tasks.worker).result(AMPLE) for _ in range(20)}
            barrier = multigil.Barrier(WORKERS)
            futures = [pool.submit(tasks.get_state, "times", barrier) for _ in range(WORKERS)]
            assert [future.result(AMPLE) for future in futures] == [1] * WORKERS
        initialized = [told.get_nowait() for _ in range(told.qsize())]
        assert len(initialized) == len(set(initialized)) == WORKERS
        assert workers <= set(initialized)

    def test_its_arguments(self, kind: Kind) -> None:
        with kind.make(1, initializer=tasks.capture_state, initargs=(1, "two", [3])) as pool:
            assert pool.submit(tasks.get_state, "args").result(AMPLE) == (1, "two", [3])

    def test_state_is_kept_between_tasks(self, kind: Kind) -> None:
        with kind.make(1) as pool:
            assert [pool.submit(tasks.count_up, "count").result(AMPLE) for _ in range(3)] == [1, 2, 3]

    def test_what_it_returns_is_of_no_interest(self, kind: Kind) -> None:
        with kind.make(1, initializer=tasks.lock_of_threading) as pool:
            assert pool.submit(tasks.double, 1).result(AMPLE) == 2

    def test_it_has_to_be_callable(self, kind: Kind) -> None:
        with pytest.raises(TypeError, match="initializer must be a callable"):
            kind.make(1, initializer=5)

    def test_it_may_be_a_closure(self, kind: Kind) -> None:
        factor = 7

        def initialize() -> None:
            tasks.set_state(factor=factor)

        with kind.make(1, initializer=initialize) as pool:
            assert pool.submit(tasks.get_state, "factor").result(AMPLE) == 7

    def test_one_that_fails_breaks_the_pool_for_all_that_is_pending_and_for_all_that_comes(self, kind: Kind) -> None:
        go = multigil.Event()
        with kind.make(1, initializer=tasks.fail_after, initargs=(go,)) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(3)]
            go.set()
            for future in futures:
                with pytest.raises(kind.broken):
                    future.result(AMPLE)
            with pytest.raises(kind.broken):
                pool.submit(tasks.double, 1)
            with pytest.raises(BrokenExecutor):
                pool.map(tasks.double, [1])

    def test_its_error_is_the_cause(self, kind: Kind) -> None:
        with kind.make(1, initializer=tasks.fail, initargs=("the reason",)) as pool:
            future = pool.submit(tasks.double, 1)
            error = future.exception(AMPLE)
        assert isinstance(error, kind.broken)
        printed = "".join(traceback.format_exception(error))
        assert "initializer" in str(error)
        assert "ArithmeticError: the reason" in printed
        assert "raise ArithmeticError(*args)" in printed

    def test_each_future_of_a_broken_pool_has_an_exception_of_its_own(self, kind: Kind) -> None:
        go = multigil.Event()
        with kind.make(1, initializer=tasks.fail_after, initargs=(go,)) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(3)]
            go.set()
            errors = [future.exception(AMPLE) for future in futures]
        assert len({id(error) for error in errors}) == 3

    def test_arguments_that_cannot_be_pickled(self, kind: Kind) -> None:
        # As soon as that is known: when the pool is made, or when it first needs a worker.
        with pytest.raises((TypeError, BrokenExecutor)) as raised:
            use_once(kind.make, initializer=tasks.nothing, initargs=(threading.Lock(),))
        assert "cannot pickle" in "".join(traceback.format_exception(raised.value))


class TestResetMain:
    def test_main_is_after_each_task_as_it_was_after_the_initializer(self, kind: Kind) -> None:
        with kind.make(1, initializer=tasks.set_in_main, initargs=("kept", [1]), reset_main=True) as pool:
            pool.submit(tasks.set_in_main, "made", 2).result(AMPLE)
            assert pool.submit(tasks.get_from_main, "made").result(AMPLE) is None
            assert pool.submit(tasks.get_from_main, "kept").result(AMPLE) == [1]
            pool.submit(tasks.set_in_main, "kept", 5).result(AMPLE)
            assert pool.submit(tasks.get_from_main, "kept").result(AMPLE) == [1]
            pool.submit(tasks.delete_from_main, "kept").result(AMPLE)
            assert pool.submit(tasks.get_from_main, "kept").result(AMPLE) == [1]

    def test_also_after_a_task_that_failed(self, kind: Kind) -> None:
        with kind.make(1, reset_main=True) as pool:
            future = pool.submit(exec, "made = 5; raise ValueError", {"__name__": "__main__"})
            assert isinstance(future.exception(AMPLE), ValueError)
            failing = pool.submit(set_in_main_and_fail, "made")
            assert isinstance(failing.exception(AMPLE), ArithmeticError)
            assert pool.submit(tasks.get_from_main, "made").result(AMPLE) is None

    def test_also_between_the_items_of_a_map(self, kind: Kind) -> None:
        with kind.make(1, reset_main=True) as pool:
            assert list(pool.map(get_and_set_in_main, ["a"] * 5)) == [None] * 5

    def test_modules_keep_their_state(self, kind: Kind) -> None:
        with kind.make(1, reset_main=True) as pool:
            assert [pool.submit(tasks.count_up, "count").result(AMPLE) for _ in range(3)] == [1, 2, 3]

    def test_without_it_main_keeps_its_state(self, kind: Kind) -> None:
        with kind.make(1) as pool:
            pool.submit(tasks.set_in_main, "made", 2).result(AMPLE)
            assert pool.submit(tasks.get_from_main, "made").result(AMPLE) == 2


def set_in_main_and_fail(name: str) -> None:
    tasks.set_in_main(name, 1)
    raise ArithmeticError


def get_and_set_in_main(name: str) -> Any:
    found = tasks.get_from_main(name)
    tasks.set_in_main(name, 1)
    return found


class TestMaxTasksPerChild:
    @pytest.mark.parametrize("number", [0, -1])
    def test_at_least_one(self, kind: Kind, number: int) -> None:
        with pytest.raises(ValueError, match="max_tasks_per_child must be >= 1"):
            kind.make(1, max_tasks_per_child=number)

    def test_a_whole_number(self, kind: Kind) -> None:
        with pytest.raises(TypeError, match="max_tasks_per_child must be an integer"):
            kind.make(1, max_tasks_per_child=1.5)

    def test_a_worker_is_replaced_after_so_many_tasks(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        with kind.make(1, initializer=tasks.set_state_and_tell, initargs=(told,), max_tasks_per_child=2) as pool:
            counts = [pool.submit(tasks.count_up, "count").result(AMPLE) for _ in range(5)]
        assert counts == [1, 2, 1, 2, 1]
        assert told.qsize() == 3

    def test_with_many_tasks_pending(self, kind: Kind) -> None:
        with kind.make(WORKERS, max_tasks_per_child=3) as pool:
            futures = [pool.submit(tasks.count_up, "count") for _ in range(12)]
            counts = [future.result(AMPLE) for future in futures]
        assert max(counts) <= 3
        assert counts.count(1) >= 4

    def test_items_of_a_map_count_as_tasks_or_their_chunks_do(self, kind: Kind) -> None:
        with kind.make(1, max_tasks_per_child=1) as pool:
            assert list(pool.map(tasks.double, range(4), chunksize=2)) == [0, 2, 4, 6]

    def test_shutdown_at_once(self, kind: Kind) -> None:
        with kind.make(WORKERS, max_tasks_per_child=1) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(5)]
        assert [future.result(0) for future in futures] == [0, 2, 4, 6, 8]


class TestMultiprocessingContexts:
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_methods_that_start_a_fresh_python(self, method: str) -> None:
        with multigil.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(tasks.double, 2).result(AMPLE) == 4

    def test_fork_is_refused(self) -> None:
        with pytest.raises(ValueError, match="fork"):
            multigil.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))

    def test_none_is_the_usual_one(self) -> None:
        with multigil.ProcessPoolExecutor(1, None) as pool:
            assert pool.submit(tasks.double, 2).result(AMPLE) == 4

    def test_another_python(self) -> None:
        with multigil.ProcessPoolExecutor(1, executable=sys.executable) as pool:
            assert pool.submit(os.getpid).result(AMPLE) != os.getpid()

    def test_a_python_that_is_not_there(self, tmp_path: Any) -> None:
        with pytest.raises((OSError, RuntimeError)):
            use_once(multigil.ProcessPoolExecutor, executable=str(tmp_path / "python"))


# As in 3.14: the names and defaults, on every version.
SUBMIT = ["self", "fn", "args", "kwargs"]
MAP = {"self": None, "fn": None, "iterables": None, "timeout": None, "chunksize": 1, "buffersize": None}


class TestSignatures:
    def test_submit(self, kind: Kind) -> None:
        parameters = inspect.signature(kind.make.submit).parameters.values()  # type: ignore[attr-defined]
        assert [(each.name, each.kind) for each in parameters] == [
            ("self", inspect.Parameter.POSITIONAL_ONLY),
            ("fn", inspect.Parameter.POSITIONAL_ONLY),
            ("args", inspect.Parameter.VAR_POSITIONAL),
            ("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]

    def test_map(self, kind: Kind) -> None:
        parameters = list(inspect.signature(kind.make.map).parameters.values())  # type: ignore[attr-defined]
        keyword = inspect.Parameter.KEYWORD_ONLY
        assert [(each.name, each.kind, each.default) for each in parameters[2:6]] == [
            ("iterables", inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.empty),
            ("timeout", keyword, None),
            ("chunksize", keyword, 1),
            ("buffersize", keyword, None),
        ]
        assert [each.name for each in parameters[:2]] == ["self", "fn"]
        assert all(each.kind is keyword and each.default is not each.empty for each in parameters[6:])

    def test_shutdown(self, kind: Kind) -> None:
        parameters = inspect.signature(kind.make.shutdown).parameters.values()  # type: ignore[attr-defined]
        assert [(each.name, each.kind, each.default) for each in parameters] == [
            ("self", inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty),
            ("wait", inspect.Parameter.POSITIONAL_OR_KEYWORD, True),
            ("cancel_futures", inspect.Parameter.KEYWORD_ONLY, False),
        ]

    def test_the_constructors(self) -> None:
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD

        def leading(make: Callable[..., Any]) -> list[tuple[str, object]]:
            parameters = inspect.signature(make).parameters.values()
            assert all(each.kind in (positional, inspect.Parameter.KEYWORD_ONLY) for each in parameters)
            return [(each.name, each.default) for each in parameters if each.kind is positional]

        assert leading(multigil.InterpreterPoolExecutor) == [
            ("max_workers", None),
            ("thread_name_prefix", ""),
            ("initializer", None),
            ("initargs", ()),
        ]
        assert leading(multigil.ProcessPoolExecutor) == [
            ("max_workers", None),
            ("mp_context", None),
            ("initializer", None),
            ("initargs", ()),
        ]
        assert inspect.signature(multigil.ProcessPoolExecutor).parameters["max_tasks_per_child"].default is None

    @pytest.mark.skipif(sys.version_info < (3, 14), reason="they are those of 3.14")
    @pytest.mark.parametrize("method", ["submit", "map", "shutdown"])
    def test_whatever_the_standard_library_has_is_there(self, kind: Kind, method: str) -> None:
        theirs = inspect.signature(getattr(Executor, method)).parameters
        mine = inspect.signature(getattr(kind.make, method)).parameters
        assert [mine[name].replace(annotation=theirs[name].annotation) for name in theirs] == list(theirs.values())

    def test_they_are_executors(self, kind: Kind) -> None:
        assert isinstance(kind.make, type)
        assert issubclass(kind.make, Executor)
        assert issubclass(kind.broken, BrokenExecutor)
        assert issubclass(kind.broken, RuntimeError)

    def test_broken_pools_are_the_standard_librarys(self, kind: Kind) -> None:
        from concurrent.futures.process import BrokenProcessPool

        if kind.name == "process":
            assert issubclass(kind.broken, BrokenProcessPool)
        elif sys.version_info >= (3, 14):
            from concurrent.futures.interpreter import BrokenInterpreterPool

            assert issubclass(kind.broken, BrokenInterpreterPool)
