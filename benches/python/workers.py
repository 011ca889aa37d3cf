"""The kinds of workers, and the crew that starts some of them and collects their figures."""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

import gate

HAS_MULTIGIL = importlib.util.find_spec("multigil") is not None
if HAS_MULTIGIL:
    import multigil

type Figures = Mapping[str, int]
"""What one worker hands in; times are monotonic nanoseconds."""

LIMIT = 120.0
"""Seconds after which a worker that has not answered counts as stuck."""


class Failed(Exception):
    """A worker failed or is stuck. Its partners may wait for ever, so the program has to end."""


class Kind(Enum):
    """What runs a worker."""

    INTERPRETER = "multigil.Interpreter"
    PROCESS = "multigil.Process"
    THREAD = "threading.Thread"
    STANDARD_INTERPRETER = "concurrent.interpreters"
    FORKSERVER = "multiprocessing.Process, forkserver"
    SPAWN = "multiprocessing.Process, spawn"


class Worker(Protocol):
    """What every kind of worker is, beginning with `threading.Thread`."""

    def start(self) -> None: ...
    def join(self) -> None: ...


if sys.version_info >= (3, 14):
    from concurrent import interpreters

    class StandardInterpreter:
        """An interpreter of the standard library under the names that a thread has."""

        def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
            self._call = (target, *args)

        def start(self) -> None:
            self._interpreter = interpreters.create()
            self._thread = self._interpreter.call_in_thread(*self._call)

        def join(self) -> None:
            self._thread.join()
            self._interpreter.close()


def worker(kind: Kind, target: Callable[..., None], args: tuple[Any, ...]) -> Worker:
    """Make a worker of a kind, not yet started."""
    match kind:
        case Kind.THREAD:
            return threading.Thread(target=target, args=args)
        case Kind.INTERPRETER:
            return multigil.Interpreter(target=target, args=args)
        case Kind.PROCESS:
            return multigil.Process(target=target, args=args)
        case Kind.STANDARD_INTERPRETER:
            return StandardInterpreter(target, args)
        case Kind.FORKSERVER:
            return multiprocessing.get_context("forkserver").Process(target=target, args=args)
        case Kind.SPAWN:
            return multiprocessing.get_context("spawn").Process(target=target, args=args)


class Crew:
    """Workers of one measurement; a context manager that waits for their end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="multigil-bench-")
        self.folder = self._folder.name
        for pipe in (gate.REPORTS, gate.START):
            os.mkfifo(os.path.join(self.folder, pipe))
        # Open for both ways: neither side's open waits for the other, and no end of file comes early.
        self._reports = os.open(os.path.join(self.folder, gate.REPORTS), os.O_RDWR)
        self._start = os.open(os.path.join(self.folder, gate.START), os.O_RDWR)
        self._pending = b""
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for each in self._workers:
                each.join()
        os.close(self._reports)
        os.close(self._start)
        self._folder.cleanup()

    def add(self, kind: Kind, target: Callable[..., None], *args: Any) -> None:
        """Start a worker that runs `target(folder, *args)`, with the folder for its `gate.Gate`."""
        new = worker(kind, target, (self.folder, *args))
        self._workers.append(new)
        new.start()

    def go(self) -> None:
        """Let all workers pass their gate once every one of them is ready.

        Raises Failed if one of them fails before.
        """
        for _ in self._workers:
            self._next("ready")
        os.write(self._start, bytes(len(self._workers)))

    def figures(self) -> list[Figures]:
        """Wait for the figures of every worker, in the order in which they come.

        Raises Failed if one of them fails.
        """
        return [self._next("figures") for _ in self._workers]

    def span(self) -> tuple[float, int]:
        """The seconds from the first start to the last stop, and the sum of the totals.

        Raises Failed if a worker fails.
        """
        figures = self.figures()
        start = min(each["start"] for each in figures)
        stop = max(each["stop"] for each in figures)
        return (stop - start) / 1e9, sum(each.get("total", 0) for each in figures)

    def durations(self) -> dict[str, float]:
        """What all workers measured, in seconds.

        Raises Failed if a worker fails.
        """
        return {key: value / 1e9 for each in self.figures() for key, value in each.items()}

    def _next(self, expected: str) -> Figures:
        verb, content = ast.literal_eval(self._line())
        if verb != expected:
            raise Failed(f"a worker answered {verb!r} instead of {expected!r}: {content}")
        figures: Figures = content
        return figures

    def _line(self) -> str:
        until = time.monotonic() + LIMIT
        while b"\n" not in self._pending:
            if not select.select([self._reports], [], [], max(0.0, until - time.monotonic()))[0]:
                raise Failed(f"no answer from a worker within {LIMIT:g} s")
            self._pending += os.read(self._reports, 65536)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()
