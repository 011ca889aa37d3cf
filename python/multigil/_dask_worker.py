"""What runs in an interpreter for Dask, which cannot import `distributed` there: psutil and others refuse."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def run_timed(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, float, float, int]:
    """Call, and give the result with the times between which it ran and the thread that it ran in."""
    start = time.time()
    result = function(*args, **kwargs)
    return result, start, time.time(), threading.get_ident()


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call with keywords that `Client.submit` would take for its own."""
    return function(*args, **kwargs)


def call_chunk(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call once for each tuple of arguments."""
    return [function(*args) for args in chunk]
