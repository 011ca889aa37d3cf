"""Interpreters pass messages of all sizes through queues for minutes; every one must arrive, once and unharmed.

    python soak.py --minutes 5

Each message names its producer and its number among that producer's messages to that queue, and carries a checksum.
Everybody puts and gets with short, random timeouts, so that waits end in every way. Exits with 1 after any finding.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from machine import resident_bytes
from multigil import Empty, Full, Interpreter, Lock, Queue, ShutDown, _core

QUEUES = 4
PRODUCERS = CONSUMERS = 4
MAX_BYTES = 4 * 2**20
# The queues' bounds, in messages; 0 is none. Those without are kept short by the producers.
BOUNDS = (0, 1, 8, 64)
# Bytes by which the memory may be larger in the last fifth of the time than in the second. What is in flight varies.
MAX_GROWTH = 64 * 2**20


@dataclass
class Produced:
    """How many messages a producer put into each queue, and how many puts ended by their timeout."""

    counts: list[int] = field(default_factory=lambda: [0] * QUEUES)
    size: int = 0
    timeouts: int = 0


@dataclass
class Consumed:
    """What a consumer got: per queue and producer the numbers of the messages, in order; and what was wrong."""

    numbers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    timeouts: int = 0
    findings: list[str] = field(default_factory=list)


def random_size(generator: random.Random) -> int:
    """Mostly small, all magnitudes up to 4 MiB, 0 included."""
    return generator.randrange(2 ** generator.randrange(MAX_BYTES.bit_length())) if generator.random() < 0.95 else 0


def random_timeout(generator: random.Random) -> float:
    return generator.choice((0, 0.0001, 0.001, 0.01, 0.1))


def produce(number: int, queues: list[Queue[Any]], stop: Lock) -> Produced:
    """Put messages of random kinds and sizes until `stop` is held."""
    generator = random.Random(number)
    block = generator.randbytes(MAX_BYTES)
    produced = Produced()
    while not stop.locked():
        where = generator.randrange(QUEUES)
        start, size = generator.randrange(MAX_BYTES), random_size(generator)
        content = block[start : start + size]
        head = (number, produced.counts[where], zlib.crc32(content))
        # As bytes that are part of a pickle, as bytes alone, and as text.
        match generator.randrange(3):
            case 0:
                message: Any = (*head, content)
            case 1:
                message = b"%d,%d,%d;" % head + content
            case _:
                message = "{},{},{};".format(*head) + content.decode("latin-1")
        q = queues[where]
        while not q.maxsize and q.qsize() > max(BOUNDS):
            time.sleep(0.001)
        while True:
            try:
                q.put(message, timeout=random_timeout(generator))
            except Full:
                produced.timeouts += 1
            else:
                break
        produced.counts[where] += 1
        produced.size += size
    return produced


def parse(message: Any) -> tuple[int, int, int, bytes]:
    if isinstance(message, tuple):
        return message
    head, content = message.split(b";" if isinstance(message, bytes) else ";", 1)
    number, count, checksum = (int(part) for part in head.split(b"," if isinstance(head, bytes) else ","))
    return number, count, checksum, content if isinstance(content, bytes) else content.encode("latin-1")


def consume(number: int, queues: list[Queue[Any]]) -> Consumed:
    """Get messages from all queues and check each, until all queues are shut down and empty."""
    generator = random.Random(-1 - number)
    consumed = Consumed()
    open_queues = dict(enumerate(queues))
    while open_queues:
        where = generator.choice(list(open_queues))
        try:
            message = open_queues[where].get(timeout=random_timeout(generator))
        except Empty:
            consumed.timeouts += 1
            continue
        except ShutDown:
            del open_queues[where]
            continue
        try:
            producer, count, checksum, content = parse(message)
        except ValueError as error:
            consumed.findings.append(f"queue {where}: a message that cannot be read: {error}")
            continue
        if zlib.crc32(content) != checksum:
            consumed.findings.append(f"queue {where}: message {count} of producer {producer} is corrupt")
        consumed.numbers.setdefault((where, producer), []).append(count)
        open_queues[where].task_done()
    return consumed


def check(produced: list[Produced], consumed: list[Consumed]) -> list[str]:
    """Everything that is wrong, each in a sentence."""
    findings = [finding for one in consumed for finding in one.findings]
    for number, producer in enumerate(produced):
        for where, count in enumerate(producer.counts):
            sequences = [one.numbers.get((where, number), []) for one in consumed]
            arrived = Counter(each for sequence in sequences for each in sequence)
            name = f"queue {where}, producer {number}"
            if lost := [each for each in range(count) if each not in arrived]:
                findings.append(f"{name}: {len(lost)} of {count} messages are lost, the first is {lost[0]}")
            if doubled := [each for each, times in arrived.items() if times > 1]:
                findings.append(f"{name}: {len(doubled)} messages arrived more than once, such as {doubled[0]}")
            if unknown := [each for each in arrived if not 0 <= each < count]:
                findings.append(f"{name}: {len(unknown)} messages arrived that were never put")
            findings += [f"{name}: out of order" for sequence in sequences if sequence != sorted(sequence)]
    return findings


def start(target: Any, *args: object) -> Interpreter:
    interpreter = Interpreter(target=target, args=args)
    interpreter.start()
    return interpreter


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5, help="how long (default: 5)")
    seconds = parser.parse_args().minutes * 60

    queues: list[Queue[Any]] = [Queue(bound) for bound in BOUNDS]
    stop = Lock()
    consumers = [start(consume, number, queues) for number in range(CONSUMERS)]
    producers = [start(produce, number, queues, stop) for number in range(PRODUCERS)]
    memory = []
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        # A producer that ends early has failed; its result, below, says how.
        producers[0].join(min(seconds / 100, seconds - elapsed))
        memory.append(resident_bytes())
        if not all(producer.is_alive() for producer in producers):
            break
    stop.acquire()
    produced = [producer.result() for producer in producers]
    for q in queues:
        q.shutdown()
    consumed = [consumer.result() for consumer in consumers]

    findings = check(produced, consumed)
    findings += [f"queue {where}: {q.qsize()} messages are left" for where, q in enumerate(queues) if q.qsize()]
    findings += [f"queue {where}: unfinished tasks" for where, q in enumerate(queues) if q.unfinished_tasks]
    fifth = len(memory) // 5
    early, late = statistics.median(memory[fifth : 2 * fifth]), statistics.median(memory[-fifth:])
    if late - early > MAX_GROWTH:
        findings.append(f"memory grew by {(late - early) / 2**20:.0f} MiB")

    count = sum(sum(one.counts) for one in produced)
    size = sum(one.size for one in produced)
    print(f"{count:,} messages, {size / 2**30:.1f} GiB in {time.monotonic() - begin:.0f} s")
    print(
        f"{sum(one.timeouts for one in produced):,} puts and {sum(one.timeouts for one in consumed):,} gets timed out"
    )
    print(f"memory: {early / 2**20:.0f} MiB in the second fifth of the time, {late / 2**20:.0f} MiB in the last")
    print(f"the region: {_core.statistics()}")
    for finding in findings:
        print(f"FOUND: {finding}")
    print("nothing lost, doubled or corrupted" if not findings else f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
