"""The worker's side of a measurement: ready, go, and the figures back, over two named pipes.

Threads, interpreters and processes can all open a file by its name, so one way serves them all. This
module imports nothing but `os` and `time`, because the start of a worker is measured with it.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

REPORTS = "reports"
START = "start"
LONGEST = 4096
"""Bytes of a report: what Linux writes into a pipe in one piece (PIPE_BUF), whoever else writes."""


class Gate:
    """Where a worker waits for the start and hands in its figures."""

    def __init__(self, folder: str) -> None:
        self._reports = os.open(os.path.join(folder, REPORTS), os.O_WRONLY)
        self._start = os.open(os.path.join(folder, START), os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._write(("failed", f"{type(error).__name__}: {error}"[:1000]))
        os.close(self._start)
        os.close(self._reports)

    def pass_through(self) -> int:
        """Report ready, wait for the others, and give the time of the start in monotonic nanoseconds."""
        self._write(("ready", None))
        os.read(self._start, 1)
        return time.monotonic_ns()

    def report(self, figures: Mapping[str, int]) -> None:
        """Hand in what this worker measured."""
        self._write(("figures", figures))

    def _write(self, message: tuple[str, object]) -> None:
        line = f"{message!r}\n".encode()
        assert len(line) <= LONGEST
        os.write(self._reports, line)


def begin(folder: str) -> None:
    """The target of the start-up measurements: report the time at which it began to run."""
    now = time.monotonic_ns()
    with Gate(folder) as gate:
        gate.report({"began": now})
