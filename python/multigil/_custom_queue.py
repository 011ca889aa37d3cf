"""What `Queue`, `LifoQueue` and `PriorityQueue` do in subclasses with hooks of their own: `_init _qsize _put _get`.

The hooks are Python's, and so are the items that they keep: such a queue works between the threads of one interpreter,
as those of the module `queue` do, by a mutex and three conditions. `ffi/python/src/custom.rs` calls these functions
with its own objects: the classes here have no instances.
"""

# ruff: noqa: ARG002, SLF001 - the hooks are called by anybody, and have the parameters of the standard library's

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from time import monotonic

# Our own lock and condition: a wait for those of threading could not be interrupted from another interpreter.
from multigil._core import Condition, Empty, Event, Full, Lock, ShutDown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Queue:
    """The methods of all queues with hooks, and the hooks of `Queue`."""

    queue: Any

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._init(maxsize)
        # Whoever calls a hook holds the mutex, which the conditions share.
        self.mutex = Lock()
        self.not_empty = Condition(self.mutex)
        self.not_full = Condition(self.mutex)
        self.all_tasks_done = Condition(self.mutex)
        self.unfinished_tasks = 0
        self.is_shutdown = False

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.not_full:
            _wait_for_place(self, block, timeout)
            _put(self, item)

    def put_nowait(self, item: Any) -> None:
        self.put(item, block=False)

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        items = list(items)
        time_left = _countdown(timeout)
        with self.not_full:
            for count, item in enumerate(items):
                try:
                    _wait_for_place(self, block, time_left())
                    _put(self, item)
                except BaseException as error:
                    error.count = count  # type: ignore[attr-defined]
                    error.add_note(f"put_many(): {count} of {len(items)} items were put")
                    raise

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self.not_empty:
            _wait_for_item(self, block, timeout)
            return _get(self)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def get_many(self, count: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        if count is not None and count < 0:
            raise ValueError("'count' must be a non-negative number")
        items: list[Any] = []
        if count == 0:
            return items
        with self.not_empty:
            _wait_for_item(self, block, timeout)
            try:
                while self._qsize() and (count is None or len(items) < count):
                    items.append(_get(self))
            except BaseException as error:
                error.items = items  # type: ignore[attr-defined]
                error.add_note(f"get_many(): {len(items)} items were taken before, see the attribute 'items'")
                raise
        return items

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has hooks for _put and _get, which cannot look at an item")

    def clear(self) -> None:
        with self.mutex:
            _throw_away(self)
            if not self.unfinished_tasks:
                self.all_tasks_done.notify_all()
            self.not_full.notify_all()
            _tell(self)

    def qsize(self) -> int:
        with self.mutex:
            return self._qsize()

    def empty(self) -> bool:
        with self.mutex:
            return not self._qsize()

    def full(self) -> bool:
        with self.mutex:
            return _is_full(self)

    def task_done(self) -> None:
        with self.all_tasks_done:
            if self.unfinished_tasks <= 0:
                raise ValueError("task_done() called too many times")
            self.unfinished_tasks -= 1
            if not self.unfinished_tasks:
                self.all_tasks_done.notify_all()
                _tell(self)

    def join(self) -> None:
        with self.all_tasks_done:
            self.all_tasks_done.wait_for(lambda: not self.unfinished_tasks)

    def shutdown(self, immediate: bool = False) -> None:
        with self.mutex:
            self.is_shutdown = True
            if immediate:
                _throw_away(self)
                self.all_tasks_done.notify_all()
            self.not_empty.notify_all()
            self.not_full.notify_all()
            _tell(self)

    async def aget(self) -> Any:
        from multigil import _asyncio

        return await _asyncio.attempted(self, self.get_nowait, Empty)

    async def aput(self, item: Any) -> None:
        from multigil import _asyncio

        await _asyncio.attempted(self, lambda: self.put_nowait(item), Full)

    async def ajoin(self) -> None:
        from multigil import _asyncio

        await _asyncio.attempted(self, lambda: _check_done(self), _NotDone)

    async def anext(self) -> Any:
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None

    def fileno(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has hooks, which no file descriptor tells of")

    def __next__(self) -> Any:
        try:
            return self.get()
        except ShutDown:
            raise StopIteration from None

    def _init(self, maxsize: int) -> None:
        self.queue = deque()

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: Any) -> None:
        self.queue.append(item)

    def _get(self) -> Any:
        return self.queue.popleft()


class LifoQueue(Queue):
    """The hooks of `LifoQueue`."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _get(self) -> Any:
        return self.queue.pop()


class PriorityQueue(Queue):
    """The hooks of `PriorityQueue`."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _put(self, item: Any) -> None:
        heappush(self.queue, item)

    def _get(self) -> Any:
        return heappop(self.queue)


# No methods: the objects that are given to these functions have those of the native classes only. All are called with
# the mutex held.


def _is_full(queue: Queue) -> bool:
    return 0 < queue.maxsize <= queue._qsize()


def _wait_for_place(queue: Queue, block: bool, timeout: float | None) -> None:
    if queue.is_shutdown:
        raise ShutDown
    if queue.maxsize > 0:
        _wait(queue.not_full, lambda: queue.is_shutdown or not _is_full(queue), block, timeout, Full)
        if queue.is_shutdown:
            raise ShutDown


def _wait_for_item(queue: Queue, block: bool, timeout: float | None) -> None:
    if not queue.is_shutdown or queue._qsize():
        _wait(queue.not_empty, lambda: queue.is_shutdown or queue._qsize(), block, timeout, Empty)
    if not queue._qsize():
        raise ShutDown


def _wait(
    condition: Condition, is_ready: Callable[[], object], block: bool, timeout: float | None, error: type[Exception]
) -> None:
    """Wait until something is so; raise `error` if that is not allowed, or takes too long."""
    if not block:
        timeout = 0
    elif timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    if not condition.wait_for(is_ready, timeout):
        raise error


def _countdown(timeout: float | None) -> Callable[[], float | None]:
    """Give what tells how much of a timeout is left."""
    if timeout is None or timeout < 0:
        return lambda: timeout
    end = monotonic() + timeout
    return lambda: max(0, end - monotonic())


def _put(queue: Queue, item: Any) -> None:
    queue._put(item)
    queue.unfinished_tasks += 1
    queue.not_empty.notify()
    _tell(queue)


def _get(queue: Queue) -> Any:
    item = queue._get()
    queue.not_full.notify()
    _tell(queue)
    return item


def _tell(queue: Queue) -> None:
    """Have those look who await something."""
    changed: Event | None = vars(queue).get(_CHANGED)
    if changed is not None:
        changed.set()
        changed.clear()


def changed(queue: Queue) -> Event:
    """What is set, and cleared at once, with each change from now on."""
    with queue.mutex:
        event: Event = vars(queue).setdefault(_CHANGED, Event())
    return event


# The attribute that it is, once somebody has awaited something.
_CHANGED = "_multigil_changed"


class _NotDone(Exception):
    """Not all items that were put have been reported done."""


def _check_done(queue: Queue) -> None:
    if queue.unfinished_tasks:
        raise _NotDone


def _throw_away(queue: Queue) -> None:
    while queue._qsize():
        queue._get()
        if queue.unfinished_tasks > 0:
            queue.unfinished_tasks -= 1
