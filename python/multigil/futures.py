"""`concurrent.futures`, with a GIL for every worker: `InterpreterPoolExecutor` and `ProcessPoolExecutor`.

Their interface is that of the standard library's executors of 3.14, on every version. Beside it:

* `submit` and its result cost microseconds, and `map` sends calls in parts that it chooses, so tiny tasks are worth it;
* functions of `__main__`, lambdas and closures can be submitted, and exceptions arrive as their own type, with the
  remote traceback, as those of `multigil.Interpreter`;
* a task that runs can be stopped (`cancel_running=True`), and one whose worker died can be run again (`retries=`).
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Never

from multigil import _exit, _pool, _worker
from multigil._core import NotShareable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import BrokenExecutor
    from concurrent.futures.process import BrokenProcessPool
    from concurrent.futures.thread import BrokenThreadPool
    from multiprocessing.context import BaseContext

    from multigil._worker import Worker

    class BrokenInterpreterPool(BrokenThreadPool):
        """A worker of an `InterpreterPoolExecutor` has died, or could not be initialized."""
else:

    def __getattr__(name: str) -> object:
        # Where the standard library has them takes long to import, and only who looks for them needs them.
        if name == "BrokenProcessPool":
            found = import_module("concurrent.futures.process").BrokenProcessPool
        elif name == "BrokenInterpreterPool" and sys.version_info >= (3, 14):
            found = import_module("concurrent.futures.interpreter").BrokenInterpreterPool
        elif name == "BrokenInterpreterPool":
            text = "A worker of an `InterpreterPoolExecutor` has died, or could not be initialized."
            base = import_module("concurrent.futures.thread").BrokenThreadPool
            found = type(name, (base,), {"__doc__": text, "__module__": __name__})
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, found)


__all__ = ["BrokenInterpreterPool", "BrokenProcessPool", "InterpreterPoolExecutor", "ProcessPoolExecutor"]


class _Automatic(int):
    """A number of calls that the pool chooses. It equals 1, the default of the standard library."""

    __slots__ = ()


_AUTOMATIC = _Automatic(1)

# As many as a pool may have: a ticket names its worker in 15 bits.
_MOST_WORKERS = 1 << 15


class _PoolExecutor(Executor):
    """What both executors have in common: all but what their workers are."""

    def _set_up(
        self,
        make: Callable[[str], Worker],
        broken: Callable[[str], BrokenExecutor],
        name: str,
        max_workers: int,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        max_tasks_per_child: int | None,
        retries: int,
        cancel_running: bool,
        reset_main: bool,
        inherit: Iterable[str],
    ) -> None:
        if not isinstance(max_workers, int):
            raise TypeError("max_workers must be an integer")
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        if not isinstance(retries, int):
            raise TypeError("retries must be an integer")
        if retries < 0:
            raise ValueError("retries must be >= 0")
        self._max_workers = min(max_workers, _MOST_WORKERS)  # which others look at
        self._pool = _pool.Pool(
            name=name,
            max_workers=self._max_workers,
            make=make,
            broken=broken,
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks=max_tasks_per_child,
            retries=retries,
            cancel_running=cancel_running,
            reset_main=reset_main,
            inherit=_worker.checked_inherit(inherit),
        )
        weakref.finalize(self, self._pool.close).atexit = False

    def submit[T, **P](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called by a worker, and give the future of its result.

        Function, arguments and result are copied, by pickle or, where that does not do, by value; what keeps them from
        being sent is the future's exception. Raises RuntimeError after `shutdown`, and the exception of a broken pool.
        """
        function: Any = fn
        arguments: tuple[Any, ...] = args
        if type(function) is partial and isinstance(getattr(function.func, "__self__", None), Context):
            # What asyncio.to_thread() sends: a call in a copy of its context, which belongs to this interpreter.
            function, arguments, kwargs = function.args[0], (*function.args[1:], *args), {**function.keywords, **kwargs}  # type: ignore[assignment]
        return self._pool.submit(function, arguments, kwargs)

    def map[T](
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = _AUTOMATIC,
        buffersize: int | None = None,
        cancel_running: bool | None = None,
    ) -> Iterator[T]:
        """Give an iterator of what `fn` gives for the items of the iterables, in their order, computed by the workers.

        Calls are sent in parts: each of `chunksize` calls, also if that is 1; without one, of as many as take some
        milliseconds. The results of a part come together, but each call has an outcome of its own: the first exception
        is raised when its turn comes, and what has not begun by then is cancelled. A worker with nothing to do takes
        over calls from the parts of others.

        With `buffersize`, at most so many calls are sent of which the result was not given yet; else the iterables are
        exhausted at once. TimeoutError is raised when a result is not there `timeout` seconds after this call. With
        `cancel_running` (default: the executor's), what runs then is interrupted.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if "submit" in vars(self):  # of its own, to see every task: tqdm.contrib.concurrent
            options: dict[str, Any] = {} if buffersize is None else {"buffersize": buffersize}
            return super().map(fn, *iterables, timeout=timeout, **options)
        calls = zip(*iterables, strict=False)
        size = None if chunksize is _AUTOMATIC else chunksize
        return self._pool.map(fn, calls, timeout, size, buffersize, cancel_running)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the workers when those that were submitted are done.

        With `wait`, return when that has come. With `cancel_futures`, tasks that have not begun are cancelled.
        """
        self._pool.close(cancel_futures=cancel_futures)
        if wait:
            self._pool.join()

    def terminate_workers(self) -> None:
        """End all workers now: processes by SIGTERM, interpreters by an exception in what they run.

        What has not begun is cancelled, what runs gets the exception of a broken pool, and nothing can be submitted any
        more.
        """
        self._pool.end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """End all workers as `terminate_workers` does, but processes by SIGKILL, without a chance to clean up."""
        self._pool.end_workers(signal.SIGKILL)

    def __reduce__(self) -> Never:
        raise NotShareable(f"a {type(self).__name__} belongs to the interpreter that made it")


class InterpreterPoolExecutor(_PoolExecutor, ThreadPoolExecutor):
    """Calls functions in a pool of interpreters, each with its own GIL: `concurrent.futures.InterpreterPoolExecutor`.

    At most `max_workers` interpreters (default: 4 more than there are processors, at most 32) are made, each when a
    task finds no other one idle, and named after `thread_name_prefix`. `initializer(*initargs)` is called first in
    each; if it raises, the pool is broken. A worker keeps its state between tasks.

    `max_tasks_per_child` replaces a worker after so many tasks. `retries` is how often a task is run again whose worker
    died; with 0, the death of a worker breaks the pool. `cancel_running` lets a future's `cancel()` interrupt a task
    that runs, with KeyboardInterrupt there. `reset_main` makes `__main__` after each task what it was before the first.
    `inherit` names what else workers take over, as for `multigil.Interpreter`.

    Raises the error of pickling the initializer.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        retries: int = 0,
        cancel_running: bool = False,
        reset_main: bool = False,
        inherit: Iterable[str] = (),
    ) -> None:
        self._set_up(
            _make_interpreter,
            _broken_interpreter_pool,
            thread_name_prefix or f"InterpreterPoolExecutor-{_new_interpreter_pool()}",
            min(32, (_processors() or 1) + 4) if max_workers is None else max_workers,
            initializer,
            initargs,
            max_tasks_per_child,
            retries,
            cancel_running,
            reset_main,
            inherit,
        )


class ProcessPoolExecutor(_PoolExecutor):
    """Calls functions in a pool of processes: `concurrent.futures.ProcessPoolExecutor`.

    At most `max_workers` processes (default: as many as there are processors) are started, each when a task finds no
    other one idle: fresh Pythons, never forks. So `mp_context` may be a context of `multiprocessing` that starts such
    ("spawn", "forkserver"), for the sake of programs that say it; "fork" is a ValueError. `executable` is the Python to
    run, as for `multigil.Process`. The rest is as for `InterpreterPoolExecutor`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        executable: str | os.PathLike[str] | None = None,
        retries: int = 0,
        cancel_running: bool = False,
        reset_main: bool = False,
        inherit: Iterable[str] = (),
    ) -> None:
        if mp_context is not None and mp_context.get_start_method() == "fork":
            raise ValueError("workers are fresh processes, not forks: use the context 'spawn' or 'forkserver', or none")
        self._set_up(
            partial(_make_process, None if executable is None else os.fspath(executable)),
            _broken_process_pool,
            f"ProcessPoolExecutor-{_new_process_pool()}",
            _processors() or 1 if max_workers is None else max_workers,
            initializer,
            initargs,
            max_tasks_per_child,
            retries,
            cancel_running,
            reset_main,
            inherit,
        )


_new_interpreter_pool = itertools.count().__next__
_new_process_pool = itertools.count().__next__


def _processors() -> int | None:
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # since 3.13
    return count()


def _make_interpreter(name: str) -> Worker:  # noqa: ARG001
    return _exit.take_worker()


def _make_process(executable: str | None, name: str) -> Worker:
    from multigil import _process

    path = _process.usable(executable)
    return _exit.take_worker(lambda: _process.ProcessWorker(name, False, path))


def _broken_interpreter_pool(text: str) -> BrokenExecutor:
    made: BrokenExecutor = sys.modules[__name__].BrokenInterpreterPool(text)
    return made


def _broken_process_pool(text: str) -> BrokenExecutor:
    made: BrokenExecutor = sys.modules[__name__].BrokenProcessPool(text)
    return made
