"""Pairs of acquire and release per second, alone and between two workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import roles
from model import RATE, Contender, PerSecond, Scenario, Settings, Target, seconds_of
from peers import Exclusion, LockPeer, locks
from workers import Crew, Failed

WORKERS = 2


class Uncontended:
    """Takes and frees a lock that nobody else uses."""

    def __init__(self, lock: Exclusion) -> None:
        self._lock = lock

    def __call__(self, count: int) -> None:
        acquire = self._lock.acquire
        release = self._lock.release
        for _ in range(count):
            acquire()
            release()


@dataclass(frozen=True)
class Contended:
    """Two workers count in shared memory under one lock; a lost count is a failure."""

    peer: LockPeer

    def __call__(self, count: int) -> float:
        lock = self.peer.make()
        with Crew() as crew:
            counter = os.path.join(crew.folder, "counter")
            with open(counter, "wb") as file:
                file.write(bytes(8))
            for _ in range(WORKERS):
                crew.add(self.peer.kind, roles.contend, lock, counter, count // WORKERS)
            crew.go()
            seconds, _ = crew.span()
            with open(counter, "rb") as file:
                counted = int.from_bytes(file.read(), "little")
        if counted != count:
            raise Failed(f"{self.peer.name}: counted to {counted} instead of {count}")
        return seconds


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """Each lock alone, and between two workers."""
    for name in ("Lock", "RLock"):
        alone = {peer.name.partition(",")[0]: peer.make for peer in locks(name)}
        yield Scenario(
            f"{name.lower()}/uncontended",
            f"acquire and release of one free {name}",
            (RATE,),
            tuple(
                Contender(each, PerSecond(seconds_of(Uncontended(make())), settings.seconds))
                for each, make in alone.items()
            ),
            settings.rounds,
            (Target("rate", f"threading.{name}", at_least=0.67),),
        )
        yield Scenario(
            f"{name.lower()}/contended",
            f"acquire and release of one {name} between two workers that count under it",
            (RATE,),
            tuple(Contender(peer.name, PerSecond(Contended(peer), settings.seconds)) for peer in locks(name)),
            settings.rounds,
            (Target("rate", f"multiprocessing.{name}", at_least=1.5),),
        )
