"""How long a number takes to another worker and back, and what waiting costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import roles
import wakes
from model import Contender, Metric, Sample, Scenario, Settings, Target, Unit
from peers import PROCESSES, QueuePeer, WakePeer, queues, wakers
from workers import Crew, Kind

FUTEX = WakePeer(
    "bare futex, processes", Kind.FORKSERVER, wakes.pair(wakes.SemaphoreTrip, lambda: PROCESSES.Semaphore(0))
)
PAUSE = 0.005
"""Seconds for which the one who asks sleeps before each question, so that both have to be woken."""
WAIT = 1.0
"""Seconds for which a worker waits in `get`."""

TRIP = (Metric("p50", "median", Unit.SECONDS), Metric("p99", "99 %", Unit.SECONDS))
CPU = Metric("cpu", "processor time", Unit.SECONDS)


@dataclass(frozen=True)
class RoundTrip:
    """Asks for so many seconds, with a pause before each question."""

    peer: QueuePeer
    seconds: float
    pause: float

    def __call__(self) -> Sample:
        there = self.peer.make(0)
        back = self.peer.make(0)
        with Crew() as crew:
            crew.add(self.peer.kind, roles.ask, there, back, int(self.seconds * 1e9), self.pause)
            crew.add(self.peer.kind, roles.answer, there, back)
            crew.go()
            return crew.durations()


@dataclass(frozen=True)
class WakeRoundTrip:
    """As `RoundTrip`, with nothing sent."""

    peer: WakePeer
    seconds: float
    pause: float

    def __call__(self) -> Sample:
        trip = self.peer.make()
        trips = max(1, round(self.seconds / self.pause))
        with Crew() as crew:
            crew.add(self.peer.kind, wakes.ask, trip, trips, self.pause)
            crew.add(self.peer.kind, wakes.answer, trip, trips)
            crew.go()
            return crew.durations()


@dataclass(frozen=True)
class Waiting:
    """The processor time of a worker that waits in `get`."""

    peer: QueuePeer

    def __call__(self) -> Sample:
        channel = self.peer.make(0)
        with Crew() as crew:
            crew.add(self.peer.kind, roles.wait, channel)
            crew.go()
            time.sleep(WAIT)
            channel.put(0)
            return crew.durations()


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """Between two that answer at once, between two that slept, and the wait itself."""
    yield Scenario(
        "roundtrip/awake",
        "round trip of an int between two workers that answer at once",
        TRIP,
        tuple(Contender(peer.name, RoundTrip(peer, settings.seconds, 0.0)) for peer in queues()),
        settings.rounds,
        (Target("p50", at_most=3e-6),),
    )
    kernel = Contender(FUTEX.name, WakeRoundTrip(FUTEX, settings.seconds, PAUSE), is_yardstick=True)
    yield Scenario(
        "roundtrip/asleep",
        f"round trip of an int between two workers that have slept for {PAUSE * 1e3:g} ms",
        TRIP,
        (*(Contender(peer.name, RoundTrip(peer, settings.seconds, PAUSE)) for peer in queues()), kernel),
        settings.rounds,
        (Target("p50", FUTEX.name, at_most=1.2),),
    )
    for name, peers in wakers().items():
        yield Scenario(
            f"wake/{name.lower()}",
            f"round trip of wake-ups by {name}s between two workers that have slept for {PAUSE * 1e3:g} ms",
            TRIP,
            (*(Contender(peer.name, WakeRoundTrip(peer, settings.seconds, PAUSE)) for peer in peers), kernel),
            settings.rounds,
            (Target("p50", FUTEX.name, at_most=1.2),),
        )
    yield Scenario(
        "waiting",
        f"processor time of {WAIT:g} s in get",
        (CPU,),
        tuple(Contender(peer.name, Waiting(peer)) for peer in queues()),
        min(settings.rounds, 3),
        (Target("cpu", at_most=5e-3),),
    )
