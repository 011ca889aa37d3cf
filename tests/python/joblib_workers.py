"""What the tests let joblib's workers run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import workers
from multigil import _core

if TYPE_CHECKING:
    from multigil import Barrier, Event, Lock, Queue


def here(*_: object) -> tuple[int, int]:
    """The process and the interpreter that it runs in."""
    return os.getpid(), _core.current_interpreter_id()


def meet(barrier: Barrier) -> tuple[int, int]:
    """Wait until another one is here at the same time."""
    barrier.wait(20)
    return here()


def square(x: int) -> int:
    return x * x


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise LookupError(x)
    return x


def run_until_interrupted(begun: Event, lock: Lock) -> None:
    with lock:
        begun.set()
        workers.spin()


def fail_once_it_runs(begun: Event) -> None:
    begun.wait(20)
    raise LookupError


def die() -> None:
    os._exit(3)


def environment(name: str) -> str | None:
    return os.environ.get(name)


def initialize(value: int) -> None:
    _state.append(value)


def state(_: object) -> list[int]:
    return _state


_state: list[int] = []


def put_and_wait(q: Queue[Any], x: int, go: Event) -> int:
    q.put(x)
    if x:
        go.wait(20)
    return x
