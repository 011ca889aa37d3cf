"""The backend of joblib: `Parallel` over interpreters and over processes."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import multigil
from harness import AMPLE, ProgramRunner

joblib = pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_backend, parallel_config  # noqa: E402

import joblib_importer  # noqa: E402
import joblib_workers  # noqa: E402
from multigil.joblib import MultigilBackend  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["interpreter", "process"])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use each kind of worker in turn, two of them."""
    kind: str = request.param
    with parallel_config("multigil", n_jobs=2, kind=kind):
        yield kind
    gc.collect()


@pytest.fixture
def _interpreters() -> Iterator[None]:
    """Use two interpreters."""
    with parallel_config("multigil", n_jobs=2):
        yield
    gc.collect()


def call(function: Any, *iterables: Any, **options: Any) -> list[Any]:
    results: list[Any] = Parallel(**options)(delayed(function)(*args) for args in zip(*iterables, strict=True))
    return results


def assert_given_up(lock: multigil.Lock) -> None:
    """Check that who runs with the lock runs no more."""
    with contextlib.suppress(multigil.OwnerDied):  # a process was killed
        assert lock.acquire(timeout=AMPLE)
        lock.release()


def test_results_are_in_order_and_batches_grow(kind: str) -> None:
    del kind
    parallel = Parallel()
    assert parallel(delayed(joblib_workers.square)(i) for i in range(2000)) == [i * i for i in range(2000)]
    assert parallel.n_dispatched_batches < 1000


def test_it_runs_in_several_at_once(kind: str) -> None:
    barrier = multigil.Barrier(2)
    places = call(joblib_workers.meet, [barrier, barrier], batch_size=1)
    assert len(set(places)) == 2
    if kind == "interpreter":
        assert {process for process, _ in places} == {os.getpid()}
        assert 0 not in {interpreter for _, interpreter in places}
    else:
        assert os.getpid() not in {process for process, _ in places}


@pytest.mark.usefixtures("_interpreters")
def test_workers_stay_within_the_block() -> None:
    assert set(call(joblib_workers.meet, [multigil.Barrier(2)] * 2)) >= set(call(joblib_workers.here, range(4)))


def test_workers_go_with_the_block() -> None:
    before = multigil.active_count()
    with parallel_config("multigil", n_jobs=2):
        call(joblib_workers.here, range(4))
        assert multigil.active_count() > before
    gc.collect()
    for left in multigil.enumerate()[before:]:
        left.join(AMPLE)
    assert multigil.active_count() == before


@pytest.mark.usefixtures("_interpreters")
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_give_results_as_they_come(return_as: str) -> None:
    began, go = multigil.Queue(), multigil.Event()
    options = {"return_as": return_as, "batch_size": 1, "pre_dispatch": "all"}
    results = Parallel(**options)(delayed(joblib_workers.put_and_wait)(began, x, go) for x in (0, 1))
    assert next(results) == 0
    go.set()
    assert list(results) == [1]


def test_a_generator_that_is_dropped_interrupts_what_runs(kind: str) -> None:
    del kind
    begun, lock = multigil.Event(), multigil.Lock()
    tasks = [delayed(joblib_workers.square)(3), delayed(joblib_workers.run_until_interrupted)(begun, lock)]
    results = Parallel(return_as="generator", batch_size=1)(tasks)
    assert next(results) == 9
    assert begun.wait(AMPLE)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    assert_given_up(lock)


def test_an_exception_is_raised_and_ends_the_others(kind: str) -> None:
    del kind
    with pytest.raises(LookupError) as caught:
        call(joblib_workers.fail_at, range(100), [7] * 100)
    assert caught.value.args == (7,)
    assert isinstance(caught.value.__cause__, multigil.RemoteTraceback)
    begun, lock = multigil.Event(), multigil.Lock()
    tasks = [
        delayed(joblib_workers.run_until_interrupted)(begun, lock),
        delayed(joblib_workers.fail_once_it_runs)(begun),
    ]
    with pytest.raises(LookupError):
        Parallel(batch_size=1)(tasks)
    assert_given_up(lock)
    assert call(joblib_workers.square, [1, 2]) == [1, 4]


def test_a_timeout_interrupts_what_runs(kind: str) -> None:
    del kind
    begun, lock = multigil.Event(), multigil.Lock()
    call(joblib_workers.here, range(4))
    with pytest.raises(joblib.parallel.TimeoutError):
        call(joblib_workers.run_until_interrupted, [begun], [lock], timeout=0.1)
    assert_given_up(lock)
    assert call(joblib_workers.square, [3]) == [9]


@pytest.mark.usefixtures("_interpreters")
def test_lambdas_and_what_cannot_be_sent() -> None:
    offset = 4
    assert call(lambda x: x + offset, [1, 2]) == [5, 6]
    with pytest.raises(TypeError, match="pickle"):
        call(joblib_workers.here, [threading.Lock()])


def test_nested_calls(kind: str) -> None:
    del kind
    assert call(joblib_importer.sum_of_squares, [2, 4]) == [1, 14]


@pytest.mark.usefixtures("_interpreters")
def test_a_context_manager_keeps_its_workers() -> None:
    with Parallel(batch_size=1) as parallel:
        places = {place for _ in range(3) for place in parallel(delayed(joblib_workers.here)() for _ in range(4))}
    assert len(places) <= 2


@pytest.mark.usefixtures("_interpreters")
def test_an_iterable_that_fails() -> None:
    def tasks() -> Iterator[Any]:
        for i in range(50):
            yield delayed(joblib_workers.square)(i)
        raise LookupError("the tasks")

    with pytest.raises(LookupError, match="the tasks"):
        Parallel()(tasks())


def test_a_process_that_dies_is_an_error_and_no_hang() -> None:
    with parallel_config("multigil", n_jobs=2, kind="process"):
        with pytest.raises(multigil.futures.BrokenProcessPool):
            Parallel()(delayed(joblib_workers.die)() for _ in range(50))
        assert call(joblib_workers.square, [1, 2]) == [1, 4]
    gc.collect()


def test_options_of_the_executor() -> None:
    options = {"initializer": joblib_workers.initialize, "initargs": (7,)}
    with parallel_backend("multigil", n_jobs=2, **options):
        assert call(joblib_workers.state, [1, 2]) == [[7], [7]]
    with parallel_config("multigil", n_jobs=2, kind="process", inner_max_num_threads=3):
        assert call(joblib_workers.environment, ["OMP_NUM_THREADS"] * 2) == ["3", "3"]
    gc.collect()
    with pytest.raises(ValueError, match="'thread'"):
        MultigilBackend(kind="thread")


def test_numbers_of_jobs() -> None:
    backend = MultigilBackend()
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(3) == 3
    assert backend.effective_n_jobs(-1) == joblib.cpu_count()
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    with parallel_config("multigil"):  # all processors, unless said otherwise
        assert Parallel().n_jobs == -1
        assert call(joblib_workers.here, [0, 0], n_jobs=1) == [joblib_workers.here()] * 2  # here, one after another


def test_functions_of_a_script(run_program: ProgramRunner) -> None:
    assert (
        run_program.output(
            """
        import multigil.joblib
        from joblib import Parallel, delayed, parallel_config

        def cube(x):
            return x ** 3

        with parallel_config("multigil", n_jobs=2):
            print(sum(Parallel()(delayed(cube)(i) for i in range(100))))
        parallel = Parallel(n_jobs=2, backend="multigil")
        print(sum(parallel(delayed(cube)(i) for i in range(100))))  # its workers are there at the end
        """
        )
        == "24502500\n24502500\n"
    )
