"""What a benchmark consists of: metrics, contenders, targets and the scenario that joins them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

type Sample = Mapping[str, float]
"""The figures of one measurement by the key of their metric: seconds, items per second or bytes."""


class Unit(Enum):
    """What a figure counts; a rate is better when higher, the others when lower."""

    RATE = "items/s"
    SECONDS = "s"
    BYTES = "B"

    @property
    def higher_is_better(self) -> bool:
        return self is Unit.RATE


@dataclass(frozen=True)
class Metric:
    """One column of figures."""

    key: str
    label: str
    unit: Unit


@dataclass(frozen=True)
class Contender:
    """Something that is measured; every call of `measure` gives one sample."""

    name: str
    measure: Callable[[], Sample]
    is_yardstick: bool = False
    """Whether it is what the machine does without any peer; it runs whichever peers are chosen."""


@dataclass(frozen=True)
class Target:
    """A figure that ours is to reach, by itself or against `versus`.

    Exactly one limit is set: `at_least` and `at_most` are factors of the other's figure, or the figure
    itself without `versus`; `at_most_above` is a difference from the other's figure.
    """

    metric: str
    versus: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    at_most_above: float | None = None

    def value(self, ours: float, theirs: float) -> float:
        """What is compared with the limit; `theirs` is ignored without `versus`."""
        if self.versus is None:
            return ours
        return ours - theirs if self.at_most_above is not None else ours / theirs

    def is_met(self, value: float) -> bool:
        """Whether `value`, as of the method of that name, keeps the limit."""
        if self.at_least is not None:
            return value >= self.at_least
        limit = self.at_most_above if self.at_most is None else self.at_most
        assert limit is not None, "a target has a limit"
        return value <= limit


@dataclass(frozen=True)
class Settings:
    """What the command line chooses."""

    seconds: float
    """How long one measurement of a rate or of round trips lasts, about."""
    rounds: int
    interpreters: int
    """How many are made and ended where their memory is measured."""
    maxsize: int | None
    """The bound of all queues; None leaves it to the workload."""


@dataclass(frozen=True)
class Scenario:
    """One question, put to all contenders in the same way. The first metric is the one for ratios."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    contenders: tuple[Contender, ...]
    rounds: int
    targets: tuple[Target, ...] = ()

    @property
    def ours(self) -> str | None:
        """The contender that the others are compared with; None without multigil."""
        return next((contender.name for contender in self.contenders if "multigil" in contender.name), None)


@dataclass
class Outcome:
    """The samples of a scenario by contender, one for each round."""

    scenario: Scenario
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def median(self, contender: str, metric: str) -> float:
        """The median over the rounds."""
        return statistics.median(sample[metric] for sample in self.samples[contender])

    def against(self, ours: str, theirs: str, metric: str, compare: Callable[[float, float], float]) -> float:
        """The median of `compare(ours, theirs)` over the rounds, each comparing what ran side by side."""
        pairs = zip(self.samples[ours], self.samples[theirs], strict=True)
        return statistics.median(compare(one[metric], other[metric]) for one, other in pairs)


class PerSecond:
    """A measurement of a rate: repeats an attempt with a count that makes it last about `seconds`.

    `attempt(count)` gives the seconds that `count` items took. Attempts that are much too short do not
    count, as what a peer needs to get going would weigh too much; they raise the count for the next one.
    """

    STEP = 64
    """Counts are multiples of it, so that they divide by the number of workers."""
    GROWTH = 8
    """How many times the count rises at most from one attempt to the next."""

    def __init__(self, attempt: Callable[[int], float], seconds: float) -> None:
        self._attempt = attempt
        self._seconds = seconds
        self._count = self.STEP

    def __call__(self) -> Sample:
        while (taken := self._attempt(self._count)) < self._seconds / 2:
            wanted = self._count * min(self.GROWTH, self._seconds / taken)
            self._count = round(wanted / self.STEP) * self.STEP
        return {"rate": self._count / taken}


def seconds_of(repeat: Callable[[int], object]) -> Callable[[int], float]:
    """An attempt for `PerSecond` that times a call of `repeat(count)` in this thread."""

    def attempt(count: int) -> float:
        begun = time.monotonic_ns()
        repeat(count)
        return (time.monotonic_ns() - begun) / 1e9

    return attempt


RATE = Metric("rate", "rate", Unit.RATE)
