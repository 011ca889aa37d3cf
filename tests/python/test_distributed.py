"""Dask: multigil's executors inside of its workers, and `concurrent.futures` over a cluster of two."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copyreg
import os
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import cluster_workers
import multigil
from harness import AMPLE, HERE, plain_environment

reducers = dict(copyreg.dispatch_table)

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

from dask._task_spec import Task, TaskRef  # noqa: E402
from distributed.worker import _run_task_simple  # noqa: E402

from multigil.distributed import Executor, MultigilPlugin, TaskExecutor  # noqa: E402

# tblib, which distributed imports, has all exceptions pickled in a way of its own. Other tests are about Python's.
copyreg.dispatch_table.clear()
copyreg.dispatch_table.update(reducers)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A cluster in processes of its own, nobody outside of this machine among them."""
    program = "import cluster_workers; cluster_workers.serve_cluster()"
    environment = {**plain_environment(), "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes) as cluster:
        limit = threading.Timer(6 * AMPLE, cluster.kill)
        limit.start()
        assert cluster.stdout is not None
        with distributed.Client(cluster.stdout.readline().strip(), timeout=AMPLE) as client:
            client.register_plugin(MultigilPlugin())
            client.register_plugin(MultigilPlugin(1, "process", executor="process"))
            client.submit(abs, 1).result(AMPLE)  # its threads are there from now on
            yield client
        cluster.communicate("", AMPLE)
        limit.cancel()
        limit.join()
    assert cluster.returncode == 0


@pytest.fixture(autouse=True)
def _two_workers(client: Any) -> None:
    client.wait_for_workers(2, timeout=AMPLE)


@pytest.fixture
def region() -> Iterator[multigil.Region]:
    """Memory that the tests and the workers share."""
    with multigil.Region(f"test-{uuid.uuid4().hex}") as region:
        yield region


def submit(client: Any, *args: Any, executor: str = "multigil", **kwargs: Any) -> Any:
    with dask.annotate(executor=executor):
        return client.submit(*args, pure=False, **kwargs)


def processes(client: Any) -> dict[str, int]:
    """The process of the worker at each address."""
    found: dict[str, int] = client.run(os.getpid)
    return found


# --- the plugin -------------------------------------------------------------------------------------------------


def test_annotated_tasks_run_in_interpreters_of_the_workers(client: Any) -> None:
    with dask.annotate(executor="multigil"):
        places = client.gather(client.map(cluster_workers.here, range(20), pure=False))
    assert {process for process, _ in places} == set(processes(client).values())
    assert 0 not in {interpreter for _, interpreter in places}
    process, interpreter = client.submit(cluster_workers.here, pure=False).result(AMPLE)
    assert interpreter == 0  # all others in a thread of Dask's
    assert process in processes(client).values()


def test_several_interpreters_of_one_worker_run_at_once(client: Any, region: multigil.Region) -> None:
    address = next(iter(processes(client)))
    futures = [submit(client, cluster_workers.meet, region.name, workers=[address]) for _ in range(2)]
    places = client.gather(futures)
    assert len({process for process, _ in places}) == 1
    assert len({interpreter for _, interpreter in places}) == 2


def test_results_of_other_tasks_are_arguments(client: Any) -> None:
    one, two = (submit(client, cluster_workers.add, number) for number in (1, 2))
    assert submit(client, cluster_workers.total, [one, 10], {"a": two, "b": 20}).result(AMPLE) == 33
    with dask.annotate(executor="multigil"):
        lazy = dask.delayed(cluster_workers.total)([dask.delayed(cluster_workers.add)(1, 2)], {"x": 4})
        assert client.compute(lazy, optimize_graph=False).result(AMPLE) == 7


def test_functions_that_cannot_be_imported(client: Any) -> None:
    offset = 3
    assert submit(client, lambda x: x + offset, 4).result(AMPLE) == 7


def test_an_exception_arrives_with_its_traceback(client: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="no") as caught:
        submit(client, cluster_workers.fail, "no").result(AMPLE)
    assert isinstance(caught.value.__cause__, multigil.RemoteTraceback)
    assert "raise ZeroDivisionError(message)" in str(caught.value.__cause__)


def test_a_task_that_exits_leaves_its_worker_alone(client: Any) -> None:
    before = processes(client)
    with pytest.raises(RuntimeError, match=r"SystemExit\(3\)"):
        submit(client, cluster_workers.leave).result(AMPLE)
    assert processes(client) == before


def test_cancelling_interrupts_a_task_that_runs(client: Any, region: multigil.Region) -> None:
    future = submit(client, cluster_workers.run_until_interrupted, region.name)
    region.Queue("begun").get(timeout=AMPLE)
    future.cancel()
    assert region.Event("interrupted").wait(AMPLE)
    assert submit(client, cluster_workers.add, 1).result(AMPLE) == 1


def test_a_process_that_dies_fails_its_task_alone(client: Any) -> None:
    before = processes(client)
    with pytest.raises(concurrent.futures.process.BrokenProcessPool):
        submit(client, cluster_workers.die, executor="process").result(AMPLE)
    places = client.gather([submit(client, cluster_workers.here, executor="process") for _ in range(8)])
    assert processes(client) == before
    assert not {process for process, _ in places} & set(before.values())


def test_the_plugin_can_be_removed(client: Any) -> None:
    client.register_plugin(MultigilPlugin(executor="for a while"))
    assert submit(client, cluster_workers.add, 1, executor="for a while").result(AMPLE) == 1
    client.unregister_worker_plugin("multigil-for a while")
    with pytest.raises(ValueError, match="Invalid executor 'for a while'"):
        submit(client, cluster_workers.add, 1, executor="for a while").result(AMPLE)


def test_the_plugin_knows_its_kinds() -> None:
    with pytest.raises(ValueError, match="'thread'"):
        MultigilPlugin(kind="thread")


def test_nodes_inside_of_a_task_are_computed_in_the_interpreter() -> None:
    """As optimized graphs have them."""
    with contextlib.closing(TaskExecutor(1, "interpreter", {})) as executor:
        inner = Task("inner", cluster_workers.here)
        task = Task("outer", max, inner, TaskRef("other"))
        message = executor.submit(_run_task_simple, task, {"other": (0, 0)}, 0.0).result(AMPLE)
        assert message["op"] == "task-finished"
        assert message["type"] is tuple
        assert message["result"][1] != 0


def test_what_cannot_be_sent_is_the_tasks_error() -> None:
    with contextlib.closing(TaskExecutor(1, "interpreter", {})) as executor:
        task = Task("task", cluster_workers.here, threading.Lock())
        message = executor.submit(_run_task_simple, task, {}, 0.0).result(AMPLE)
        assert message["op"] == "task-erred"
        assert isinstance(message["actual_exception"], TypeError)


# --- the executor -----------------------------------------------------------------------------------------------


def test_futures_are_those_of_the_standard_library(client: Any) -> None:
    with Executor(client) as executor:
        futures = [executor.submit(cluster_workers.add, i, 1) for i in range(5)]
        assert {future.result() for future in concurrent.futures.as_completed(futures, AMPLE)} == {1, 2, 3, 4, 5}
        failed = executor.submit(cluster_workers.fail, "no")
        concurrent.futures.wait([failed], AMPLE)
        assert isinstance(failed.exception(), ZeroDivisionError)
        assert failed.done()
        assert not failed.cancel()


def test_every_keyword_is_the_functions(client: Any) -> None:
    named = {"key": 1, "workers": 2, "pure": 3, "retries": 4, "fn": 5, "self": 6}
    with Executor(client) as executor:
        assert executor.submit(cluster_workers.keywords, **named).result(AMPLE) == named


def test_futures_of_dask_arrive_as_their_values(client: Any) -> None:
    with Executor(client) as executor:
        numbers = client.scatter([1, 2])
        assert executor.submit(cluster_workers.total, numbers, {"x": numbers[0]}).result(AMPLE) == 4


def test_callbacks_may_use_the_cluster(client: Any) -> None:
    results: list[int] = []
    with Executor(client) as executor:
        future = executor.submit(cluster_workers.add, 1)
        future.add_done_callback(lambda done: results.append(client.submit(abs, done.result()).result(AMPLE)))
    assert results == [1]


def test_map_is_in_order(client: Any) -> None:
    with Executor(client) as executor:
        for options in ({}, {"chunksize": 3}, {"buffersize": 2}, {"chunksize": 4, "buffersize": 1}):
            assert list(executor.map(pow, range(10), range(10), timeout=AMPLE, **options)) == [i**i for i in range(10)]
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(abs, [1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(abs, [1], buffersize=0)


def test_map_takes_no_more_than_its_buffer(client: Any) -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    with Executor(client) as executor:
        results = executor.map(abs, items(), buffersize=3)
        assert len(taken) == 3
        assert next(results) == 0
        assert len(taken) == 4
        results.close()


def test_map_gives_up_at_its_timeout(client: Any, region: multigil.Region) -> None:
    with Executor(client) as executor:
        results = executor.map(cluster_workers.wait_for_release, [region.name] * 12, timeout=0.1)
        with pytest.raises(TimeoutError):
            next(results)
        region.Event("release").set()
    assert region.Queue("begun").qsize() < 12


def test_cancel_takes_back_what_no_worker_has(client: Any, region: multigil.Region) -> None:
    with Executor(client) as executor:
        futures = [executor.submit(cluster_workers.wait_for_release, region.name) for _ in range(12)]
        for _ in range(4):
            region.Queue("begun").get(timeout=AMPLE)
        cancelled = [future.cancel() for future in futures]
        assert not cancelled[0]
        assert futures[0].running()
        assert cancelled[-1]
        assert futures[-1].cancelled()
        region.Event("release").set()
        for future, was_cancelled in zip(futures, cancelled, strict=True):
            if was_cancelled:
                with pytest.raises(concurrent.futures.CancelledError):
                    future.result(AMPLE)
            else:
                assert future.result(AMPLE) == "released"


def test_cancel_running_interrupts(client: Any, region: multigil.Region) -> None:
    with Executor(client, executor="multigil", cancel_running=True) as executor:
        future = executor.submit(cluster_workers.run_until_interrupted, region.name)
        region.Queue("begun").get(timeout=AMPLE)
        assert future.cancel()
        assert region.Event("interrupted").wait(AMPLE)
        assert executor.submit(cluster_workers.here).result(AMPLE)[1] != 0


def test_shutdown(client: Any, region: multigil.Region) -> None:
    executor = Executor(client)
    futures = [executor.submit(cluster_workers.wait_for_release, region.name) for _ in range(12)]
    for _ in range(4):
        region.Queue("begun").get(timeout=AMPLE)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    assert not all(future.cancelled() for future in futures)
    assert futures[-1].cancelled()
    region.Event("release").set()
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_what_cannot_be_sent_is_the_futures_error(client: Any) -> None:
    with Executor(client) as executor:
        assert isinstance(executor.submit(print, threading.Lock()).exception(AMPLE), TypeError)
        assert executor.submit(threading.Lock).exception(AMPLE) is not None
        assert executor.submit(abs, -1).result(AMPLE) == 1


def test_a_call_whose_worker_is_killed_runs_again(client: Any, tmp_path: Path) -> None:
    before = set(processes(client).values())
    with Executor(client) as executor:
        assert executor.submit(cluster_workers.die_once, tmp_path / "died").result(AMPLE) in before
    assert (tmp_path / "died").exists()


def test_a_call_that_kills_its_workers_fails(client: Any) -> None:
    with Executor(client) as executor:
        assert isinstance(executor.submit(cluster_workers.die).exception(AMPLE), distributed.KilledWorker)


def test_the_end_of_the_client_is_the_futures_error(client: Any, region: multigil.Region) -> None:
    with distributed.Client(client.scheduler.address, set_as_default=False) as other:
        executor = Executor(other)
        future = executor.submit(cluster_workers.wait_for_release, region.name)
        region.Queue("begun").get(timeout=AMPLE)
    assert isinstance(future.exception(AMPLE), concurrent.futures.BrokenExecutor)
    executor.shutdown()
    region.Event("release").set()


def test_it_knows_its_options(client: Any) -> None:
    with pytest.raises(TypeError, match="pure"):
        Executor(client, pure=True)
