"""Executors: tasks and results per second, the way of one task there and back, what parallel work gains, and memory.

Every peer has two workers, which are at work before anything is measured, but for the first result of a cold pool.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from typing import Any, Protocol

import alone
import jobs
from model import RATE, Contender, Metric, PerSecond, Sample, Scenario, Settings, Target, Unit
from workers import HAS_MULTIGIL, Failed

if HAS_MULTIGIL:
    import multigil

HAS_JOBLIB = importlib.util.find_spec("joblib") is not None
WORKERS = 2
TASKS = 10_000
"""No-ops that are submitted before the first result is asked for."""
ITEMS = 1_000_000
BUFFER = 1_000
"""Tasks of a map that may be on their way, where memory is measured."""
CHUNK = 100
"""Items of a chunk for the peer that does not choose by itself, where memory is measured."""
STAY = 0.3
"""Seconds for which a task keeps a worker that is not to take the next one as well."""
PAUSE = 0.005
"""Seconds before each task for which all sleep, so that they have to be woken."""

TRIP = (Metric("p50", "median", Unit.SECONDS), Metric("p99", "99 %", Unit.SECONDS))
GROWTH = Metric("grown", "growth", Unit.BYTES)
FIRST = (Metric("first", "first result", Unit.SECONDS), Metric("all", "all have begun", Unit.SECONDS))

INTERPRETERS = "multigil.InterpreterPoolExecutor"
PROCESSES = "multigil.ProcessPoolExecutor"
STANDARD_INTERPRETERS = "concurrent.futures.InterpreterPoolExecutor"
STANDARD_PROCESSES = "concurrent.futures.ProcessPoolExecutor"
STANDARD_THREADS = "concurrent.futures.ThreadPoolExecutor"
POOL = "multiprocessing.Pool"
POOL_OF_ONES = "multiprocessing.Pool, chunks of 1"
LOKY = "joblib, loky"
SERIAL = "serial"
BARE = "bare creation"


type Maker = Callable[[], AbstractContextManager[Peer]]


class Task(Protocol):
    """What a peer gives for a task that was submitted."""

    def result(self) -> Any: ...


class Peer(Protocol):
    """What the scenarios use of an executor."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task: ...
    def map(self, function: Callable[[int], Any], items: Iterable[int], /) -> Iterable[Any]: ...


@dataclass(frozen=True)
class _Asynchronous:
    """A task of `multiprocessing.Pool` under the names that a future has."""

    task: Any

    def result(self) -> Any:
        return self.task.get()


@dataclass(frozen=True)
class _Pool:
    """`multiprocessing.Pool` under the names that an executor has."""

    pool: Pool
    chunksize: int | None

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task:
        return _Asynchronous(self.pool.apply_async(function, args))

    def map(self, function: Callable[[int], Any], items: Iterable[int], /) -> Iterable[Any]:
        return self.pool.map(function, items, self.chunksize)


@dataclass(frozen=True)
class _Loky:
    """joblib's processes: `submit` is that of the executor below, `map` is `Parallel`, with the batches it chooses."""

    executor: Any
    parallel: Any
    delayed: Any

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task:
        task: Task = self.executor.submit(function, *args)
        return task

    def map(self, function: Callable[[int], Any], items: Iterable[int], /) -> Iterable[Any]:
        call = self.delayed(function)
        results: Iterable[Any] = self.parallel(call(item) for item in items)
        return results


@contextmanager
def _pool(chunksize: int | None) -> Iterator[Peer]:
    with multiprocessing.get_context("forkserver").Pool(WORKERS) as pool:
        yield _Pool(pool, chunksize)


@contextmanager
def _loky() -> Iterator[Peer]:
    joblib = importlib.import_module("joblib")
    # The one that `Parallel` works with.
    executor = importlib.import_module("joblib.executor").get_memmapping_executor(WORKERS)
    try:
        with joblib.Parallel(n_jobs=WORKERS, backend="loky") as parallel:
            yield _Loky(executor, parallel, joblib.delayed)
    finally:
        executor.shutdown(kill_workers=True)


def _standard_processes() -> AbstractContextManager[Peer]:
    context = multiprocessing.get_context("forkserver")
    return concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context)


def makers() -> dict[str, Maker]:
    """What this Python has, by name; ours first."""
    found: dict[str, Maker] = {}
    if HAS_MULTIGIL:
        found[INTERPRETERS] = lambda: multigil.InterpreterPoolExecutor(WORKERS)
        found[PROCESSES] = lambda: multigil.ProcessPoolExecutor(WORKERS)
    if sys.version_info >= (3, 14):
        found[STANDARD_INTERPRETERS] = lambda: concurrent.futures.InterpreterPoolExecutor(WORKERS)
    found[STANDARD_PROCESSES] = _standard_processes
    found[STANDARD_THREADS] = lambda: concurrent.futures.ThreadPoolExecutor(WORKERS)
    found[POOL] = lambda: _pool(None)
    found[POOL_OF_ONES] = lambda: _pool(1)
    if HAS_JOBLIB:
        found[LOKY] = _loky
    return found


@contextmanager
def at_work(make: Maker) -> Iterator[Peer]:
    """A peer whose workers have all begun to work."""
    with ExitStack() as stack:
        peer = stack.enter_context(make())
        # While one sleeps, the next task needs another worker.
        for task in [peer.submit(time.sleep, 0.1) for _ in range(WORKERS)]:
            task.result()
        for task in [peer.submit(jobs.nothing) for _ in range(10 * WORKERS)]:
            task.result()
        yield peer


# --- measurements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitting:
    """Submits all no-ops, then asks for all results."""

    make: Maker

    def __call__(self) -> Sample:
        with at_work(self.make) as peer:
            submit = peer.submit
            begun = time.monotonic_ns()
            tasks = [submit(jobs.nothing) for _ in range(TASKS)]
            for task in tasks:
                task.result()
            return {"rate": TASKS / ((time.monotonic_ns() - begun) / 1e9)}


@dataclass(frozen=True)
class Mapping:
    """Maps over as many tiny items as take so long, and checks the results."""

    make: Maker
    seconds: float

    def __call__(self) -> Sample:
        with at_work(self.make) as peer:

            def attempt(count: int) -> float:
                begun = time.monotonic_ns()
                total = sum(peer.map(jobs.double, range(count)))
                taken = (time.monotonic_ns() - begun) / 1e9
                if total != count * (count - 1):
                    raise Failed(f"the results of {count} items are wrong")
                return taken

            return PerSecond(attempt, self.seconds)()


@dataclass(frozen=True)
class Trips:
    """Submits a task and waits for its result, again and again for so long, with a pause before each."""

    make: Maker
    seconds: float
    pause: float

    def __call__(self) -> Sample:
        with at_work(self.make) as peer:
            submit, now = peer.submit, time.monotonic_ns
            trips: list[int] = []
            until = now() + self.seconds * 1e9
            while not trips or now() < until:
                if self.pause:
                    time.sleep(self.pause)
                begun = now()
                submit(jobs.double, 1).result()
                trips.append(now() - begun)
            trips.sort()
            return {"p50": statistics.median(trips) / 1e9, "p99": trips[len(trips) * 99 // 100] / 1e9}


@dataclass(frozen=True)
class Working:
    """Tasks of a certain length: how many of them are done in a second."""

    make: Maker | None
    task: float
    seconds: float

    def __call__(self) -> Sample:
        steps = jobs.steps_for(self.task)
        count = max(10 * WORKERS, round(self.seconds / self.task) * WORKERS)
        if self.make is None:
            begun = time.monotonic_ns()
            for _ in range(count):
                jobs.compute(steps)
            return {"rate": count / ((time.monotonic_ns() - begun) / 1e9)}
        with at_work(self.make) as peer:
            begun = time.monotonic_ns()
            for task in [peer.submit(jobs.compute, steps) for _ in range(count)]:
                task.result()
            return {"rate": count / ((time.monotonic_ns() - begun) / 1e9)}


# --- measurements that need a program of their own ------------------------------------------------------------------


def map_memory(name: str, count: int) -> Sample:
    """How many bytes this program grows at most while it maps over so many tiny items, and how quick it is."""
    with at_work(makers()[name]) as peer:
        results = _buffered(peer, range(count))
        total = sum(itertools.islice(results, BUFFER))  # what is made once is there then
        before = _reset_peak()
        begun = time.monotonic_ns()
        total += sum(results)
        taken = (time.monotonic_ns() - begun) / 1e9
        if total != count * (count - 1):
            raise Failed(f"the results of {count} items are wrong")
        return {"grown": _status("VmHWM") - before, "rate": (count - BUFFER) / taken}


def _buffered(peer: Any, items: Iterable[int]) -> Iterator[int]:
    """A map that runs ahead by so much at most, as far as the peer can do that."""
    results: Iterable[int]
    if isinstance(peer, _Pool):
        results = peer.pool.imap(jobs.double, items, BUFFER)
    elif isinstance(peer, _Loky):
        parallel = importlib.import_module("joblib").Parallel(WORKERS, return_as="generator")
        results = parallel(peer.delayed(jobs.double)(item) for item in items)
    elif isinstance(peer, concurrent.futures.ProcessPoolExecutor):
        results = peer.map(jobs.double, items, chunksize=CHUNK, buffersize=BUFFER // CHUNK)  # type: ignore[call-arg,unused-ignore]
    else:
        results = peer.map(jobs.double, items, buffersize=BUFFER)
    return iter(results)


def _reset_peak() -> int:
    """Have the kernel forget how much memory this process had, and give how much it has."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    """Bytes that /proc/self/status tells of."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def first_result(name: str, _: int) -> Sample:
    """From making a pool to its first result."""
    make = makers()[name]
    begun = time.monotonic_ns()
    with make() as peer:
        peer.submit(jobs.nothing).result()
        first = time.monotonic_ns() - begun
    return {"first": first / 1e9}


def all_begun(name: str, _: int) -> Sample:
    """From making a pool until each of its workers has begun with a task."""
    make = makers()[name]
    begun = time.monotonic_ns()
    with make() as peer:
        tasks = [peer.submit(jobs.begin_and_stay, STAY) for _ in range(WORKERS)]
        return {"all": (max(task.result() for task in tasks) - begun) / 1e9}


ALONE: dict[str, Callable[[str, int], Sample]] = {
    "map-memory": map_memory,
    "first-result": first_result,
    "all-begun": all_begun,
}


@dataclass(frozen=True)
class Alone:
    """Measurements of one peer, each in a program of its own."""

    measurements: tuple[str, ...]
    peer: str
    count: int = 0

    def __call__(self) -> Sample:
        figures: dict[str, float] = {}
        for measurement in self.measurements:
            figures |= alone.run(f"{measurement}:{self.peer}", self.count, __file__)
        return figures


# --- scenarios ----------------------------------------------------------------------------------------------------


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """What is asked of interpreters and all peers, and of processes beside other processes."""
    found = makers()

    def contenders(names: Iterable[str], measure: Callable[[Maker], Callable[[], Sample]]) -> tuple[Contender, ...]:
        return tuple(Contender(name, measure(found[name])) for name in names if name in found)

    all_peers = [name for name in found if name != POOL_OF_ONES]
    processes = [name for name in found if name in (PROCESSES, STANDARD_PROCESSES, LOKY)]
    yield Scenario(
        "executors/submit",
        f"submit {TASKS} no-ops and get all results",
        (RATE,),
        contenders(all_peers, Submitting),
        settings.rounds,
        (Target("rate", STANDARD_INTERPRETERS, at_least=7.0), Target("rate", STANDARD_PROCESSES, at_least=6.0)),
    )
    yield Scenario(
        "executors/submit-processes",
        f"submit {TASKS} no-ops to processes and get all results",
        (RATE,),
        contenders(processes, Submitting),
        settings.rounds,
        (Target("rate", STANDARD_PROCESSES, at_least=6.0),),
    )
    for name, peers in (("map", list(found)), ("map-processes", [*processes, POOL, POOL_OF_ONES])):
        yield Scenario(
            f"executors/{name}",
            "map over tiny items, by default" + (", processes" if name != "map" else ""),
            (RATE,),
            contenders(peers, lambda make: Mapping(make, settings.seconds)),
            settings.rounds,
            (Target("rate", LOKY, at_least=1.0), Target("rate", POOL_OF_ONES, at_least=1.0)),
        )
    for name, title, pause, targets in (
        ("warm", "one after the other", 0.0, (Target("p50", at_most=10e-6),)),
        (
            "cold",
            f"each after a pause of {PAUSE * 1e3:g} ms",
            PAUSE,
            (Target("p50", STANDARD_INTERPRETERS, at_most=0.5),),
        ),
    ):
        yield Scenario(
            f"executors/roundtrip-{name}",
            f"submit of a task to its result, {title}",
            TRIP,
            contenders(all_peers, partial(Trips, seconds=settings.seconds, pause=pause)),
            settings.rounds,
            targets,
        )
    for length, gain in ((10e-3, 1.9), (100e-6, 1.7)):
        serial = Contender(SERIAL, Working(None, length, settings.seconds), is_yardstick=True)
        yield Scenario(
            f"executors/tasks-{length * 1e6:g}us",
            f"pure Python tasks of {length * 1e3:g} ms on {WORKERS} workers",
            (RATE,),
            (*contenders(all_peers, partial(Working, task=length, seconds=settings.seconds)), serial),
            settings.rounds,
            (Target("rate", SERIAL, at_least=gain),),
        )
    # Without buffersize, executors submit all items at once.
    buffered = [
        name
        for name in found
        if name not in (POOL_OF_ONES, STANDARD_THREADS, STANDARD_INTERPRETERS)
        and (name != STANDARD_PROCESSES or sys.version_info >= (3, 14))
    ]
    yield Scenario(
        "executors/memory",
        f"peak memory of a map over {ITEMS} tiny items, {BUFFER} of them ahead",
        (GROWTH, RATE),
        tuple(Contender(name, Alone(("map-memory",), name, ITEMS)) for name in buffered),
        min(settings.rounds, 3),
        (Target("grown", at_most=8e6),),
    )
    bare = Contender(BARE, lambda: alone.run("bare-many", WORKERS), is_yardstick=True)
    yield Scenario(
        "executors/first",
        f"from making a pool of {WORKERS} to its first result, and to the begin of the last worker",
        FIRST,
        (*(Contender(name, Alone(("first-result", "all-begun"), name)) for name in all_peers), bare),
        settings.rounds,
        (Target("first", BARE, at_most=1.3), Target("all", BARE, at_most=1.3)),
    )


if __name__ == "__main__":
    measurement, _, peer_name = sys.argv[1].partition(":")
    print(dict(ALONE[measurement](peer_name, int(sys.argv[2]))), flush=True)
