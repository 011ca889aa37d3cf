"""The figures as text, as Markdown, as JSON and as a picture."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from model import Metric, Outcome, Settings, Target, Unit

LARGE = 999
"""Figures above are not cut to three digits."""

_SCALES = {
    Unit.RATE: ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
    Unit.SECONDS: ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    Unit.BYTES: ((1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met, in words too."""

    target: Target
    text: str
    is_met: bool


def figure(value: float, unit: Unit) -> str:
    """A value with three digits and a fitting unit."""
    scales = _SCALES[unit]
    scale, name = next((pair for pair in scales if abs(value) >= pair[0]), scales[-1])
    return f"{_digits(value / scale)} {name}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if not value or abs(value) > LARGE else f"{value:#.3g}".rstrip(".")


def verdicts(outcome: Outcome) -> list[Verdict]:
    """What became of the targets for which all figures are there."""
    scenario = outcome.scenario
    ours = scenario.ours
    if ours is None:
        return []
    units = {metric.key: metric for metric in scenario.metrics}
    found = []
    for target in scenario.targets:
        if (target.versus or ours) not in outcome.samples:
            continue
        value = outcome.against(ours, target.versus or ours, target.metric, target.value)
        is_met = target.is_met(value)
        stated, measured = _limit(target, value, units[target.metric])
        text = f"{stated}: {measured}, {'met' if is_met else 'MISSED'}"
        found.append(Verdict(target, text, is_met))
    return found


def _limit(target: Target, value: float, metric: Metric) -> tuple[str, str]:
    """The limit and what was measured."""
    if target.at_most_above is not None:
        return f"at most {figure(target.at_most_above, metric.unit)} more", figure(value, metric.unit)
    word = "at most" if target.at_least is None else "at least"
    limit = target.at_most if target.at_least is None else target.at_least
    assert limit is not None, "a target has a limit"
    if target.versus is None:
        return f"{metric.label} {word} {figure(limit, metric.unit)}", figure(value, metric.unit)
    return f"{metric.label} {word} {limit:g} × its", f"{_digits(value)} ×"


def faster(outcome: Outcome, contender: str) -> str:
    """How many times better ours is than a contender in the first metric."""
    ours = outcome.scenario.ours
    metric = outcome.scenario.metrics[0]
    if ours is None or metric.unit is Unit.BYTES:
        return ""
    if contender == ours:
        return "–"
    if metric.unit.higher_is_better:
        ratio = outcome.against(ours, contender, metric.key, lambda one, other: one / other)
    else:
        ratio = outcome.against(ours, contender, metric.key, lambda one, other: other / one)
    return f"{_digits(ratio)} ×"


def rows(outcome: Outcome) -> Iterator[list[str]]:
    """The header and a row for each contender: name, metrics, ours is so many times better, targets."""
    scenario = outcome.scenario
    yield [scenario.title, *(metric.label for metric in scenario.metrics), "ours is better by", "target"]
    found = verdicts(outcome)
    for contender in outcome.samples:
        medians = [figure(outcome.median(contender, metric.key), metric.unit) for metric in scenario.metrics]
        texts = [each.text for each in found if (each.target.versus or scenario.ours) == contender]
        yield [contender, *medians, faster(outcome, contender), "; ".join(texts)]


def text(outcome: Outcome) -> str:
    """One scenario for a terminal."""
    table = list(rows(outcome))
    widths = [max(len(row[column]) for row in table[1:]) for column in range(len(table[0]))]
    for column in range(1, len(widths)):
        widths[column] = max(widths[column], len(table[0][column]))
    title, *labels = table[0]
    margin = 2 + widths[0]
    lines = [f"{outcome.scenario.name}: {title}", " " * margin + _aligned(labels, widths[1:])]
    lines += [f"  {row[0]:<{widths[0]}}{_aligned(row[1:], widths[1:])}" for row in table[1:]]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells to the right, but the last one, which is prose, to the left."""
    *figures, prose = cells
    return "".join(f"  {cell:>{width}}" for cell, width in zip(figures, widths, strict=False)) + f"  {prose}"


def markdown(outcomes: Sequence[Outcome], settings: Settings) -> str:
    """All scenarios as Markdown tables, for the README."""
    parts = [" · ".join(machine(settings).values())]
    for outcome in outcomes:
        header, *body = rows(outcome)
        alignment = [":--", *["--:"] * (len(header) - 2), ":--"]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in (header, alignment, *body)))
    return "\n\n".join(parts) + "\n"


def as_json(outcomes: Sequence[Outcome], settings: Settings) -> str:
    """Every sample and the medians, in seconds, items per second and bytes."""
    results = {
        outcome.scenario.name: {
            "title": outcome.scenario.title,
            "contenders": {
                contender: {
                    "samples": [dict(sample) for sample in samples],
                    "medians": {each.key: outcome.median(contender, each.key) for each in outcome.scenario.metrics},
                }
                for contender, samples in outcome.samples.items()
            },
            "targets": [{"text": each.text, "met": each.is_met} for each in verdicts(outcome)],
        }
        for outcome in outcomes
    }
    content = {"machine": machine(settings), "scenarios": results}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def machine(settings: Settings) -> dict[str, str]:
    """Where and how this was measured."""
    return {
        "cpu": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": f"{settings.rounds} × {settings.seconds:g} s",
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()


def picture(outcomes: Sequence[Outcome], path: str) -> None:
    """Draw the rates of the queues as bars on a logarithmic scale. Needs matplotlib."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    drawn = [outcome for outcome in outcomes if outcome.scenario.name.startswith("throughput/")]
    if not drawn:
        sys.exit("The picture shows throughput, and none was measured.")
    yardsticks = {each.name for outcome in drawn for each in outcome.scenario.contenders if each.is_yardstick}
    contenders = [name for name in dict.fromkeys(chain(*(each.samples for each in drawn))) if name not in yardsticks]
    height = 0.8 / len(contenders)
    inches = 1.5 + 0.12 * len(drawn) * len(contenders)
    canvas, axes = pyplot.subplots(figsize=(9, inches), layout="constrained")
    for index, contender in enumerate(contenders):
        places = [place for place, outcome in enumerate(drawn) if contender in outcome.samples]
        rates = [drawn[place].median(contender, "rate") for place in places]
        axes.barh([place + index * height for place in places], rates, height, align="edge", label=contender)
    axes.set_xscale("log")
    axes.set_xlabel("items per second")
    axes.set_yticks([place + 0.4 for place in range(len(drawn))], [each.scenario.title for each in drawn])
    axes.set_ylim(len(drawn) - 0.1, -0.1)
    canvas.legend(loc="outside lower center", ncols=2)
    canvas.savefig(path)
