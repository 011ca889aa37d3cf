"""A queue may be used in the middle of a call to it.

By signal handlers, destructors, weak references' callbacks, the garbage collector, audit hooks, and by the items
themselves while they are pickled and unpickled.
"""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from harness import AMPLE, MOMENT, in_fresh_process, in_thread
from multigil import Empty, Queue, SimpleQueue

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = [Queue, SimpleQueue]
SECONDS = 0.5

# The queue that items put into while they are pickled and unpickled.
current: list[Any] = []


class Uses:
    """Calls a function of this module when it is pickled, and another one when it is unpickled."""

    def __init__(self, on_dump: str, on_load: str) -> None:
        self.on_dump, self.on_load = on_dump, on_load

    def __reduce__(self) -> Any:
        globals()[self.on_dump]("dump")
        return load, (self.on_load,)


def load(function: str) -> str:
    globals()[function]("load")
    return "used"


def nothing(_: str) -> None:
    pass


def put(text: str) -> None:
    current[0].put(text)


def drop_with_destructor(text: str) -> None:
    Destroyed(text)


def drop_with_reference(text: str) -> None:
    class Referred:
        pass

    referred = Referred()
    weakref.finalize(referred, put, text)
    reference = weakref.ref(referred, lambda _: put(text))
    del referred
    assert reference() is None


def drop_in_cycle(text: str) -> None:
    destroyed = Destroyed(text)
    destroyed.itself = destroyed
    del destroyed
    gc.collect(0)


class Destroyed:
    itself: Destroyed

    def __init__(self, text: str) -> None:
        self.text = text

    def __del__(self) -> None:
        put(self.text)


def drained(q: Any) -> list[Any]:
    items = []
    while not q.empty():
        items.append(q.get_nowait())
    return items


def use(kind: Any) -> Any:
    current[:] = [kind()]
    return current[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("function", "times"), [("put", 1), ("drop_with_destructor", 1), ("drop_with_reference", 2), ("drop_in_cycle", 1)]
)
class TestItems:
    def test_what_pickling_puts_is_there_before_the_item(self, kind: Any, function: str, times: int) -> None:
        q = use(kind)
        for _ in range(20):
            q.put(Uses(function, "nothing"))
            q.put([Uses(function, "nothing"), Uses(function, "nothing")])
            q.put_many([1, Uses(function, "nothing")])
            assert drained(q) == [
                *["dump"] * times,
                "used",
                *["dump"] * (2 * times),
                ["used", "used"],
                *["dump"] * times,
                1,
                "used",
            ]

    def test_what_unpickling_puts_is_there_after_it(self, kind: Any, function: str, times: int) -> None:
        q = use(kind)
        for _ in range(20):
            q.put(Uses("nothing", function))
            assert [q.peek(), q.get()] == ["used", "used"]
            assert drained(q) == ["load"] * (2 * times)
            q.put_many([Uses("nothing", function), 2])
            assert q.get_many(2) == ["used", 2]
            assert drained(q) == ["load"] * times


def test_puts_inside_of_puts_may_be_deep() -> None:
    class Nest:
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def __reduce__(self) -> Any:
            if self.depth:
                q.put(Nest(self.depth - 1))
            return int, (self.depth,)

    q: SimpleQueue[Any] = SimpleQueue()
    q.put(Nest(50))
    assert drained(q) == list(range(51))


def taking_turns(q: Any, received: list[Any]) -> Callable[[int], None]:
    """What the main thread does while it is disturbed: every way in and every way out."""

    def single(i: int) -> None:
        q.put(("main", i))
        received.append(q.get())

    def batch(i: int) -> None:
        q.put_many([("main", i)])
        received.extend(q.get_many(2))

    def look(i: int) -> None:
        q.put(("main", i))
        q.peek()
        received.append(q.get(timeout=AMPLE))

    ways = itertools.cycle([single, batch, look])

    def take_turn(i: int) -> None:
        next(ways)(i)

    return take_turn


def check(received: list[Any], names: dict[str, int]) -> None:
    """Each item once, and those of the main thread in their order; one disturbance may disturb another."""
    numbers = {name: [number for by, number in received if by == name] for name in names}
    assert numbers["main"] == list(range(names["main"]))
    assert {name: sorted(some) for name, some in numbers.items()} == {
        name: list(range(count)) for name, count in names.items()
    }
    assert len(received) == sum(names.values())


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@in_fresh_process
def test_a_signal_handler_may_put_at_any_time(kind: str) -> None:
    q: Any = {"Queue": Queue, "SimpleQueue": SimpleQueue}[kind]()
    received: list[Any] = []
    handled = itertools.count()

    def handle(*_: object) -> None:
        q.put(("handler", next(handled)))
        q.put_many([("handler", next(handled)), ("handler", next(handled))])

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    take_turns = taking_turns(q, received)
    until = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < until:
        take_turns(rounds)
        rounds += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    received += drained(q)
    count = next(handled)
    assert count > 100
    check(received, {"main": rounds, "handler": count})


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@in_fresh_process
def test_the_collector_and_what_it_destroys_may_put_at_any_time(kind: str) -> None:
    q: Any = {"Queue": Queue, "SimpleQueue": SimpleQueue}[kind]()
    received: list[Any] = []
    counts = {name: itertools.count() for name in ("callback", "destructor", "reference")}

    def put_as(name: str) -> None:
        q.put((name, next(counts[name])))

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            put_as("destructor")

    def collected(*_: object) -> None:
        put_as("callback")

    references = []
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    take_turns = taking_turns(q, received)
    for i in range(2_000):
        cycle = Cycle()
        references.append(weakref.ref(cycle, lambda _: put_as("reference")))
        del cycle
        take_turns(i)
    gc.callbacks.clear()
    gc.collect()
    received += drained(q)
    named = {name: next(count) for name, count in counts.items()}
    assert (named["destructor"], named["reference"]) == (2_000, 2_000)
    assert named["callback"] > 10
    check(received, {"main": 2_000, **named})


@in_fresh_process
def test_an_audit_hook_may_put_while_an_item_is_unpickled() -> None:
    q: SimpleQueue[Any] = SimpleQueue()
    names: list[object] = []

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "pickle.find_class":
            names.append(args[1])
            q.put("audited")

    sys.addaudithook(hook)
    q.put_many([Uses("nothing", "nothing"), Uses("nothing", "nothing")])
    assert q.peek() == "used"
    assert q.get_many(2) == ["used", "used"]
    assert names.count("load") == 3
    assert drained(q) == ["audited"] * len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_may_put_what_the_thread_itself_waits_for(kind: Any) -> None:
    q = kind()
    before = signal.signal(signal.SIGALRM, lambda *_: q.put("from the handler"))
    try:
        for wait in (q.get, q.peek, lambda: q.get_many()[0]):
            signal.setitimer(signal.ITIMER_REAL, MOMENT)
            assert wait() == "from the handler"
            if not q.empty():
                q.clear()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_handler_may_take_what_keeps_the_thread_from_putting() -> None:
    q: Queue[int] = Queue(1)
    q.put(1)
    taken = []
    before = signal.signal(signal.SIGALRM, lambda *_: taken.append(q.get_nowait()))
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT, MOMENT)
        q.put(2)
        q.put_many([3, 4, 5])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    while not q.empty():
        taken.append(q.get())
    assert taken == [1, 2, 3, 4, 5]


def test_other_threads_are_served_meanwhile() -> None:
    q = use(SimpleQueue)
    count = 2_000

    def put_all() -> None:
        for _ in range(count):
            q.put(Uses("put", "nothing"))

    putting = [in_thread(put_all) for _ in range(3)]
    received = [q.get(timeout=AMPLE) for _ in range(6 * count)]
    for future in putting:
        future.result(AMPLE)
    assert (received.count("dump"), received.count("used")) == (3 * count, 3 * count)
    with pytest.raises(Empty):
        q.get_nowait()
