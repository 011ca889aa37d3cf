"""What the tests of `multigil.progress` let workers run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import workers
from multigil import _core

if TYPE_CHECKING:
    from multigil import Event, Lock


def here(*_: object) -> tuple[int, int]:
    """The process and the interpreter that it runs in."""
    return os.getpid(), _core.current_interpreter_id()


def reciprocal(x: int) -> float:
    return 1 / x


def hold_until_interrupted(begun: Event, lock: Lock) -> None:
    with lock:
        begun.set()
        workers.spin()


def lock_of_bars(_: object) -> Any:
    """The lock that tqdm's bars have here, and whether tqdm watches them in a thread."""
    from tqdm import tqdm

    return tqdm.get_lock(), tqdm.monitor_interval
