"""The workers that there are: spares made ahead, those in use, and what becomes of them at the end of the program.

CPython does not survive an end of the program with interpreters alive: what happens, by version, is an abort, a crash
or a hang. So all are ended before, in two steps that follow what `threading` does with threads:

1. `threading._register_atexit`: interpreters that were started, and are not daemons, are waited for;
2. `atexit`, when the threads have been waited for as well: open ones are closed, daemons are terminated, and nothing
   can be started any more.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import types
import warnings
import weakref
from collections import deque
from importlib import import_module
from time import monotonic

from multigil import _worker
from multigil._core import Subinterpreter, current_interpreter_id, subinterpreters
from multigil._worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multigil._pool import Pool
    from multigil._process import Child

# Seconds that daemons get to end after they were terminated.
PATIENCE = 2.0

_MAIN_ID = 0


class _Workers:
    """All that this interpreter made and that may be alive."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.in_use: set[Worker] = set()
        self.spares: deque[Worker] = deque()
        self.spares_wanted = 1
        self.prepared = False
        self.over = False  # nothing can be started any more
        self.interrupted = False  # Ctrl-C, while the end of the program waited for them
        self.lost: list[Worker] = []  # of a forked child: see there
        self.pools: weakref.WeakSet[Pool] = weakref.WeakSet()


_all = _Workers()


# --- while the program runs -------------------------------------------------------------------------------------


def take_worker(make: Callable[[], Worker] | None = None) -> Worker:
    """Give what `make` gives, or a spare interpreter, or a new one. Raises RuntimeError at the end of the program."""
    stack_size = _worker.wanted_stack_size()
    with _all.lock:
        _prepare_for("interpreter")
        _all.in_use.difference_update([worker for worker in _all.in_use if not worker.is_alive()])
        worker = None if make is None else make()
        while _all.spares and worker is None and stack_size == 0:
            spare = _all.spares.popleft()
            worker = spare if spare.is_alive() else None
        if worker is None:
            if _all.in_use:  # starts come faster than one by one
                _all.spares_wanted = min(_all.spares_wanted + 1, os.cpu_count() or 1)
            worker = Worker(stack_size)
        _all.in_use.add(worker)
        return worker


def make_spares() -> None:
    """Have the spares made that are wanted: one, or more where starts come in bursts.

    Only their threads are made here, which takes some tens of microseconds; these make the interpreters. Their stacks
    are of the usual size: while another one is wanted, there is no use for them.
    """
    if _worker.wanted_stack_size():
        return
    with _all.lock:
        while len(_all.spares) < _all.spares_wanted and not _all.over:
            _all.spares.append(Worker())


def prepare_again() -> None:
    """Prepare for the end of the program, ahead of all that was registered with `atexit` until now.

    Raises RuntimeError at the end of the program.
    """
    with _all.lock:
        _prepare_for("interpreter")
        atexit.unregister(end_workers)
        atexit.register(end_workers)


def register_pool(pool: Pool) -> None:
    """Have the end of the program wait for a pool's tasks. Raises RuntimeError when it is too late."""
    with _all.lock:
        _prepare_for("pool")
        _all.pools.add(pool)


def _end_pools() -> None:
    """Wait for the tasks of all pools, which take no others."""
    pools = list(_all.pools)
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()
        _all.pools.discard(pool)


def _prepare_for(what: str) -> None:
    """See to it that the end of the program will end what is about to be made. Raises RuntimeError when it is over."""
    if _all.over:
        raise RuntimeError(f"can't start new {what} at interpreter shutdown")
    if not _all.prepared:
        _prepare()


def _prepare() -> None:
    # Raises RuntimeError when it is too late. There is no public function for this; concurrent.futures uses it too.
    threading._register_atexit(_at_thread_shutdown)  # type: ignore[attr-defined]  # noqa: SLF001
    atexit.register(end_workers)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    _load_c_modules()
    _all.prepared = True


# --- its end ----------------------------------------------------------------------------------------------------


def _at_thread_shutdown() -> None:
    """Wait for those that were started, as threading is about to do for its threads."""
    if current_interpreter_id() != _MAIN_ID:
        end_workers()  # no thread of a sub-interpreter outlives this function, and atexit comes later
        return
    _worker.flush()  # what was printed here comes before what those print who wait for this end
    _worker.end_main_thread()
    try:
        _end_pools()
        while waited_for := [one for one in _all.in_use if one.ends_by_itself and not one.daemon and one.is_alive()]:
            for worker in waited_for:
                worker.join()
    except KeyboardInterrupt:
        _all.interrupted = True
        raise


def end_workers(*, terminate: bool = False) -> None:
    """End all workers and wait for that; nothing can be started any more.

    Open ones finish what is queued, and those that were started their target; daemons are terminated, and all others
    too when `terminate` is true or an interrupt (Ctrl-C) ends the waiting. May be called again when it was disturbed.
    """
    patiently = not (terminate or _all.interrupted)
    try:
        if patiently:
            _end_pools()  # which may need further workers
    except KeyboardInterrupt:
        _all.interrupted = True
        raise
    finally:
        with _all.lock:
            _all.over = True
            workers = [*_all.spares, *_all.in_use]
    try:
        if patiently:
            patient = [worker for worker in workers if not worker.daemon]
            for worker in patient:
                if not worker.ends_by_itself:
                    worker.inbox.shutdown()
            for worker in patient:
                worker.join()
    finally:
        left = [worker for worker in workers if worker.is_alive()]
        for worker in left:
            worker.terminated = True
        _terminate([worker.body for worker in left])
        # The program's end leaves none at all, not even one whose maker was struck before it had taken note of it.
        while current_interpreter_id() == _MAIN_ID and (interpreters := subinterpreters()):
            _terminate(interpreters)
        while children := _children():
            _terminate(children)
        if (inherit := sys.modules.get("multigil._inherit")) is not None:
            inherit.end()  # when nobody logs any more, however that came
    for worker in workers:
        if worker.collector is not None:
            worker.collector.join()
    _all.spares.clear()
    _all.in_use.clear()


def _children() -> list[Child]:
    """The processes that were started from here."""
    processes = sys.modules.get("multigil._process")
    children: list[Child] = [] if processes is None else processes.children()
    return children


def _terminate(interpreters: Sequence[Subinterpreter | Child]) -> None:
    """Terminate interpreters and wait for their end.

    One whose thread sleeps in a foreign call is abandoned, and a process is killed. One in a call into C that keeps the
    GIL is waited for: there is nothing else that CPython would survive.
    """
    for one in interpreters:
        _worker.terminate(one, 0)
    deadline = monotonic() + PATIENCE
    for one in interpreters:
        while not _worker.terminate(one, max(deadline - monotonic(), 0.1)) and not one.abandon(PATIENCE):
            continue


# --- forks ------------------------------------------------------------------------------------------------------


def _before_fork() -> None:
    """End the spares, and warn if there are others."""
    _all.lock.acquire()  # until the fork is done, so that no spare is made meanwhile
    spares = [_all.spares.popleft() for _ in range(len(_all.spares))]
    for spare in spares:
        spare.inbox.shutdown()
    for spare in spares:
        spare.join()
    count = sum(worker.is_alive() for worker in _all.in_use if isinstance(worker.body, Subinterpreter))
    if count:
        warnings.warn(
            f"fork with {count} interpreters open: CPython crashes the child, whatever that does "
            "(python/cpython#139759). What works: subprocess, os.posix_spawn, and multiprocessing with the start "
            "method 'spawn' or 'forkserver'.",
            RuntimeWarning,
            stacklevel=2,
        )


def _after_fork_in_parent() -> None:
    _all.lock.release()


def _after_fork_in_child() -> None:
    _worker.renew_main_thread()
    _all.lock = threading.RLock()
    for pool in _all.pools:
        pool.leave_to_parent()
    # There is nothing behind the handles. They are kept, because letting go of them would touch what is not there.
    _all.lost.extend(_all.in_use)
    _all.in_use.clear()


# --- modules in C -----------------------------------------------------------------------------------------------


def _load_c_modules() -> None:
    """Load here first what does not survive the end of the interpreter that was the first to load it.

    Before 3.14 that is `_datetime` (python/cpython#117398). Before 3.12.4 it is every function in C that takes keywords
    and is not part of the executable: its parser keeps the names as objects of the interpreter that called it first
    (python/cpython#119213). A call that fails, for a keyword that it does not know, makes a parser as well.
    """
    if current_interpreter_id() != _MAIN_ID or sys.version_info >= (3, 14):
        return
    for name in ("_datetime",) if sys.version_info >= (3, 12, 4) else _MODULES_WITH_KEYWORDS:
        try:
            module = import_module(name)
        except ImportError:  # not part of this Python
            continue
        if sys.version_info < (3, 12, 4):
            _make_parsers(module)


def _make_parsers(module: types.ModuleType) -> None:
    for function in list(vars(module).values()):
        if not isinstance(function, types.BuiltinFunctionType | type):
            continue
        with contextlib.suppress(Exception):
            function(multigil=None)
        if isinstance(function, type) and module.__name__ != "_socket":  # which would open one
            with contextlib.suppress(Exception):
                instance = function()
                for method in vars(function).values():
                    with contextlib.suppress(Exception):
                        method(instance, multigil=None)


# All in the standard library but `_asyncio`, which takes long and would not be enough for asyncio.
_MODULES_WITH_KEYWORDS = (
    *("_bisect", "_blake2", "_bz2", "_csv", "_datetime", "_decimal", "_elementtree", "_hashlib", "_heapq", "_json"),
    *("_lsprof", "_lzma", "_md5", "_multibytecodec", "_opcode", "_pickle", "_posixshmem", "_posixsubprocess", "_queue"),
    *("_random", "_sha1", "_sha2", "_sha3", "_socket", "_sqlite3", "_ssl", "_statistics", "_struct", "_uuid"),
    *("_zoneinfo", "array", "binascii", "cmath", "fcntl", "grp", "math", "mmap", "pyexpat", "resource", "select"),
    *("syslog", "termios", "unicodedata", "zlib"),
)
