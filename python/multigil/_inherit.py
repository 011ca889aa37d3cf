"""What a worker takes over from the interpreter that starts it (`inherit=`), and what it sends back: records, warnings.

    the parent                                      the worker
    capture(names) --- Inheritance, in a header --> apply(): levels and filters, and who sends what comes of them
    one thread  <====== one queue for all workers   Forwarder.emit(record), show_warning(message)
    getLogger(record.name).handle(record)

A worker puts as it logs, into memory that outlives it: its records come in their order, and those of one that is
killed come too. `flush` waits until what was put by then was handled. What a parent receives that is a worker itself
goes on to its own parent, by the handler that it has there; nothing is ever sent to where it comes from.

Only those who use `inherit` import this, in the parent and in the worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from multigil import _exit, _transfer, interpreter
from multigil._core import Event, Queue, ShutDown, current_interpreter_id, wait_any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    # Level, `disabled`, `propagate`.
    type Settings = tuple[int, bool, bool]

# ruff: noqa: PLW0603  (each interpreter has its own)

# What can be inherited. The last two always are, before each task (`Worker.send`).
NAMES = ("logging", "warnings", "path", "environ")
_ALWAYS = {"path", "environ"}

# What one logger has that nobody has changed.
_UNCHANGED: Settings = (logging.NOTSET, False, True)

# Module-level settings of `logging`.
_SWITCHES = ("raiseExceptions", "logThreads", "logMultiprocessing", "logProcesses", "logAsyncioTasks")


# --- in the parent ----------------------------------------------------------------------------------------------


def check(names: Iterable[str]) -> frozenset[str]:
    """Give what is to be inherited, without what always is. Raises TypeError for a str, ValueError for other names."""
    if isinstance(names, str):
        raise TypeError(f"inherit must be an iterable of names, as ({names!r},), not a str")
    wanted = list(names)
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"cannot inherit {name!r}, there are {', '.join(map(repr, NAMES))}")
    return frozenset(wanted) - _ALWAYS


def capture(names: Iterable[str]) -> Inheritance | None:
    """Take down what is set here now, for a worker to be started; None if there is nothing to inherit.

    Raises as `check` does, and RuntimeError at the end of the program.
    """
    wanted = check(names)
    if not wanted:
        return None
    return Inheritance(
        _started_receiver().queue,
        LoggingSettings.present() if "logging" in wanted else None,
        _present_filters() if "warnings" in wanted else None,
    )


def flush(timeout: float | None = None) -> None:
    """Wait until what workers have logged so far was handled here, at most `timeout` seconds."""
    if _receiver is not None:
        _receiver.flush(timeout)


def end() -> None:
    """Handle what workers have sent, and end the thread that does: when all workers have ended."""
    global _receiver
    if _receiver is not None:
        _receiver.end()
        _receiver = None


class Receiver:
    """The queue of all workers of this interpreter that inherit something, and the thread that handles what comes."""

    def __init__(self) -> None:
        self.queue: Queue[Any] = Queue()
        self.ended = Event()
        # A sub-interpreter allows no daemon threads; the program waits for no others before it closes the workers.
        daemon = current_interpreter_id() == 0
        self._thread = threading.Thread(target=self._run, name="multigil-inherit", daemon=daemon)
        self._thread.start()

    def flush(self, timeout: float | None) -> None:
        """Wait until what is in the queue by now was handled."""
        if self.queue.unfinished_tasks == 0 or self._is_here():
            return
        passed = Event()
        try:
            self.queue.put(passed)
        except ShutDown:  # it is about to end
            passed = self.ended
        wait_any(passed, self.ended, timeout=timeout)

    def end(self) -> None:
        """Let it handle what is in the queue, and wait for its end."""
        self.queue.shutdown()
        if not self._is_here():
            self.ended.wait()
            self._thread.join()

    def _is_here(self) -> bool:
        """Whether the caller is called by a handler, which cannot wait for itself."""
        return self._thread.ident == threading.get_ident()

    def _run(self) -> None:
        try:
            for _ in map(self._take, self.queue):  # which keeps nothing while it waits for the next
                pass
        finally:
            self.queue.shutdown()
            self.ended.set()

    def _take(self, item: Any) -> None:
        if isinstance(item, Event):
            item.set()
        else:
            _handle(*item)
        self.queue.task_done()


def _handle(receive: str, *sent: Any) -> None:
    """Do with what a worker sent as is done with what this interpreter logs. What handlers raise is reported."""
    try:
        if receive == "record":
            record = _unpacked(*sent)
            logging.getLogger(record.name).handle(record)
        else:
            _receive_warning(*sent)
    except BaseException as error:
        if logging.raiseExceptions:
            with contextlib.suppress(Exception):  # the user's may raise
                sys.excepthook(type(error), error, error.__traceback__)


_receiver: Receiver | None = None
_starting = threading.RLock()  # reentrant for the sake of signal handlers


def _started_receiver() -> Receiver:
    global _receiver
    with _starting:
        if _receiver is None or _receiver.ended.is_set():
            _exit.prepare_again()  # `logging` has handlers closed at the end of the program: it has to come after ours
            _receiver = Receiver()
        return _receiver


def _after_fork_in_child() -> None:
    global _receiver, _starting
    _receiver = None  # its thread is the parent's
    _starting = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


# --- what travels -----------------------------------------------------------------------------------------------


class LoggingSettings(NamedTuple):
    """What is set in `logging`, but for handlers, filters and formatters, which stay where they are."""

    loggers: dict[str, Settings]
    disabled: int  # by `logging.disable`
    level_names: dict[int, str]
    switches: dict[str, bool]
    captures_warnings: bool

    @classmethod
    def present(cls) -> LoggingSettings:
        """Those of this interpreter."""
        manager = logging.Logger.manager
        loggers = {name: _settings(one) for name, one in list(manager.loggerDict.items()) if isinstance(one, _LOGGER)}
        levels = logging.getLevelNamesMapping().values()
        return cls(
            {name: settings for name, settings in loggers.items() if settings != _UNCHANGED}
            | {logging.root.name: _settings(logging.root)},
            int(manager.disable),
            {int(level): logging.getLevelName(level) for level in levels},
            {name: bool(getattr(logging, name)) for name in _SWITCHES},
            _captures_warnings(),
        )

    def apply(self, handler: logging.Handler) -> None:
        """Set all that here, with the handler wherever records would otherwise end."""
        for level, name in self.level_names.items():
            if logging.getLevelName(level) != name:
                logging.addLevelName(level, name)
        for name, value in self.switches.items():
            setattr(logging, name, value)
        for name, (level, disabled, propagate) in self.loggers.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.disabled = disabled
            logger.propagate = propagate
            if not propagate:
                logger.addHandler(handler)
        logging.root.addHandler(handler)
        logging.disable(self.disabled)
        if self.captures_warnings:
            logging.captureWarnings(True)


_LOGGER = logging.Logger


def _settings(logger: logging.Logger) -> Settings:
    # A level may be of an IntEnum that only this program has.
    return int(logger.level), bool(logger.disabled), bool(logger.propagate)


def _captures_warnings() -> bool:
    return getattr(warnings.showwarning, "__module__", None) == logging.__name__


class Inheritance(NamedTuple):
    """What a worker takes over. It can be pickled."""

    queue: Queue[Any]
    logging: LoggingSettings | None
    filters: list[bytes] | None

    def apply(self) -> None:
        """Take it over, in the worker before its first task. Where it was captured, nothing happens."""
        if _receiver is not None and self.queue is _receiver.queue:
            return
        if self.filters is not None:
            _set_filters(self.filters)
            WarningForwarder.install(self.queue)
        if self.logging is not None:
            self.logging.apply(Forwarder.of(self.queue))


# --- records ----------------------------------------------------------------------------------------------------


class Forwarder(logging.Handler):
    """The handler of a worker that sends each record to the parent."""

    def __init__(self, queue: Queue[Any]) -> None:
        super().__init__()
        self.queue = queue

    @classmethod
    def of(cls, queue: Queue[Any]) -> Forwarder:
        """The one of this interpreter, which sends to that queue from now on."""
        global _forwarder
        if _forwarder is None:
            _forwarder = cls(queue)
        _forwarder.queue = queue
        return _forwarder

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, whatever is in it."""
        try:
            self.queue.put(("record", *_packed(record)))
        except ShutDown:  # the parent is at its end
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
        except Exception:
            self.handleError(record)


_forwarder: Forwarder | None = None

# What a queue takes as it is.
_PLAIN = (str, int, float, bool, type(None))

# For tracebacks as text.
_formatter = logging.Formatter()


def _packed(record: logging.LogRecord) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What is sent of a record: what can be taken as it is, and the rest as pickles.

    As in `logging.handlers.QueueHandler` the message is formatted here and the exception becomes text, but that stays
    apart from the message, so that the parent's formatters place it.
    """
    fields = {
        **vars(record),
        "msg": record.getMessage(),
        "args": None,
        "exc_info": None,
        "levelno": int(record.levelno),
    }
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _formatter.formatException(record.exc_info)
    if record.processName == "MainProcess":  # as it says in every interpreter, and in processes not of multiprocessing
        fields["processName"] = interpreter.current_interpreter().name or record.processName
    packed = {name: _any_dumps(value) for name, value in fields.items() if type(value) not in _PLAIN}
    for name in packed:
        del fields[name]
    return fields, packed


def _any_dumps(value: object) -> bytes:
    try:
        return _transfer.any_dumps(value)
    except Exception:
        return _transfer.any_dumps(_transfer.describe(value))


def _unpacked(fields: dict[str, Any], packed: dict[str, bytes]) -> logging.LogRecord:
    record = logging.makeLogRecord({})
    started = record.created * 1000 - record.relativeCreated  # the program, in milliseconds
    vars(record).update(fields)
    record.relativeCreated = record.created * 1000 - started
    for name, data in packed.items():
        try:
            value = pickle.loads(data)
        except Exception as error:
            value = f"<not unpickled: {error!r}>"
        setattr(record, name, value)
    return record


# --- warnings ---------------------------------------------------------------------------------------------------


def _present_filters() -> list[bytes]:
    # With `-X context_aware_warnings` a context may have its own; there is no public name for those.
    present = getattr(warnings, "_get_filters", lambda: warnings.filters)()
    filters = []
    for action, message, category, module, line in list(present):
        with contextlib.suppress(Exception):  # a class that cannot be sent has no instances there
            # Only the class may need to travel by value: a module's name may be `__main__`.
            filters.append(pickle.dumps((action, message, _transfer.any_dumps(category), module, line)))
    return filters


def _set_filters(filters: list[bytes]) -> None:
    """Have those filters here, but for those whose category cannot be imported."""
    found: list[Any] = []
    for data in filters:
        with contextlib.suppress(Exception):
            action, message, category, module, line = pickle.loads(data)
            found.append((action, message, pickle.loads(category), module, line))
    warnings.filters[:] = found  # type: ignore[index]
    with warnings.catch_warnings():  # which has it noticed that they changed
        pass


class WarningForwarder:
    """What has the place of `warnings.showwarning` in a worker: shows in the parent what the filters let through."""

    def __init__(self, queue: Queue[Any]) -> None:
        self.queue = queue
        self._before = warnings.showwarning

    @classmethod
    def install(cls, queue: Queue[Any]) -> None:
        """Have warnings sent to that queue from now on."""
        global _warning_forwarder
        if _warning_forwarder is None:
            warnings.showwarning = _warning_forwarder = cls(queue)
        _warning_forwarder.queue = queue

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is None:
            warning = message if isinstance(message, Warning) else category(message)
            with contextlib.suppress(ShutDown):  # the parent is at its end
                self.queue.put(("warning", _transfer.dumps_exception(warning), filename, lineno, line))
                return
        self._before(message, category, filename, lineno, file, line)


_warning_forwarder: WarningForwarder | None = None


def _receive_warning(data: bytes, filename: str, lineno: int, line: str | None) -> None:
    message: Any = _transfer.loads_exception(data)
    warnings.showwarning(message, type(message), filename, lineno, None, line)
