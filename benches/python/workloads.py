"""What goes through the queues, and how a consumer knows that it has got it.

Item `number` of a workload is the same in every worker. Every worker makes and checks its items in loops
of their own kind, since a call for each item would cost as much as the queue.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from itertools import chain, islice, repeat
from typing import Any, Protocol

KIB = 1024
MIB = 1024 * KIB
IN_FLIGHT = 64 * MIB
"""Bytes that a queue of large items may hold, so that a slow consumer costs no memory without end.

Not fewer: `concurrent.interpreters` sleeps 10 ms whenever its queue is full, so a short queue would measure
nothing else of it.
"""
BATCH = 1000
"""Items in a call where a call takes several."""
FULLY = 256
"""One of so many items is compared in full where that would take longer than the transfer."""


class Mismatch(Exception):
    """A consumer got something else than what was put."""


class Workload(Protocol):
    """A kind of item."""

    name: str
    title: str
    maxsize: int
    """The bound of a queue by default; 0 is none."""

    def produce(self, put: Callable[[Any], object], first: int, count: int) -> None:
        """Put the items `first` to `first + count - 1`."""

    def consume(self, get: Callable[[], Any], count: int) -> None:
        """Get the items 0 to `count - 1` in this order; Mismatch if anything else comes."""


class Integers:
    name = "int"
    title = "int"
    maxsize = 0
    number = staticmethod(operator.index)

    def produce(self, put: Callable[[int], object], first: int, count: int) -> None:
        for item in range(first, first + count):
            put(item)

    def consume(self, get: Callable[[], int], count: int) -> None:
        for expected in range(count):
            if get() != expected:
                raise Mismatch(f"not the integer {expected}")


class IntegerBatches:
    """Integers through a queue's methods that put and get several items in a call."""

    name = "int-batches"
    title = f"int, {BATCH} in a call"
    maxsize = 10 * BATCH

    def produce(self, put: Callable[[range], object], first: int, count: int) -> None:
        end = first + count
        for start in range(first, end, BATCH):
            put(range(start, min(start + BATCH, end)))

    def consume(self, get: Callable[[], list[int]], count: int) -> None:
        expected = 0
        while expected < count:
            items = get()
            if items != list(range(expected, expected + len(items))):
                raise Mismatch(f"not the integers from {expected} on")
            expected += len(items)


class Jobs:
    """A number, which is the priority, with a small dictionary."""

    name = "job"
    title = "(int, dict)"
    maxsize = 1000

    def produce(self, put: Callable[[tuple[int, dict[str, int]]], object], first: int, count: int) -> None:
        for number in range(first, first + count):
            put((number, {"id": number}))

    def consume(self, get: Callable[[], tuple[int, dict[str, int]]], count: int) -> None:
        for expected in range(count):
            if get() != (expected, {"id": expected}):
                raise Mismatch(f"not the job {expected}")


class Records:
    """A small dictionary: an id, a name of 16 characters and 8 floats."""

    name = "dict"
    title = "dict"
    maxsize = 0
    number = staticmethod(operator.itemgetter("id"))

    def __init__(self) -> None:
        self._name = "sixteen letters."
        self._values = random.Random(2).sample([i / 7 for i in range(1000)], 8)

    def record(self, number: int) -> dict[str, object]:
        return {"id": number, "name": self._name, "vals": self._values}

    def produce(self, put: Callable[[dict[str, object]], object], first: int, count: int) -> None:
        name = self._name
        values = self._values
        for number in range(first, first + count):
            put({"id": number, "name": name, "vals": values})

    def consume(self, get: Callable[[], dict[str, object]], count: int) -> None:
        for expected in range(count):
            item = get()
            if item["id"] != expected or (not expected % FULLY and item != self.record(expected)):
                raise Mismatch(f"not the record {expected}")


class Blocks:
    """`bytes` of one size with random content; four different ones take turns."""

    def __init__(self, size: int, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.maxsize = IN_FLIGHT // size if size > KIB else 0
        self.size = size
        source = random.Random(size)
        self.blocks = [source.randbytes(size) for _ in range(4)]

    def __reduce__(self) -> tuple[type[Blocks], tuple[int, str, str]]:
        # A worker makes the same content anew, which is quicker than to send it.
        return Blocks, (self.size, self.name, self.title)

    def produce(self, put: Callable[[bytes], object], first: int, count: int) -> None:
        for item in self._items(first, count):
            put(item)

    def consume(self, get: Callable[[], bytes], count: int) -> None:
        if self.size <= KIB:
            for expected in self._items(0, count):
                if get() != expected:
                    raise Mismatch(f"not the next {self.title}")
            return
        for number, expected in enumerate(self._items(0, count)):
            item = get()
            if len(item) != self.size or item[:8] != expected[:8] or item[-8:] != expected[-8:]:
                raise Mismatch(f"number {number} is not the next {self.title}")
            if not number % FULLY and item != expected:
                raise Mismatch(f"number {number} is damaged inside")

    def _items(self, first: int, count: int) -> islice[bytes]:
        return islice(chain.from_iterable(repeat(self.blocks)), first, first + count)


INTEGERS = Integers()
INTEGER_BATCHES = IntegerBatches()
JOBS = Jobs()
RECORDS = Records()
BLOCKS = (
    Blocks(64, "64B", "64 B of bytes"),
    Blocks(KIB, "1KiB", "1 KiB of bytes"),
    Blocks(64 * KIB, "64KiB", "64 KiB of bytes"),
    Blocks(MIB, "1MiB", "1 MiB of bytes"),
)
