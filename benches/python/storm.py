"""The same storm of kills on every queue between processes, and what becomes of the messages.

Two producers and two consumers pass messages of several sizes. Again and again one of the four is killed by SIGKILL,
at a random moment, and replaced. A queue hangs when no message passes for three seconds.

What was put and got stands in mapped files, which a kill leaves as they are: a producer notes a message when `put` has
returned, a consumer when it has got one. A consumer that dies between `get` and its note takes that message with it,
whatever the queue; only one that hands out again what nobody reported done can know better.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peers import QueuePeer, process_queues
from workers import HAS_MULTIGIL, Kind, worker

if HAS_MULTIGIL:
    import multigil

HANG = 3.0
"""Seconds without a message after which a queue hangs."""
START = 60.0
"""Seconds that a worker may take to start. On a busy machine that is long, and not the queue's doing."""
BOUND = 256
"""Messages that a queue holds, as far as it can be bounded."""
CALM = (0.001, 0.020)
"""Seconds between the start of the last replacement and the next kill."""
GLANCE = 0.0005
"""Seconds between two looks at the notes: those who may be killed at any moment cannot be asked to call."""
SEATS = 4
"""The first two are producers', the others consumers'."""
SPAN = 1 << 22
"""Messages of one producer at most."""
MARKED = 0x80
"""In the note of a message: it came again and was marked so."""
SIZES = (0, 8, 200, 8, 5000, 8, 8, 100_000)
"""Bytes of the messages, in turn."""
CONTENT = random.Random(4).randbytes(max(SIZES))

STOP = 0
"""The first of the words: whether producers are to end. Then for each life one word `state` and one `count`."""
STARTED, ENDED = 1, 2
"""What `state` says."""


class Notes:
    """The files that outlive every worker: some words, and for each consumer's seat a byte for each message."""

    def __init__(self, folder: str, lives: int) -> None:
        self._files = [
            self._opened(folder, "words", 8 * (1 + 2 * lives)),
            *(self._opened(folder, f"seen-{seat}", lives * SPAN) for seat in range(SEATS // 2)),
        ]
        self.words = memoryview(self._files[0]).cast("Q")
        self.seen = self._files[1:]

    @staticmethod
    def _opened(folder: str, name: str, size: int) -> mmap.mmap:
        # Sparse: only what is written takes space.
        descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.truncate(descriptor, size)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self.words.release()
        for file in self._files:
            file.close()


def state(life: int) -> int:
    """The word that says whether a worker has started, or ended by itself."""
    return 1 + 2 * life


def count(life: int) -> int:
    """The word in which a worker counts its messages."""
    return 2 + 2 * life


@contextmanager
def noting(folder: str, lives: int, life: int) -> Iterator[Notes]:
    """The notes, for a worker that is ready from here on."""
    notes = Notes(folder, lives)
    try:
        notes.words[state(life)] = STARTED
        yield notes
        notes.words[state(life)] = ENDED
    finally:
        notes.close()


def produce(folder: str, lives: int, life: int, channel: Any) -> None:
    """Put messages until it is enough."""
    with noting(folder, lives, life) as notes:
        words = notes.words
        for number in range(SPAN):
            if words[STOP]:
                break
            channel.put((life, number, CONTENT[: SIZES[number % len(SIZES)]]))
            words[count(life)] = number + 1


def consume(folder: str, lives: int, life: int, seat: int, channel: Any, reports: bool) -> None:
    """Get messages until None comes."""
    with noting(folder, lives, life) as notes:
        seen = notes.seen[seat - SEATS // 2]
        while (message := channel.get()) is not None:
            producer, number, content = message
            if content != CONTENT[: SIZES[number % len(SIZES)]]:
                raise ValueError(f"message {number} of producer {producer} is damaged")
            where = producer * SPAN + number
            seen[where] = seen[where] | MARKED if reports and channel.redelivered else seen[where] + 1
            notes.words[count(life)] += 1
            if reports:
                channel.task_done()
        if reports:
            channel.task_done()


def end(folder: str, lives: int, life: int, channel: Any) -> None:
    """Tell the consumers that it is over."""
    with noting(folder, lives, life):
        for _ in range(SEATS // 2):
            channel.put(None)


@dataclass
class Course:
    """How it went."""

    kills: int = 0
    consumers_killed: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    stall: float = 0.0
    end: str = "survived"


class Hung(Exception):
    """Nothing passes any more, or a worker gave up."""


class Storm:
    """One storm on one queue."""

    def __init__(self, peer: QueuePeer, kills: int, seed: int, folder: str) -> None:
        self._peer = peer
        self._kills = kills
        self._random = random.Random(seed)
        self._folder = folder
        self._lives = kills + SEATS + 1
        self._notes = Notes(folder, self._lives)
        self._channel = peer.make(BOUND)
        self._reports = bool(getattr(self._channel, "redeliver", False))
        self._next_life = 0
        self._seats: dict[int, tuple[int, Any]] = {}
        self._producers: list[int] = []
        self._consumers: list[int] = []
        self._passed = 0
        self._last = time.monotonic()
        self.course = Course()

    def run(self) -> Course:
        """Kill until the number is reached or the queue hangs."""
        try:
            for seat in range(SEATS):
                self._seat(seat)
            while self.course.kills < self._kills:
                self._watch(self._random.uniform(*CALM))
                self._kill(self._random.randrange(SEATS))
            self._finish()
        except Hung as error:
            self.course.end = str(error)
        for _, other in self._seats.values():
            other.kill()
            other.join()
        self._count()
        self._notes.close()
        return self.course

    def _seat(self, seat: int) -> None:
        """Start a worker and wait until it takes part."""
        life = self._next_life
        self._next_life += 1
        about = (self._folder, self._lives, life)
        if seat < SEATS // 2:
            self._producers.append(life)
            new = worker(self._peer.kind, produce, (*about, self._channel))
        elif seat < SEATS:
            self._consumers.append(life)
            new = worker(self._peer.kind, consume, (*about, seat, self._channel, self._reports))
        else:
            new = worker(self._peer.kind, end, (*about, self._channel))
        self._seats[seat] = (life, new)
        new.start()
        until = time.monotonic() + START
        while not self._notes.words[state(life)]:
            if time.monotonic() > until:
                raise Hung("a new worker does not start")
            self._glance(is_full=len(self._seats) >= SEATS)

    def _kill(self, seat: int) -> None:
        _, victim = self._seats[seat]
        os.kill(victim.pid, signal.SIGKILL)
        self.course.kills += 1
        self.course.consumers_killed += seat >= SEATS // 2
        victim.join()
        self._seat(seat)

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._glance(is_full=True)

    def _glance(self, *, is_full: bool) -> None:
        """Sleep a little and see whether something has passed; only from the moment on when everybody was there."""
        time.sleep(GLANCE)
        words = self._notes.words
        now = time.monotonic()
        passed = sum(words[count(life)] for life in self._consumers)
        if passed != self._passed or not is_full:
            self._passed = passed
            self._last = now
        self.course.stall = max(self.course.stall, now - self._last)
        if now - self._last > HANG:
            raise Hung(f"HUNG after {self.course.kills} kills")
        for _, other in self._seats.values():
            if not other.is_alive() and not words[STOP]:
                raise Hung(f"worker failed after {self.course.kills} kills")

    def _finish(self) -> None:
        """Let producers end, then consumers; what is in the queue passes on until then."""
        self._notes.words[STOP] = 1
        self._until_ended(range(SEATS // 2))
        self._seat(SEATS)
        self._until_ended(range(SEATS + 1))

    def _until_ended(self, seats: range) -> None:
        lives = [self._seats[seat][0] for seat in seats]
        while any(self._notes.words[state(life)] != ENDED for life in lives):
            self._glance(is_full=True)

    def _count(self) -> None:
        for life in self._producers:
            acknowledged = self._notes.words[count(life)]
            self.course.acknowledged += acknowledged
            first = life * SPAN
            # One more than noted: that one may have been put, and its producer killed before it could note it.
            notes = zip(*(seen[first : first + acknowledged + 1] for seen in self._notes.seen), strict=True)
            for number, (one, other) in enumerate(notes):
                self.course.lost += number < acknowledged and not (one or other)
                self.course.doubled += (one & ~MARKED) + (other & ~MARKED) > 1


def contenders() -> list[QueuePeer]:
    """The queues between processes; ours also as one of tasks that are reported done."""
    found = [peer for peer in process_queues() if peer.kind is not Kind.INTERPRETER]
    if HAS_MULTIGIL:

        def make(maxsize: int) -> Any:
            return multigil.Queue(maxsize, redeliver=True)

        found.insert(1, QueuePeer("multigil.Queue, redeliver", Kind.PROCESS, make))
    return found


def main() -> int:
    """Run the storms and print a table; the exit status is 1 if ours did not survive or lost or doubled a message."""
    parser = argparse.ArgumentParser(prog="run.py storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills that are enough")
    parser.add_argument("--peers", metavar="LIST", default="", help="parts of names, with commas")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    header = ("queue", "kills", "of consumers", "acknowledged", "never came", "doubled", "longest stall", "end")
    print("| " + " | ".join(header) + " |\n|" + "--|" * len(header), flush=True)
    is_good = True
    for peer in contenders():
        if not any(part.strip() in peer.name for part in options.peers.split(",")):
            continue
        with tempfile.TemporaryDirectory(prefix="multigil-storm-") as folder:
            course = Storm(peer, options.kills, options.seed, folder).run()
        cells: tuple[object, ...] = (
            *(peer.name, course.kills, course.consumers_killed, course.acknowledged, course.lost, course.doubled),
            *(f"{course.stall * 1e3:.0f} ms", course.end),
        )
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
        if peer.kind is Kind.PROCESS:
            in_hand = 0 if "redeliver" in peer.name else course.consumers_killed
            is_good &= course.end == "survived" and course.lost <= in_hand and not course.doubled
    # Feeder threads of queues that hang wait for ever.
    sys.stdout.flush()
    os._exit(not is_good)
