"""16 interpreters on one lock, one condition, one barrier: nothing is lost, nobody starves, waiting costs nothing.

    python soak_locks.py --minutes 1

Each is held by all of them for the time given. Exits with 1 after any finding.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from multigil import Barrier, Condition, Event, Interpreter, Lock, Value

INTERPRETERS = 16
# Of the mean: what everybody gets at least.
FAIR_SHARE = 0.1
# Items that the condition's buffer holds.
PLACES = 4
# Seconds for which all of them wait, and the processor time that they may take together: a thousandth of one processor.
WAIT = 2.0
MAX_WAITING_SECONDS = 0.002 * INTERPRETERS


def count_under(lock: Lock, counter: Value[int], stop: Event) -> int:
    """Add one again and again, not atomically: only the lock makes the count right."""
    count = 0
    while not stop.is_set():
        with lock:
            counter.value = counter.value + 1
        count += 1
    return count


def fill(condition: Condition, items: Value[int], stop: Event) -> int:
    """Put into a buffer of a few places, waiting for one."""
    count = 0
    while True:
        with condition:
            condition.wait_for(lambda: items.value < PLACES or stop.is_set())
            if stop.is_set():
                return count
            items.value = items.value + 1
            condition.notify_all()
        count += 1


def empty(condition: Condition, items: Value[int], stop: Event) -> int:
    """Take out of the buffer, waiting for an item."""
    count = 0
    while True:
        with condition:
            condition.wait_for(lambda: items.value > 0 or stop.is_set())
            if stop.is_set():
                return count
            items.value = items.value - 1
            condition.notify_all()
        count += 1


def meet(barrier: Barrier, counter: Value[int], stop: Event) -> int:
    """Go through the barrier with the others; after each time, everybody must have been there."""
    count = 0
    while True:
        counter.fetch_add(1)
        leader = barrier.wait() == 0
        if counter.value % INTERPRETERS:
            raise AssertionError(f"after {count} times, {counter.value} arrivals were counted")
        over = stop.is_set() if leader else False
        if leader and over:
            barrier.abort()
        try:
            barrier.wait()
        except RuntimeError:  # the leader's word that it is over
            return count
        count += 1


def wait_for(event: Event) -> None:
    event.wait()


def run(seconds: float, roles: list[tuple[Any, ...]], wake: Any = None) -> list[int]:
    """Run each role in an interpreter for so many seconds; what they have counted."""
    stop = Event()
    workers = [Interpreter(target=role, args=(*args, stop)) for role, *args in roles]
    for worker in workers:
        worker.start()
    # One that ends early has failed; its result says how.
    workers[0].join(seconds)
    stop.set()
    if wake is not None:
        wake()
    return [worker.result(60) for worker in workers]


def shares(name: str, counts: list[int]) -> list[str]:
    """Whether everybody got a fair share."""
    mean = sum(counts) / len(counts)
    print(f"{name}: {sum(counts):,} times, each {min(counts) / mean:.2f} to {max(counts) / mean:.2f} of the mean")
    return [f"{name}: one got {count} of {mean:.0f}" for count in counts if count < FAIR_SHARE * mean]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="how long each of the three (default: 1)")
    seconds = parser.parse_args().minutes * 60

    lock, counter = Lock(), Value("q")
    counts = run(seconds, [(count_under, lock, counter)] * INTERPRETERS)
    findings = shares("lock", counts)
    if counter.value != sum(counts):
        findings.append(f"lock: counted to {counter.value} instead of {sum(counts)}")

    condition, items = Condition(), Value("q")

    def wake() -> None:
        with condition:
            condition.notify_all()

    half = INTERPRETERS // 2
    counts = run(seconds, [(fill, condition, items)] * half + [(empty, condition, items)] * half, wake)
    findings += shares("condition, filling", counts[:half]) + shares("condition, emptying", counts[half:])
    if sum(counts[:half]) - sum(counts[half:]) != items.value:
        findings.append(f"condition: {items.value} items are left of {sum(counts[:half])} - {sum(counts[half:])}")

    barrier, arrivals = Barrier(INTERPRETERS), Value("q")
    counts = run(seconds, [(meet, barrier, arrivals)] * INTERPRETERS)
    print(f"barrier: {counts[0]:,} times")
    if len(set(counts)) != 1:
        findings.append(f"barrier: not everybody passed as often: {counts}")

    event = Event()
    waiters = [Interpreter(target=wait_for, args=(event,)) for _ in range(INTERPRETERS)]
    for waiter in waiters:
        waiter.start()
    time.sleep(WAIT)  # until all of them wait
    begin = time.process_time()
    time.sleep(WAIT)
    spent = time.process_time() - begin
    event.set()
    for waiter in waiters:
        waiter.result(60)
    print(f"waiting: {spent * 1e3:.2f} ms of processor time for {INTERPRETERS} interpreters in {WAIT:g} s")
    if spent > MAX_WAITING_SECONDS:
        findings.append(f"waiting: {spent:.3f} s of processor time")

    for finding in findings:
        print(f"FOUND: {finding}")
    print("nothing lost, nobody starved" if not findings else f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
