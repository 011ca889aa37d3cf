"""What multigil costs a program that imports it, and what interpreters leave behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import alone
from model import Contender, Metric, Sample, Scenario, Settings, Target, Unit
from workers import HAS_MULTIGIL

RUNS = 15
"""Programs started for the time of an import, of which the median counts."""
EMPTY = "pass"
BARE = "bare interpreters"

TIME = Metric("time", "run time", Unit.SECONDS)
GROWTH = Metric("grown", "growth", Unit.BYTES)


@dataclass(frozen=True)
class Program:
    """The seconds that Python takes to run a program of one line."""

    source: str

    def __call__(self) -> Sample:
        begun = time.monotonic_ns()
        subprocess.run([sys.executable, "-c", self.source], check=True)
        return {"time": (time.monotonic_ns() - begun) / 1e9}


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """The import, and the memory after many interpreters or many calls into one."""
    count = settings.interpreters
    sources = ["import multigil", EMPTY] if HAS_MULTIGIL else [EMPTY]
    yield Scenario(
        "import",
        "a program that only imports",
        (TIME,),
        tuple(Contender(source, Program(source), is_yardstick=source == EMPTY) for source in sources),
        RUNS,
        (Target("time", EMPTY, at_most_above=15e-3),),
    )
    ended = [Contender("multigil.Interpreter", lambda: alone.run("ended", count))] if HAS_MULTIGIL else []
    yield Scenario(
        "memory/ended",
        f"memory after {count} interpreters made and ended",
        (GROWTH,),
        (*ended, Contender(BARE, lambda: alone.run("bare-ended", count), is_yardstick=True)),
        1,
        # Until 3.14, CPython itself loses more than that.
        (Target("grown", at_most=20e6),) if sys.version_info >= (3, 14) else (),
    )
    if HAS_MULTIGIL:
        yield Scenario(
            "memory/called",
            f"memory after {count} calls into one interpreter",
            (GROWTH,),
            (Contender("multigil.Interpreter.call", lambda: alone.run("called", count)),),
            1,
            (Target("grown", at_most=0.25e6),),
        )
