"""What the tests of `Value`, `Array` and `SharedMemory` let other interpreters run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import multigil

if TYPE_CHECKING:
    from multigil import Array, Queue, SharedMemory, SimpleQueue, Value


class Counter(multigil.Value):
    """A subclass that interpreters can import."""

    def increment(self) -> int:
        return int(self.fetch_add(1))


def add(value: Value, count: int, n: float) -> None:
    for _ in range(count):
        value.fetch_add(n)


def add_by_compare_exchange(value: Value, count: int, n: float) -> None:
    for _ in range(count):
        while not value.compare_exchange(seen := value.value, seen + n):
            pass


def add_with_lock(value: Value, count: int, n: float) -> None:
    for _ in range(count):
        with value.get_lock():
            value.value += n


def add_to_each(array: Array, count: int) -> None:
    for i in range(count):
        array.fetch_add(i % len(array), 1)


def write_whole_slices(array: Array, count: int, number: int) -> None:
    for _ in range(count):
        array[:] = [number] * len(array)


def write_whole_strings(array: Array, count: int, text: bytes) -> None:
    for _ in range(count):
        array.value = text


def take_turns(value: Value, rounds: int, first: int) -> None:
    """Make each second number of a count, beginning with `first`, when the one before is there."""
    for number in range(first, 2 * rounds, 2):
        while (seen := value.value) != number:
            value.wait(seen)
        value.value = number + 1
        value.notify()


def take_turns_in_ring(array: Array, rounds: int, place: int) -> None:
    """Wait for each number at one place of a ring, and hand it on to the next place."""
    following = (place + 1) % len(array)
    for number in range(rounds):
        array.wait(place, number)
        array[following] = array[place] + (following == 0)
        array.notify(following)


def wait_for_change(value: Value, expected: Any, waiting: SimpleQueue[None]) -> Any:
    waiting.put(None)
    value.wait(expected)
    return value.value


def timed_wait(value: Value, timeout: float) -> tuple[bool, float, float]:
    """Whether it changed, seconds of waiting, and seconds of processor time."""
    start, processor_start = time.monotonic(), time.thread_time()
    changed = value.wait(value.value, timeout)
    return changed, time.monotonic() - start, time.thread_time() - processor_start


def try_lock(value: Value | Array) -> bool:
    lock = value.get_lock()
    taken = bool(lock.acquire(blocking=False))
    if taken:
        lock.release()
    return taken


def lock_type(value: Value | Array) -> str:
    return type(value.get_lock()).__name__


def make_values(carrier: Queue[Any]) -> None:
    """Put a value and an array; every handle here is gone when this returns."""
    carrier.put((multigil.Value("i", 7), multigil.Array("d", [1.5, 2.5])))


def look(value: Value) -> tuple[Any, str]:
    return value.value, value.typecode


def set_value(value: Value, new: Any) -> None:
    value.value = new
    value.notify_all()


def elements(array: Array) -> tuple[Any, str]:
    return array[:], array.typecode


def fill_buffer(array: Array, number: int) -> None:
    with memoryview(array) as view:
        for i in range(len(view)):
            view[i] = number


kept: list[Any] = []


def keep_view(of: Array | SharedMemory) -> int:
    """Keep a view until the interpreter ends."""
    view = memoryview(of if isinstance(of, multigil.Array) else of.buf)  # type: ignore[arg-type]
    kept.append(view)
    return view.nbytes


def keep_block(name: str) -> int:
    """Keep a block open until the interpreter ends."""
    block = multigil.SharedMemory(name)
    kept.append(block)
    return block.size


def create(name: str, content: bytes) -> int:
    block = multigil.SharedMemory(name, create=True, size=len(content))
    return write_into(block, content)[1]


def write_to(name: str, content: bytes) -> None:
    write_into(multigil.SharedMemory(name), content)


def write_into(block: SharedMemory, content: bytes) -> tuple[str, int]:
    view = memoryview(block.buf)  # type: ignore[arg-type]
    view[: len(content)] = content
    view.release()
    block.close()
    return block.name, block.size
