"""The options, the rounds and the output of the benchmarks."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import executors
import footprint
import locks
import loops
import parallel
import processes
import report
import roundtrip
import start
import throughput
import values
from model import Contender, Outcome, Scenario, Settings
from workers import HAS_MULTIGIL, Failed

FULL = Settings(seconds=0.5, rounds=7, interpreters=1000, maxsize=None)
QUICK = Settings(seconds=0.2, rounds=3, interpreters=100, maxsize=None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py", description="multigil beside the queues and locks of the standard library, in one run."
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, for a first look")
    parser.add_argument("--seconds", type=float, help="length of one measurement, about")
    parser.add_argument("--rounds", type=int, help="rounds, of which the medians count")
    parser.add_argument("--maxsize", type=int, help="bound of every queue; 0 is none (default: by the items)")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="scenarios, as lock/* or *dict*")
    parser.add_argument("--peers", metavar="LIST", help="parts of names, with commas; ours always runs")
    parser.add_argument("--list", action="store_true", help="print the scenarios and their peers")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--json", metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--picture", metavar="FILE", help="draw the throughput into FILE; needs matplotlib")
    parser.add_argument("--check", action="store_true", help="exit with status 1 when a target is missed")
    options = parser.parse_args()
    if options.picture and importlib.util.find_spec("matplotlib") is None:
        parser.error("--picture needs matplotlib")
    if options.check and not HAS_MULTIGIL:
        parser.error("--check needs multigil; make build installs it")
    return options


def chosen(options: argparse.Namespace, settings: Settings) -> Iterator[Scenario]:
    """The scenarios to run, each with the contenders to run."""
    parts = options.peers.split(",") if options.peers else [""]

    def is_chosen(contender: Contender, scenario: Scenario) -> bool:
        if contender.is_yardstick or contender.name == scenario.ours:
            return True
        return any(part.strip() in contender.name for part in parts)

    for room in (throughput, roundtrip, processes, executors, loops, start, locks, values, footprint, parallel):
        for scenario in room.scenarios(settings):
            if fnmatchcase(scenario.name, options.only):
                contenders = tuple(each for each in scenario.contenders if is_chosen(each, scenario))
                yield replace(scenario, contenders=contenders)


def measured(scenario: Scenario) -> Outcome:
    """Run the rounds, in each of which all contenders take their turn."""
    outcome = Outcome(scenario, {contender.name: [] for contender in scenario.contenders})
    for _ in range(scenario.rounds):
        for contender in scenario.contenders:
            outcome.samples[contender.name].append(contender.measure())
    return outcome


def main() -> int:
    """Run what the command line asks for and give the exit status."""
    options = arguments()
    base = QUICK if options.quick else FULL
    settings = Settings(
        seconds=base.seconds if options.seconds is None else options.seconds,
        rounds=base.rounds if options.rounds is None else options.rounds,
        interpreters=base.interpreters,
        maxsize=options.maxsize,
    )
    scenarios = list(chosen(options, settings))
    if options.list:
        for scenario in scenarios:
            print(f"{scenario.name}: {'; '.join(each.name for each in scenario.contenders)}")
        return 0
    if not options.markdown:
        print(" · ".join(report.machine(settings).values()) + "\n", flush=True)
    outcomes = []
    for scenario in scenarios:
        try:
            outcome = measured(scenario)
        except Failed as error:
            print(f"{scenario.name}: {error}", file=sys.stderr, flush=True)
            # The partners of a failed worker may wait for ever, and threads cannot be ended.
            os._exit(2)
        outcomes.append(outcome)
        if not options.markdown:
            print(report.text(outcome), flush=True)
    if options.markdown:
        print(report.markdown(outcomes, settings), end="")
    if options.json:
        Path(options.json).write_text(report.as_json(outcomes, settings))
    if options.picture:
        report.picture(outcomes, options.picture)
    missed = [each for outcome in outcomes for each in report.verdicts(outcome) if not each.is_met]
    if options.check and missed:
        print(f"{len(missed)} targets missed", file=sys.stderr)
        return 1
    return 0
