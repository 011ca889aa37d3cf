"""Dask: many GILs inside each of its workers, and a `concurrent.futures` executor over a whole cluster.

    from distributed import Client
    from multigil.distributed import Executor, MultigilPlugin

    client = Client("tcp://scheduler:8786")
    client.register_plugin(MultigilPlugin())  # every worker, those to come included, has an executor "multigil"
    with dask.annotate(executor="multigil"):
        future = client.submit(function, 1, 2)  # runs in an interpreter of a worker

    with Executor(client) as executor:
        print(list(executor.map(function, range(10), range(10))))

multigil has to be installed where the workers run. In an interpreter there is no `distributed`: a task that asks for
its worker or its client (`get_worker`, `worker_client`), or whose module imports `distributed` or NumPy, needs
`MultigilPlugin(kind="process")` or Dask's own threads.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import queue
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

try:
    import dask
    import distributed.worker
    from dask import _task_spec as spec
    from dask.sizeof import sizeof
    from distributed.client import FutureCancelledError
    from distributed.core import error_message
except ImportError as error:  # with all that it says
    raise ImportError("multigil.distributed needs Dask: pip install 'multigil[dask]'") from error

from multigil import _dask_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Executor", "MultigilPlugin"]


# --- inside of a worker -----------------------------------------------------------------------------------------


class MultigilPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Gives every worker of a cluster an executor of multigil's, for tasks that are annotated with its name.

    `max_workers` is the number of interpreters in each worker: by default that of the worker's threads, which is how
    many tasks Dask gives it at a time. `kind` is "interpreter" or "process". `executor` is the name to annotate with.
    `options` are those of `InterpreterPoolExecutor` or `ProcessPoolExecutor`.

    When Dask drops a task that runs, because its future was cancelled or nobody needs it any more, the task is
    interrupted, by KeyboardInterrupt. An interpreter or process that dies fails its task, which Dask runs again if it
    was submitted with `retries`; the next task finds new ones.
    """

    def __init__(
        self, max_workers: int | None = None, kind: str = "interpreter", *, executor: str = "multigil", **options: Any
    ) -> None:
        if kind not in ("interpreter", "process"):
            raise ValueError(f"unknown kind {kind!r}, there are 'interpreter' and 'process'")
        self.name = f"multigil-{executor}"  # Dask replaces a plugin by another one of this name
        self.max_workers = max_workers
        self.kind = kind
        self.executor = executor
        self.options = options

    def setup(self, worker: distributed.Worker) -> None:
        """Add the executor; its interpreters are made when tasks come."""
        max_workers = self.max_workers or worker.state.nthreads
        self._tasks = worker.executors[self.executor] = TaskExecutor(max_workers, self.kind, self.options)

    async def teardown(self, worker: distributed.Worker) -> None:
        """Remove it. Tasks that run are waited for, unless the worker is closing."""
        executor = worker.executors.pop(self.executor, None)
        if executor is not None:
            closing = worker.status in (distributed.core.Status.closing, distributed.core.Status.closed)
            await asyncio.to_thread(executor.close if closing else executor.shutdown)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Interrupt the task if it runs and nobody wants it any more."""
        if start == "executing" and finish == "released":
            self._tasks.interrupt(key)


class TaskExecutor(concurrent.futures.Executor):
    """Runs what a worker submits, translated into something that needs no `distributed` where it runs."""

    def __init__(self, max_workers: int, kind: str, options: dict[str, Any]) -> None:
        self._max_workers = max_workers
        self._kind = kind
        self._options = options
        self._pool: concurrent.futures.Executor | None = None
        self._shut_down = False
        self._lock = threading.Lock()
        self._running: dict[Any, concurrent.futures.Future[Any]] = {}  # by the task's key
        self._unwanted: set[Any] = set()

    def submit[T](self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Run a task for Dask, which gets its message about it; or any other function."""
        if fn is distributed.worker._run_task_simple:  # noqa: SLF001  (the only way to know what Dask wants)
            return self._run_task(*args, **kwargs)
        return self._submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in `concurrent.futures`."""
        with self._lock:
            self._shut_down = True
            pool = self._pool
        if pool is not None:
            pool.shutdown(wait, cancel_futures=cancel_futures)

    def close(self) -> None:
        """Shut down, and wait for nothing that runs."""
        self.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            self._pool.terminate_workers()  # type: ignore[attr-defined]

    def interrupt(self, key: Any) -> None:
        """Interrupt that task if it runs here."""
        with self._lock:
            future = self._running.get(key)
            if future is not None:
                self._unwanted.add(key)
        if future is not None:
            future.cancel()

    def _submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        pool = self._usable_pool(None)
        try:
            return pool.submit(fn, *args, **kwargs)
        except concurrent.futures.BrokenExecutor:
            return self._usable_pool(pool).submit(fn, *args, **kwargs)

    def _usable_pool(self, broken: concurrent.futures.Executor | None) -> concurrent.futures.Executor:
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._pool is None or self._pool is broken:
                self._pool = self._make_pool()
            return self._pool

    def _make_pool(self) -> concurrent.futures.Executor:
        from multigil import InterpreterPoolExecutor, ProcessPoolExecutor

        kind = InterpreterPoolExecutor if self._kind == "interpreter" else ProcessPoolExecutor
        return kind(self._max_workers, **{"cancel_running": True, **self._options})

    def _run_task(self, task: Any, data: dict[Any, Any], time_delay: float) -> concurrent.futures.Future[Any]:
        """Run a node of a graph, and give what `_run_task_simple` would."""
        told: concurrent.futures.Future[Any] = concurrent.futures.Future()
        submitted = time.time()
        try:
            future = self._submit(_dask_worker.run_timed, *_as_call(task, data))
        except Exception as error:
            told.set_result(_failed(error, submitted + time_delay))
            return told
        with self._lock:
            self._running[task.key] = future

        def tell(future: concurrent.futures.Future[Any]) -> None:
            with self._lock:
                if self._running.get(task.key) is future:
                    del self._running[task.key]
                unwanted = task.key in self._unwanted
                self._unwanted.discard(task.key)
            if unwanted and (future.cancelled() or future.exception() is not None):
                # Nobody wants it, unless it was asked for again just now: then it has to run again.
                message = _failed(distributed.Reschedule(), submitted + time_delay)
            elif future.cancelled():
                error = RuntimeError("the worker's executor was shut down before the task ran")
                message = _failed(error, submitted + time_delay)
            elif (failure := future.exception()) is not None:
                message = _failed(failure, submitted + time_delay)
            else:
                result, start, stop, thread = future.result()
                message = {
                    "op": "task-finished",
                    "status": "OK",
                    "result": result,
                    "nbytes": sizeof(result),
                    "type": None if result is None else type(result),
                    "start": start + time_delay,
                    "stop": stop + time_delay,
                    "thread": thread,
                }
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # the worker is closing
                told.set_result(message)

        future.add_done_callback(tell)
        return told


def _failed(error: BaseException, start: float) -> dict[str, Any]:
    if not isinstance(error, Exception):
        # SystemExit and KeyboardInterrupt would end the event loops of whoever hears of them, the client's too.
        cause, error = error, RuntimeError(f"the task ended by {error!r}")
        error.__cause__ = cause
    message = dict(error_message(error))
    message.update(op="task-erred", actual_exception=error, start=start, stop=time.time(), thread=threading.get_ident())
    return message


class _NestedTaskError(Exception):
    """A node has others in it that have to be computed."""


def _as_call(task: Any, data: dict[Any, Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What computes the node: its function and arguments, or, when there are nodes among these, the node itself.

    A node of Dask's can be called in an interpreter, too, which takes a while to import Dask before.
    """
    if type(task) is spec.Task:
        try:
            args = tuple(_resolved(value, data) for value in task.args)
            return task.func, args, {name: _resolved(value, data) for name, value in task.kwargs.items()}
        except _NestedTaskError:
            pass
    return task, ({key: data[key] for key in task.dependencies},), {}


def _resolved(value: Any, data: dict[Any, Any]) -> Any:
    if isinstance(value, spec.TaskRef):
        return data[value.key]
    if isinstance(value, spec.Alias):
        return data[value.target]
    if isinstance(value, spec.DataNode):
        return value.value
    if isinstance(value, spec.NestedContainer):
        return value.constructor(tuple(_resolved(one, data) for one in value.args))
    if isinstance(value, spec.GraphNode):
        raise _NestedTaskError
    return value


# --- over a cluster ---------------------------------------------------------------------------------------------


class Executor(concurrent.futures.Executor):
    """`concurrent.futures.Executor`, and multigil's executors, over the cluster of a Dask client.

    Futures are those of `concurrent.futures`. Futures of Dask among a call's arguments, in lists and dictionaries too,
    arrive as their values.

    executor: the workers' executor in which calls run: "multigil" with `MultigilPlugin`, by default Dask's threads.
    cancel_running: `cancel()` of a call that a worker has already been given drops it, and so does map's timeout. In a
    `MultigilPlugin`'s executor it is interrupted; in a thread of Dask's it runs to its end, for nobody.
    options: of `Client.submit`, for each call: `workers`, `allow_other_workers`, `resources`, `retries`, `priority`.
    """

    def __init__(
        self, client: distributed.Client, *, executor: str | None = None, cancel_running: bool = False, **options: Any
    ) -> None:
        if client.asynchronous:
            raise ValueError("the client must not be asynchronous")
        if unknown := options.keys() - _OPTIONS:
            raise TypeError(f"unknown options {sorted(unknown)}, there are {sorted(_OPTIONS)}")
        self._client = client
        self._cancel_running = cancel_running
        self._options = options
        self._annotations = {} if executor is None else {"executor": executor}
        self._pending: set[ClusterFuture] = set()
        self._shut_down = False
        self._lock = threading.Lock()
        # Futures are resolved in a thread of their own: their callbacks may wait for the client's event loop.
        self._outcomes: queue.SimpleQueue[tuple[ClusterFuture, Any, BaseException | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_resolve, args=(self._outcomes,), name="multigil-distributed", daemon=True
        )
        self._thread.start()
        self._stop = weakref.finalize(self, self._outcomes.put, None)
        self._stop.atexit = False

    def submit[T](self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Call `fn(*args, **kwargs)` on the cluster.

        Raises RuntimeError after `shutdown()`. What cannot be pickled is the future's error.
        """
        return self._submit(fn, args, kwargs)

    def _submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ClusterFuture:
        name = getattr(fn, "__name__", type(fn).__name__)
        future = ClusterFuture(self._client, self._cancel_running)
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.add(future)
        future.add_done_callback(self._forget)
        try:
            with dask.annotate(**self._annotations):
                future.remote = self._client.submit(
                    _dask_worker.call, fn, args, kwargs, key=f"{name}-{uuid.uuid4().hex}", pure=False, **self._options
                )
        except Exception as error:
            future.resolve(None, error)
        else:
            self._client.loop.add_callback(_follow, future, self._outcomes)
        return future

    def map[T](
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        cancel_running: bool | None = None,
    ) -> Iterator[T]:
        """Give the results of `map(fn, *iterables)`, computed on the cluster, in this order.

        timeout: seconds from now on, after which the iterator raises TimeoutError. chunksize: how many calls make one
        task of Dask's, which costs it about a millisecond. buffersize: how many tasks may be on their way whose results
        were not taken yet; without it, all are submitted at once. When the iterator ends early, the rest is cancelled.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        if chunksize == 1:
            return self._results(fn, zip(*iterables, strict=False), end, buffersize, cancel_running)
        chunks = itertools.batched(zip(*iterables, strict=False), chunksize)
        arguments = ((fn, chunk) for chunk in chunks)
        results = self._results(_dask_worker.call_chunk, arguments, end, buffersize, cancel_running)
        return _flattened(results)

    def _results(
        self,
        fn: Callable[..., Any],
        arguments: Iterator[tuple[Any, ...]],
        end: float | None,
        buffersize: int | None,
        cancel_running: bool | None,
    ) -> Iterator[Any]:
        futures = collections.deque(self._submit(fn, args, {}) for args in itertools.islice(arguments, buffersize))

        # Apart, so that calls are submitted before the first result is asked for.
        def give() -> Iterator[Any]:
            try:
                while futures:
                    result = futures[0].result(None if end is None else max(end - time.monotonic(), 0))
                    futures.popleft()
                    if (args := next(arguments, None)) is not None:
                        futures.append(self._submit(fn, args, {}))
                    yield result
            finally:
                if cancel_running is not None:
                    for future in futures:
                        future.cancel_running = cancel_running
                _cancel(self._client, futures)

        return give()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `cancel_futures`, cancel those that have not begun. The client stays open."""
        with self._lock:
            self._shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            _cancel(self._client, pending)
        if wait:
            concurrent.futures.wait(pending)
        self._stop_if_done()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def _forget(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        with self._lock:
            done = self._shut_down and not self._pending
        if done:
            self._stop()


_OPTIONS = frozenset({"allow_other_workers", "priority", "resources", "retries", "workers"})


def _flattened(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    try:
        for chunk in chunks:
            yield from chunk
    finally:
        chunks.close()  # type: ignore[attr-defined]


class ClusterFuture(concurrent.futures.Future[Any]):
    """The future of a call on a cluster."""

    remote: Any = None  # Dask's future

    def __init__(self, client: distributed.Client, cancel_running: bool) -> None:
        super().__init__()
        self.cancel_running = cancel_running
        self._client = client
        self._resolving = threading.Lock()

    def running(self) -> bool:
        """Whether a worker has been given the call. This asks the scheduler."""
        return self.remote is not None and not self.done() and self.remote.key in _given_to_workers(self._client)

    def cancel(self) -> bool:
        """Take the call back; False if it has ended or a worker has been given it, unless `cancel_running`."""
        _cancel(self._client, [self])
        return self.cancelled()

    def drop(self) -> bool:
        """Become cancelled, unless it has an outcome by now."""
        with self._resolving:
            if self.done() or not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # tells `wait` and `as_completed`
        return True

    def resolve(self, result: Any, error: BaseException | None) -> None:
        """Take the outcome, unless it was cancelled."""
        with self._resolving:
            if self.done():
                return
            self.set_running_or_notify_cancel()
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)


def _cancel(client: distributed.Client, futures: Iterable[ClusterFuture]) -> None:
    """Cancel those that may be cancelled, and have the cluster forget them."""
    waiting = [future for future in futures if future.remote is not None and not future.done()]
    given = set() if all(future.cancel_running for future in waiting) else _given_to_workers(client)
    dropped = [
        future.remote
        for future in waiting
        if (future.cancel_running or future.remote.key not in given) and future.drop()
    ]
    if dropped:
        client.loop.add_callback(client.cancel, dropped, asynchronous=True, reason="cancelled")


def _given_to_workers(client: distributed.Client) -> set[Any]:
    """The keys of all calls that a worker has; this asks the scheduler."""
    return set().union(*client.processing().values())


async def _follow(future: ClusterFuture, outcomes: queue.SimpleQueue[Any]) -> None:
    """Wait for Dask's future, in the client's event loop."""
    try:
        result = await future.remote
    except FutureCancelledError as error:
        broken = concurrent.futures.BrokenExecutor(f"the cluster has dropped the call: {error}")
        broken.__cause__ = error
        outcomes.put((future, None, broken))
    except BaseException as error:
        outcomes.put((future, None, error))
        if isinstance(error, asyncio.CancelledError):  # the event loop ends
            raise
    else:
        outcomes.put((future, result, None))
    future.remote.release()


def _resolve(outcomes: queue.SimpleQueue[tuple[ClusterFuture, Any, BaseException | None] | None]) -> None:
    while (outcome := outcomes.get()) is not None:
        future, result, error = outcome
        del outcome
        future.resolve(result, error)
        del future, result, error
