"""The functions of the user's that interpreters have in common, as threads do: for tracing, profiling and exceptions.

They belong to an interpreter, so each has copies of its own. They travel with what is started or called, and what is
called there begins with the ones that its caller has.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from threading import ExceptHookArgs

import multigil

# ruff: noqa: PLW0603  (each interpreter has its own)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    type Hook = Callable[[ExceptHookArgs], object]
    type TraceFunction = Callable[[FrameType, str, Any], Any]
    type ProfileFunction = Callable[[FrameType, str, Any], object]
    # Each is None unless the user has set it.
    type Hooks = tuple[Hook | None, TraceFunction | None, ProfileFunction | None]

_trace: TraceFunction | None = None
_profile: ProfileFunction | None = None


# --- tracing and profiling --------------------------------------------------------------------------------------


def settrace(func: TraceFunction | None) -> None:
    """Set a trace function for all interpreters that are started later, and for later calls of open ones.

    `sys.settrace(func)` is called there before the target or call, and undone after it. The function is copied, as a
    target is: what it writes to must be shared, as a queue is, to be seen here.
    """
    global _trace
    _trace = func


def settrace_all_threads(func: TraceFunction | None) -> None:
    """Set a trace function as `settrace` does, and for all threads that now run in this interpreter.

    Code that already runs in other interpreters is not reached.
    """
    settrace(func)
    sys._settraceallthreads(func)  # type: ignore[attr-defined]  # noqa: SLF001  (as threading's does)


def gettrace() -> TraceFunction | None:
    """Get the function that `settrace` has set, here or where this interpreter was started."""
    return _trace


def setprofile(func: ProfileFunction | None) -> None:
    """Set a profile function for all interpreters that are started later, and for later calls of open ones.

    `sys.setprofile(func)` is called there before the target or call, and undone after it. The function is copied, as a
    target is: what it writes to must be shared, as a queue is, to be seen here.
    """
    global _profile
    _profile = func


def setprofile_all_threads(func: ProfileFunction | None) -> None:
    """Set a profile function as `setprofile` does, and for all threads that now run in this interpreter.

    Code that already runs in other interpreters is not reached.
    """
    setprofile(func)
    sys._setprofileallthreads(func)  # type: ignore[attr-defined]  # noqa: SLF001  (as threading's does)


def getprofile() -> ProfileFunction | None:
    """Get the function that `setprofile` has set, here or where this interpreter was started."""
    return _profile


# --- exceptions -------------------------------------------------------------------------------------------------


def excepthook(args: ExceptHookArgs, /) -> None:
    """Print an exception that a target let through, in the interpreter where that happened.

    `args.thread` is the interpreter; SystemExit is silent. It is not called when somebody has called `result()` or
    `exception()`, or does so within 0.1 seconds: whoever asks gets the exception. A function that is assigned to
    `multigil.excepthook` takes its place in interpreters that are started later; `multigil.__excepthook__` stays.
    """
    if args.exc_type is SystemExit or sys.stderr is None:
        return
    import traceback

    name = get_ident() if args.thread is None else args.thread.name
    sys.stderr.write(f"Exception in interpreter {name}:\n")
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback, file=sys.stderr)
    sys.stderr.flush()


__excepthook__ = excepthook


def call_excepthook(error: BaseException) -> None:
    """Report an exception that a target let through, as `threading` does."""
    try:
        hook: Hook | None = multigil.excepthook
        interpreter = multigil.current_interpreter()
        (hook or excepthook)(ExceptHookArgs((type(error), error, error.__traceback__, interpreter)))
    except Exception as failure:
        if sys.stderr is not None:
            sys.stderr.write("Exception in multigil.excepthook:\n")
            sys.excepthook(type(failure), failure, failure.__traceback__)


# --- on the way -------------------------------------------------------------------------------------------------


def present() -> Hooks | None:
    """What the user has set here; None if nothing is."""
    hook: Hook | None = multigil.excepthook
    if hook is excepthook:
        hook = None
    return (hook, _trace, _profile) if hook or _trace or _profile else None


def call(hooks: Hooks | None, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function where the hooks have arrived. They stay, for what is started from here."""
    global _trace, _profile
    hook, _trace, _profile = hooks or (None, None, None)
    multigil.excepthook = hook or excepthook  # type: ignore[assignment]
    before = sys.gettrace(), sys.getprofile()
    try:
        if _trace is not None:
            sys.settrace(_trace)
        if _profile is not None:
            sys.setprofile(_profile)
        return function(*args, **kwargs)
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
