"""`PriorityQueue` gives items in the order of `heapq`, by Python's own `<`; one that fails changes nothing."""

from __future__ import annotations

import dataclasses
import enum
import heapq
import math
import operator
import pickle
import queue
import signal
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import workers
from harness import AMPLE, MOMENT, assert_waits, in_thread, started
from multigil import Empty, Full, Lock, PriorityQueue, Queue, SimpleQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import ProgramRunner


class Task(NamedTuple):
    priority: int
    name: str


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 5


@dataclasses.dataclass(order=True)
class Prioritized:
    """As in the documentation of the module `queue`."""

    priority: int
    item: Any = dataclasses.field(compare=False)


class Reversed(int):
    """A subclass of `int` with a `<` of its own."""

    def __lt__(self, other: int) -> bool:
        return int(self) > int(other)


def assert_in_order_of_heapq(*items: object) -> None:
    """Check that the items come out as from a heap: equal ones too, and with their types."""
    q: PriorityQueue[object] = PriorityQueue()
    heap: list[Any] = []
    for item in items:
        q.put(item)
        heapq.heappush(heap, item)
    expected = [heapq.heappop(heap) for _ in items]
    found = workers.drain(q)
    assert found == expected
    assert [type(item) for item in found] == [type(item) for item in expected]


class TestOrder:
    @pytest.mark.parametrize(
        "items",
        [
            [3, 1, 2, 1],
            [2.5, 1, True, 0.5, False, 1.0, -1, -0.0, 0],
            [2**53, 2**53 + 1, float(2**53), 2**53 - 1, 2**53 + 2, float(2**53 + 2)],
            [2**63 - 1, float(2**63), 2**63, 2**64 + 1, -(2**63), -(2**63) - 1, float(-(2**63)), 10**400, -(10**400)],
            [math.inf, -math.inf, 10**400, 1e308, -1e308, 5e-324, 0],
            [time.time_ns() + step for step in (5, 3, 4, 1, 2)],
            [Fraction(1, 3), 0.3333333333333333, 1, Fraction(1, 2)],
            ["b", "a", "", "ab", "a\0", "a\0b", "ä", "z", "\uffff", "\U00010000", "\ud800", "中"],
            ["x" * 50 + "b", "x" * 50 + "a", "x" * 50, "x" * 39, "x" * 38, "x" * 40],
            [b"b", b"a", b"", b"ab", b"a\0", b"a\0b", b"\x01", b"\x00", b"\xff", b"x" * 60 + b"b", b"x" * 60 + b"a"],
            [(2, "b"), (1, "z"), (2, "a"), (1,), (), (1, "z", 0)],
            [(1, None, 2), (1, None, 1), (1, None)],
            [[2, 1], [1, 2], [1], []],
            [(1, (2, 3)), (1, (2,)), (1, ()), (0, (9,))],
            [(1, 2, {"a": 1}), (1, 1, {"b": 2}), (0, 9, {"c": 3})],
            [(1, {"same": 1}), (1, {"same": 1}), (0, {})],
            [(1.0, 2**70, "a"), (1, 2**70 + 1, "b"), (True, 2**69, "c")],
            [Task(2, "b"), Task(1, "z"), Task(2, "a"), (1, "a")],
            [Level.HIGH, Level.LOW, 3],
            [Prioritized(2, {}), Prioritized(1, []), Prioritized(3, None), Prioritized(1, {})],
            [Reversed(1), Reversed(3), Reversed(2)],
            [frozenset({1, 2}), frozenset({1}), frozenset()],
        ],
    )
    def test_items_come_out_as_from_heapq(self, items: list[object]) -> None:
        assert_in_order_of_heapq(*items)
        assert_in_order_of_heapq(*items[::-1])

    def test_nan_is_what_python_makes_of_it(self) -> None:
        # Each is less than nothing, so they stay where the others leave them.
        q: PriorityQueue[float] = PriorityQueue()
        heap: list[float] = []
        for number in (math.nan, 2, 1, math.nan, 3.5, 0):
            q.put(number)
            heapq.heappush(heap, number)
        assert repr(workers.drain(q)) == repr([heapq.heappop(heap) for _ in range(6)])

    def test_a_thousand_items_by_turns(self) -> None:
        q: PriorityQueue[tuple[int, str]] = PriorityQueue()
        heap: list[tuple[int, str]] = []
        for number in range(1_000):
            item = (number * 7919 % 100, str(number))
            q.put(item)
            heapq.heappush(heap, item)
            if number % 3 == 0:
                assert q.get() == heapq.heappop(heap)
        assert workers.drain(q) == sorted(heap)

    @pytest.mark.parametrize(
        "items", [(None, None), (None, 1), (1, "a"), ("a", b"a"), ((1,), [1]), ({}, {}), ((1, "a"), (1, 2)), (1j, 1)]
    )
    def test_items_without_an_order_raise_the_type_error_of_python(self, items: tuple[object, object]) -> None:
        q: PriorityQueue[object] = PriorityQueue()
        q.put(items[0])
        with pytest.raises(TypeError) as theirs:
            operator.lt(items[1], items[0])
        with pytest.raises(TypeError) as ours:
            q.put(items[1])
        assert str(ours.value) == str(theirs.value)
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
        assert q.get() == items[0]

    def test_one_item_is_never_compared(self) -> None:
        q: PriorityQueue[object] = PriorityQueue()
        for item in (None, {}, 1j, workers.RefusesToLoad):
            q.put(item)
            assert q.get() == item


NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.booleans(), st.floats(allow_nan=False))
TEXTS = st.text(st.sampled_from("ab\0\x7f\u0100\U00010000"), max_size=50)
ITEMS = {
    "numbers": NUMBERS,
    "texts": TEXTS,
    "tuples": st.tuples(NUMBERS, TEXTS),
    "long tuples": st.tuples(st.integers(0, 1), st.integers(0, 1), NUMBERS, NUMBERS, NUMBERS),
    "nested": st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5),
    "with others": st.tuples(st.integers(0, 3), st.dictionaries(st.integers(0, 1), st.integers(0, 1))),
    "anything": st.one_of(NUMBERS, TEXTS, st.none(), st.binary(max_size=3), st.lists(NUMBERS, max_size=2)),
}


class BesideHeapq(RuleBasedStateMachine):
    """A queue beside a heap that a failing comparison leaves as it was."""

    items: st.SearchStrategy[Any]

    def __init__(self) -> None:
        super().__init__()
        self.q: PriorityQueue[Any] = PriorityQueue()
        self.heap: list[Any] = []

    def both(self, ours: Callable[[], object], theirs: Callable[[list[Any]], object]) -> None:
        heap = self.heap.copy()
        outcomes = []
        for call in (lambda: theirs(heap), ours):
            try:
                outcomes.append(repr(call()))
            except (TypeError, IndexError, Empty) as error:
                outcomes.append("empty" if isinstance(error, (IndexError, Empty)) else str(error))
            else:
                self.heap = heap
        assert outcomes[0] == outcomes[1]

    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        item = data.draw(self.items)
        self.both(lambda: self.q.put(item), lambda heap: heapq.heappush(heap, item))

    @rule()
    def get(self) -> None:
        self.both(self.q.get_nowait, heapq.heappop)

    @rule()
    def peek(self) -> None:
        self.both(lambda: self.q.peek(block=False), lambda heap: heap[0])

    @invariant()
    def the_size_is_the_same(self) -> None:
        assert self.q.qsize() == len(self.heap)


@pytest.mark.parametrize("items", ITEMS)
def test_any_sequence_of_puts_and_gets_is_that_of_heapq(items: str) -> None:
    machine = type(BesideHeapq.__name__, (BesideHeapq,), {"items": ITEMS[items]})
    test = machine.TestCase
    test.settings = settings(max_examples=60, stateful_step_count=50, deadline=None, derandomize=True)
    test().runTest()


class TestFailingComparisons:
    def test_a_put_puts_nothing(self) -> None:
        faults: Queue[Exception] = Queue()
        q: PriorityQueue[workers.Failing] = PriorityQueue(2)
        q.put(workers.Failing(1, faults))
        faults.put(ArithmeticError("not now"))
        with pytest.raises(ArithmeticError, match="not now"):
            q.put(workers.Failing(0, faults))
        assert (q.qsize(), q.unfinished_tasks, q.full()) == (1, 1, False)
        faults.clear()
        q.put(workers.Failing(0, faults))
        assert workers.drain_numbers(q) == [0, 1]

    def test_a_get_takes_nothing(self) -> None:
        faults: Queue[Exception] = Queue()
        q: PriorityQueue[workers.Failing] = PriorityQueue(10)
        for number in (5, 3, 4, 1, 2, 0):
            q.put(workers.Failing(number, faults))
        faults.put(ArithmeticError("not now"))
        for _ in range(3):
            with pytest.raises(ArithmeticError, match="not now"):
                q.get()
        assert q.qsize() == 6
        faults.clear()
        assert workers.drain_numbers(q) == list(range(6))

    def test_so_it_is_with_a_keyboard_interrupt(self) -> None:
        faults: Queue[BaseException] = Queue()
        q: PriorityQueue[workers.Failing] = PriorityQueue()
        q.put_many([workers.Failing(number, faults) for number in (2, 1, 3)])
        faults.put(KeyboardInterrupt())
        for call in (q.get, lambda: q.put(workers.Failing(0, faults))):
            with pytest.raises(KeyboardInterrupt):
                call()
        faults.clear()
        assert workers.drain_numbers(q) == [1, 2, 3]

    def test_put_many_stops_at_the_item_that_cannot_be_compared(self) -> None:
        q: PriorityQueue[object] = PriorityQueue()
        with pytest.raises(TypeError) as caught:
            q.put_many([2, 1, "text", 0])
        assert caught.value.count == 2  # type: ignore[attr-defined]
        assert workers.drain(q) == [1, 2]

    def test_get_many_gives_what_it_has_taken(self) -> None:
        faults: Queue[Exception] = Queue()
        q: PriorityQueue[object] = PriorityQueue()
        for number in (1, 4, 2, 4):
            q.put((number, workers.Failing(q.qsize(), faults)))
        faults.put(ArithmeticError())
        assert [number for number, _ in q.get_many()] == [1]  # to take 2, those with 4 are compared
        with pytest.raises(ArithmeticError):
            q.get_many()
        faults.clear()
        assert [number for number, _ in q.get_many()] == [2, 4, 4]

    def test_an_item_that_cannot_be_unpickled_cannot_be_compared(self) -> None:
        q: PriorityQueue[object] = PriorityQueue()
        q.put(workers.RefusesToLoad())
        with pytest.raises(ArithmeticError):
            q.put(workers.RefusesToLoad())
        assert q.qsize() == 1
        with pytest.raises(ArithmeticError):
            q.get()
        assert q.qsize() == 0

    def test_somebody_else_who_waits_is_woken(self) -> None:
        faults: Queue[Exception] = Queue()
        q: PriorityQueue[workers.Failing] = PriorityQueue(2)
        q.put_many([workers.Failing(1, faults), workers.Failing(2, faults)])
        faults.put(ArithmeticError())
        putting = in_thread(q.put, workers.Failing(0, faults))
        assert_waits(putting)
        patient = in_thread(q.put, workers.Failing(3, faults))
        assert_waits(patient)
        q.clear()
        # One of them puts into the empty queue, and the other cannot: its comparison fails.
        outcomes = [future.exception(AMPLE) for future in (putting, patient)]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ArithmeticError", "NoneType"]
        assert q.qsize() == 1


class TestLock:
    """Whoever compares by value holds the queue."""

    @pytest.mark.parametrize("call", [("get",), ("put", 1), ("shutdown",), ("clear",), ("peek",)])
    def test_a_comparison_cannot_use_the_queue_itself(self, call: tuple[Any, ...]) -> None:
        q: PriorityQueue[workers.Meddling] = PriorityQueue()
        q.put(workers.Meddling(1, q, *call))
        with pytest.raises(RuntimeError, match="comparing two of its items used the queue itself"):
            q.put(workers.Meddling(0, q, *call))
        assert (q.qsize(), q.is_shutdown) == (1, False)
        assert q.get().number == 1

    def test_a_comparison_may_ask_the_queue_and_use_another(self) -> None:
        q: PriorityQueue[workers.Meddling] = PriorityQueue()
        other: PriorityQueue[int] = PriorityQueue()
        for call in (("qsize",), ("empty",), ("full",), ("task_done",)):
            q.put(workers.Meddling(1, q, *call))
            q.put(workers.Meddling(0, q, *call))
            assert [q.get().number, q.get().number] == [0, 1]
        q.put(workers.Meddling(1, other, "put", 5))
        q.put(workers.Meddling(0, other, "put", 6))
        assert other.get() == 6

    def test_others_wait_for_the_queue_meanwhile(self) -> None:
        told: SimpleQueue[int] = SimpleQueue()
        leave: SimpleQueue[None] = SimpleQueue()
        q: PriorityQueue[workers.Waiting] = PriorityQueue(3)
        q.put(workers.Waiting(1, told, leave))
        comparing = in_thread(q.put, workers.Waiting(0, told, leave))
        assert told.get(timeout=AMPLE) == 0
        assert q.qsize() == 1
        with pytest.raises(Empty):
            q.get(timeout=MOMENT)
        with pytest.raises(Full):
            q.put(workers.Waiting(2, told, leave), timeout=MOMENT)
        waiting = [in_thread(q.get_nowait), started(q.get), in_thread(q.shutdown)]
        assert_waits(*(waiting[0], waiting[2], comparing))
        for _ in range(5):
            leave.put(None)
        comparing.result(AMPLE)
        numbers = [waiting[0].result(AMPLE).number, waiting[1].result(AMPLE).number]
        assert sorted(numbers) == [0, 1]
        waiting[2].result(AMPLE)

    def test_a_wait_for_the_queue_can_be_interrupted(self) -> None:
        told: SimpleQueue[int] = SimpleQueue()
        leave: SimpleQueue[None] = SimpleQueue()
        q: PriorityQueue[workers.Waiting] = PriorityQueue()
        q.put(workers.Waiting(1, told, leave))
        comparing = started(workers.put_waiting, q, told, leave)
        assert told.get(timeout=AMPLE) == 0
        waiting = started(q.get)
        waiting.join(2 * MOMENT)
        waiting.interrupt()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(AMPLE)
        leave.put(None)
        comparing.result(AMPLE)
        assert q.qsize() == 2

    def test_ctrl_c_ends_a_wait_for_the_queue(self, run_program: ProgramRunner) -> None:
        outcome = run_program(
            """
            import threading, workers
            from multigil import PriorityQueue, SimpleQueue

            told, leave, q = SimpleQueue(), SimpleQueue(), PriorityQueue()
            q.put(workers.Waiting(1, told, leave))
            threading.Thread(target=q.put, args=[workers.Waiting(0, told, leave)]).start()
            told.get()
            print("waiting", flush=True)
            try:
                q.get()
            except KeyboardInterrupt:
                print("interrupted", q.qsize())
            leave.put(None)
            """,
            interrupt_after="waiting",
        )
        assert (outcome.stdout, outcome.stderr, outcome.status) == ("waiting\ninterrupted 1\n", "", 0)

    def test_a_signal_handler_that_uses_the_queue_is_told_so(self) -> None:
        q: PriorityQueue[Any] = PriorityQueue()
        q.put(workers.Meddling(1, Queue(), "qsize"))

        def handle(*_: object) -> None:
            q.put(2)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with pytest.raises(RuntimeError, match="in use by this thread"):
                q.put(Signalling(0))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert q.qsize() == 1


class Signalling(workers.Meddling):
    """Sends a signal while it is compared."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: workers.Meddling) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return self.number < other.number


class TestInterpreters:
    def test_items_are_compared_by_value_wherever_they_are_put_and_got(self) -> None:
        q: PriorityQueue[workers.Backwards] = PriorityQueue()
        putting = [started(workers.put_backwards, q, list(range(first, 600, 3))) for first in range(3)]
        for interpreter in putting:
            interpreter.result(AMPLE)
        assert [q.get().number for _ in range(10)] == list(range(599, 589, -1))
        assert started(workers.drain_numbers, q).result(AMPLE) == list(range(589, -1, -1))

    def test_items_are_got_by_several_interpreters_at_once(self) -> None:
        q: PriorityQueue[workers.Backwards] = PriorityQueue()
        workers.put_backwards(q, list(range(600)))
        getting = [started(workers.drain_numbers, q) for _ in range(3)]
        received = [interpreter.result(AMPLE) for interpreter in getting]
        assert all(numbers == sorted(numbers, reverse=True) for numbers in received)
        assert sorted(number for numbers in received for number in numbers) == list(range(600))

    def test_an_exception_of_a_comparison_is_raised_where_it_was_made(self) -> None:
        q: PriorityQueue[object] = PriorityQueue()
        q.put("text")
        putting = started(workers.put_all, q, 1)
        with pytest.raises(TypeError, match="not supported between instances of 'int' and 'str'"):
            putting.result(AMPLE)
        assert q.qsize() == 1

    def test_queues_and_locks_in_items_stay_alive_through_comparisons(self) -> None:
        q: PriorityQueue[Any] = PriorityQueue()
        for number in range(20):
            inner: Queue[int] = Queue()
            inner.put(number)
            q.put((1, Pair(number, inner), Lock()))
        del inner
        assert [item[1].inner.get_nowait() for item in workers.drain(q)] == list(range(20))

    def test_a_queue_is_pickled_by_its_id(self) -> None:
        q: PriorityQueue[int] = PriorityQueue(3)
        assert pickle.loads(pickle.dumps(q)) is q
        assert started(workers.describe, q).result(AMPLE) == ("PriorityQueue", 3)


@dataclasses.dataclass(order=True)
class Pair:
    number: int
    inner: Queue[int] = dataclasses.field(compare=False)


def test_the_standard_librarys_queue_gives_the_same_in_the_end() -> None:
    items = [(number * 7919 % 1_000, number) for number in range(3_000)]
    ours: PriorityQueue[tuple[int, int]] = PriorityQueue()
    theirs: queue.PriorityQueue[tuple[int, int]] = queue.PriorityQueue()
    for item in items:
        ours.put(item)
        theirs.put(item)
    assert workers.drain(ours) == [theirs.get() for _ in items]
