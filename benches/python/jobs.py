"""What the workers of executors run. Imports next to nothing, because a first result waits for this import."""

from __future__ import annotations

import time


def nothing() -> None:
    """What is left is the executor's own share."""


def double(number: int) -> int:
    """As little as a task can do that has a result to check."""
    return 2 * number


def begin_and_stay(seconds: float) -> int:
    """Give the time at which it began (monotonic nanoseconds), and keep its worker from the next task so long."""
    begun = time.monotonic_ns()
    time.sleep(seconds)
    return begun


def compute(steps: int) -> int:
    """Python code that keeps a processor busy; its time grows with `steps`."""
    total = 0
    for number in range(steps):
        total += number % 7
    return total


def steps_for(seconds: float) -> int:
    """How many steps take `compute` so long here, as the best of some attempts tells."""
    steps = 20_000
    best = min(_time_of(steps) for _ in range(20))
    return max(1, round(steps * seconds / best))


def _time_of(steps: int) -> float:
    begun = time.perf_counter_ns()
    compute(steps)
    return (time.perf_counter_ns() - begun) / 1e9
