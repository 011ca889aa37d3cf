"""The pools behind the executors: the end of the one who submits. The other end is `_pool_worker`.

    submit ── tasks, one queue for all ──→ whichever worker is free: claims its ticket, calls, sends the outcome
    settle ←─ results, one queue for all ─┘

**Who collects.** Nobody is told when an outcome arrives but who asks for one. `result()` takes what there is out of the
results itself until its own is among it, so that no other thread has to be woken on the way. A future that is watched
from outside (`wait`, `as_completed`, callbacks, another thread's `result()`) is recognized by its `_condition`, which is
made when somebody asks for it: from then on, a thread of the pool's collects.

**What a future is when.** A task's ticket says whether a worker has begun with it (`ffi/python/src/pool.rs`). `cancel()`
and the workers decide by one compare-and-swap whether it runs.

**Parts of a map** are as large as their calls are quick: about `_SECONDS_OF_PART` of work. A worker that has nothing to
do takes over the calls of another one's part that have not begun, so that a wrong guess costs nothing, and no call waits
behind another one while a worker is idle.
"""

from __future__ import annotations

import itertools
import signal
import threading
import types
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING  # as asyncio does not need to
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
)
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
    ByToken,
    run_part,
)
from multigil._worker import SERVE, InterpreterDied, Worker, put_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TICKETS = 1 << TICKET_BITS
_PLACE = _TICKETS - 1
# The elements of the tickets' array after the tickets.
_CHANGES = _TICKETS
_SPLITTABLE = _TICKETS + 1
# A ticket whose task has begun: the bit, and where the worker's index and its count of tasks are.
_BEGUN = 1 << 63
_WORKER_SHIFT = 48
_INDEX = (1 << 15) - 1
_COUNT = (1 << _WORKER_SHIFT) - 1
# What is not a worker's index in news.
_KIND = ~_INDEX

# How long a part of a map should run. The pool may need as long to send the next one, while the program keeps the GIL.
_SECONDS_OF_PART = 0.005
_MOST_CALLS = 1 << 14
_MOST_BYTES = 1 << 20
_FIRST_WORD = (1 << 32) - 1

_DONE = (CANCELLED_AND_NOTIFIED, FINISHED)
_WATCHED_PARTS = ("_condition", "_waiters", "_done_callbacks")


class PoolFuture(Future[Any]):
    """The future of a pool's task. What others need to watch it is made when they ask for it."""

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    number = 0  # of its task; 0 as long as that waits to be sent
    attempts = 0
    call: tuple[Any, ...] | None = None  # kept where it may have to be sent again

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        if name in _WATCHED_PARTS:
            return self._pool.watch(self)[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        state = self._state if self.done() else RUNNING if self.running() else PENDING
        outcome = ""
        if state == FINISHED:
            error = self._exception
            outcome = f" returned {type(self._result).__name__}" if error is None else f" raised {type(error).__name__}"
        shown = "cancelled" if state == CANCELLED_AND_NOTIFIED else state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={shown}{outcome}>"

    def done(self) -> bool:
        """Whether it has an outcome or is cancelled."""
        if self._state not in _DONE:
            self._pool.collect_what_is_there()
        return self._state in _DONE

    def running(self) -> bool:
        """Whether a worker has begun with the task."""
        return not self.done() and self._pool.has_begun(self)

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Take the task back. One that a worker has begun with is interrupted if the pool does that; else False."""
        return self._pool.cancel(self)

    def result(self, timeout: float | None = None) -> Any:
        """Give what the call gave, or raise what it raised.

        Raises TimeoutError after `timeout` seconds, and CancelledError if the task was cancelled.
        """
        try:
            if self._state not in _DONE:
                self._pool.wait_for(self, timeout)
            if self._state == CANCELLED_AND_NOTIFIED:
                raise CancelledError
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            del self  # the exception's traceback leads here, and this object to the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Give the exception that the call raised, or None. Waits and raises as `result` does."""
        if self._state not in _DONE:
            self._pool.wait_for(self, timeout)
        if self._state == CANCELLED_AND_NOTIFIED:
            raise CancelledError
        return self._exception

    # --- what the pool calls ------------------------------------------------------------------------------------

    def is_watched(self) -> bool:
        """Whether others look at its parts."""
        return "_condition" in vars(self)

    def settle(self, state: str, result: Any, error: BaseException | None) -> None:
        """Give it its outcome, once, and tell who waits for it. With the pool's lock held."""
        if self._state in _DONE:
            return
        self.call = None
        with self._pool.watching:
            if not self.is_watched():
                self._result, self._exception, self._state = result, error, state
                return
        # Whoever watches several holds the conditions of some of them while it makes the next one.
        with self._condition:
            self._result, self._exception, self._state = result, error, state
            for waiter in self._waiters:
                if state != FINISHED:
                    waiter.add_cancelled(self)
                elif error is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()

    def call_back(self) -> None:
        """Call what was to be called when it is done."""
        self._invoke_callbacks()  # type: ignore[attr-defined]

    def renumbered(self, call: tuple[Any, ...]) -> tuple[Any, ...]:
        """The call to be sent under the number that it has now."""
        return call

    def wait_outside(self, timeout: float | None) -> None:
        """Wait for another thread to settle it."""
        with self._condition:
            if self._state not in _DONE:
                self._condition.wait(timeout)


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
        inheritance: Any,
    ) -> None:
        self.max_workers = max_workers
        self.cancel_running = cancel_running
        self._name = name
        self._make = make
        self._make_broken = broken
        self._initialization = (initializer or type(None), initargs, {})
        put_any(SimpleQueue(), self._initialization)  # what cannot be sent raises here
        self._max_tasks = max_tasks
        self._retries = retries
        self._reset_main = reset_main
        self._inheritance = inheritance

        self._tasks: Queue[Any] = Queue(redeliver=retries > 0)
        self._results: Queue[Any] = Queue()
        self._settings: Queue[Any] = Queue()
        self._tickets = Array("Q", _TICKETS + 2, lock=False)
        self._spans = Array("Q", _TICKETS, lock=False)
        self._known = _worker.snapshot()

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
        self._closing = False
        self._failure: tuple[str, BaseException | None] | None = None  # why the pool is not usable any more
        self._end = PoolFuture(self)  # settled when the last worker has ended after the shutdown

        self._collecting = threading.RLock()  # held by who takes results
        self._arrived: deque[tuple[int, Any, BaseException | None]] = deque()
        self.watching = threading.RLock()  # held while a future that nobody watches becomes watched or gets its outcome
        self._watched: set[PoolFuture] = set()  # those without an outcome that others watch
        self._to_call: deque[PoolFuture] = deque()  # futures with an outcome whose callbacks were not called yet
        self._bell = threading.Lock()  # wakes the pool's thread
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        _exit.register_pool(self)

    # --- sending ------------------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PoolFuture:
        """Send a task. Raises RuntimeError after the shutdown, and the exception of a broken pool."""
        hooks = _hooks.present()
        function = _by_token(function)
        call = (function, args, kwargs) if hooks is None else (_hooks.call, (hooks, function, args, kwargs), {})
        future = PoolFuture(self)
        with self._lock:
            self.check()
            if not self._has_room() or self._backlog:
                future.call = call
                self._backlog.append(future)
            else:
                number = self._begin(future)
                if self._retries:
                    future.call = call
        if future.number:
            self._send(future, number, call)
        else:
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
        text, cause = self._failure
        error = self._make_broken(text)
        error.__cause__ = cause
        return error

    def _has_room(self) -> bool:
        if len(self._pending) == _TICKETS:
            self.collect_what_is_there()
        return len(self._pending) < _TICKETS

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
        if len(self._workers) < min(len(self._pending), self.max_workers):
            try:
                self.collect_what_is_there()  # perhaps somebody is idle
                if len(self._workers) < min(len(self._pending), self.max_workers):
                    self._add_worker()
            except BaseException:
                if not self._workers:  # otherwise the others will do
                    self._forget(number)
                    raise
        return number

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
        worker = self._make(name)
        self._made += 1
        worker.body.daemon = False
        worker.body.name = name
        shared = (self._tasks, self._results, self._settings, self._tickets, self._spans)
        how = (index, self._max_tasks, self._reset_main, self._retries > 0, self._inheritance)
        box: SimpleQueue[Any] = SimpleQueue()
        box.put((*shared, *how))
        put_any(box, self._initialization)
        worker.send(SERVE, 0, box)
        self._workers[index] = worker
        worker.body.tell(self._results, ENDED | index)

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait_for(self, future: PoolFuture, timeout: float | None) -> None:
        """Wait until a future has its outcome. Raises TimeoutError when it has not within `timeout` seconds."""
        deadline = None if timeout is None else monotonic() + max(timeout, 0)
        if self._collecting.acquire(blocking=False):
            try:
                while future._state not in _DONE:
                    self._take(True, None if deadline is None else max(deadline - monotonic(), 0))
            except Empty:
                pass
            finally:
                self._stop_collecting()
        else:
            future.wait_outside(timeout)
        if future._state not in _DONE:
            raise TimeoutError

    def collect_what_is_there(self) -> None:
        """Give futures the outcomes that have arrived."""
        if (self._results.empty() and not self._arrived) or not self._collecting.acquire(blocking=False):
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
            # In one step, so that no signal's handler strikes when they are taken and not yet kept.
            arriving = itertools.starmap(self._results.get_many, ((None, block, timeout),))
            self._arrived.extend(itertools.chain.from_iterable(arriving))
        with self._lock:
            # Whatever disturbs this comes back to the same one.
            while self._arrived:
                arrived = self._arrived[0]
                self._handle(*arrived)
                if self._arrived and self._arrived[0] is arrived:
                    self._arrived.popleft()
            if self._maps or self._backlog or self._closing:
                self._go_on()

    def _handle(self, number: int, value: Any, error: BaseException | None) -> None:
        if number & NEWS:
            self._hear(number & ~_INDEX, number & _INDEX, value, error)
            return
        if number & FAILED:
            number ^= FAILED
            value, error = None, error or value
        future = self._pending.get(number)
        if future is not None:
            self._settle(future, FINISHED, value, error)
        self._forget(number)

    def _settle(self, future: PoolFuture, state: str, value: Any, error: BaseException | None) -> None:
        """Give a future its outcome; the pool's thread will call back."""
        future.settle(state, value, error)
        if future in self._watched and future._state in _DONE:
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
            if future._state in _DONE:
                return parts
            self._watched.add(future)
        self._ring()
        return parts

    def _is_wanted(self) -> bool:
        """Whether the pool's thread has something to do."""
        ending = self._closing and self._end._state not in _DONE
        return bool(self._watched or self._to_call or self._backlog or self._maps or ending)

    def _ring(self) -> None:
        """Have the pool's thread look whether there is something to do."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    # A sub-interpreter allows no daemon threads; the program's end waits for pools before that.
                    daemon = current_interpreter_id() == 0
                    self._thread = threading.Thread(target=self._collect, name="multigil-pool", daemon=daemon)
                    self._thread.start()
        try:
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def _collect(self) -> None:
        """What the pool's thread does."""
        while self._end._state not in _DONE or self._is_wanted():
            self._bell.acquire()
            while self._is_wanted():
                with self._collecting:
                    if self._is_wanted() and not self._to_call:
                        try:
                            self._take(True, None)
                        except Exception as error:
                            self._fail("The results of the pool's tasks could not be taken", error)
                while self._to_call:
                    self._to_call.popleft().call_back()

    # --- what has become of tasks and workers -------------------------------------------------------------------

    def has_begun(self, future: PoolFuture) -> bool:
        """Whether a worker has begun with the task of a future that has no outcome."""
        return future.number != 0 and self._tickets[future.number & _PLACE] & _BEGUN != 0

    def cancel(self, future: PoolFuture, *, running: bool | None = None) -> bool:
        """Cancel a task, also one that has begun if `running` is true; whether it is cancelled then."""
        self.collect_what_is_there()
        strike = None
        with self._lock:
            if future._state in _DONE:
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
            if self._failure is None and len(self._workers) < min(len(self._pending), self.max_workers):
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
                error = self._make_broken(f"{future.attempts} workers died while they performed the task, the last: {cause}")
                error.__cause__ = cause
                self._settle(future, FINISHED, None, error)
            else:
                self._send_again(future)

    def _send_again(self, future: PoolFuture) -> None:
        call = future.call
        assert call is not None
        try:
            number = self._begin(future)
        except Exception as error:
            self._settle(future, FINISHED, None, error)
            return
        self._send(future, number, future.renumbered(call))

    def _fail(self, text: str, cause: BaseException | None) -> None:
        """Break the pool: nothing is sent any more, what has no outcome gets that one, and all workers end."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = text, cause
            self._tasks.shutdown(immediate=True)
            waiting = [*filter(None, self._pending.values()), *self._backlog]
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
        function = _by_token(function)
        mapping = Mapping(self, function, calls, chunksize, buffersize)
        with self._lock:
            self.check()
            mapping.fetch()
            if mapping.waiting:
                self._maps.append(mapping)
                mapping.feed()
        if mapping.waiting and buffersize is None:
            self._ring()
        return mapping.results(deadline, cancel_running)

    def _go_on(self) -> None:
        """Send what there is room for now, and end what is at its end. With the lock held."""
        for mapping in self._maps:
            mapping.feed()
        self._maps = [mapping for mapping in self._maps if mapping.needs_pool()]
        while self._backlog and len(self._pending) < _TICKETS:
            self._send_again(self._backlog.popleft())
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

    def send_part(self, part: Part) -> None:
        """Send a part of a map."""
        part.bytes = self._send(part, self._begin(part), part.renumbered(()))

    def set_span(self, number: int, count: int) -> int:
        """Begin the span of a part anew; gives its ticket."""
        ticket = number & _PLACE
        self._spans[ticket] = count << 32
        return ticket

    def begun_calls(self, part: Part) -> int:
        """How many calls of a part have begun."""
        return self._spans[part.number & _PLACE] & _FIRST_WORD

    def count_splittable(self, change: int) -> None:
        """Tell workers whether there are parts that may be split."""
        self._tickets.fetch_add(_SPLITTABLE, change)

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
                    part.split(middle)
                    return

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end when those that there are have their outcomes."""
        with self._lock:
            self._closing = True
            if cancel_futures:
                for mapping in self._maps:
                    mapping.waiting.clear()
                waiting = [*filter(None, self._pending.values()), *self._backlog]
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
            sends = self._backlog or any(mapping.waiting for mapping in self._maps) or (self._retries and self._pending)
            if not sends:
                self._tasks.shutdown()
            if not self._workers and not self._pending and not sends:
                self._settle(self._end, FINISHED, None, None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all workers have ended, after `close`, and all callbacks were called."""
        self.wait_for(self._end, timeout)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._ring()
            thread.join()

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
        self._workers.clear()
        self._pending.clear()
        self._backlog.clear()
        self._maps.clear()
        self._watched.clear()
        self._arrived.clear()
        self._thread = None
        self._results, self._tasks = Queue(), Queue()


class Part(PoolFuture):
    """Some calls of a map, which one worker performs: its value is the seconds that they took, and the outcomes."""

    bytes = 0
    rest: Part | None = None  # what was taken from it for another worker, and is next in order

    def __init__(self, pool: Pool, mapping: Mapping, calls: list[tuple[Any, ...]]) -> None:
        super().__init__(pool)
        self.mapping = mapping
        self.calls = calls
        self.splittable = False

    def renumbered(self, call: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
        """The call to be sent under the number that it has now."""
        ticket = self._pool.set_span(self.number, len(self.calls))
        self.call = (run_part, (self.mapping.function, self.calls, ticket), {})
        return self.call

    def send(self) -> None:
        """Send it, as one that may be split if it can be."""
        self.splittable = len(self.calls) > 1
        self.mapping.in_flight += 1
        if self.splittable:
            self._pool.count_splittable(1)
        self._pool.send_part(self)

    def split(self, place: int) -> None:
        """Send the calls from that place on, which have not begun, to somebody else."""
        rest = Part(self._pool, self.mapping, self.calls[place:])
        self.calls = self.calls[:place]
        self.rest, rest.rest = rest, self.rest
        rest.send()

    def give_back(self, place: int) -> None:
        """Send the calls from that place on in smaller parts: the worker has not begun with them, and is done."""
        rest, last = self.calls[place:], self
        self.calls = self.calls[:place]
        while rest:
            count = min(self.mapping.calls_of_part(), len(rest))
            part = Part(self._pool, self.mapping, rest[:count])
            del rest[:count]
            last.rest, part.rest = part, last.rest
            part.send()
            last = part

    def settle(self, state: str, result: Any, error: BaseException | None) -> None:
        """Give it its outcome; or, if it could not be pickled or unpickled, send its calls one by one.

        Then only those fail that can't be sent.
        """
        if self._state in _DONE:
            return
        self.mapping.in_flight -= 1
        if self.splittable:
            self._pool.count_splittable(-1)
        unsent = error is not None and not isinstance(error, BrokenExecutor) and not self._pool.begun_calls(self)
        if unsent and len(self.calls) > 1:
            self.split(1)
            self.send()
            return
        if state == FINISHED and error is None:
            seconds, outcomes = result
            self.mapping.learn(seconds, len(outcomes), self.bytes)
            if len(outcomes) < len(self.calls):  # they take longer than was thought
                self.give_back(len(outcomes))
        super().settle(state, result, error)


class Mapping:
    """A map that is going on."""

    def __init__(
        self,
        pool: Pool,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        chunksize: int | None,
        buffersize: int | None,
    ) -> None:
        self.function = function
        self.waiting: deque[tuple[Any, ...]] = deque()  # calls that were not sent yet
        self.parts: deque[Part] = deque()  # those of which not all results were given, in their order
        self.in_flight = 0  # parts without an outcome
        self.error: BaseException | None = None  # of a pool that broke
        self._pool = pool
        self._calls = calls
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._buffered = 0  # calls whose results were not given yet
        self._most_in_flight = 2 * pool.max_workers + 1
        self._seconds: float | None = None  # that a call takes
        self._bytes = 0.0  # and its arguments

    def fetch(self) -> None:
        """Take as many calls from the iterables as there is room for."""
        if self._buffersize is None:
            self.waiting.extend(self._calls)
        else:
            before = len(self.waiting)
            self.waiting.extend(itertools.islice(self._calls, self._buffersize - self._buffered))
            self._buffered += len(self.waiting) - before

    def feed(self) -> None:
        """Send so many parts that workers do not have to wait for the next one. With the pool's lock held."""
        while self.waiting and (self.in_flight < self._most_in_flight or self._buffersize is not None):
            count = min(self.calls_of_part(), len(self.waiting))
            part = Part(self._pool, self, [self.waiting.popleft() for _ in range(count)])
            self.parts.append(part)
            part.send()

    def calls_of_part(self) -> int:
        """How many calls the next part should have."""
        if self._chunksize is not None:
            return self._chunksize
        if self._seconds is None:
            return 1
        # Towards the end they become smaller, so that all workers end at the same time.
        left = len(self.waiting) if self._buffersize is None else self._buffersize
        wanted = min(_SECONDS_OF_PART / max(self._seconds, 1e-9), _MOST_BYTES / max(self._bytes, 1.0), _MOST_CALLS)
        return max(min(int(wanted), left // (2 * self._pool.max_workers)), 1)

    def learn(self, seconds: float, count: int, size: int) -> None:
        """Note how long a part took, and how large it was."""
        if count:
            before = seconds / count if self._seconds is None else self._seconds
            self._seconds = (before + seconds / count) / 2
            self._bytes = max(size / count, self._bytes / 2)

    def needs_pool(self) -> bool:
        """Whether there is something to send, or to be split, although nobody may be asking for results."""
        return bool(self.waiting or self.in_flight)

    def results(self, deadline: float | None, cancel_running: bool | None) -> Iterator[Any]:
        """Give the results, in their order."""
        try:
            while (part := self._next_part()) is not None:
                self._pool.wait_for(part, None if deadline is None else deadline - monotonic())
                self.parts.popleft()
                if part.rest is not None:
                    self.parts.appendleft(part.rest)
                if part._exception is not None:
                    raise part._exception
                if part._state != FINISHED:
                    raise CancelledError
                outcomes = part._result[1]
                self._buffered -= len(outcomes)
                del part
                outcomes.reverse()
                # No result is kept here when it was given.
                while outcomes:
                    if type(outcomes[-1]) is not _transfer.Opened:
                        yield outcomes.pop()
                    elif outcomes[-1].error is None:
                        yield outcomes.pop().value
                    else:
                        raise outcomes.pop().error
        finally:
            self._cancel(cancel_running)

    def _next_part(self) -> Part | None:
        if self._buffersize is not None:
            if not self.waiting:
                self.fetch()
            self._pool.feed(self)
        elif not self.parts:
            self._pool.feed(self)
        if self.parts:
            return self.parts[0]
        if self.error is not None:
            raise self.error
        return None

    def _cancel(self, running: bool | None) -> None:
        self.waiting.clear()
        while self.parts:
            part: Part | None = self.parts.popleft()
            while part is not None:
                self._pool.cancel(part, running=running)
                part = part.rest


def _by_token(function: Any) -> Any:
    """What is sent for a function: itself if it can be imported, else its code, which workers keep if they can."""
    if not isinstance(function, types.FunctionType):
        return function
    if function.__module__ != "__main__" and "<" not in function.__qualname__:  # <lambda>, <locals>
        return function
    from multigil import _by_value

    try:
        kept = _by_value.keep(function)
    except Exception:  # the task will say why it can't be sent
        return function
    return function if kept is None else ByToken(function, *kept)
