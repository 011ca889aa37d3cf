"""What the tests of `test_asyncio.py` and `test_fileno.py` let other interpreters and processes run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multigil import Lock, Queue


def do(thing: Any, method: str, *args: Any) -> None:
    """Call a method."""
    getattr(thing, method)(*args)


def put_numbers(q: Queue[int], first: int, count: int) -> None:
    for number in range(first, first + count):
        q.put(number)


def hold_for_ever(lock: Lock, held: Queue[None], never: Queue[None]) -> None:
    with lock:
        held.put(None)
        never.get()


def fail() -> None:
    raise ValueError("as asked")


def get_all_in_a_loop(q: Queue[int], tasks: int) -> list[int]:
    """Get until the queue is shut down, by so many tasks of a loop."""
    got: list[int] = []

    async def get_all() -> None:
        async for number in q:
            got.append(number)  # noqa: PERF401

    async def main() -> None:
        await asyncio.gather(*(get_all() for _ in range(tasks)))

    asyncio.run(main())
    return got


def wait_in_a_loop(q: Queue[int], waits: Queue[None]) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(q.aget())
        for _ in range(5):
            await asyncio.sleep(0)
        waits.put(None)
        await task

    asyncio.run(main())


def answer_in_a_loop(there: Queue[int], back: Queue[int]) -> None:
    """Give each number back, until the queue is shut down."""

    async def main() -> None:
        async for number in there:
            await back.aput(number)

    asyncio.run(main())


def leave_a_loop_waiting(q: Queue[int], waits: Queue[None]) -> None:
    """End with a loop that was not closed and in which somebody waits."""

    async def main() -> None:
        task = asyncio.ensure_future(q.aget())
        for _ in range(5):
            await asyncio.sleep(0)
        kept.append(task)
        waits.put(None)

    logging.getLogger("asyncio").disabled = True  # it says that somebody still waited
    loop = asyncio.new_event_loop()
    kept.append(loop)
    loop.run_until_complete(main())


# What an interpreter has until its very end.
kept: list[object] = []
