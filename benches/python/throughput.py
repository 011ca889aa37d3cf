"""Items per second through a queue, from some workers to some others."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import roles
from model import RATE, Contender, PerSecond, Sample, Scenario, Settings, Target, seconds_of
from peers import QueuePeer, batches, priority_queues, queues
from workers import HAS_MULTIGIL, Crew, Failed
from workloads import BLOCKS, INTEGER_BATCHES, INTEGERS, JOBS, MIB, RECORDS, Blocks, Integers, Records, Workload

OURS = "multigil.Queue, interpreters"
STANDARD = "concurrent.interpreters.Queue"
THREADS = "queue.Queue, threads"
PRIORITY_THREADS = "queue.PriorityQueue, threads"
COPY = "plain copy"
DUMPS = "pickle.dumps alone"
LOADS = "pickle.loads alone"
SLOWER = "the slower of both"

TARGETS = {
    "int": (Target("rate", STANDARD, at_least=5.0), Target("rate", THREADS, at_least=4.0)),
    "64B": (Target("rate", STANDARD, at_least=5.0), Target("rate", THREADS, at_least=4.0)),
    "1MiB": (Target("rate", COPY, at_least=1.0),),
    "dict": (Target("rate", STANDARD, at_least=2.5), Target("rate", SLOWER, at_least=0.55)),
}
"""The targets of one worker to one, by the name of the workload."""


@dataclass(frozen=True)
class OneToOne:
    """The seconds from the first worker's start to the last one's stop, with one on each side."""

    peer: QueuePeer
    workload: Workload
    maxsize: int

    def __call__(self, count: int) -> float:
        channel = self.peer.make(self.maxsize)
        with Crew() as crew:
            crew.add(self.peer.kind, roles.consume, channel, self.workload, count)
            crew.add(self.peer.kind, roles.produce, channel, self.workload, 0, count)
            crew.go()
            return crew.span()[0]


@dataclass(frozen=True)
class ManyToMany:
    """As `OneToOne`, with several workers that share the items evenly."""

    peer: QueuePeer
    workload: Integers | Records
    maxsize: int
    producers: int
    consumers: int

    def __call__(self, count: int) -> float:
        kind = self.peer.kind
        channel = self.peer.make(self.maxsize)
        produced = count // self.producers
        consumed = count // self.consumers
        with Crew() as crew:
            for _ in range(self.consumers):
                crew.add(kind, roles.consume_share, channel, self.workload, consumed, self.producers, produced)
            for producer in range(self.producers):
                crew.add(kind, roles.produce, channel, self.workload, producer * produced, produced)
            crew.go()
            seconds, total = crew.span()
        if total != count * (count - 1) // 2:
            raise Failed(f"{self.peer.name}: {count} items came, but not each of them once")
        return seconds


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """All of them: each workload from one to one, the small ones between more workers, then by priority."""
    for workload in (INTEGERS, *BLOCKS, RECORDS):
        maxsize = workload.maxsize if settings.maxsize is None else settings.maxsize
        contenders = [
            Contender(peer.name, PerSecond(OneToOne(peer, workload, maxsize), settings.seconds)) for peer in queues()
        ]
        yield Scenario(
            f"throughput/1-1/{workload.name}",
            f"{workload.title}, 1 to 1{_bound(maxsize)}",
            (RATE,),
            (*contenders, *_yardsticks(workload, settings.seconds)),
            settings.rounds,
            TARGETS.get(workload.name, ()),
        )
    if HAS_MULTIGIL:
        yield _batches(settings)
    for producers, consumers in ((4, 1), (1, 4), (4, 4)):
        for shared in (INTEGERS, RECORDS):
            maxsize = shared.maxsize if settings.maxsize is None else settings.maxsize
            yield Scenario(
                f"throughput/{producers}-{consumers}/{shared.name}",
                f"{shared.title}, {producers} to {consumers}{_bound(maxsize)}",
                (RATE,),
                tuple(
                    Contender(
                        peer.name,
                        PerSecond(ManyToMany(peer, shared, maxsize, producers, consumers), settings.seconds),
                    )
                    for peer in queues()
                    if peer.is_shared
                ),
                settings.rounds,
            )
    yield from _priorities(settings)


def _priorities(settings: Settings) -> Iterator[Scenario]:
    """Items that are put in their order, so that the least one that is there is always the next."""
    for workload in (INTEGERS, JOBS):
        maxsize = JOBS.maxsize if settings.maxsize is None else settings.maxsize
        yield Scenario(
            f"priority/1-1/{workload.name}",
            f"{workload.title} by priority, 1 to 1{_bound(maxsize)}",
            (RATE,),
            tuple(
                Contender(peer.name, PerSecond(OneToOne(peer, workload, maxsize), settings.seconds))
                for peer in priority_queues()
            ),
            settings.rounds,
            (Target("rate", PRIORITY_THREADS, at_least=1.0),),
        )


def _batches(settings: Settings) -> Scenario:
    """Many items in a call beside one in a call."""
    maxsize = INTEGER_BATCHES.maxsize if settings.maxsize is None else settings.maxsize
    contenders: list[tuple[QueuePeer, Workload]] = [(batches(), INTEGER_BATCHES)]
    contenders += [(peer, INTEGERS) for peer in queues() if peer.name == OURS]
    return Scenario(
        f"throughput/1-1/{INTEGER_BATCHES.name}",
        f"{INTEGER_BATCHES.title}, 1 to 1{_bound(maxsize)}",
        (RATE,),
        tuple(
            Contender(peer.name, PerSecond(OneToOne(peer, workload, maxsize), settings.seconds))
            for peer, workload in contenders
        ),
        settings.rounds,
        (Target("rate", OURS, at_least=1.3),),
    )


def _bound(maxsize: int) -> str:
    return f", at most {maxsize} in the queue" if maxsize else ""


def _yardsticks(workload: Workload, seconds: float) -> Iterator[Contender]:
    """What the machine does with the items without any queue, in a thread of its own."""
    if isinstance(workload, Blocks) and workload.size == MIB:
        yield Contender(COPY, PerSecond(seconds_of(Copy(workload)), seconds), is_yardstick=True)
    if isinstance(workload, Records):
        dumps = PerSecond(seconds_of(Dumps(workload)), seconds)
        loads = PerSecond(seconds_of(Loads(workload)), seconds)

        def slower() -> Sample:
            return min(dumps(), loads(), key=lambda sample: sample["rate"])

        yield Contender(DUMPS, dumps, is_yardstick=True)
        yield Contender(LOADS, loads, is_yardstick=True)
        yield Contender(SLOWER, slower, is_yardstick=True)


class Copy:
    """Copies the blocks in turn from memory that can be written into new `bytes`."""

    def __init__(self, workload: Blocks) -> None:
        self._sources = [bytearray(block) for block in workload.blocks]

    def __call__(self, count: int) -> None:
        for _ in range(count // len(self._sources)):
            for source in self._sources:
                bytes(source)


class Dumps:
    """Pickles the same record again and again."""

    def __init__(self, workload: Records) -> None:
        self._record = workload.record(0)

    def __call__(self, count: int) -> None:
        record = self._record
        dumps = pickle.dumps
        for _ in range(count):
            dumps(record, 5)


class Loads:
    """Unpickles the same record again and again."""

    def __init__(self, workload: Records) -> None:
        self._pickle = pickle.dumps(workload.record(0), 5)

    def __call__(self, count: int) -> None:
        data = self._pickle
        loads = pickle.loads
        for _ in range(count):
            loads(data)
