"""The futures of pools."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multigil._pool import Pool

DONE = (CANCELLED_AND_NOTIFIED, FINISHED)

# What others need to watch a future, as the standard library's `wait`.
_WATCHED_PARTS = ("_condition", "_waiters", "_done_callbacks")


class PoolFuture(Future[Any]):
    """The future of a pool's task. What others need to watch it is made when they ask for it."""

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    number = 0  # of its task; 0 as long as that waits to be sent
    attempts = 0
    size = 0  # bytes that it took to send it
    call: tuple[Any, ...] | None = None  # kept where it may have to be sent again

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        if name in _WATCHED_PARTS:
            return self._pool.watch(self)[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        state = self._state if self.done() else RUNNING if self.running() else PENDING
        outcome = ""
        if state == FINISHED:
            error = self._exception
            outcome = f" returned {type(self._result).__name__}" if error is None else f" raised {type(error).__name__}"
        shown = "cancelled" if state == CANCELLED_AND_NOTIFIED else state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={shown}{outcome}>"

    def done(self) -> bool:
        """Whether it has an outcome or is cancelled."""
        if self._state not in DONE:
            self._pool.collect_what_is_there()
        return self._state in DONE

    def running(self) -> bool:
        """Whether a worker has begun with the task."""
        return not self.done() and self._pool.has_begun(self)

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Take the task back. One that a worker has begun with is interrupted if the pool does that; else False."""
        return self._pool.cancel(self)

    def result(self, timeout: float | None = None) -> Any:
        """Give what the call gave, or raise what it raised.

        Raises TimeoutError after `timeout` seconds, and CancelledError if the task was cancelled.
        """
        try:
            if self._state not in DONE:
                self._pool.wait_for(self, timeout)
            if self._state == CANCELLED_AND_NOTIFIED:
                raise CancelledError
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            del self  # the exception's traceback leads here, and this object to the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Give the exception that the call raised, or None. Waits and raises as `result` does."""
        if self._state not in DONE:
            self._pool.wait_for(self, timeout)
        if self._state == CANCELLED_AND_NOTIFIED:
            raise CancelledError
        return self._exception

    # --- what the pool calls ------------------------------------------------------------------------------------

    def is_watched(self) -> bool:
        """Whether others look at its parts."""
        return "_condition" in vars(self)

    def settle_unwatched(self, result: Any, error: BaseException | None, state: str = FINISHED) -> bool:
        """Give it its outcome if nobody watches it."""
        self.call = None
        with self._pool.watching:
            if "_condition" in self.__dict__:
                return False
            self._result, self._exception, self._state = result, error, state
            return True

    def settle(self, state: str, result: Any, error: BaseException | None) -> None:
        """Give it its outcome, once, and tell who waits for it. With the pool's lock held."""
        if self._state in DONE or self.settle_unwatched(result, error, state):
            return
        # Whoever watches several holds the conditions of some of them while it makes the next one.
        with self._condition:
            self._result, self._exception, self._state = result, error, state
            for waiter in self._waiters:
                if state != FINISHED:
                    waiter.add_cancelled(self)
                elif error is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()

    def call_back(self) -> None:
        """Call what was to be called when it is done."""
        self._invoke_callbacks()

    def numbered_call(self) -> tuple[Any, ...]:
        """The call to be sent under the number that it has now."""
        assert self.call is not None
        return self.call

    def wait_outside(self, timeout: float | None) -> None:
        """Wait for another thread to settle it."""
        with self._condition:
            if self._state not in DONE:
                self._condition.wait(timeout)
