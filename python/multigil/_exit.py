"""The workers that there are: spares made ahead, those in use, and what becomes of them at the end of the program.

CPython does not survive an end of the program with interpreters alive: what happens, by version, is an abort, a crash
or a hang. So all are ended before, in two steps that follow what `threading` does with threads:

1. `threading._register_atexit`: interpreters that were started, and are not daemons, are waited for;
2. `atexit`, when the threads have been waited for as well: open ones are closed, daemons are terminated, and nothing
   can be started any more.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections import deque
from time import monotonic

from multigil._core import current_interpreter_id
from multigil._worker import Worker

# Seconds that daemons get to end after they were terminated.
PATIENCE = 2.0

_lock = threading.RLock()
_prepared = False
_over = False
_in_use: set[Worker] = set()
_spares: deque[Worker] = deque()
_spares_wanted = 1


# --- from the first -----------------------------------------------------------------------------------------------


def take_worker() -> Worker:
    """A spare, or a new one that is being made meanwhile. Raises RuntimeError at the end of the program."""
    global _spares_wanted
    with _lock:
        if not _prepared:
            _prepare()
        if _over:
            raise RuntimeError("can't start new interpreter at interpreter shutdown")
        _in_use.difference_update([worker for worker in _in_use if not worker.is_alive()])
        while _spares:
            worker = _spares.popleft()
            if worker.is_alive():
                break
        else:
            # Starts come faster than spares are made.
            ...
            worker = Worker()
        _in_use.add(worker)
        return worker


def make_spares() -> None:
    """Begin to make the spares that are wanted."""
    with _lock:
        while len(_spares) < _spares_wanted and not _over:
            _spares.append(Worker())
