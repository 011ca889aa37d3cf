"""From the call of start to the begin of the target and to its first result."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import alone
import gate
from model import Contender, Metric, Sample, Scenario, Settings, Target, Unit
from workers import HAS_MULTIGIL, Crew, Kind

TIMES = (
    Metric("result", "first result", Unit.SECONDS),
    Metric("returned", "start returned", Unit.SECONDS),
    Metric("began", "target began", Unit.SECONDS),
)
STARTS = 5
"""Starts in a round, of which the median counts."""
SETTLE = 0.1
"""Seconds before each start, in which a spare interpreter becomes ready and earlier workers are gone."""
BARE = "bare creation"


def once(kind: Kind) -> Sample:
    """Start one worker and wait for its first word."""
    with Crew() as crew:
        begun = time.monotonic_ns()
        crew.add(kind, gate.begin)
        returned = time.monotonic_ns()
        (figures,) = crew.figures()
        result = time.monotonic_ns()
    return {
        "result": (result - begun) / 1e9,
        "returned": (returned - begun) / 1e9,
        "began": (figures["began"] - begun) / 1e9,
    }


@dataclass(frozen=True)
class Starts:
    """The medians of some starts of one kind of worker."""

    kind: Kind

    def __call__(self) -> Sample:
        samples = []
        for _ in range(STARTS):
            time.sleep(SETTLE)
            samples.append(once(self.kind))
        return {metric.key: statistics.median(sample[metric.key] for sample in samples) for metric in TIMES}


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """With a spare interpreter ready, and as the first of a program."""
    kinds = [Kind.THREAD, Kind.FORKSERVER, Kind.SPAWN]
    if sys.version_info >= (3, 14):
        kinds.insert(0, Kind.STANDARD_INTERPRETER)
    if HAS_MULTIGIL:
        kinds.insert(0, Kind.INTERPRETER)
    yield Scenario(
        "start/spare",
        "start of a worker; for multigil with a spare interpreter ready",
        TIMES,
        tuple(Contender(kind.value, Starts(kind)) for kind in kinds),
        settings.rounds,
        (Target("returned", at_most=200e-6), Target("began", at_most=1e-3)),
    )
    first = [Contender(Kind.INTERPRETER.value, lambda: alone.run("cold"))] if HAS_MULTIGIL else []
    yield Scenario(
        "start/cold",
        "start of the first interpreter of a program",
        TIMES,
        (*first, Contender(BARE, lambda: alone.run("bare"), is_yardstick=True)),
        settings.rounds,
        (Target("began", BARE, at_most=1.5),),
    )
