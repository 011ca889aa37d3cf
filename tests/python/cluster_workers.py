"""A Dask cluster for tests, and what they let its workers run. Imports little: interpreters import it, too."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import multigil
import workers
from multigil import _core

if TYPE_CHECKING:
    from pathlib import Path


def serve_cluster() -> None:
    """Run a scheduler and two workers of two threads, each a process of its own, until the standard input ends."""
    import dask
    from distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": 1}
    local = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": None}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, silence_logs=60, **local) as cluster,
    ):
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


def here(*_: object) -> tuple[int, int]:
    """The process and the interpreter that it runs in."""
    return os.getpid(), _core.current_interpreter_id()


def meet(region: str) -> tuple[int, int]:
    """Wait until another one is here at the same time."""
    with multigil.Region(region) as shared:
        shared.Barrier("meeting", 2).wait(20)
    return here()


def add(*numbers: int, **more: int) -> int:
    return sum(numbers) + sum(more.values())


def total(numbers: list[Any], named: dict[str, Any]) -> Any:
    return sum(numbers) + sum(named.values())


def fail(message: str) -> None:
    raise ZeroDivisionError(message)


def leave() -> None:
    sys.exit(3)


def keywords(**named: object) -> dict[str, object]:
    return named


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path) -> int:
    """Kill this process, unless somebody did so before."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def wait_for_release(region: str) -> str:
    """Say that it runs, and wait for the word to go on."""
    with multigil.Region(region) as shared:
        shared.Queue("begun").put(os.getpid())
        shared.Event("release").wait(20)
    return "released"


def run_until_interrupted(region: str) -> None:
    with multigil.Region(region) as shared:
        shared.Queue("begun").put(os.getpid())
        try:
            workers.spin()
        except KeyboardInterrupt:
            shared.Event("interrupted").set()
            raise
