"""`Timer`: `threading.Timer`, whose function runs in an interpreter."""

from __future__ import annotations

from multigil import Event
from multigil.interpreter import Interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Timer(Interpreter):
    """Calls a function after some seconds, in an interpreter of its own, unless it is cancelled before.

    What the function gives or raises is the result. `finished` is an event that interpreters share, so whoever has it
    may cancel the timer by setting it.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.interval = interval
        self.function = function
        self.args = args if args is not None else []
        self.kwargs = kwargs if kwargs is not None else {}
        self.finished = Event()

    def cancel(self) -> None:
        """Stop the timer if it has not called its function yet."""
        self.finished.set()

    def run(self) -> object:
        """Wait, then call the function: in the interpreter."""
        if self.finished.wait(self.interval):
            return None
        result = self.function(*self.args, **self.kwargs)
        self.finished.set()
        return result
