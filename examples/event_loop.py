"""An event loop whose default executor is a pool of interpreters: what is awaited there runs in parallel.

    python examples/event_loop.py [NUMBER]

Prints how many primes there are below NUMBER (default: 200,000), which interpreters counted them, and how often the
event loop ran meanwhile.
"""

from __future__ import annotations

import asyncio
import sys

import multigil


def count_primes(start: int, stop: int) -> tuple[int, str]:
    """Count the primes in a range, the slow way; and say who did it."""
    primes = sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(start, stop))
    return primes, multigil.current_interpreter().name


async def main(limit: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(multigil.InterpreterPoolExecutor(2, "counter"))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    step = max(limit // 20, 1)
    ranges = [(start, min(start + step, limit)) for start in range(0, limit, step)]
    counts = [loop.run_in_executor(None, count_primes, start, stop) for start, stop in ranges[1:]]
    counts.append(asyncio.ensure_future(asyncio.to_thread(count_primes, *ranges[0])))  # the same, as a coroutine
    results = await asyncio.gather(*counts)
    ticking.cancel()
    print(f"{sum(primes for primes, _ in results)} primes below {limit}")
    print("counted by", ", ".join(sorted({name for _, name in results})))
    print("the event loop went on meanwhile:", ticks > 0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
