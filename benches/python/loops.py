"""Queues that are awaited: within one event loop, and between a loop and an interpreter."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import roles
from model import RATE, Contender, PerSecond, Scenario, Settings, Target
from workers import HAS_MULTIGIL, Crew, Kind

if HAS_MULTIGIL:
    import multigil

BOUND = 100
"""Places of the queue through which a task sends another one items."""

type Get = Callable[[], Awaitable[Any]]
type Put = Callable[[Any], Awaitable[None]]
type Ends = tuple[Put, Get]


def ours(maxsize: int) -> Ends:
    q: multigil.Queue[Any] = multigil.Queue(maxsize)
    return q.aput, q.aget


def theirs(maxsize: int) -> Ends:
    q: asyncio.Queue[Any] = asyncio.Queue(maxsize)
    return q.put, q.get


async def stream(make: Callable[[int], Ends], count: int) -> None:
    """Send so many items from one task to another."""
    put, get = make(BOUND)

    async def produce() -> None:
        for number in range(count):
            await put(number)

    producing = asyncio.ensure_future(produce())
    for _ in range(count):
        await get()
    await producing


async def answer_each_other(make: Callable[[int], Ends], count: int) -> None:
    """Send an item to another task, which sends it back, so many times."""
    (ask, hear), (answer, get_answer) = make(0), make(0)

    async def answer_all() -> None:
        for _ in range(count):
            await answer(await hear())

    answering = asyncio.ensure_future(answer_all())
    for number in range(count):
        await ask(number)
        await get_answer()
    await answering


@dataclass(frozen=True)
class InLoop:
    """What a coroutine function does with queues of one kind, in a loop of its own."""

    what: Callable[[Callable[[int], Ends], int], Coroutine[Any, Any, None]]
    make: Callable[[int], Ends]

    def __call__(self, count: int) -> float:
        begun = time.monotonic_ns()
        asyncio.run(self.what(self.make, count))
        return (time.monotonic_ns() - begun) / 1e9


def by_aget(q: multigil.Queue[Any]) -> Get:
    return q.aget


def by_executor(q: multigil.Queue[Any]) -> Get:
    """By the threads of the loop, of which one waits in `get` for each item."""
    loop = asyncio.get_running_loop()
    return lambda: loop.run_in_executor(None, q.get)


def by_thread(q: multigil.Queue[Any]) -> Get:
    """By a thread that gets all items and hands them to the loop."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Any] = asyncio.Queue()

    def hand_over() -> None:
        while (item := q.get()) is not None:
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    threading.Thread(target=hand_over).start()
    return arrived.get


@dataclass(frozen=True)
class WithInterpreter:
    """Sends numbers to an interpreter, which sends each back, and awaits each by one of the ways above."""

    way: Callable[[multigil.Queue[Any]], Get]

    def __call__(self, count: int) -> float:
        there: multigil.Queue[Any] = multigil.Queue()
        back: multigil.Queue[Any] = multigil.Queue()

        async def ask() -> float:
            get = self.way(back)
            begun = time.monotonic_ns()
            for number in range(count):
                there.put(number)
                await get()
            return (time.monotonic_ns() - begun) / 1e9

        with Crew() as crew:
            crew.add(Kind.INTERPRETER, roles.answer, there, back)
            crew.go()
            seconds = asyncio.run(ask())
            there.put(roles.END)
            back.put(None)
            crew.durations()
        return seconds


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """Within a loop, and between a loop and an interpreter."""
    if not HAS_MULTIGIL:
        return
    kinds = {"multigil.Queue, aput and aget": ours, "asyncio.Queue": theirs}
    works = {
        "stream": (stream, f"items through a queue of {BOUND} places between two tasks of a loop"),
        "tasks": (answer_each_other, "round trips between two tasks of a loop that answer each other"),
    }
    for name, (what, title) in works.items():
        yield Scenario(
            f"loop/{name}",
            title,
            (RATE,),
            tuple(Contender(kind, PerSecond(InLoop(what, make), settings.seconds)) for kind, make in kinds.items()),
            settings.rounds,
        )
    ways = {
        "multigil.Queue, aget": by_aget,
        "run_in_executor(None, get)": by_executor,
        "a thread and call_soon_threadsafe": by_thread,
    }
    yield Scenario(
        "loop/interpreter",
        "round trips of an int between a loop and an interpreter",
        (RATE,),
        tuple(Contender(name, PerSecond(WithInterpreter(way), settings.seconds)) for name, way in ways.items()),
        settings.rounds,
        (Target("rate", "run_in_executor(None, get)", at_least=1.5),),
    )
