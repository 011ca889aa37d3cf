"""Between processes: items per second, round trips, and a lock; ours between interpreters stands beside each."""

from __future__ import annotations

from collections.abc import Iterator

from locks import Contended
from model import RATE, Contender, PerSecond, Scenario, Settings, Target
from peers import process_locks, process_queues
from roundtrip import TRIP, RoundTrip
from throughput import OneToOne
from workloads import BLOCKS, INTEGERS, RECORDS, Workload

INTERPRETERS = "multigil.Queue, interpreters"
STANDARD = "multiprocessing.Queue"
FASTER_FIFO = "faster-fifo"
SLOWER = 1.3
"""How many times as long a message may take between processes as between interpreters."""

TARGETS = {
    "int": (Target("rate", STANDARD, at_least=10.0), Target("rate", FASTER_FIFO, at_least=10.0)),
    "64KiB": (Target("rate", STANDARD, at_least=3.0),),
    "1MiB": (Target("rate", STANDARD, at_least=5.0),),
}
"""The targets against others, by the name of the workload."""


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """Each workload from one to one, a round trip, and a lock that two want."""
    workloads: list[Workload] = [INTEGERS, RECORDS, *(each for each in BLOCKS if each.name in TARGETS)]
    for workload in workloads:
        maxsize = workload.maxsize if settings.maxsize is None else settings.maxsize
        yield Scenario(
            f"processes/{workload.name}",
            f"{workload.title} from one process to another",
            (RATE,),
            tuple(
                Contender(peer.name, PerSecond(OneToOne(peer, workload, maxsize), settings.seconds))
                for peer in process_queues()
            ),
            settings.rounds,
            (Target("rate", INTERPRETERS, at_least=round(1 / SLOWER, 2)), *TARGETS.get(workload.name, ())),
        )
    yield Scenario(
        "processes/roundtrip",
        "round trip of an int between two processes that answer at once",
        TRIP,
        tuple(Contender(peer.name, RoundTrip(peer, settings.seconds, 0.0)) for peer in process_queues()),
        settings.rounds,
        (Target("p50", at_most=3e-6), Target("p50", INTERPRETERS, at_most=SLOWER)),
    )
    yield Scenario(
        "processes/lock",
        "acquire and release of one Lock between two processes that count under it",
        (RATE,),
        tuple(Contender(peer.name, PerSecond(Contended(peer), settings.seconds)) for peer in process_locks()),
        settings.rounds,
        (Target("rate", "multiprocessing.Lock", at_least=1.5),),
    )
