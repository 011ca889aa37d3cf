"""A backend of joblib that runs `Parallel` in interpreters with a GIL of their own, or in multigil's processes.

    import multigil.joblib  # registers it
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("multigil", n_jobs=2):
        squares = Parallel()(delayed(square)(i) for i in range(1000))

`parallel_config("multigil", kind="process")` is for functions that need NumPy and what else loads in no interpreter.
Workers stay for further calls of `Parallel` until the block, or the `Parallel` object that named the backend, is gone.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pickle
import weakref
from typing import TYPE_CHECKING, Any

try:
    from joblib import cpu_count, register_parallel_backend
    from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend
except ImportError as error:  # with all that it says
    raise ImportError("multigil.joblib needs joblib: pip install 'multigil[joblib]'") from error

from multigil import InterpreterPoolExecutor, ProcessPoolExecutor, _joblib_worker, _transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from joblib import Parallel

__all__ = ["MultigilBackend"]

type Pool = InterpreterPoolExecutor | ProcessPoolExecutor


class MultigilBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of `Parallel` in an executor of multigil's.

    `kind` is "interpreter" or "process". `options` are those of `InterpreterPoolExecutor` or `ProcessPoolExecutor`.
    What is asked of joblib for loky alone (`temp_folder`, `max_nbytes`, `mmap_mode`) changes nothing here.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        kind: str = "interpreter",
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **options: Any,
    ) -> None:
        if kind not in ("interpreter", "process"):
            raise ValueError(f"unknown kind {kind!r}, there are 'interpreter' and 'process'")
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.kind = kind
        self.supports_inner_max_num_threads = kind == "process"  # nothing that has such threads loads in an interpreter
        self._initializer = (initializer or type(None), tuple(initargs))
        self._options = options
        self._pool: Pool | None = None
        self._size = 0
        self._shut_down: weakref.finalize[Any, Any] | None = None
        self._owner: weakref.ref[Parallel] | None = None

    @property
    def parallel(self) -> Parallel | None:
        """The object that uses this one. It owns this one, which so must not keep it alive, nor its workers."""
        return None if self._owner is None else self._owner()

    @parallel.setter
    def parallel(self, parallel: Parallel | None) -> None:
        self._owner = None if parallel is None else weakref.ref(parallel)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` stands for: negative ones count down from the number of processors."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        count = int(n_jobs)
        return count if count > 0 else max(cpu_count() + 1 + count, 1)

    def configure(self, n_jobs: int = 1, parallel: Parallel | None = None, **ignored: Any) -> int:
        """Get ready for calls of `parallel`, and say how many workers there will be."""
        del ignored
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        if self._size != n_jobs:
            self._leave_pool()
            self._size = n_jobs
        return n_jobs

    def submit(
        self, func: Any, callback: Callable[[concurrent.futures.Future[Any]], Any] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Run a batch of joblib's; the callback gets the future. Whatever goes wrong is the future's error."""
        try:
            future = self._submit(func)
        except Exception as error:  # joblib would wait for ever: it submits in callbacks
            future = concurrent.futures.Future()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    # The name in joblib before 1.5.
    apply_async = submit

    def retrieve_result_callback(self, future: concurrent.futures.Future[Any]) -> Any:
        """Give the results of a batch, or raise what it raised."""
        return future.result()

    def terminate(self) -> None:
        """End a call of `Parallel`; the workers stay for the next one."""
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the workers, whatever they do; there will be new ones for the next batch."""
        del ensure_ready
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._shut_down is not None:
                self._shut_down.detach()
            pool.terminate_workers()

    def _submit(self, batch: Any) -> concurrent.futures.Future[Any]:
        if self._pool is not None:
            with contextlib.suppress(concurrent.futures.BrokenExecutor):
                return self._send(self._pool, batch)
            self._leave_pool()
        return self._send(self._make_pool(), batch)

    def _send(self, pool: Pool, batch: Any) -> concurrent.futures.Future[Any]:
        if self.kind == "process":
            return pool.submit(batch)  # sets the backend of nested calls, too
        return pool.submit(_joblib_worker.run_batch, batch.items)

    def _make_pool(self) -> Pool:
        kind = InterpreterPoolExecutor if self.kind == "interpreter" else ProcessPoolExecutor
        environment = None if self.kind == "interpreter" else self._prepare_worker_env(n_jobs=self._size)
        pool: Pool = kind(
            self._size,
            initializer=_joblib_worker.start,
            initargs=(environment, pickle.dumps(_transfer.ByValue(self._initializer))),
            **self._options,
        )
        self._pool = pool
        self._shut_down = weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
        self._shut_down.atexit = False  # the end of the program is the pool's own affair
        return pool

    def _leave_pool(self) -> None:
        self._pool = None
        if self._shut_down is not None:
            self._shut_down()
            self._shut_down = None


register_parallel_backend("multigil", MultigilBackend)
