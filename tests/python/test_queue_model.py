"""`Queue` and `queue.Queue` side by side: any sequence of calls that do not wait has the same outcomes."""

from __future__ import annotations

import queue
import sys
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from multigil import Queue

if TYPE_CHECKING:
    from collections.abc import Callable


class Single(queue.Queue[Any]):
    """What `Queue` has beyond `queue.Queue`, item by item."""

    def put_many(self, items: list[Any], block: bool = True, timeout: float | None = None) -> None:
        for count, item in enumerate(items):
            try:
                self.put(item, block, timeout)
            except Exception as error:
                error.count = count  # type: ignore[attr-defined]
                raise

    def get_many(self, count: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        if count == 0:
            return []
        first = self.get(block, timeout)
        more = self.qsize() if count is None else min(self.qsize(), count - 1)
        return [first, *(self.get(False) for _ in range(more))]

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        item = self.get(block, timeout)
        self.queue.appendleft(item)
        return item

    def clear(self) -> None:
        while self.qsize():
            self.get(False)
            if self.unfinished_tasks:
                self.task_done()


# `queue.Queue.shutdown` came with 3.13. The earlier ones are compared in everything else.
HAS_SHUTDOWN = sys.version_info >= (3, 13)

ITEMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=1_000),
    st.lists(st.integers(), max_size=50),
    st.dictionaries(st.text(), st.binary()),
)
TIMEOUTS = st.sampled_from([None, 0, 0.0, -1])


class SideBySide(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ours: Queue[Any] = Queue(2)
        self.theirs = Single(2)

    def both(self, call: Callable[[Any], object]) -> None:
        """Make the same call to both; the values or the exceptions must be the same."""
        outcomes: list[object] = []
        for each in (self.theirs, self.ours):
            try:
                outcomes.append(call(each))
            except Exception as error:
                outcomes.append((type(error), str(error), getattr(error, "count", None)))
        assert outcomes[0] == outcomes[1]

    @rule(item=ITEMS, timeout=TIMEOUTS)
    def put_without_blocking(self, item: object, timeout: float | None) -> None:
        self.both(lambda q: q.put(item, False, timeout))

    @rule(timeout=TIMEOUTS)
    def get_without_blocking(self, timeout: float | None) -> None:
        self.both(lambda q: q.get(False, timeout))

    @rule(item=ITEMS, timeout=st.sampled_from([0, -1]))
    def put_with_no_time_to_wait(self, item: object, timeout: float) -> None:
        self.both(lambda q: q.put(item, timeout=timeout))

    @rule(timeout=st.sampled_from([0, -1]))
    def get_with_no_time_to_wait(self, timeout: float) -> None:
        self.both(lambda q: q.get(timeout=timeout))

    @rule(items=st.lists(ITEMS, min_size=1, max_size=5), timeout=TIMEOUTS)
    def put_many_without_blocking(self, items: list[object], timeout: float | None) -> None:
        self.both(lambda q: q.put_many(items, False, timeout))

    @rule(count=st.one_of(st.none(), st.integers(0, 5)), timeout=TIMEOUTS)
    def get_many_without_blocking(self, count: int | None, timeout: float | None) -> None:
        self.both(lambda q: q.get_many(count, False, timeout))

    @rule(timeout=st.sampled_from([0, -1]))
    def get_many_with_no_time_to_wait(self, timeout: float) -> None:
        self.both(lambda q: q.get_many(timeout=timeout))

    @rule(timeout=TIMEOUTS)
    def peek_without_blocking(self, timeout: float | None) -> None:
        self.both(lambda q: q.peek(False, timeout))

    @rule(one_in_five=st.integers(0, 4))
    def clear(self, one_in_five: int) -> None:
        if one_in_five == 0:
            self.both(lambda q: q.clear())

    @rule(maxsize=st.integers(-1, 5))
    def set_maxsize(self, maxsize: int) -> None:
        self.both(lambda q: setattr(q, "maxsize", maxsize))

    @rule()
    def task_done(self) -> None:
        self.both(lambda q: q.task_done())

    @rule()
    def join_when_nothing_is_unfinished(self) -> None:
        if self.theirs.unfinished_tasks == 0:
            self.both(lambda q: q.join())

    @rule(immediate=st.booleans(), one_in_five=st.integers(0, 4))
    def shutdown(self, immediate: bool, one_in_five: int) -> None:
        if HAS_SHUTDOWN and one_in_five == 0:
            self.both(lambda q: q.shutdown(immediate))

    @invariant()
    def all_that_can_be_read_is_equal(self) -> None:
        self.both(lambda q: (q.qsize(), q.empty(), q.full(), q.maxsize, q.unfinished_tasks))
        if HAS_SHUTDOWN:
            self.both(lambda q: q.is_shutdown)

    def teardown(self) -> None:
        while self.theirs.qsize():
            self.both(lambda q: q.get(False))


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
