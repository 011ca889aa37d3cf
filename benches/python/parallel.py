"""Tiny calls per second in joblib's `Parallel` with two workers, over our backend and over its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from model import RATE, Contender, PerSecond, Scenario, Settings, Target, seconds_of
from workers import HAS_MULTIGIL

WORKERS = 2
OURS, LOKY = "joblib, multigil", "joblib, loky"


class Calls:
    """Calls a function so many times. Its workers are made by the first of them, and stay."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._parallel: Callable[[Any], Any] | None = None

    def __call__(self, count: int) -> None:
        import joblib

        if self._parallel is None:
            if self._backend == "multigil":
                import multigil.joblib  # noqa: F401  (registers it)
            self._parallel = joblib.Parallel(WORKERS, backend=self._backend)
            self(10 * WORKERS)
        self._parallel(joblib.delayed(abs)(number) for number in range(count))


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """One scenario, where joblib is installed."""
    if importlib.util.find_spec("joblib") is None:
        return
    backends = {OURS: "multigil", LOKY: "loky"} if HAS_MULTIGIL else {LOKY: "loky"}
    yield Scenario(
        "joblib/tiny",
        f"calls of abs() in joblib's Parallel, {WORKERS} workers",
        (RATE,),
        tuple(
            Contender(name, PerSecond(seconds_of(Calls(backend)), settings.seconds))
            for name, backend in backends.items()
        ),
        settings.rounds,
        (Target("rate", LOKY, at_least=1.0),),
    )
