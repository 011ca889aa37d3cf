"""What the workers do. Every peer runs these functions; none knows which peer it serves."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gate import Gate
from workloads import Integers, Mismatch, Records, Workload

if TYPE_CHECKING:
    from peers import AtomicNumber, Channel, Exclusion, LockedNumber

END = -1
"""What the one who asks sends last."""


def produce(folder: str, channel: Channel, workload: Workload, first: int, count: int) -> None:
    """Put `count` items, beginning with number `first`."""
    with Gate(folder) as gate:
        put = channel.put
        start = gate.pass_through()
        workload.produce(put, first, count)
        gate.report({"start": start, "stop": time.monotonic_ns()})


def consume(folder: str, channel: Channel, workload: Workload, count: int) -> None:
    """Get `count` items of a single producer, each of which has to be the next one."""
    with Gate(folder) as gate:
        get = channel.get
        start = gate.pass_through()
        workload.consume(get, count)
        gate.report({"start": start, "stop": time.monotonic_ns()})


def consume_share(
    folder: str, channel: Channel, workload: Integers | Records, count: int, producers: int, produced: int
) -> None:
    """Get `count` items of several producers, of which each puts `produced` in rising order.

    The sum of the numbers is reported, so that all shares together show that each item came once.
    """
    with Gate(folder) as gate:
        get: Callable[[], object] = channel.get
        number_of: Callable[..., int] = workload.number
        last = [-1] * producers
        total = 0
        start = gate.pass_through()
        for _ in range(count):
            number = number_of(get())
            producer = number // produced
            if number <= last[producer]:
                raise Mismatch(f"number {number} of producer {producer} after {last[producer]}")
            last[producer] = number
            total += number
        gate.report({"start": start, "stop": time.monotonic_ns(), "total": total})


def ask(folder: str, there: Channel, back: Channel, nanoseconds: int, pause: float) -> None:
    """Send numbers and wait for each to come back, for so long; `pause` seconds of sleep before each."""
    with Gate(folder) as gate:
        put = there.put
        get = back.get
        now = time.monotonic_ns
        sleep = time.sleep
        trips: list[int] = []
        until = gate.pass_through() + nanoseconds
        for number in range(1 << 62):
            if pause:
                sleep(pause)
            asked = now()
            put(number)
            if get() != number:
                raise Mismatch(f"not the answer to {number}")
            answered = now()
            trips.append(answered - asked)
            if answered > until:
                break
        put(END)
        gate.report(percentiles(trips))


def answer(folder: str, there: Channel, back: Channel) -> None:
    """Send back what comes."""
    with Gate(folder) as gate:
        get = there.get
        put = back.put
        gate.pass_through()
        while (number := get()) != END:
            put(number)
        gate.report({})


def wait(folder: str, channel: Channel) -> None:
    """Wait in `get` for the one item that comes, and report the processor time that this took."""
    with Gate(folder) as gate:
        get = channel.get
        gate.pass_through()
        before = time.thread_time_ns()
        get()
        gate.report({"cpu": time.thread_time_ns() - before})


def contend(folder: str, lock: Exclusion, counter: str, count: int) -> None:
    """Add `count` to the number in the file `counter`, one by one, each under the lock."""
    with (
        Gate(folder) as gate,
        open(counter, "r+b") as file,
        mmap.mmap(file.fileno(), 8) as memory,
        memoryview(memory) as plain,
        plain.cast("Q") as numbers,
    ):
        acquire = lock.acquire
        release = lock.release
        start = gate.pass_through()
        for _ in range(count):
            acquire()
            numbers[0] += 1
            release()
        gate.report({"start": start, "stop": time.monotonic_ns()})


def fetch_add(folder: str, value: AtomicNumber, count: int) -> None:
    """Add to a shared number in one step each time."""
    with Gate(folder) as gate:
        add = value.fetch_add
        start = gate.pass_through()
        for _ in range(count):
            add(1)
        gate.report({"start": start, "stop": time.monotonic_ns()})


def add_with_lock(folder: str, value: LockedNumber, count: int) -> None:
    """Add to a shared number under its lock."""
    with Gate(folder) as gate:
        lock = value.get_lock()
        start = gate.pass_through()
        for _ in range(count):
            with lock:
                value.value += 1
        gate.report({"start": start, "stop": time.monotonic_ns()})


def percentiles(durations: list[int]) -> dict[str, int]:
    """The median and the 99th percentile by the nearest rank."""
    ordered = sorted(durations)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100]}
