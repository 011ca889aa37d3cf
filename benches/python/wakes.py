"""A round trip of two wake-ups: one wakes the other, who wakes the first. Both have slept before.

The yardstick is a bare futex. A semaphore of `multiprocessing` is glibc's: one futex, no lock around it, and methods
in C that take some tens of nanoseconds. With the system call by ctypes instead, the same round trip was measured to
take 2 to 4 times as long, which would flatter everything beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gate import Gate
from roles import percentiles


class Trip(Protocol):
    """What the two do for each other; it pickles on its way to both."""

    def ask(self) -> None:
        """Wake the other and wait to be woken."""

    def answer(self) -> None:
        """Wait to be woken and wake the other."""


@dataclass(frozen=True)
class SemaphoreTrip:
    """By two semaphores."""

    there: Any
    back: Any

    def ask(self) -> None:
        self.there.release()
        self.back.acquire()

    def answer(self) -> None:
        self.there.acquire()
        self.back.release()


@dataclass(frozen=True)
class EventTrip:
    """By two events."""

    there: Any
    back: Any

    def ask(self) -> None:
        self.there.set()
        self.back.wait()
        self.back.clear()

    def answer(self) -> None:
        self.there.wait()
        self.there.clear()
        self.back.set()


@dataclass(frozen=True)
class ConditionTrip:
    """By one condition, for which each waits in turn."""

    turn: Any

    def ask(self) -> None:
        with self.turn:
            self.turn.notify()
            while not self.turn.wait(0.1):
                self.turn.notify()  # the other did not wait yet

    def answer(self) -> None:
        with self.turn:
            self.turn.wait()
            self.turn.notify()


def pair(trip: Callable[[Any, Any], Trip], make: Callable[[], Any]) -> Callable[[], Trip]:
    """Makes a trip by two objects of a kind."""
    return lambda: trip(make(), make())


def ask(folder: str, trip: Trip, trips: int, pause: float) -> None:
    """Make so many round trips; `pause` seconds of sleep before each."""
    with Gate(folder) as gate:
        durations = []
        gate.pass_through()
        for _ in range(trips):
            time.sleep(pause)
            asked = time.monotonic_ns()
            trip.ask()
            durations.append(time.monotonic_ns() - asked)
        gate.report(percentiles(durations))


def answer(folder: str, trip: Trip, trips: int) -> None:
    """Be the other of so many round trips."""
    with Gate(folder) as gate:
        gate.pass_through()
        for _ in range(trips):
            trip.answer()
        gate.report({})
