"""`Interpreter`: `threading.Thread`, with a GIL of its own; and the functions of `threading` around it."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from _thread import TIMEOUT_MAX, get_ident, get_native_id
from time import monotonic

from multigil import _exit, _hooks, _worker
from multigil._core import (
    Alarm,
    Empty,
    Event,
    NotShareable,
    ShutDown,
    SimpleQueue,
    Subinterpreter,
    current_interpreter_id,
    new_number,
    subinterpreters,
)
from multigil._worker import CALL, OPENING, SUBMITTED, TARGET, Worker, execute, exit_status, flush, put_any

# ruff: noqa: PLW0603  (each interpreter has its own)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from concurrent.futures import Future
    from contextvars import Context
    from types import TracebackType
    from typing import Any, Self, SupportsIndex

    from multigil._process import Child

__all__ = [
    "TIMEOUT_MAX",
    "Interpreter",
    "Process",
    "Thread",
    "ThreadError",
    "activeCount",
    "active_count",
    "currentThread",
    "current_interpreter",
    "current_thread",
    "enumerate",
    "get_ident",
    "get_native_id",
    "main_interpreter",
    "main_thread",
]

_new_task = itertools.count(1).__next__

# The objects of other interpreters that there are in this one, by the process and the numbers of those.
_known: weakref.WeakValueDictionary[tuple[int, int], Interpreter] = weakref.WeakValueDictionary()
# Those that were started here and run for themselves, until they end. Open ones end when nobody holds them any more.
_running: set[Interpreter] = set()


class Interpreter:
    """A thread with an interpreter and a GIL of its own: `threading.Thread`, but its Python code runs in parallel.

    `target(*args, **kwargs)` runs in the interpreter. Function, arguments and result are copied: by name what can be
    imported there, and by value functions and classes of `__main__`, lambdas and closures; `Queue` and `Lock` are
    shared. A function of `__main__` brings a copy of the globals that it names, made when it is sent.

    Started with `start()` it ends with its target, as a thread does. Opened by a `with` statement, or by the first
    `call`, `submit` or `exec`, it serves calls, one after another, until it is closed; a target that was given runs
    first. Calls to one that was started wait for the target's end, and are refused after that. An open interpreter
    that nobody holds any more closes itself.

    Arguments are those of `threading.Thread`. `daemon` ones are terminated when the program ends, others are waited
    for. `context` may be None or empty: an interpreter begins with an empty context, because context variables belong
    to the interpreter that made them.

    `backend` names what runs the target: "interpreter", one of this process; or "process", a fresh Python process, in
    which everything can be imported and whose death leaves this one alone. `executable` is the Python that it runs, if
    not this one: any from 3.12 on that has this version of multigil.

    `inherit` names what it takes over when it is started: "logging", the levels of all loggers here, and what is logged
    there is handled by the handlers here; "warnings", the filters, and what they let through is shown here. All that it
    has logged was handled when `join`, `result`, `call` or `close` returns. "path" and "environ" may be named too, but
    `sys.path` and `os.environ` are always as they are here when a task is sent.

    A subclass may override `run()`. The object is copied into the interpreter then, its own attributes included, and
    what its `run()` gives there is the result.
    """

    # What is here is not among the attributes that a subclass's object takes along.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_alarm",
        "_answered",
        "_args",
        "_backend",
        "_body",
        "_box",
        "_call_box",
        "_calling",
        "_closed",
        "_daemonic",
        "_executable",
        "_inherit",
        "_kwargs",
        "_lock",
        "_name",
        "_outcome",
        "_target",
        "_travels",
        "_worker",
    )

    _initialized = False

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        context: Context | None = None,
        backend: str = "interpreter",
        executable: str | os.PathLike[str] | None = None,
        inherit: Iterable[str] = (),
    ) -> None:
        assert group is None, "group argument must be None for now"
        if context:
            raise NotShareable(
                "context variables cannot be sent to an interpreter, which begins with an empty context: "
                "pass their values as arguments"
            )
        if backend not in _BACKENDS:
            raise ValueError(f"unknown backend {backend!r}, there are 'interpreter' and 'process'")
        if executable is not None and backend != "process":
            raise ValueError("executable can only be given with backend='process'")
        if name:
            name = str(name)
        else:
            name = f"{_BACKENDS[backend]}-{new_number()}"
            if (target_name := getattr(target, "__name__", None)) is not None:
                name += f" ({target_name})"
        daemon = current_interpreter().daemon if daemon is None else daemon
        path = None if executable is None else os.fspath(executable)
        wanted = _worker.checked_inherit(inherit)
        self._set_up(name, daemon, backend, target, args, kwargs or {}, path, wanted)

    def _set_up(
        self,
        name: str,
        daemon: bool,
        backend: str,
        target: Callable[..., object] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        executable: str | None = None,
        inherit: frozenset[str] = frozenset(),
    ) -> None:
        self._name = name
        self._daemonic = daemon
        self._backend = backend
        self._executable = executable
        self._inherit = inherit
        self._target = target
        self._args = args
        self._kwargs = kwargs or {}
        self._body: Subinterpreter | Child | _Body | None = None  # the interpreter itself, once there is one
        self._worker: Worker | None = None  # the line to it, if it was started from here
        self._box: SimpleQueue[Any] | None = None  # for the target's outcome
        self._outcome: list[Any] = []
        self._closed = False
        self._travels = False
        self._lock = threading.RLock()
        # One call at a time, as they run one at a time there. Reentrant for the sake of signal handlers.
        self._calling = threading.RLock()
        self._call_box: SimpleQueue[Any] | None = None
        self._alarm: Alarm | None = None  # for `fileno()`
        self._answered: set[int] = set()
        self._initialized = True

    # --- as in threading.Thread ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the target in an interpreter of its own, once.

        Raises RuntimeError when called again, and the error of pickling when the target or an argument cannot be sent.
        """
        self._check_initialized()
        with self._lock:
            if self._body is not None:
                raise RuntimeError("interpreters can only be started once")
            self._begin(TARGET)
            _running.difference_update([one for one in _running if not one.is_alive()])
            _running.add(self)

    def run(self) -> object:
        """Call the target. A subclass may override this: it runs in the interpreter, on a copy of the object."""
        if self._target is not None:
            return self._target(*self._args, **self._kwargs)
        return None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the interpreter has ended, at most `timeout` seconds; `is_alive()` tells whether it has.

        Raises RuntimeError before it is started, and for the current interpreter.
        """
        self._check_initialized()
        if self._body is None:
            raise RuntimeError("cannot join interpreter before it is started")
        if self is current_interpreter():
            raise RuntimeError("cannot join current interpreter")
        until = _until(timeout)
        if self._body.join(None if timeout is None else max(timeout, 0)) and self._inherit:
            _worker.inheriting().flush(_left(until))

    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._body is not None and self._body.is_alive()

    @property
    def name(self) -> str:
        """For people; several may have the same. All interpreters see the one that was set last."""
        return self._name if self._body is None else (self._body.name or "")

    @name.setter
    def name(self, name: str) -> None:
        self._name = str(name)
        if self._body is not None:
            self._body.name = self._name

    @property
    def ident(self) -> int | None:
        """`get_ident()` of its thread, or the id of its process; None before it is started."""
        return None if self._body is None else self._body.ident

    @property
    def native_id(self) -> int | None:
        """The kernel's id of its thread; None before it is started."""
        return None if self._body is None else self._body.native_id

    @property
    def daemon(self) -> bool:
        """Whether it is terminated at the end of the program, and not waited for. Inherited from where it is made."""
        return self._daemonic

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        self._check_initialized()
        if self._body is not None:
            raise RuntimeError("cannot set daemon status of active interpreter")
        self._daemonic = daemonic

    def getName(self) -> str:  # noqa: N802
        """Deprecated: use the attribute `name`."""
        _warn("getName() is deprecated, get the name attribute instead")
        return self.name

    def setName(self, name: str) -> None:  # noqa: N802
        """Deprecated: use the attribute `name`."""
        _warn("setName() is deprecated, set the name attribute instead")
        self.name = name

    def isDaemon(self) -> bool:  # noqa: N802
        """Deprecated: use the attribute `daemon`."""
        _warn("isDaemon() is deprecated, get the daemon attribute instead")
        return self.daemon

    def setDaemon(self, daemonic: bool) -> None:  # noqa: N802
        """Deprecated: use the attribute `daemon`."""
        _warn("setDaemon() is deprecated, set the daemon attribute instead")
        self.daemon = daemonic

    def __repr__(self) -> str:
        self._check_initialized()
        status = "initial"
        if self.is_alive():
            status = "started"
        elif self._body is not None:
            status = "stopped"
        if self._daemonic:
            status += " daemon"
        if self.ident is not None:
            status += f" {self.ident}"
        return f"<{type(self).__name__}({self.name}, {status})>"

    # --- the target's outcome -----------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        """Give what the target gave, or raise what it raised, the remote traceback at the end of its causes.

        Waits for it at most `timeout` seconds, then raises TimeoutError. Raises RuntimeError before the start, and
        InterpreterDied if the interpreter ended without an outcome.
        """
        try:
            return _give(self._wait(timeout))
        finally:
            del self  # the exception's traceback leads here, and this object to the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the target raised, or None. Waits and raises as `result` does."""
        outcome = self._wait(timeout)
        return outcome if isinstance(outcome, BaseException) else None

    def done(self) -> bool:
        """Whether the target has ended; the interpreter may still be open."""
        return self._worker is not None and self._worker.finished.is_shutdown

    @property
    def exitcode(self) -> int | None:
        """None until it has ended; then 0, or 1 after an exception, or what the target gave to `sys.exit`.

        Of a process it is the status that it exited with, or the negative number of the signal that killed it.
        """
        if self._worker is None or self.is_alive():
            return None
        status = self._worker.returncode
        return exit_status(self._take_outcome(self._worker)) if status is None else status

    def __await__(self) -> Generator[Any, None, Any]:
        """Await what `result()` gives, in an event loop of asyncio's. Raises as that does."""
        from multigil import _asyncio

        return _asyncio.result(self).__await__()

    def _asked_for(self) -> Worker:
        """The worker of whose target somebody asks for the outcome; `finished` is shut down when there is one."""
        worker = self._started("wait for")
        worker.asked.shutdown()
        return worker

    def _wait(self, timeout: float | None) -> Any:
        worker = self._asked_for()
        until = _until(timeout)
        try:
            worker.finished.get(timeout=None if timeout is None else max(timeout, 0))
        except ShutDown:  # that is how it tells
            pass
        except Empty:
            raise TimeoutError(f"the target of {self.name} has not ended within {timeout} seconds") from None
        if self._inherit:
            _worker.inheriting().flush(_left(until))
        return self._take_outcome(worker)

    def _take_outcome(self, worker: Worker) -> Any:
        with self._lock:
            if not self._outcome:
                assert self._box is not None
                worker.take_outcome(self._box, self._outcome, self.name)
            return self._outcome[0]

    # --- beyond threading.Thread --------------------------------------------------------------------------------

    @property
    def id(self) -> int | None:
        """CPython's id of the interpreter, or the id of the process; None before it exists."""
        return None if self._body is None else self._body.id

    @property
    def backend(self) -> str:
        """What runs the target: "interpreter" or "process"."""
        return self._backend

    @property
    def pid(self) -> int | None:
        """The process that it runs in; None before it is started."""
        return None if self._body is None else _key(self._body)[0]

    @property
    def sentinel(self) -> int:
        """A file descriptor that is ready to be read when the process has ended, as long as this object is there.

        Raises RuntimeError if it is no process that was started from here; `wait_any` takes every interpreter.
        """
        return self._child("wait for the sentinel of").sentinel

    def fileno(self) -> int:
        """A file descriptor that is ready to be read when the interpreter has ended, as long as this object is there.

        Raises RuntimeError as `wait_any` does: before the start, and for the current interpreter.
        """
        awaited = self._awaited()
        with self._lock:
            if self._alarm is None:
                self._alarm = Alarm()
                if not self._alarm.arm(0, awaited, 0, 0):
                    self._alarm.ring(0)
            return self._alarm.fileno()

    def call[T, **P](self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the interpreter and give its result, or raise what it raised.

        Raises RuntimeError when the interpreter is closed or has ended, InterpreterDied when it ends meanwhile, and the
        error of pickling. Calls from several threads take turns.
        """
        worker = self._opened()
        with self._calling:
            box, self._call_box = self._call_box or SimpleQueue(), None  # one that an interrupt leaves behind is lost
            put_any(box, (*self._with_hooks(function, args, kwargs), None))
            number = _new_task()
            self._send(worker, CALL, number, box)
            while number not in self._answered:
                try:
                    self._answered.add(worker.replied.get())
                except ShutDown:
                    break
            self._answered.discard(number)
            outcome: list[Any] = []
            worker.take_outcome(box, outcome, self.name)
            self._call_box = box
        if self._inherit:
            _worker.inheriting().flush()
        result: T = _give(outcome[0])
        return result

    def submit[T, **P](self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and give a `concurrent.futures.Future` of its result. Raises as `call` does."""
        from multigil import _futures

        worker = self._opened()
        box: SimpleQueue[Any] = SimpleQueue()
        future = _futures.Submission(box, self.name)
        put_any(box, (*self._with_hooks(function, args, kwargs), future.claim))
        number = _new_task()
        collector = _futures.collector_of(worker)
        collector.expect(number, future)
        try:
            self._send(worker, SUBMITTED, number, box)
        except BaseException:
            collector.forget(number)
            raise
        return future

    def exec(self, source: str) -> None:
        """Run source text in the interpreter's `__main__`, which keeps its state. Raises what it raises."""
        self.call(execute, source)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what runs in the interpreter, wherever it is in Python code or in a wait of ours.

        If nothing does, it strikes the next call that was made before. An interpreter that only waits for calls is left
        alone. Raises RuntimeError before the start.
        """
        self._started("interrupt").interrupt(_new_task())

    def terminate(self, timeout: float | None = None) -> None:
        """End the interpreter: drop what is queued, raise InterpreterTerminated in what runs, and wait for its end.

        Raises TimeoutError when it has not ended within `timeout` seconds: it cannot be reached in a call into C that
        takes long. A process gets SIGTERM instead, then SIGKILL; its time is two seconds if none is given. Raises
        RuntimeError before the start.
        """
        body = self._other("terminate")
        if not (_worker.terminate(body, timeout) if self._worker is None else self._worker.terminate(timeout)):
            raise TimeoutError(f"{self.name} has not ended within {timeout} seconds")

    def kill(self) -> None:
        """End a process by SIGKILL: at once, without a chance to clean up.

        The locks that it holds are given back, with OwnerDied for the next owner; what it had sent arrives. Raises
        RuntimeError before the start, and for an interpreter, which cannot be killed.
        """
        self._child("kill").send_signal(_SIGKILL)

    def close(self) -> None:
        """Let the target and the queued calls finish, then end the interpreter and wait for that."""
        self._check_elsewhere("close")
        with self._lock:
            self._closed = True
        if self._worker is not None:
            self._worker.inbox.shutdown()
            self._worker.join()
            if self._inherit:
                _worker.inheriting().flush()

    def __enter__(self) -> Self:
        """Open it, if it was not started yet: the target runs first, if there is one."""
        if self._body is None:
            self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- how it is done -----------------------------------------------------------------------------------------

    def _check_initialized(self) -> None:
        if not self._initialized:
            raise RuntimeError("Interpreter.__init__() not called")

    def _check_elsewhere(self, purpose: str) -> None:
        if self._body is not None and self._worker is None:
            if self is current_interpreter():
                which = "current interpreter"
            else:
                which = "main interpreter" if self.id == _MAIN_ID else "interpreter that was not started from here"
            raise RuntimeError(f"cannot {purpose} {which}")

    def _started(self, purpose: str) -> Worker:
        self._check_initialized()
        self._check_elsewhere(purpose)
        if self._worker is None:
            raise RuntimeError(f"cannot {purpose} interpreter before it is started")
        return self._worker

    def _other(self, purpose: str) -> Subinterpreter | Child:
        """The interpreter, from wherever it was started, if it is neither this one nor the main one."""
        if self._worker is None and isinstance(self._body, Subinterpreter) and self is not current_interpreter():
            return self._body
        return self._started(purpose).body

    def _child(self, purpose: str) -> Child:
        body = self._started(purpose).body
        if not isinstance(body, Subinterpreter):
            return body
        raise RuntimeError(f"cannot {purpose} interpreter of this process")

    def _awaited(self) -> Subinterpreter | Event:
        """What `wait_any` waits for."""
        body = self._other("wait for")
        return body if isinstance(body, Subinterpreter) else body.ended

    def _opened(self) -> Worker:
        self._check_initialized()
        self._check_elsewhere("call")
        with self._lock:
            if self._worker is None:
                self._begin(OPENING)
                assert self._worker is not None
                weakref.finalize(self, self._worker.inbox.shutdown).atexit = False
            return self._worker

    def _begin(self, kind: int) -> None:
        if self._closed:
            raise RuntimeError("cannot start closed interpreter")
        own_run = type(self).run is not Interpreter.run
        if kind == OPENING and self._target is None and not own_run:
            worker = self._make_worker()
            worker.finished.shutdown()
            self._outcome.append((None,))
            self._take(worker)
        else:
            box: SimpleQueue[Any] = SimpleQueue()
            call = (_run, (self,), {}) if own_run else (self._target or _nothing, tuple(self._args), dict(self._kwargs))
            self._travels = True
            try:
                put_any(box, (*self._with_hooks(*call, new=True), None))
            finally:
                self._travels = False
            worker = self._make_worker()
            self._box = box
            self._take(worker)
            self._send(worker, kind, _new_task(), box)
        worker.ends_by_itself = kind == TARGET
        self._body = worker.body
        self._worker = worker
        del self._target, self._args, self._kwargs  # as a thread does; a large argument is not kept
        if self._backend == "interpreter":
            _exit.make_spares()

    def _make_worker(self) -> Worker:
        inheritance = _worker.inheriting().capture(self._inherit) if self._inherit else None
        if self._backend == "interpreter":
            worker = _exit.take_worker()
        else:
            from multigil import _process

            executable = _process.usable(self._executable)
            worker = _exit.take_worker(lambda: _process.ProcessWorker(self._name, self._daemonic, executable))
        worker.inheritance = inheritance
        return worker

    def _with_hooks(self, *call: Any, new: bool = False) -> tuple[Any, ...]:
        """Let a call bring the hooks that are set here."""
        hooks = _hooks.present(new=new)
        return call if hooks is None else (_hooks.call, (hooks, *call), {})

    def _take(self, worker: Worker) -> None:
        """Give a worker this object's name, by which all interpreters know it from now on."""
        _known[_key(worker.body)] = self
        worker.body.daemon = self._daemonic
        worker.body.name = self._name

    def _send(self, worker: Worker, kind: int, number: int, box: SimpleQueue[Any]) -> None:
        flush()  # so that what was printed here before comes before what is printed there
        try:
            worker.send(kind, number, box)
        except ShutDown:
            raise RuntimeError(f"{self.name} {worker.fate()}") from None

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        if not self._travels:
            if self._body is None:
                raise NotShareable(f"cannot pickle {type(self).__name__!r} object that is not started")
            body = self._body
            ended = None if isinstance(body, Subinterpreter) else body.ended
            return _recognize, (_key(body), body.id, self.name, body.ident, body.native_id, ended)
        state = vars(self) if type(self).__getstate__ is object.__getstate__ else self.__getstate__()
        what = (self._name, self._daemonic, self._backend, self._target, self._args, self._kwargs)
        return _arrive, (type(self), *what), state


class Process(Interpreter):
    """An `Interpreter` with `backend="process"`: `threading.Thread`, with a Python process of its own."""

    __slots__ = ()

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        context: Context | None = None,
        executable: str | os.PathLike[str] | None = None,
        inherit: Iterable[str] = (),
    ) -> None:
        super().__init__(
            group,
            target,
            name,
            args,
            kwargs,
            daemon=daemon,
            context=context,
            backend="process",
            executable=executable,
            inherit=inherit,
        )


# What runs a target, and what it is called by default.
_BACKENDS = {"interpreter": "Interpreter", "process": "Process"}

_SIGKILL = 9


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else monotonic() + timeout


def _left(until: float | None) -> float | None:
    """Seconds until then."""
    return None if until is None else max(until - monotonic(), 0)


def _key(body: Subinterpreter | Child | _Body) -> tuple[int, int]:
    """What tells an interpreter from all others: its process, and its number there."""
    if isinstance(body, Subinterpreter):
        return os.getpid(), body.number
    return (body.pid, 0) if not isinstance(body, _Body) else (body.pid or os.getpid(), body.number)


def _recognize(
    key: tuple[int, int], id: int | None, name: str, ident: int | None, native_id: int | None, ended: Event | None
) -> Interpreter:
    """The object here of an interpreter whose object was sent."""
    pid, number = key
    here = pid == os.getpid()
    if here and number == 0:
        return main_interpreter()
    found = _known.get(key)
    if found is None and here:
        found = next((_object_of(body) for body in subinterpreters() if body.number == number), None)
    if found is None:
        if here and number > 0:
            ended = Event()
            ended.set()
        found = _object_of(_Body(number, id, name, (ident, native_id, ended), pid=None if here else pid))
    return found


class _Body:
    """What others have a `Subinterpreter` for: the main one, one that multigil did not make, or one that has ended.

    Or one of another process, of which no more is known than what it was sent with. The number of a process's main one
    is 0; those that multigil did not make have negative ones.
    """

    def __init__(
        self,
        number: int,
        id: int | None,
        name: str,
        thread: _worker.MainThread,
        *,
        daemon: bool = False,
        backend: str = "interpreter",
        pid: int | None = None,
    ) -> None:
        self.pid = pid  # None stands for this process, which may have been forked since
        self.daemon = daemon
        self.backend = backend
        self.number = number
        self.id = id
        self.name = name
        self._ident, self._native_id, self._ended = thread

    @property
    def ident(self) -> int | None:
        return self._ident

    @property
    def native_id(self) -> int | None:
        # Another one in a forked child.
        is_this = self.pid is None and self.id == current_interpreter_id()
        return threading.main_thread().native_id if is_this else self._native_id

    @property
    def ended(self) -> Event | None:
        # Another one in a forked child.
        return _worker.main_thread()[2] if self.pid is None and self.number == 0 else self._ended

    def is_alive(self) -> bool:
        return self.ended is None or not self.ended.is_set()

    def join(self, timeout: float | None) -> bool:
        if self.ended is None:
            raise RuntimeError(f"cannot join {self.name} from here")
        return self.ended.wait(timeout)


def _give(outcome: Any) -> Any:
    if not isinstance(outcome, BaseException):
        return outcome[0]
    try:
        raise outcome.with_traceback(None)
    finally:
        del outcome  # its traceback leads here


# --- what runs in a worker --------------------------------------------------------------------------------------


def _nothing() -> None:
    """The target of an interpreter that has none."""


def _run(interpreter: Interpreter) -> object:
    """Run an object with a `run` of its own, which is the current interpreter from here on."""
    global _current, _main
    interpreter._body = body = _own_body()  # noqa: SLF001
    _current = _known[_key(body)] = interpreter
    if body.id == _MAIN_ID:
        _main = interpreter
    return interpreter.run()


def _arrive(
    kind: type[Interpreter],
    name: str,
    daemon: bool,
    backend: str,
    target: Callable[..., object] | None,
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
) -> Interpreter:
    """Make the copy of an object with a `run` of its own. It comes here as well, if it was sent in vain."""
    interpreter = object.__new__(kind)
    interpreter._set_up(name, daemon, backend, target, args, kwargs)
    return interpreter


# --- the functions of threading ---------------------------------------------------------------------------------


# The objects of the interpreter that this is, and of the main one, once somebody asked.
_current: Interpreter | None = None
_main: Interpreter | None = None

_MAIN_ID = 0


def current_interpreter() -> Interpreter:
    """The interpreter that the caller runs in, whichever of its threads calls."""
    global _current
    if _current is None:
        _current = main_interpreter() if current_interpreter_id() == _MAIN_ID else _object_of(_own_body())
    return _current


def main_interpreter() -> Interpreter:
    """The interpreter that the program was started in; in a process that was started from here, its own one."""
    global _main
    if _main is None:
        _main = _object_of(_main_body())
    return _main


def _main_body() -> _Body:
    thread = _worker.main_thread()
    loop = _worker.loop
    if loop is None or current_interpreter_id() != _MAIN_ID:
        return _Body(0, _MAIN_ID, "MainThread", thread)
    return _Body(0, _MAIN_ID, loop.name, thread, daemon=loop.daemon, backend="process")


def _own_body() -> Subinterpreter | _Body:
    id = current_interpreter_id()
    if id == _MAIN_ID:
        return _main_body()
    for body in subinterpreters():
        if body.id == id:
            return body
    thread = threading.main_thread()
    return _Body(-id, id, f"Interpreter-{id}", (thread.ident, thread.native_id, None))


def _object_of(body: Subinterpreter | Child | _Body) -> Interpreter:
    """The object here of an interpreter, made if it was not started from here and nobody holds one."""
    key = _key(body)
    interpreter = _known.get(key)
    if interpreter is None:
        interpreter = object.__new__(Interpreter)
        backend = "interpreter" if isinstance(body, Subinterpreter) else body.backend
        interpreter._set_up(body.name or "", body.daemon, backend)
        interpreter._body = body
        interpreter = _known.setdefault(key, interpreter)
    return interpreter


def enumerate() -> list[Interpreter]:
    """All interpreters of the program that are alive: the main one, and those that were started, from whichever one.

    Those that were not started from here can be looked at, named, joined and terminated. What multigil did not make is
    not listed, but for the current interpreter. Processes are listed where they were started.
    """
    started = [_object_of(body) for body in subinterpreters() if body.name is not None]
    processes = sys.modules.get("multigil._process")
    children = [] if processes is None else [_object_of(child) for child in processes.children()]
    return list(dict.fromkeys((main_interpreter(), *started, current_interpreter(), *children)))


def active_count() -> int:
    """How many `enumerate()` gives."""
    return len(enumerate())


def currentThread() -> Interpreter:  # noqa: N802
    """Deprecated: use `current_thread()`."""
    _warn("currentThread() is deprecated, use current_thread() instead")
    return current_interpreter()


def activeCount() -> int:  # noqa: N802
    """Deprecated: use `active_count()`."""
    _warn("activeCount() is deprecated, use active_count() instead")
    return active_count()


def _warn(text: str) -> None:
    """Warn whoever calls the deprecated function that calls this."""
    import warnings

    warnings.warn(text, DeprecationWarning, stacklevel=3)


Thread = Interpreter
ThreadError = RuntimeError
current_thread = current_interpreter
main_thread = main_interpreter
