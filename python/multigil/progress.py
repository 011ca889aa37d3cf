"""A progress bar over workers, in the manner of `tqdm.contrib.concurrent`: change the import, and keep the rest.

    from multigil.progress import interpreter_map  # or process_map, or map, which is interpreter_map

    results = interpreter_map(function, items, max_workers=2, desc="parsing")

tqdm itself is imported by the first call; `pip install tqdm`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import queue
import time
from functools import partial
from importlib import import_module
from operator import attrgetter, length_hint
from typing import TYPE_CHECKING, Any

from multigil._core import RLock, current_interpreter_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["interpreter_map", "map", "process_map"]


def map[T](
    fn: Callable[..., T],
    *iterables: Iterable[Any],
    max_workers: int | None = None,
    chunksize: int = 1,
    timeout: float | None = None,
    buffersize: int | None = None,
    executor: concurrent.futures.Executor | type[concurrent.futures.Executor] | None = None,
    tqdm_class: Any = None,
    **tqdm_kwargs: Any,
) -> list[T]:
    """Give `list(map(fn, *iterables))`, computed by interpreters, with a bar that moves for each finished item.

    max_workers: how many interpreters; by default what `InterpreterPoolExecutor` takes.
    chunksize: how many items are sent, and counted, at a time.
    timeout: seconds for all of it, then TimeoutError.
    buffersize: how many chunks may be on their way whose results are not the next ones in order.
    executor: `ProcessPoolExecutor` or another class, or an executor that is there, which stays open.
    tqdm_class: the bar's class, by default `tqdm.auto.tqdm`. Bars in the workers share its lock.
    tqdm_kwargs: of the bar; `total` is guessed from the lengths of the iterables. Those that the executor's class takes
    (`thread_name_prefix`, `mp_context`, `max_tasks_per_child`) are for it.

    Raises ModuleNotFoundError without tqdm, and what `fn` raised for the first item that failed. Then, at the timeout
    and at Ctrl-C, the rest is cancelled, and what runs is interrupted, in an executor that can do that.
    """
    from multigil import InterpreterPoolExecutor, ProcessPoolExecutor

    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    end = None if timeout is None else time.monotonic() + timeout
    if tqdm_class is None:
        tqdm_class = _tqdm()
    tqdm_kwargs.pop("lock_name", None)  # there is one lock for all
    options = {name: tqdm_kwargs.pop(name) for name in _OPTIONS if name in tqdm_kwargs}
    # As in tqdm: the bar's speed is that of all items so far, for they come in bursts.
    bar_options = {"total": _guessed_length(iterables), "smoothing": 0.0, **tqdm_kwargs}
    chunks = itertools.batched(zip(*iterables, strict=False), chunksize)
    if isinstance(executor, concurrent.futures.Executor):
        if max_workers is not None or options:
            raise TypeError(f"an executor that is there has its own {', '.join(['max_workers', *options])}")
        return _run(executor, fn, chunks, end, buffersize, tqdm_class, bar_options)
    with _SharedLock(tqdm_class) as lock:
        name = f"{tqdm_class.__module__}:{tqdm_class.__qualname__}"
        kind: Any = executor or InterpreterPoolExecutor
        if issubclass(kind, InterpreterPoolExecutor | ProcessPoolExecutor):
            options["cancel_running"] = True
        with kind(max_workers, initializer=_share_lock, initargs=(name, lock), **options) as pool:
            return _run(pool, fn, chunks, end, buffersize, tqdm_class, bar_options)


_OPTIONS = ("thread_name_prefix", "mp_context", "max_tasks_per_child")


def interpreter_map[T](fn: Callable[..., T], *iterables: Iterable[Any], **kwargs: Any) -> list[T]:
    """`map`, as tqdm calls it."""
    return map(fn, *iterables, **kwargs)


def process_map[T](fn: Callable[..., T], *iterables: Iterable[Any], **kwargs: Any) -> list[T]:
    """`map` in processes."""
    from multigil import ProcessPoolExecutor

    return map(fn, *iterables, **{"executor": ProcessPoolExecutor, **kwargs})


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        if error.name not in ("tqdm", "tqdm.auto"):
            raise
        raise ModuleNotFoundError("multigil.progress needs tqdm: pip install tqdm", name="tqdm") from None
    return tqdm


def _guessed_length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """The length of the shortest of those whose length is known."""
    lengths = [length_hint(iterable, -1) for iterable in iterables]
    return min((length for length in lengths if length >= 0), default=None)


class _SharedLock:
    """Gives a class of bars a lock that can be sent, in place of its own, for as long as it is needed."""

    def __init__(self, tqdm_class: Any) -> None:
        self._class = tqdm_class
        self._old: list[Any] = []

    def __enter__(self) -> RLock:
        old = vars(self._class).get("_lock")  # its own, not that of a base class
        lock = old if isinstance(old, RLock) else RLock()
        if lock is not old:
            self._old.append(old)
            self._class.set_lock(lock)
        return lock

    def __exit__(self, *_: object) -> None:
        for old in self._old:
            if old is None:
                del self._class._lock  # noqa: SLF001  (as tqdm.contrib.concurrent does)
            else:
                self._class.set_lock(old)


def _share_lock(name: str, lock: RLock) -> None:
    """Have bars of a worker and of its parent take turns, in a worker that can import them."""
    module, _, qualified_name = name.partition(":")
    try:
        tqdm_class = attrgetter(qualified_name)(import_module(module))
    except (ImportError, AttributeError):  # then it shows none
        return
    tqdm_class.set_lock(lock)
    if current_interpreter_id() != 0:
        tqdm_class.monitor_interval = 0  # its monitor is a daemon thread, of which an interpreter allows none


def _run(
    executor: concurrent.futures.Executor,
    fn: Callable[..., Any],
    chunks: Iterator[tuple[tuple[Any, ...], ...]],
    end: float | None,
    buffersize: int | None,
    tqdm_class: Any,
    bar_options: dict[str, Any],
) -> list[Any]:
    futures: collections.deque[concurrent.futures.Future[list[Any]]] = collections.deque()
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # how many items, for each chunk that has
    moving = 0  # chunks whose end the bar does not show yet
    results: list[Any] = []
    with tqdm_class(**bar_options) as bar:
        try:
            wanted = buffersize
            while moving or wanted != 0:
                for chunk in itertools.islice(chunks, wanted):
                    future = executor.submit(_run_chunk, fn, chunk)
                    futures.append(future)
                    future.add_done_callback(partial(_count, ended, len(chunk)))
                    moving += 1
                if not moving:
                    break
                bar.update(ended.get(timeout=None if end is None else max(end - time.monotonic(), 0)))
                moving -= 1
                wanted = 0
                while futures and futures[0].done():
                    results += futures.popleft().result()
                    wanted += 1
        except queue.Empty:
            raise TimeoutError from None
        finally:
            for future in futures:
                future.cancel()
    return results


def _count(ended: queue.SimpleQueue[int], items: int, _: concurrent.futures.Future[Any]) -> None:
    ended.put(items)


def _run_chunk(fn: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    return list(itertools.starmap(fn, chunk))
