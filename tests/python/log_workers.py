"""What the tests of `inherit=` let workers run. Imports little, because each interpreter imports it anew."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import types
import warnings
from typing import TYPE_CHECKING, Any

import multigil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multigil import SimpleQueue


def log(name: str, level: int, message: object, *args: object, **how: Any) -> None:
    logging.getLogger(name).log(level, message, *args, **how)


def log_numbers(name: str, count: int) -> None:
    for number in range(count):
        logging.getLogger(name).info("%d", number)


def log_in_threads(name: str, count: int) -> None:
    threads = [threading.Thread(target=log_numbers, args=(f"{name}.{i}", count)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_and_tell(told: SimpleQueue[None], go: SimpleQueue[None], message: str) -> None:
    logging.getLogger().warning(message)
    told.put(None)
    go.get()


def log_and_die(count: int) -> None:
    log_numbers("dying", count)
    os.kill(os.getpid(), signal.SIGKILL)


def log_what_cannot_be_sent() -> str:
    lock = threading.Lock()
    only_here = types.ModuleType("only_here")
    exec("class Value: pass", vars(only_here))
    sys.modules["only_here"] = only_here
    extra = {"number": 5, "some": {"a": [1, 2]}, "lock": lock, "foreign": only_here.Value()}
    logging.getLogger("odd").warning("with %s and %r", lock, b"bytes", extra=extra)
    return repr(lock)


def log_badly() -> None:
    logging.getLogger("bad").warning("%d", "text")
    logging.getLogger("good").warning("went on")


class Unprintable:
    def __str__(self) -> str:
        raise LookupError("no text")


def log_exception() -> None:
    try:
        int("own")
    except ValueError:
        logging.getLogger("failing").exception("failed", stack_info=True)


def settings_of(names: Sequence[str]) -> list[tuple[int, bool, bool, bool]]:
    loggers = [logging.getLogger(name) for name in names]
    return [(one.level, one.disabled, one.propagate, one.isEnabledFor(logging.WARNING)) for one in loggers]


def log_configured_anew() -> None:
    """What a module does that is usually a program."""
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("configured").warning("once")


def log_and_start(inherit: Sequence[str], backend: str) -> None:
    """Log before and after what a worker of this worker logs."""
    logging.getLogger("outer").info("before")
    inner = multigil.Interpreter(
        target=log, args=("inner", logging.INFO, "deep"), backend=backend, inherit=inherit, name="inner"
    )
    inner.start()
    inner.join()
    logging.getLogger("outer").info("after")


def start_and_leave(backend: str) -> None:
    """Leave a worker of this worker to the end."""
    multigil.Interpreter(target=log_numbers, args=("inner", 50), backend=backend, inherit=["logging"]).start()


class LogsInRun(multigil.Interpreter):
    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.text = "from run"

    def run(self) -> str:
        logging.getLogger("run").info(self.text)
        return self.text


def warn(*messages: Warning | str) -> None:
    for message in messages:
        warnings.warn(message, stacklevel=1)


def warn_then_log() -> None:
    logging.getLogger("log").warning("first")
    warnings.warn("second", stacklevel=1)
    logging.getLogger("log").warning("third")


def caught(function: Callable[..., object], *args: object) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        function(*args)
    return [str(one.message) for one in found]
