"""The pools behind the executors: the end of the one who submits. The other end is `_pool_worker`.

    submit ── tasks, one queue for all ──→ whichever worker is free: claims its ticket, calls, sends the outcome
    settle ←─ results, one queue for all ─┘

**Who collects.** Nobody is told when an outcome arrives but who asks for one. `result()` takes what there is out of the
results itself until its own is among it, so that no other thread has to be woken on the way. A future that is watched
from outside (`wait`, `as_completed`, callbacks, another thread's `result()`) is known by its `_condition`, which is
made when somebody asks for it: from then on, a thread of the pool's collects.

**What becomes of a task.** Its ticket says whether a worker has begun with it (`ffi/python/src/pool.rs`). `cancel()`
and the workers decide by one compare-and-swap whether it runs.

**Parts of a map** (`_pool_map`) are as large as their calls are quick. A worker with nothing to do takes over the calls
of another one's part that have not begun, so that a wrong guess costs nothing, and no call waits behind another one
while a worker is idle.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections import deque
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from time import monotonic
from typing import TYPE_CHECKING, Any

from multigil import _exit, _hooks, _transfer, _worker
from multigil._core import (
    Array,
    Empty,
    Queue,
    ShutDown,
    SimpleQueue,
    Subinterpreter,
    current_interpreter_id,
    put_numbered,
    take_outcomes,
)
from multigil._pool_functions import packed
from multigil._pool_future import DONE, PoolFuture
from multigil._pool_map import Mapping, Part
from multigil._pool_worker import (
    ENDED,
    FAILED,
    IDLE,
    LEFT,
    LOOK,
    NEWS,
    READY,
    TICKET_BITS,
    UNUSABLE,
)
from multigil._worker import SERVE, InterpreterDied, Worker, put_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import BrokenExecutor

_TICKETS = 1 << TICKET_BITS
_MOST_PENDING = _TICKETS  # tasks that are sent and have no outcome; all others wait here
_PLACE = _TICKETS - 1
# The elements of the tickets' array after the tickets.
_CHANGES = _TICKETS
_SPLITTABLE = _TICKETS + 1
# A ticket whose task has begun: the bit, and where the worker's index and its count of tasks are.
_BEGUN = 1 << 63
_WORKER_SHIFT = 48
_INDEX = (1 << 15) - 1
_COUNT = (1 << _WORKER_SHIFT) - 1
# A part's span is `end << 32 | next`.
_FIRST_WORD = (1 << 32) - 1

# ruff: noqa: SLF001  (the fields of futures are looked at where a call would cost as much as all else)


class Pool:
    """Workers that share a queue of tasks, and what has become of those.

    `make` gives a new worker of that name; `broken` makes the exception of a pool that is not usable any more.
    """

    def __init__(
        self,
        *,
        name: str,
        max_workers: int,
        make: Callable[[str], Worker],
        broken: Callable[[str], BrokenExecutor],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks: int | None,
        retries: int,
        cancel_running: bool,
        reset_main: bool,
        inherit: frozenset[str],
    ) -> None:
        self.max_workers = max_workers
        self.cancel_running = cancel_running
        self._name = name
        self._make = make
        self._make_broken = broken
        self._initialization: tuple[Any, ...] = (initializer or type(None), initargs, {})
        put_any(SimpleQueue(), self._initialization)  # what cannot be sent raises here
        self._max_tasks = max_tasks
        self._retries = retries
        self._replaces = retries > 0 or max_tasks is not None  # workers, and so somebody has to see that one has ended
        self._reset_main = reset_main
        self._inherit = inherit

        self._tasks: Queue[Any] = Queue(redeliver=retries > 0)
        self._results: Queue[Any] = Queue()
        self._settings: Queue[Any] = Queue()
        self._tickets = Array("Q", _TICKETS + 2, lock=False)
        self._spans = Array("Q", _TICKETS, lock=False)
        self._known = _worker.snapshot()
        self._processors = len(os.sched_getaffinity(0))

        # Of what is sent, of who is there, and of outcomes. `_collecting` is taken before it; futures' conditions, then
        # `watching`, after it.
        self._lock = threading.RLock()
        self._workers: dict[int, Worker] = {}
        self._made = 0
        self._ready: set[int] = set()
        self._leaving: set[int] = set()
        self._sequence = 0
        self._fresh = 0  # tickets that were never used are those from here on
        self._free: list[int] = []
        # Tasks without an outcome. None stands for one that was cancelled while it ran.
        self._pending: dict[int, PoolFuture | None] = {}
        self._backlog: deque[PoolFuture] = deque()  # for which there is no ticket yet
        self._maps: list[Mapping] = []  # those that have calls to send, or parts that may be split
        self._splittable = 0  # parts that may be split
        self._closing = False
        self._failure: tuple[str, BaseException | None] | None = None  # why the pool is not usable any more
        self._end = PoolFuture(self)  # settled when the last worker has ended after the shutdown

        self._collecting = threading.RLock()  # held by who takes results
        self._arrived: deque[tuple[int, Any, BaseException | None]] = deque()
        self._handling = False  # somebody deals with what has arrived
        self.watching = threading.RLock()  # held while a future that nobody watches becomes watched or gets its outcome
        self._watched: set[PoolFuture] = set()  # those without an outcome that others watch
        self._to_call: deque[PoolFuture] = deque()  # futures with an outcome whose callbacks were not called yet
        self._bell = threading.Lock()  # wakes the pool's thread
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()  # an executor that the garbage collector finds meanwhile closes its pool
        _exit.register_pool(self)

    # --- sending ------------------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PoolFuture:
        """Send a task. Raises RuntimeError after the shutdown, and the exception of a broken pool."""
        hooks = _hooks.present()
        if hooks is not None:
            function, args, kwargs = _hooks.call, (hooks, function, args, kwargs), {}
        call = (packed(function), args, kwargs)
        future = PoolFuture(self)
        with self._lock:
            if self._closing or self._failure is not None:
                self.check()
            if self._backlog or (len(self._pending) >= _MOST_PENDING and not self._has_room()):
                future.call = call
                self._backlog.append(future)
            else:
                number = self._begin(future)
                if self._retries:
                    future.call = call
        if future.number:
            self._send(future, number, call)
        if self._replaces or not future.number:
            self._ring()
        return future

    def check(self) -> None:
        """Raise what keeps tasks from being sent."""
        if self._failure is not None:
            raise self._broken()
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _broken(self) -> BrokenExecutor:
        assert self._failure is not None
        return self._broken_by(*self._failure)

    def _broken_by(self, text: str, cause: BaseException | None) -> BrokenExecutor:
        error = self._make_broken(text)
        error.__cause__ = cause
        return error

    def _unsettled(self) -> list[PoolFuture]:
        """The futures of all tasks that have no outcome, sent or not."""
        return [*filter(None, self._pending.values()), *self._backlog]

    def _has_room(self) -> bool:
        if len(self._pending) >= _MOST_PENDING:
            self.collect_what_is_there()
        return len(self._pending) < _MOST_PENDING

    def _begin(self, future: PoolFuture) -> int:
        """Give a task a ticket and a number, and see to it that there is a worker for it."""
        if not _worker.is_current(self._known):
            self._tell_settings()
        if self._free:
            ticket = self._free.pop()
        else:
            ticket = self._fresh
            self._fresh += 1
        self._sequence += 1
        number = future.number = self._sequence << TICKET_BITS | ticket
        self._tickets[ticket] = number
        self._pending[number] = future
        if self._needs_worker():
            try:
                self.collect_what_is_there()  # perhaps somebody is idle
                if self._needs_worker():
                    self._add_worker()
            except BaseException as error:
                if not self._workers or not isinstance(error, Exception):  # otherwise the others will do
                    self._forget(number)
                    raise
        return number

    def _needs_worker(self) -> bool:
        """Whether there are more tasks, or parts of some, than workers, and more workers may be made."""
        return len(self._workers) < min(len(self._pending) + self._splittable, self.max_workers)

    def _tell_settings(self) -> None:
        self._known = _worker.snapshot()
        changes = self._tickets[_CHANGES] + 1
        self._settings.put((changes, self._known))
        if changes > 1:
            self._settings.get()
        self._tickets[_CHANGES] = changes

    def _forget(self, number: int) -> None:
        """Take back a task that no worker has, and its ticket."""
        if self._pending.pop(number, self) is not self:
            self._free.append(number & _PLACE)

    def _send(self, future: PoolFuture, number: int, call: tuple[Any, ...]) -> int:
        """Put a task into the queue, and give the bytes that it takes. What keeps it from being sent is its outcome."""
        try:
            try:
                return put_numbered(self._tasks, number, call)
            except (MemoryError, ShutDown):
                raise
            except Exception:
                return put_numbered(self._tasks, number, _transfer.ByValue(call))
        except ShutDown:
            self._forget(number)
            with self._lock:
                self.check()
            raise RuntimeError("cannot schedule new futures after shutdown") from None
        except KeyboardInterrupt:
            self._forget(number)
            raise
        except BaseException as error:
            with self._lock:
                self._forget(number)
                self._settle(future, FINISHED, None, error)
            return 0

    def _add_worker(self) -> None:
        """Make a worker. Raises what keeps it from being made."""
        index = next(index for index in itertools.count() if index not in self._workers)
        name = f"{self._name}_{self._made}"
        inheritance = _worker.inheriting().capture(self._inherit) if self._inherit else None
        shared = (self._tasks, self._results, self._settings, self._tickets, self._spans)
        how = (index, self._max_tasks, self._reset_main, self._retries > 0, inheritance)
        box: SimpleQueue[Any] = SimpleQueue()
        box.put((*shared, *how))
        put_any(box, self._initialization)
        worker = self._make(name)
        self._made += 1
        worker.body.daemon = False
        worker.body.name = name
        self._workers[index] = worker
        worker.body.tell(self._results, ENDED | index)
        worker.send(SERVE, 0, box)

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait_for(self, future: PoolFuture, timeout: float | None) -> None:
        """Wait until a future has its outcome. Raises TimeoutError when it has not within `timeout` seconds."""
        deadline = None if timeout is None else monotonic() + max(timeout, 0)
        if self._collecting.acquire(blocking=False):
            try:
                while future._state not in DONE:
                    self._take(True, None if deadline is None else max(deadline - monotonic(), 0))
            except Empty:
                pass
            finally:
                self._stop_collecting()
        else:
            future.wait_outside(timeout)
        if future._state not in DONE:
            raise TimeoutError

    def collect_what_is_there(self) -> None:
        """Give futures the outcomes that have arrived."""
        if self._handling or (self._results.empty() and not self._arrived):
            return
        if not self._collecting.acquire(blocking=False):
            return
        try:
            self._take(False, None)
        except Empty:
            pass
        finally:
            self._stop_collecting()

    def _stop_collecting(self) -> None:
        self._collecting.release()
        if self._is_wanted():
            self._ring()

    def _take(self, block: bool, timeout: float | None) -> None:
        """Take results and deal with them. Raises Empty."""
        if not self._arrived:
            # Who spins while all processors are busy keeps them from the work that it waits for.
            spin = len(self._pending) < self._processors
            take_outcomes(self._results, self._arrived.extend, block, timeout, spin)
        with self._lock:
            self._handling = True
            try:
                # Whatever disturbs this comes back to the same one.
                while self._arrived:
                    arrived = self._arrived[0]
                    number, value, error = arrived
                    future = self._pending.get(number)
                    if type(future) is PoolFuture and future.settle_unwatched(value, error):
                        self._forget(number)
                    else:
                        self._handle(number, value, error)
                    if self._arrived and self._arrived[0] is arrived:
                        self._arrived.popleft()
            finally:
                self._handling = False
            if self._maps or self._backlog or self._closing:
                self._go_on()

    def _handle(self, number: int, value: Any, error: BaseException | None) -> None:
        if number >= FAILED:
            if number & NEWS:
                self._hear(number & ~_INDEX, number & _INDEX, value, error)
                return
            number ^= FAILED
            value, error = None, error or value
        future = self._pending.get(number)
        if future is not None:
            self._settle(future, FINISHED, value, error)
        self._forget(number)

    def _settle(self, future: PoolFuture, state: str, value: Any, error: BaseException | None) -> None:
        """Give a future its outcome; the pool's thread will call back."""
        future.settle(state, value, error)
        if self._watched and future in self._watched and future._state in DONE:
            self._watched.discard(future)
            if future._done_callbacks:
                self._to_call.append(future)

    def watch(self, future: PoolFuture) -> dict[str, Any]:
        """Make the parts of a future that others watch."""
        parts = vars(future)
        with self.watching:
            if "_condition" in parts:
                return parts
            parts["_waiters"], parts["_done_callbacks"] = [], []
            parts["_condition"] = threading.Condition()
            if future._state in DONE:
                return parts
            self._watched.add(future)
        self._ring()
        return parts

    def _is_wanted(self) -> bool:
        """Whether the pool's thread has something to do."""
        if self._closing and self._end._state not in DONE:
            return True
        replacing = self._replaces and self._pending
        return bool(self._watched or self._to_call or self._backlog or self._maps or replacing)

    def _ring(self) -> None:
        """Have the pool's thread look whether there is something to do."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    # A sub-interpreter allows no daemon threads; the program's end waits for pools before that.
                    daemon = current_interpreter_id() == 0
                    thread = threading.Thread(target=self._collect, name="multigil-pool", daemon=daemon)
                    try:
                        thread.start()
                    except RuntimeError:  # at the end of the program, which waits for the pool and so collects itself
                        return
                    self._thread = thread
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _collect(self) -> None:
        """What the pool's thread does."""
        while self._end._state not in DONE or self._is_wanted():
            self._bell.acquire()
            while self._is_wanted():
                with self._collecting:
                    if self._is_wanted() and not self._to_call:
                        try:
                            self._take(True, None)
                        except Exception as error:
                            self._fail("The results of the pool's tasks could not be taken", error)
                self._call_back()

    def _call_back(self) -> None:
        """Call the callbacks of futures that have their outcomes."""
        while self._to_call:
            try:
                self._to_call.popleft().call_back()
            except BaseException as error:  # which is no Exception: those were logged
                what = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(what))

    # --- what has become of tasks and workers -------------------------------------------------------------------

    def has_begun(self, future: PoolFuture) -> bool:
        """Whether a worker has begun with the task of a future that has no outcome."""
        return future.number != 0 and self._tickets[future.number & _PLACE] & _BEGUN != 0

    def cancel(self, future: PoolFuture, *, running: bool | None = None) -> bool:
        """Cancel a task, also one that has begun if `running` is true; whether it is cancelled then."""
        self.collect_what_is_there()
        strike = None
        with self._lock:
            if future._state in DONE:
                return future._state == CANCELLED_AND_NOTIFIED
            if not self._take_back(future):
                if not (self.cancel_running if running is None else running):
                    return False
                ticket = self._tickets[future.number & _PLACE]
                strike = self._workers.get(ticket >> _WORKER_SHIFT & _INDEX), ticket & _COUNT
                self._pending[future.number] = None
            future.settle(CANCELLED_AND_NOTIFIED, None, None)
            self._watched.discard(future)
        if strike is not None and strike[0] is not None:
            strike[0].interrupt(strike[1])
        self._look()
        if future.is_watched():
            future.call_back()
        return True

    def _take_back(self, future: PoolFuture) -> bool:
        """Keep a task from being begun; False if it has been."""
        if future.number == 0:
            if future in self._backlog:
                self._backlog.remove(future)
            return True
        if not self._tickets.compare_exchange(future.number & _PLACE, future.number, 0):
            return False
        self._forget(future.number)
        return True

    def _look(self) -> None:
        """Wake whoever waits for results: something else has happened."""
        put_numbered(self._results, LOOK, None)

    def _hear(self, news: int, index: int, value: Any, error: BaseException | None) -> None:
        if news == READY:
            self._ready.add(index)
        elif news == LEFT:
            self._leaving.add(index)
        elif news == UNUSABLE:
            self._fail("The initializer of a worker failed, the pool is not usable anymore", error or value)
        elif news == IDLE:
            self._split()
        elif news == ENDED:
            self._bury(index)

    def _bury(self, index: int) -> None:
        """Do what is to be done when a worker has ended."""
        with self._lock:
            worker = self._workers.pop(index, None)
            if worker is None:
                return
            was_ready, was_leaving = index in self._ready, index in self._leaving
            self._ready.discard(index)
            self._leaving.discard(index)
            if not was_leaving and self._failure is None:
                self._mourn(index, worker, was_ready)
            if self._failure is None and self._needs_worker():
                if self._tasks.is_shutdown and self._tasks.empty():
                    if not self._workers:
                        self._fail("Tasks of the pool were lost", None)
                    return
                try:
                    self._add_worker()
                except Exception as error:
                    self._fail("A worker could not be replaced, the pool is not usable anymore", error)

    def _mourn(self, index: int, worker: Worker, was_ready: bool) -> None:
        """A worker has died: the pool is broken, or the tasks that the worker had begun with are begun anew."""
        name = worker.body.name
        cause = InterpreterDied(f"{name} {worker.fate()}")
        begun = 1 << 15 | index
        tickets = self._tickets
        lost = [item for item in self._pending.items() if tickets[item[0] & _PLACE] >> _WORKER_SHIFT == begun]
        if not (self._retries and was_ready):
            if self._pending or not self._closing:
                text = f"A worker of the pool died ({cause}), the pool is not usable anymore"
                self._fail(text, cause)
            return
        for number, future in lost:
            self._forget(number)
            if future is None:
                continue
            future.attempts += 1
            if future.attempts > self._retries:
                text = f"{future.attempts} workers died while they performed the task, the last: {cause}"
                self._settle(future, FINISHED, None, self._broken_by(text, cause))
            else:
                self.send(future)

    def send(self, future: PoolFuture) -> None:
        """Send a task that keeps its call, now or when there is room. With the lock held."""
        if not self._has_room():
            self._backlog.append(future)
            return
        try:
            number = self._begin(future)
            future.size = self._send(future, number, future.numbered_call())
        except BaseException as error:
            self._settle(future, FINISHED, None, error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, text: str, cause: BaseException | None) -> None:
        """Break the pool: nothing is sent any more, what has no outcome gets that one, and all workers end."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = text, cause
            self._tasks.shutdown(immediate=True)
            waiting = self._unsettled()
            self._pending.clear()
            self._backlog.clear()
            for mapping in self._maps:
                mapping.waiting.clear()
                mapping.error = self._broken()
            self._maps.clear()
            for future in waiting:
                self._settle(future, FINISHED, None, self._broken())
            self._end_workers()

    def _end_workers(self, number: signal.Signals | None = None) -> None:
        """Have all workers end now; processes by a signal, interpreters by InterpreterTerminated."""
        for worker in self._workers.values():
            worker.terminated = True
            if isinstance(worker.body, Subinterpreter):
                worker.body.terminate(0)
            else:
                worker.body.send_signal(number or signal.SIGTERM)

    # --- maps ---------------------------------------------------------------------------------------------------

    def map(
        self,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        cancel_running: bool | None,
    ) -> Iterator[Any]:
        """Send calls of a function, in parts, and give their results in the same order."""
        deadline = None if timeout is None else monotonic() + timeout
        function = packed(function)
        mapping = Mapping(self, function, calls, chunksize, buffersize)
        with self._lock:
            self.check()
        mapping.fetch()  # which may do anything, use the pool as well
        self.feed(mapping)
        if mapping.needs_pool():
            self._ring()
        return mapping.results(deadline, cancel_running)

    def _go_on(self) -> None:
        """Send what there is room for now, and end what is at its end. With the lock held."""
        for mapping in self._maps:
            mapping.feed()
        self._maps = [mapping for mapping in self._maps if mapping.needs_pool()]
        while self._backlog and len(self._pending) < _MOST_PENDING:
            self.send(self._backlog.popleft())
        if self._closing:
            self._finish()

    def feed(self, mapping: Mapping) -> None:
        """Send what a map has to send. Raises RuntimeError after the shutdown."""
        with self._lock:
            if mapping.waiting:
                self.check()
                mapping.feed()
                if mapping not in self._maps:
                    self._maps.append(mapping)

    def set_span(self, number: int, count: int) -> int:
        """Begin the span of a part anew; gives its ticket."""
        ticket = number & _PLACE
        self._spans[ticket] = count << 32
        return ticket

    def begun_calls(self, part: Part) -> int:
        """How many calls of a part have begun."""
        span: int = self._spans[part.number & _PLACE] if part.number else 0
        return span & _FIRST_WORD

    def count_splittable(self, change: int) -> None:
        """Tell workers whether there are parts that may be split."""
        before = self._splittable
        self._splittable += change
        self._tickets[_SPLITTABLE] = self._splittable
        if before == 0:
            # Those that would go on sleeping when the part is sent: a task that is none has them look.
            for _ in range(len(self._pending) + 1, len(self._workers)):
                put_numbered(self._tasks, LOOK, None)

    def _split(self) -> None:
        """Take the second half of the largest part from its worker: another one has nothing to do."""
        with self._lock:
            parts = [future for future in self._pending.values() if isinstance(future, Part) and len(future.calls) > 1]
            for part in sorted(parts, key=lambda part: len(part.calls) - self.begun_calls(part), reverse=True):
                ticket = part.number & _PLACE
                span = self._spans[ticket]
                begun, end = span & _FIRST_WORD, span >> 32
                middle = begun + (end - begun) // 2
                if 0 < begun < end and self._spans.compare_exchange(ticket, span, middle << 32 | begun):
                    part.divide(middle, end)
                    return

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end when those that there are have their outcomes."""
        with self._lock:
            self._closing = True
            if cancel_futures:
                for mapping in self._maps:
                    mapping.waiting.clear()
                waiting = self._unsettled()
            else:
                waiting = []
        for future in waiting:
            self.cancel(future, running=False)
        self._finish()
        self._look()
        if self._is_wanted():
            self._ring()

    def _finish(self) -> None:
        """Let the workers end when there is nothing to send any more. The end is when the last of them has ended."""
        with self._lock:
            sends = (
                self._backlog
                or any(mapping.needs_pool() for mapping in self._maps)
                or (self._retries and self._pending)
            )
            if not sends:
                self._tasks.shutdown()
            if not self._workers and not self._pending and not sends:
                self._settle(self._end, FINISHED, None, None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all workers have ended, after `close`, and all callbacks were called."""
        self.wait_for(self._end, timeout)
        self._ring()
        thread = self._thread
        if thread is None:
            self._call_back()
        elif thread.ident != threading.get_ident():  # a callback may end the program's pools
            thread.join()
        if self._inherit:
            _worker.inheriting().flush(timeout)

    def end_workers(self, number: signal.Signals) -> None:
        """End all workers at once: by a signal if they are processes."""
        with self._lock:
            self._retries = 0
        self.close(cancel_futures=True)
        with self._lock:
            self._end_workers(number)

    def leave_to_parent(self) -> None:
        """In a forked child: queues and workers are the parent's, and no other thread is here."""
        self._lock, self._collecting, self.watching = threading.RLock(), threading.RLock(), threading.RLock()
        self._failure = "The pool belongs to the process that was forked", None
        for future in self._unsettled():
            future._exception, future._state = self._broken(), FINISHED
        self._workers.clear()
        self._pending.clear()
        self._backlog.clear()
        self._maps.clear()
        self._watched.clear()
        self._arrived.clear()
        self._thread = None
        self._results, self._tasks = Queue(), Queue()
