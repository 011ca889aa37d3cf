"""A worker's end of a pool: one task after another from a queue that all workers share. The other end is `_pool`."""

from __future__ import annotations

import sys
from _pickle import loads
from functools import partial
from time import perf_counter

from multigil import _worker
from multigil._core import InterpreterTerminated, perform, perform_next, put_numbered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from multigil._core import Array, Queue, SimpleQueue

    # Queues for tasks, outcomes and settings; the tickets; the spans of parts; which worker this is; the most tasks
    # that it performs; whether `__main__` is reset after each; whether tasks come again that were not reported done;
    # what it inherits.
    type Place = tuple[Queue[Any], Queue[Any], Queue[Any], Array, Array, int, int | None, bool, bool, Any]

# What is said beside a task's number, in bits that no number has. `ffi/python/src/pool.rs` has the rest of its format.
TICKET_BITS = 16
FAILED = 1 << 60  # the task raised what comes with it
# News of a worker, which is in place of the number.
NEWS = 1 << 61
READY = NEWS | 1 << 32  # its initializer has run
UNUSABLE = NEWS | 1 << 33  # its initializer raised what comes with it
LEFT = NEWS | 1 << 34  # it ends in good order
IDLE = NEWS | 1 << 35  # it has nothing to do, and there are parts that may be split
ENDED = NEWS | 1 << 36  # it has ended
LOOK = NEWS | 1 << 37  # of no worker: something else has changed

# Values of these classes arrive whatever happens, and run no code of the user's on the way.
PLAIN = frozenset((type(None), bool, int, float, str, bytes))


def serve(place: Place, box: SimpleQueue[Any]) -> None:
    """Initialize this worker with what is in the box, and perform tasks until there are no more, or enough were."""
    global _spans
    tasks, results, settings, tickets, _spans, index, most, reset, redelivers, inheritance = place
    try:
        if inheritance is not None:
            inheritance.apply()
        perform(None, box.get_nowait)
    except InterpreterTerminated:
        raise
    except BaseException as error:
        _worker.attempt(_worker.put_failure, partial(put_numbered, results, UNUSABLE | index), error)
        return
    put_numbered(results, READY | index, None)
    changes = 0

    def refresh() -> None:
        nonlocal changes
        changes, changed = settings.peek()
        assert _worker.loop is not None
        _worker.loop.apply(changed)

    main = _Main() if reset else None
    count = 0
    while most is None or count < most:
        done = perform_next(tasks, results, tickets, index, count + 1, changes, refresh, _functions)
        if done is None:
            break
        if done:
            count += 1
            _send(results, count, *done)
            if done[2] is not None or type(done[1]) not in PLAIN:
                outcome = [done]
                del done
                _worker.attempt(outcome.clear, number=count)  # which may run a destructor
            if main is not None:
                _worker.attempt(main.reset, number=count)
        if redelivers:
            tasks.task_done()
    put_numbered(results, LEFT | index, None)


def _send(results: Queue[Any], count: int, number: int, result: object, error: BaseException | None) -> None:
    """Send an outcome; what cannot be pickled becomes the error of that."""
    if error is None:
        if type(result) in PLAIN:
            try:
                put_numbered(results, number, result)
            except MemoryError as failure:
                error = failure
        else:
            error = _worker.deliver(count, partial(put_numbered, results, number), result)
        if error is None:
            return
        error.add_note(f"The result is of type {type(result).__qualname__!r}.")
    _worker.attempt(_worker.put_failure, partial(put_numbered, results, number | FAILED), error)


class _Main:
    """What `__main__` was when this was made."""

    def __init__(self) -> None:
        self._there = vars(sys.modules["__main__"])
        self._content = dict(self._there)
        self._received = dict(self._versions())

    def reset(self) -> None:
        """Make it the same again."""
        self._there.clear()
        self._there.update(self._content)
        versions = self._versions()
        versions.clear()
        versions.update(self._received)
        _functions.clear()  # each would find its globals missing

    def _versions(self) -> dict[Any, object]:
        by_value = sys.modules.get("multigil._by_value")
        versions: dict[Any, object] = {} if by_value is None else by_value.received()
        return versions


# --- functions, and parts of a map ------------------------------------------------------------------------------


class Functions(dict[bytes, "Callable[..., Any]"]):
    """The functions that tasks name by their pickles: each is unpickled once, not each time."""

    def __missing__(self, packed: bytes) -> Callable[..., Any]:
        function: Callable[..., Any] = loads(packed[_TOKEN_BYTES:][::-1])
        while len(self) >= _MOST_FUNCTIONS:
            del self[next(iter(self))]
        self[packed] = function
        return function


def function_bytes(pickled: bytes, token: int) -> bytes:
    """What stands for a function in tasks: its pickle, with a token that is another one whenever it is pickled anew.

    It is backwards, lest its bytes be taken for a mention of `__main__`, and all else be sent by value for that.
    """
    return token.to_bytes(_TOKEN_BYTES) + pickled[::-1]


_TOKEN_BYTES = 8
_MOST_FUNCTIONS = 256

# Of the pool that this interpreter works for.
_spans: Array | None = None
_functions = Functions()


def run_part(
    function: Callable[..., Any] | bytes, calls: Sequence[tuple[Any, ...]], ticket: int, most_seconds: float
) -> tuple[float, list[Any]]:
    """Call a function with each of several tuples of arguments: the seconds that it took, and the outcomes.

    A plain value is its own outcome. All others are `Sealed`, and what was raised is, too: what cannot be sent or
    unpickled takes no other value with it.

    The part's span, `end << 32 | next`, says which calls have begun: each is claimed by a compare-and-swap, and so the
    pool can take away those at the end for a worker that has nothing else to do. There are as many outcomes as are
    left; or fewer, if they have taken `most_seconds`: then the pool sends the others again, in smaller parts.
    """
    if isinstance(function, bytes):
        function = _functions[function]
    assert _spans is not None
    claim = _spans.compare_exchange
    outcomes: list[Any] = []
    span = len(calls) << 32
    begin = perf_counter()
    give_up = begin + most_seconds
    while (place := len(outcomes)) < span >> 32 and perf_counter() < give_up:
        if not claim(ticket, span, span + 1):
            span = _spans[ticket]
            continue
        span += 1
        try:
            outcomes.append(function(*calls[place]))
        except InterpreterTerminated:
            raise
        except BaseException as error:
            outcomes.append(_worker.transfer().Sealed(None, _worker.trimmed(error)))
            if isinstance(error, KeyboardInterrupt):
                break  # nobody wants the others either
    seconds = perf_counter() - begin
    if not PLAIN.issuperset(map(type, outcomes)):
        Sealed = _worker.transfer().Sealed  # noqa: N806
        outcomes = [one if type(one) in PLAIN or type(one) is Sealed else Sealed(one) for one in outcomes]
    return seconds, outcomes
