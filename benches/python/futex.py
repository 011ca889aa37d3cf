"""A bare round trip through two futexes: what the kernel needs to wake one, who wakes the other.

A semaphore of `multiprocessing` is glibc's: one futex, no lock around it, and methods in C that take some tens
of nanoseconds. With the system call by ctypes instead, the same round trip was measured to take 2 to 4 times as
long, which would flatter every queue beside it.
"""

from __future__ import annotations

import time
from multiprocessing.synchronize import Semaphore

from gate import Gate
from roles import percentiles


def ask(folder: str, there: Semaphore, back: Semaphore, trips: int, pause: float) -> None:
    """Wake the other and wait to be woken, so often; `pause` seconds of sleep before each."""
    with Gate(folder) as gate:
        durations = []
        gate.pass_through()
        for _ in range(trips):
            time.sleep(pause)
            asked = time.monotonic_ns()
            there.release()
            back.acquire()
            durations.append(time.monotonic_ns() - asked)
        gate.report(percentiles(durations))


def answer(folder: str, there: Semaphore, back: Semaphore, trips: int) -> None:
    """Wake whoever woke this one, so often."""
    with Gate(folder) as gate:
        gate.pass_through()
        for _ in range(trips):
            there.acquire()
            back.release()
        gate.report({})
