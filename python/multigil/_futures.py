"""The futures of `Interpreter.submit`. Loaded with the first of them, for `concurrent.futures` takes its time."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from multigil._core import Lock, ShutDown, SimpleQueue, current_interpreter_id

if TYPE_CHECKING:
    from multigil._worker import Worker


class Submission(Future[Any]):
    """The future of a queued call. Who takes its claim decides: the interpreter runs it, or `cancel` takes it back."""

    def __init__(self, box: SimpleQueue[Any], name: str) -> None:
        super().__init__()
        self.claim = Lock()
        self._box = box
        self._name = name
        self._cancelling = threading.RLock()  # a callback may cancel

    def running(self) -> bool:
        """Whether the interpreter has begun with it."""
        return self.claim.locked() and not self.done()

    def cancel(self) -> bool:
        """Take the call back; False if the interpreter has begun with it."""
        with self._cancelling:
            if not self.done() and self.claim.acquire(blocking=False):
                super().cancel()
                self.set_running_or_notify_cancel()  # tells `wait` and `as_completed`
            return self.cancelled()

    def resolve(self, worker: Worker) -> None:
        """Take the outcome out of the box, or the news that there will be none."""
        if self.cancelled():
            return
        outcome: list[Any] = []
        worker.take_outcome(self._box, outcome, self._name)
        with contextlib.suppress(InvalidStateError):  # cancelled just now, in an interpreter that had ended
            if isinstance(outcome[0], BaseException):
                self.set_exception(outcome[0])
            else:
                self.set_result(outcome[0][0])


class Collector:
    """The thread that resolves the futures of one worker, until that has ended."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pending: dict[int, Submission] = {}
        # A sub-interpreter allows no daemon threads; the program waits for no others before it closes the workers.
        daemon = current_interpreter_id() == 0
        self._thread = threading.Thread(target=self._collect, name="multigil-futures", daemon=daemon)
        self._thread.start()

    def expect(self, number: int, future: Submission) -> None:
        """Resolve the future when that task has its outcome."""
        self._pending[number] = future

    def forget(self, number: int) -> None:
        """The task could not be sent."""
        self._pending.pop(number, None)

    def join(self) -> None:
        """Wait until every future is resolved, once the worker has ended."""
        if self._thread.ident != threading.get_ident():  # a callback may end the program's workers
            self._thread.join()

    def _collect(self) -> None:
        while True:
            try:
                number = self._worker.resolved.get()
            except ShutDown:
                break
            if (future := self._pending.pop(number, None)) is not None:
                future.resolve(self._worker)
        while self._pending:
            self._pending.popitem()[1].resolve(self._worker)


_collecting = threading.Lock()


def collector_of(worker: Worker) -> Collector:
    """The worker's collector, which the first call makes."""
    with _collecting:
        if worker.collector is None:
            worker.collector = Collector(worker)
        return worker.collector
