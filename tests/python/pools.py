"""The executors that the tests are about, and how to get one with all its workers at work."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import multigil
import tasks
from harness import AMPLE
from multigil import futures

WORKERS = 2


class Kind(NamedTuple):
    """One of the two executors."""

    name: str
    make: Callable[..., Any]
    broken: type[concurrent.futures.BrokenExecutor]


KINDS = [
    Kind("interpreter", multigil.InterpreterPoolExecutor, futures.BrokenInterpreterPool),
    Kind("process", multigil.ProcessPoolExecutor, futures.BrokenProcessPool),
]


def warmed[E: Executor](pool: E, workers: int = WORKERS) -> E:
    """Have all workers of a pool started: each of them takes part in a meeting."""
    barrier = multigil.Barrier(workers)
    for future in [pool.submit(tasks.meet, barrier) for _ in range(workers)]:
        future.result(AMPLE)
    return pool


class Gate:
    """Tasks that run until they are let go."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self.told: multigil.SimpleQueue[Any] = multigil.SimpleQueue()
        self.go = multigil.Event()

    def submit(self, value: Any = None) -> concurrent.futures.Future[Any]:
        """A task that tells the value, waits, and gives it."""
        return self.pool.submit(tasks.tell_and_wait, self.told, self.go, value)

    def occupied(self, count: int = 1) -> list[concurrent.futures.Future[Any]]:
        """So many tasks, each of which has begun."""
        futures = [self.submit(number) for number in range(count)]
        for _ in futures:
            self.told.get(timeout=AMPLE)
        return futures
