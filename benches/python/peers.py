"""The queues and locks that are compared: a name, the kind of workers, and how to make one.

The scenarios use `put` and `get`, or `acquire` and `release`, and know nothing else of a peer, so all peers
run the same code. Between threads a queue hands on a reference, so large items cost it nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

import roles
from wakes import ConditionTrip, EventTrip, Trip, pair
from workers import HAS_MULTIGIL, Kind
from workloads import BATCH, IN_FLIGHT

HAS_FASTER_FIFO = importlib.util.find_spec("faster_fifo") is not None

if HAS_MULTIGIL:
    import multigil
if HAS_FASTER_FIFO:
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401  (without it, its queues do not pickle)
if sys.version_info >= (3, 14):
    from concurrent import interpreters

PROCESSES = multiprocessing.get_context("forkserver")
LONG = 3600.0
"""Seconds, where a peer wants a limit."""


class Channel(Protocol):
    """What the scenarios use of a queue; it pickles on its way to a worker."""

    @property
    def put(self) -> Callable[[Any], object]: ...
    @property
    def get(self) -> Callable[[], Any]: ...


class Exclusion(Protocol):
    """What the scenarios use of a lock; it pickles on its way to a worker."""

    def acquire(self) -> object: ...
    def release(self) -> None: ...


class AtomicNumber(Protocol):
    """What the scenarios use of a number that is added to in one step; it pickles on its way to a worker."""

    @property
    def fetch_add(self) -> Callable[[int], object]: ...


class LockedNumber(Protocol):
    """What the scenarios use of a number that is added to under its lock; it pickles on its way to a worker."""

    value: int

    def get_lock(self) -> AbstractContextManager[object]: ...


@dataclass(frozen=True)
class QueuePeer:
    """A queue between one kind of workers."""

    name: str
    kind: Kind
    make: Callable[[int], Channel]
    """Makes one for at most so many items (0: any number), as far as it can be bounded."""
    is_shared: bool = True
    """Whether several workers may put, and several get, at the same time."""


@dataclass(frozen=True)
class LockPeer:
    """A lock between one kind of workers."""

    name: str
    kind: Kind
    make: Callable[[], Exclusion]


@dataclass(frozen=True)
class ValuePeer:
    """A number between one kind of workers, and how they add to it."""

    name: str
    kind: Kind
    make: Callable[[], Any]
    role: Callable[[str, Any, int], None]


@dataclass(frozen=True)
class WakePeer:
    """What one kind of workers wakes each other by."""

    name: str
    kind: Kind
    make: Callable[[], Trip]


@dataclass(frozen=True)
class Pipe:
    """The two ends of a `multiprocessing.Pipe` under the names that a queue has."""

    reader: Connection
    writer: Connection

    @property
    def put(self) -> Callable[[Any], object]:
        return self.writer.send

    @property
    def get(self) -> Callable[[], Any]:
        return self.reader.recv


@dataclass(frozen=True)
class Batches:
    """The methods of our queue that put and get several items under the names of those for one."""

    queue: multigil.Queue[Any]

    @property
    def put(self) -> Callable[[Any], object]:
        return self.queue.put_many

    @property
    def get(self) -> Callable[[], Any]:
        return functools.partial(self.queue.get_many, BATCH)


class FasterFifo:
    """A queue of faster-fifo, whose `put` and `get` give up after ten seconds unless they are told a longer time."""

    def __init__(self, _: int = 0) -> None:
        # Its bound is in bytes, and all of them are there from the beginning.
        self.queue = faster_fifo.Queue(max_size_bytes=IN_FLIGHT)

    def put(self, item: Any) -> None:
        self.queue.put(item, timeout=LONG)

    def get(self) -> Any:
        return self.queue.get(timeout=LONG)


def batches() -> QueuePeer:
    """Ours between interpreters, several items in a call."""
    name = "multigil.Queue.put_many and get_many, interpreters"
    return QueuePeer(name, Kind.INTERPRETER, lambda maxsize: Batches(multigil.Queue(maxsize)))


def queues() -> list[QueuePeer]:
    """The queues that this Python has; ours between interpreters first."""
    peers: list[QueuePeer] = []
    if HAS_MULTIGIL:
        peers += [
            QueuePeer("multigil.Queue, interpreters", Kind.INTERPRETER, multigil.Queue),
            QueuePeer("multigil.Queue, threads", Kind.THREAD, multigil.Queue),
        ]
    peers += [
        QueuePeer("queue.Queue, threads", Kind.THREAD, queue.Queue),
        QueuePeer("queue.SimpleQueue, threads", Kind.THREAD, lambda _: queue.SimpleQueue()),
    ]
    if sys.version_info >= (3, 14):
        peers.append(QueuePeer("concurrent.interpreters.Queue", Kind.STANDARD_INTERPRETER, interpreters.create_queue))
    peers += [
        QueuePeer("multiprocessing.Queue", Kind.FORKSERVER, PROCESSES.Queue),
        QueuePeer("multiprocessing.SimpleQueue", Kind.FORKSERVER, lambda _: PROCESSES.SimpleQueue()),
        QueuePeer(
            "multiprocessing.Pipe",
            Kind.FORKSERVER,
            lambda _: Pipe(*PROCESSES.Pipe(duplex=False)),
            is_shared=False,
        ),
    ]
    return peers


def process_queues() -> list[QueuePeer]:
    """The queues between processes, ours first, and beside them ours between interpreters."""
    peers: list[QueuePeer] = []
    if HAS_MULTIGIL:
        peers.append(QueuePeer("multigil.Queue, processes", Kind.PROCESS, multigil.Queue))
        peers.append(QueuePeer("multigil.Queue, interpreters", Kind.INTERPRETER, multigil.Queue))
    peers += [
        QueuePeer("multiprocessing.Queue", Kind.FORKSERVER, PROCESSES.Queue),
        QueuePeer("multiprocessing.SimpleQueue", Kind.FORKSERVER, lambda _: PROCESSES.SimpleQueue()),
    ]
    if HAS_FASTER_FIFO:
        peers.append(QueuePeer("faster-fifo", Kind.FORKSERVER, FasterFifo))
    return peers


def process_locks() -> list[LockPeer]:
    """The locks between processes, ours first, and beside them ours between interpreters."""
    peers: list[LockPeer] = []
    if HAS_MULTIGIL:
        peers.append(LockPeer("multigil.Lock, processes", Kind.PROCESS, multigil.Lock))
        peers.append(LockPeer("multigil.Lock, interpreters", Kind.INTERPRETER, multigil.Lock))
    return [*peers, LockPeer("multiprocessing.Lock", Kind.FORKSERVER, PROCESSES.Lock)]


def priority_queues() -> list[QueuePeer]:
    """The queues that give the least item first; ours between interpreters first."""
    peers: list[QueuePeer] = []
    if HAS_MULTIGIL:
        peers += [
            QueuePeer("multigil.PriorityQueue, interpreters", Kind.INTERPRETER, multigil.PriorityQueue),
            QueuePeer("multigil.PriorityQueue, threads", Kind.THREAD, multigil.PriorityQueue),
        ]
    return [*peers, QueuePeer("queue.PriorityQueue, threads", Kind.THREAD, queue.PriorityQueue)]


def locks(name: str) -> list[LockPeer]:
    """The locks of that name that this Python has; ours between interpreters first."""
    peers: list[LockPeer] = []
    if HAS_MULTIGIL:
        peers += [
            LockPeer(f"multigil.{name}, interpreters", Kind.INTERPRETER, getattr(multigil, name)),
            LockPeer(f"multigil.{name}, threads", Kind.THREAD, getattr(multigil, name)),
        ]
    return [
        *peers,
        LockPeer(f"threading.{name}, threads", Kind.THREAD, getattr(threading, name)),
        LockPeer(f"multiprocessing.{name}", Kind.FORKSERVER, getattr(PROCESSES, name)),
    ]


def wakers() -> dict[str, list[WakePeer]]:
    """What one can wait for until another one calls, by class; ours between interpreters first."""

    def peers(name: str, trip: Callable[[Callable[[], Any]], Callable[[], Trip]]) -> list[WakePeer]:
        ours: list[WakePeer] = []
        if HAS_MULTIGIL:
            make = trip(getattr(multigil, name))
            ours += [
                WakePeer(f"multigil.{name}, interpreters", Kind.INTERPRETER, make),
                WakePeer(f"multigil.{name}, threads", Kind.THREAD, make),
            ]
        return [
            *ours,
            WakePeer(f"threading.{name}, threads", Kind.THREAD, trip(getattr(threading, name))),
            WakePeer(f"multiprocessing.{name}", Kind.FORKSERVER, trip(getattr(PROCESSES, name))),
        ]

    return {
        "Event": peers("Event", lambda make: pair(EventTrip, make)),
        "Condition": peers("Condition", lambda make: lambda: ConditionTrip(make())),
    }


def values() -> list[ValuePeer]:
    """The shared numbers that this Python has; ours between interpreters first."""
    peers: list[ValuePeer] = []
    if HAS_MULTIGIL:
        make = partial(multigil.Value, "q")
        peers += [
            ValuePeer("multigil.Value, fetch_add", Kind.INTERPRETER, make, roles.fetch_add),
            ValuePeer("multigil.Value, get_lock", Kind.INTERPRETER, make, roles.add_with_lock),
        ]
    make_theirs = partial(PROCESSES.Value, "q")
    return [*peers, ValuePeer("multiprocessing.Value, get_lock", Kind.FORKSERVER, make_theirs, roles.add_with_lock)]
