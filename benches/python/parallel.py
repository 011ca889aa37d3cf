"""Tiny calls of a function per second, by two workers: executors' `map`, and joblib's `Parallel`."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from model import RATE, Contender, PerSecond, Scenario, Settings, Target, seconds_of
from workers import HAS_MULTIGIL

WORKERS = 2


class Calls:
    """Calls a function for each of so many numbers. Its workers are made by the first of them, and stay."""

    def __init__(self, make: Callable[[], Callable[[Iterable[int]], Iterable[object]]]) -> None:
        self._make = make
        self._call: Callable[[Iterable[int]], Iterable[object]] | None = None

    def __call__(self, count: int) -> None:
        if self._call is None:
            self._call = self._make()
            deque(self._call(range(10 * WORKERS)), 0)
        deque(self._call(range(count)), 0)


def executor() -> Callable[[Iterable[int]], Iterable[object]]:
    from multigil import InterpreterPoolExecutor

    pool = InterpreterPoolExecutor(WORKERS)
    return lambda numbers: pool.map(abs, numbers)


def parallel(backend: str) -> Callable[[], Callable[[Iterable[int]], Iterable[object]]]:
    def make() -> Callable[[Iterable[int]], Iterable[object]]:
        import joblib

        if backend == "multigil":
            import multigil.joblib  # noqa: F401  (registers it)
        run = joblib.Parallel(WORKERS, backend=backend)
        return lambda numbers: run(joblib.delayed(abs)(number) for number in numbers)

    return make


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """Our executor, and joblib with our backend, beside joblib with its own."""
    makers: dict[str, Callable[[], Callable[[Iterable[int]], Iterable[object]]]] = {}
    if HAS_MULTIGIL:
        makers["multigil, executor"] = executor
    if importlib.util.find_spec("joblib") is not None:
        if HAS_MULTIGIL:
            makers["joblib on multigil"] = parallel("multigil")
        makers["joblib on loky"] = parallel("loky")
    yield Scenario(
        "parallel/tiny",
        f"calls of abs() by {WORKERS} workers",
        (RATE,),
        tuple(Contender(name, PerSecond(seconds_of(Calls(make)), settings.seconds)) for name, make in makers.items()),
        settings.rounds,
        (Target("rate", "joblib on loky", at_least=1.0),),
    )
