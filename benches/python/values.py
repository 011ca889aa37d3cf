"""Additions to a shared number per second, by one worker and by two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model import RATE, Contender, PerSecond, Scenario, Settings
from peers import ValuePeer, values
from workers import Crew, Failed


@dataclass(frozen=True)
class Counting:
    """Some workers add to one number; a lost addition is a failure."""

    peer: ValuePeer
    workers: int

    def __call__(self, count: int) -> float:
        value = self.peer.make()
        with Crew() as crew:
            for _ in range(self.workers):
                crew.add(self.peer.kind, self.peer.role, value, count // self.workers)
            crew.go()
            seconds, _ = crew.span()
        if value.value != count:
            raise Failed(f"{self.peer.name}: counted to {value.value} instead of {count}")
        return seconds


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """One worker that nobody disturbs, and two at once."""
    for name, title, workers in (
        ("value/uncontended", "additions to a shared number by one worker", 1),
        ("value/contended", "additions to a shared number by two workers", 2),
    ):
        yield Scenario(
            name,
            title,
            (RATE,),
            tuple(Contender(peer.name, PerSecond(Counting(peer, workers), settings.seconds)) for peer in values()),
            settings.rounds,
        )
