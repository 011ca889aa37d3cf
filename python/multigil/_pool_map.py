"""`map` of pools: calls are sent in parts, which can be split while they run."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures._base import FINISHED
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from multigil._pool_future import DONE, PoolFuture
from multigil._pool_worker import run_part
from multigil._transfer import Opened

# ruff: noqa: SLF001  (the fields of a part are a future's)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multigil._pool import Pool

# How long a part should run. The pool may need as long to send the next one, while the program keeps the GIL.
_SECONDS_OF_PART = 0.005
_MOST_CALLS = 1 << 14
_MOST_BYTES = 1 << 20
# How many of a size that the user has chosen are sent at once.
_MOST_PARTS = 1 << 10


class Part(PoolFuture):
    """Some calls of a map, which one worker performs: its value is the seconds that they took, and the outcomes."""

    rest: Part | None = None  # what was taken from it for another worker, and is next in order

    def __init__(self, pool: Pool, mapping: Mapping, calls: list[tuple[Any, ...]]) -> None:
        super().__init__(pool)
        self.mapping = mapping
        self.calls = calls
        self.splittable = len(calls) > 1
        self.is_in_flight = False

    def numbered_call(self) -> tuple[Any, ...]:
        """The call to be sent under the number that it has now."""
        ticket = self._pool.set_span(self.number, len(self.calls))
        return run_part, (self.mapping.function, self.calls, ticket, self.mapping.most_seconds), {}

    def send(self) -> None:
        """Send it, as one that may be split if it can be."""
        self.mapping.note(self, 1)
        self._pool.send(self)

    def divide(self, place: int, count: int) -> None:
        """Send the calls from that place on, which have not begun, to somebody else, in parts of `count` calls."""
        calls, last, parts = self.calls, self, []
        self.calls = calls[:place]
        for begin in range(place, len(calls), count):
            part = Part(self._pool, self.mapping, calls[begin : begin + count])
            last.rest, part.rest = part, last.rest
            last = part
            parts.append(part)
        for part in parts:
            part.send()

    def settle(self, state: str, result: Any, error: BaseException | None) -> None:
        """Give it its outcome; or, if it could not be pickled or unpickled, send its calls one by one.

        Then only those fail that can't be sent.
        """
        if self._state in DONE:
            return
        self.mapping.note(self, -1)
        unsent = error is not None and not isinstance(error, BrokenExecutor) and not self._pool.begun_calls(self)
        if unsent and len(self.calls) > 1:
            self.divide(1, 1)
            self.splittable = False
            self.send()
            return
        if state == FINISHED and error is None:
            seconds, outcomes = result
            self.mapping.learn(seconds, len(outcomes), self.size)
            if len(outcomes) < len(self.calls):  # they take longer than was thought
                self.divide(len(outcomes), self.mapping.calls_of_part())
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
        self._in_flight = 0  # parts without an outcome
        self._splittable = 0  # those among them that may be split
        self.error: BaseException | None = None  # of a pool that broke
        self._pool = pool
        self._calls = calls
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._buffered = 0  # calls whose results were not given yet
        # Where the pool chooses, parts are sent when workers are about to need them: the later, the more it knows.
        self._most_in_flight = _MOST_PARTS if chunksize is not None else 2 * pool.max_workers + 1
        self.most_seconds = (
            inf if chunksize is not None else 10 * _SECONDS_OF_PART
        )  # of a part, if there are calls left
        self._seconds: float | None = None  # that a call takes
        self._bytes = 0.0  # and its arguments

    def fetch(self) -> None:
        """Take as many calls from the iterables as there is room for."""
        if self._buffersize is None:
            self.waiting.extend(self._calls)
        else:
            calls = list(itertools.islice(self._calls, self._buffersize - self._buffered))
            self._buffered += len(calls)
            self.waiting.extend(calls)

    def feed(self) -> None:
        """Send so many parts that workers do not have to wait for the next one. With the pool's lock held."""
        # What is in the buffer is sent at once, but for the first calls: they tell how large parts should be.
        all_at_once = self._buffersize is not None and (self._chunksize is not None or self._seconds is not None)
        while self.waiting and (all_at_once or self._in_flight < self._most_in_flight):
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

    def note(self, part: Part, change: int) -> None:
        """Count a part that is sent, or has come back: each once, whatever disturbs this."""
        if part.is_in_flight == (change > 0):
            return
        part.is_in_flight = change > 0
        self._in_flight += change
        if part.splittable:
            self._splittable += change
            self._pool.count_splittable(change)

    def needs_pool(self) -> bool:
        """Whether there is something to be sent or split although nobody may be asking for results."""
        return bool(self.waiting or (self._splittable and self._buffersize is None))

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
                    if type(outcomes[-1]) is not Opened:
                        yield outcomes.pop()
                    elif outcomes[-1].error is None:
                        yield outcomes.pop().value
                    else:
                        raise outcomes.pop().error
        finally:
            self._cancel(cancel_running)

    def _next_part(self) -> Part | None:
        if self._buffersize is not None and not self.waiting:
            room = self._buffersize - self._buffered
            if room >= self.calls_of_part() or not self.parts:
                self.fetch()
        if self.waiting and (self._buffersize is not None or not self.parts):
            self._pool.feed(self)
        if self.parts:
            return self.parts[0]
        if self.error is not None:
            raise self.error
        return None

    def _cancel(self, running: bool | None) -> None:
        self.waiting.clear()
        parts: list[Part] = []
        while self.parts:
            part: Part | None = self.parts.popleft()
            while part is not None:
                parts.append(part)
                part = part.rest
        # The last one first: a worker whose part is interrupted shall not begin with the next one.
        for part in reversed(parts):
            self._pool.cancel(part, running=running)
