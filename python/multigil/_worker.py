"""The line between an interpreter and the one that made it, with both its ends: `Worker` here, `main` there.

    box.put(call)                                     one box for each task: first its call, then its outcome
    inbox.put(header) ------------->  inbox.get()     the header names the box
                                      box.get()       an error of unpickling is the task's outcome, no more
                                      ...             runs
    box.get() <------ replied ------  box.put(outcome); replied.put(number)

The inbox carries nothing that could fail to be unpickled, and neither do the queues that tell of outcomes. All of them
are shut down at the latest when the interpreter has ended, so whoever waits for an outcome sees the end as well.
"""

from __future__ import annotations

import _thread
import io
import os
import sys
from _pickle import dumps, loads  # `pickle` itself would take as long to import as all the rest here
from itertools import starmap
from time import monotonic

from multigil._core import (
    Empty,
    Event,
    InterpreterTerminated,
    MultigilError,
    Queue,
    SimpleQueue,
    Subinterpreter,
    current_interpreter_id,
    expose,
    perform,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

    from multigil._futures import Collector
    from multigil._inherit import Inheritance
    from multigil._process import Child

    # For the headers of tasks, and for the news of three kinds of outcome.
    type Queues = tuple[Queue[Any], Queue[None], Queue[int], Queue[int]]

# Kinds of task: who is told that the outcome is in the box, and how.
TARGET = 0  # `finished` is shut down, and the interpreter ends after what is queued by then
OPENING = 1  # `finished` is shut down; the interpreter stays open for calls
CALL = 2  # the number goes into `replied`
SUBMITTED = 3  # the number goes into `resolved`
SERVE = 4  # nobody; the box tells what pool's worker it becomes, until that lets it go and the interpreter ends


class InterpreterDied(MultigilError, RuntimeError):
    """An interpreter ended without the outcome that was asked for; the message says how it ended."""

    __module__ = "multigil"


def into[T](slot: list[T], function: Callable[..., T], *arguments: object) -> None:
    """Append `function(*arguments)` to `slot`, in one step.

    A signal or an asynchronous exception strikes between two instructions of Python, so in `x = queue.get()` it may
    take the item away after `get` has returned. Here C does both.
    """
    slot.extend(starmap(function, (arguments,)))


def put_any(box: SimpleQueue[Any], item: object) -> None:
    """Put an item that may hold lambdas and closures too. Raises the error of pickling."""
    try:
        box.put(item)
    except MemoryError:
        raise
    except Exception:
        box.put(transfer().ByValue(item))


def transfer() -> ModuleType:
    """Give the module `_transfer`."""
    from multigil import _transfer  # costs milliseconds, and most tasks do without

    return _transfer


def inheriting() -> ModuleType:
    """Give the module `_inherit`."""
    from multigil import _inherit  # imports logging

    return _inherit


def checked_inherit(names: Iterable[str]) -> frozenset[str]:
    """What of the names of `inherit=` there is something to do for. Raises ValueError and TypeError."""
    if names == ():
        return frozenset()
    checked: frozenset[str] = inheriting().check(names)
    return checked


# How long an exception of a target waits for somebody who asks for it, before it is printed.
_SECONDS_TO_ASK = 0.1

_BOOTSTRAP = """\
import sys
sys.path[:] = {path!r}
from multigil import _worker
_worker.main({line!r})
"""


# --- the end here -----------------------------------------------------------------------------------------------


class Worker:
    """An interpreter with its own GIL and thread that waits for tasks, and the queues that lead to it.

    The constructor returns at once; the interpreter is made meanwhile. Its thread has a stack of `stack_size` bytes,
    and so have those that it starts; 0 means the usual size.
    """

    def __init__(self, stack_size: int = 0) -> None:
        self.inbox: Queue[Any] = Queue()
        self.finished: Queue[None] = Queue()
        self.replied: Queue[int] = Queue()
        self.resolved: Queue[int] = Queue()
        self.asked: Queue[None] = Queue()  # shut down once somebody asks for the target's outcome
        self.ends_by_itself = False  # with its target; else it is open until it is closed
        self.terminated = False
        self.collector: Collector | None = None  # once something was submitted
        self.inheritance: Inheritance | None = None  # what it takes over with the next task
        self._known = snapshot()
        self._call_box: SimpleQueue[Any] | None = None  # of the last call: a header that is only a number means it
        queues = (self.inbox, self.finished, self.replied, self.resolved)
        self.body: Subinterpreter | Child = self._begin(queues, stack_size)

    def _begin(self, queues: Queues, stack_size: int) -> Subinterpreter | Child:
        line = (queues, self.asked, main_thread(), stack_size, "multigil._by_value" in sys.modules)
        bootstrap = _BOOTSTRAP.format(path=self._known["path"], line=dumps(line))
        return Subinterpreter(bootstrap, queues, stack_size)

    @property
    def daemon(self) -> bool:
        """Whether the end of the program terminates it."""
        return self.body.daemon

    @property
    def returncode(self) -> int | None:
        """What it ended with as a process; None as long as it runs, and if it is none."""
        return None

    def send(self, kind: int, number: int, box: SimpleQueue[Any]) -> None:
        """Put the header of a task, with what has changed here since the last one. Raises ShutDown at the end."""
        known, inheritance = self._known, self.inheritance
        if inheritance is None and is_current(known):
            if kind == CALL and box is self._call_box:
                self.inbox.put(number)
            else:
                self.inbox.put((kind, number, box, None))
        else:
            now = snapshot()
            changes = {key: value for key, value in now.items() if known[key] != value}
            if inheritance is not None:
                changes["inheritance"] = dumps(inheritance)
            self.inbox.put((kind, number, box, changes))
            known.update(now)
            self.inheritance = None
        if kind == CALL:
            self._call_box = box

    def is_alive(self) -> bool:
        """Whether the interpreter has not ended."""
        return self.body.is_alive()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the interpreter has ended (seconds); True if it has."""
        return self.body.join(timeout)

    def interrupt(self, last: int) -> None:
        """Raise KeyboardInterrupt in the task that runs or is about to, if its number is at most `last`."""
        self.body.interrupt(last)

    def terminate(self, timeout: float | None) -> bool:
        """Drop what is queued, raise InterpreterTerminated in what runs, and wait for the end; True if it came."""
        self.terminated = True
        return terminate(self.body, timeout)

    def take_outcome(self, box: SimpleQueue[Any], slot: list[Any], name: str) -> None:
        """Fill the slot with what the box holds: (value,), or an exception; or with the reason why there is none."""
        while not slot:
            try:
                into(slot, box.get_nowait)
            except Exception as error:
                slot.append(self._explain(error, name))
            if isinstance(slot[0], tuple) and len(slot[0]) != 1:
                slot.clear()  # the call, which the interpreter did not even take out

    def _explain(self, error: Exception, name: str) -> Exception:
        """The exception that a box stands for which could not be opened."""
        if isinstance(error, Empty):
            return InterpreterDied(f"{name} {self.fate()} without an outcome")
        error.add_note(f"The outcome of {name} could not be unpickled where it was asked for.")
        return error

    def fate(self) -> str:
        """What became of the interpreter."""
        if self.terminated:
            return "was terminated"
        if self.body.error is not None:
            return f"failed ({self.body.error})"
        return "is closed" if self.body.is_alive() else "has ended"


def exit_status(outcome: object) -> int:
    """The exit code that an outcome stands for: (value,), or an exception."""
    if not isinstance(outcome, BaseException):
        return 0
    code = outcome.code if isinstance(outcome, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)


def terminate(body: Subinterpreter | Child, timeout: float | None) -> bool:
    """Do what `Worker.terminate` does, to any interpreter.

    The exception is raised again now and then: where it strikes in a `__del__` or a callback, Python drops it.
    """
    deadline = None if timeout is None else monotonic() + timeout
    pause = 0.5
    while True:
        until = monotonic() + pause
        if deadline is not None:
            until = min(until, deadline)
        body.terminate(until - monotonic())
        if body.join(until - monotonic()):
            return True
        if deadline is not None and monotonic() >= deadline:
            return False
        pause *= 2


def snapshot() -> dict[str, Any]:
    """What every interpreter has a copy of, and a worker should have as it is here when its task is sent."""
    return {"path": list(sys.path), "argv": list(sys.argv), "environ": dict(environment())}


def is_current(known: dict[str, Any]) -> bool:
    """Whether a snapshot would be the same now."""
    return bool(sys.path == known["path"] and sys.argv == known["argv"] and environment() == known["environ"])


def environment() -> dict[bytes, bytes]:
    """What is behind `os.environ`."""
    environ: dict[bytes, bytes] = vars(os.environ)["_data"]  # decoding all of it would take longer than a call
    return environ


# What the program's main thread is known by: `ident`, `native_id`, and an event that is set when it has ended.
type MainThread = tuple[int | None, int | None, Event | None]

_main_ended = Event() if current_interpreter_id() == 0 else None


def main_thread() -> MainThread:
    """Tell of the program's main thread, as far as it is known here."""
    if loop is not None and loop.main_thread is not None:
        return loop.main_thread
    if _main_ended is None:
        return None, None, None  # in an interpreter that multigil did not make
    import threading

    thread = threading.main_thread()
    return thread.ident, thread.native_id, _main_ended


def end_main_thread() -> None:
    """Tell all interpreters that the main thread has ended."""
    if _main_ended is not None:
        _main_ended.set()


def renew_main_thread() -> None:
    """Have a forked child tell of the end of its own main thread."""
    global _main_ended  # noqa: PLW0603
    _main_ended = Event()


_stack_size = 0


def stack_size(size: int = 0, /) -> int:
    """Set the size of the stack (bytes) of interpreters and threads that are started later; give what it was.

    0 stands for the usual size, which is 16 MiB for an interpreter. A smaller one may be rounded up to what making an
    interpreter takes. Raises ValueError for a size that is negative or too small for any thread.
    """
    global _stack_size  # noqa: PLW0603
    before = _thread.stack_size(size)
    _stack_size = size
    return before


def wanted_stack_size() -> int:
    """What was set by `stack_size`."""
    return _stack_size


# --- the end there ----------------------------------------------------------------------------------------------

# The loop that runs in this interpreter; None in an interpreter that multigil did not make.
loop: Loop | None = None


def main(line: bytes) -> None:
    """Serve tasks until the inbox is shut down: what the thread of a worker runs."""
    global loop  # noqa: PLW0603  (one for each interpreter)
    loop = Loop(*loads(line))
    loop.run()


class Loop:
    """The loop of a worker.

    `interrupt` and `terminate` strike only in what it exposes, the user's code: the call, from its unpickling until
    what it printed is written, the pickling of its outcome, the excepthook, the destructors of the outcome. A step of
    the loop itself may take as long as it likes, and is done once.
    """

    def __init__(
        self,
        queues: Queues,
        asked: Queue[None],
        main_thread: MainThread | None,
        stack_size_wanted: int,
        by_value: bool,
    ) -> None:
        stack_size(stack_size_wanted)
        self.main_thread = main_thread  # None in a process, where it is this one
        self.status = 0  # with which a process exits
        self._queues = queues
        self._asked = asked
        self._call_box: SimpleQueue[Any]  # of the last call
        self._prepare_stdio()
        if by_value:
            self._load_by_value()

    name = ""  # of a process
    daemon = False

    def run(self) -> None:
        """Serve one task after another. Raises what makes that impossible, as too little memory does."""
        try:
            for _ in map(self._serve, self._queues[0]):  # which keeps no header while it waits for the next
                pass
        except InterpreterTerminated:
            self.status = 1
        finally:
            self._end()

    def _serve(self, header: Any) -> None:
        inbox, finished, replied, resolved = self._queues
        if type(header) is int:
            kind, number, box, changes = CALL, header, self._call_box, None
        else:
            kind, number, box, changes = header
            if kind == CALL:
                self._call_box = box
        if changes:
            self.apply(changes)
        if kind == SERVE:
            from multigil import _pool_worker

            inbox.shutdown()
            _pool_worker.serve(box.get_nowait(), box)
            return
        outcome = [self._outcome(kind, number, box)]
        self._send(number, box, outcome[0])
        if kind == CALL:
            replied.put(number)
        elif kind == SUBMITTED:
            resolved.put(number)
        else:
            self.status = exit_status(outcome[0])
            finished.shutdown()
            if kind == TARGET:
                inbox.shutdown()
            self._report(number, outcome[0])
        attempt(outcome.clear, number=number)

    def apply(self, changes: dict[str, Any]) -> None:
        """Take over what has changed in the parent."""
        if "path" in changes:
            sys.path[:] = changes["path"]
        if "argv" in changes:
            sys.argv[:] = changes["argv"]
        if "environ" in changes:
            # The parent has told C already, and all interpreters share that.
            environ = environment()
            environ.clear()
            environ.update(changes["environ"])
        if "inheritance" in changes and (error := attempt(_take_over, changes["inheritance"])) is not None:
            sys.excepthook(type(error), error, error.__traceback__)

    def _outcome(self, kind: int, number: int, box: SimpleQueue[Any]) -> tuple[Any] | BaseException:
        """Perform a task: (what it gave,), or what it raised."""
        outcome: tuple[Any] | BaseException
        try:
            outcome = perform(number, _take_call, kind, box)
        except InterpreterTerminated:
            raise
        except BaseException as error:
            if not box.empty():  # interrupted before the call was taken out
                attempt(box.get_nowait)
            outcome = error
        return attempt(flush, number=number) or outcome

    def _send(self, number: int, box: SimpleQueue[Any], outcome: tuple[Any] | BaseException) -> None:
        """Put the outcome into the box; if it cannot be pickled, the error of that instead."""
        if isinstance(outcome, BaseException):
            attempt(put_failure, box.put, outcome)
        elif (error := deliver(number, box.put, outcome)) is not None:
            error.add_note(f"The result is of type {type(outcome[0]).__qualname__!r}.")
            attempt(put_failure, box.put, error)

    def _report(self, number: int, outcome: tuple[Any] | BaseException) -> None:
        """Call the excepthook for the target's exception, as a thread would, unless somebody asks for it at once."""
        if isinstance(outcome, BaseException) and isinstance(attempt(self._asked.get, True, _SECONDS_TO_ASK), Empty):
            from multigil import _hooks

            attempt(_hooks.call_excepthook, outcome, number=number)

    def _end(self) -> None:
        """Leave nothing behind."""
        if (exit_module := sys.modules.get("multigil._exit")) is not None:
            try:
                expose(None, exit_module.end_workers)
            except InterpreterTerminated:
                exit_module.end_workers(terminate=True)
        if (threading := sys.modules.get("threading")) is not None:
            # 3.13.0 prints an error when it comes to the object that stands for this thread later than here.
            vars(getattr(threading, "_thread_local_info", self)).pop("_track_dummy_thread_ref", None)
        flush()
        for queue in self._queues:
            queue.shutdown()

    def _load_by_value(self) -> None:
        """Load now what takes its time, rather than when a task waits for it."""
        try:
            from multigil import _by_value  # noqa: F401
        except ImportError:
            return  # the task that needs it will say so

    def _prepare_stdio(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)


def _take_call(kind: int, box: SimpleQueue[Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    function, args, kwargs, claim = box.get_nowait()
    if kind == SUBMITTED and not claim.acquire(False):  # it was cancelled
        return type(None), (), {}  # a call that gives None
    return function, args, kwargs


def _take_over(inheritance: bytes) -> None:
    loads(inheritance).apply()


def attempt(function: Callable[..., object], *args: object, number: int | None = None) -> BaseException | None:
    """Call what may run the user's code, and give what it raised."""
    try:
        expose(number, function, *args)
    except InterpreterTerminated:
        raise
    except BaseException as error:
        return error
    return None


def deliver(number: int, put: Callable[[Any], object], value: object) -> BaseException | None:
    """Put a value, by value if need be, as part of a task; give the error of pickling it.

    `put` is a call of C: only so can it be exposed, since then what raises has put nothing.
    """
    error = attempt(put, value, number=number)
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        error = attempt(put, transfer().ByValue(value), number=number)
    return error


def put_failure(put: Callable[[Any], object], error: BaseException) -> None:
    """Put an exception. When there is no memory even for that, its missing says so."""
    put(transfer().Failure(trimmed(error)))


def trimmed(error: BaseException) -> BaseException:
    """Give the exception without the frames of ours that its traceback begins with."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in _OURS:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


_OURS = tuple(f"multigil.{name}" for name in ("_worker", "_pool_worker", "_hooks", "_process", "interpreter"))


def flush() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # the user's own stream, or a closed one
            continue


def execute(source: str) -> None:
    """Run source text in this interpreter's `__main__`."""
    exec(compile(source, "<string>", "exec"), vars(sys.modules["__main__"]))
