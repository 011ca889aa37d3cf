"""The functions of the user's that interpreters have in common, as threads do: for tracing, profiling and exceptions.

They belong to an interpreter, so each has copies of its own. They travel with what is started or called, and what is
called there begins with the ones that its caller has.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from threading import ExceptHookArgs

import multigil
from multigil._core import current_interpreter_id, look_into, subinterpreters

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
# Since there was a hook for the first time, every call says which there are, and that there is none any more.
_in_use = False

# How long an interpreter may take to hear of a function for all threads: one that keeps its GIL in a call of C cannot.
_SECONDS_TO_HEAR = 1.0


# --- tracing and profiling --------------------------------------------------------------------------------------


def settrace(func: TraceFunction | None) -> None:
    """Set a trace function for all interpreters that are started later, and for later calls of open ones.

    `sys.settrace(func)` is called there before the target or call, and undone after it. The function is copied, as a
    target is: what it writes to must be shared, as a queue is, to be seen here.
    """
    global _trace
    _trace = func


def settrace_all_threads(func: TraceFunction | None) -> None:
    """Set a trace function as `settrace` does, and for all threads of all interpreters that run now.

    An interpreter that keeps its GIL for longer than a second, in a call of C, is left out.
    """
    _set_everywhere("trace", func)


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
    """Set a profile function as `setprofile` does, and for all threads of all interpreters that run now.

    An interpreter that keeps its GIL for longer than a second, in a call of C, is left out.
    """
    _set_everywhere("profile", func)


def getprofile() -> ProfileFunction | None:
    """Get the function that `setprofile` has set, here or where this interpreter was started."""
    return _profile


def set_here(kind: str, func: Any) -> None:
    """Set a function of one kind, for all threads of this interpreter too."""
    if kind == "trace":
        settrace(func)
        sys._settraceallthreads(func)  # type: ignore[attr-defined]  # noqa: SLF001  (as threading's does)
    else:
        setprofile(func)
        sys._setprofileallthreads(func)  # type: ignore[attr-defined]  # noqa: SLF001  (as threading's does)


def _set_everywhere(kind: str, func: Any) -> None:
    from multigil import _transfer

    source = f"""\
from pickle import loads
from multigil import _hooks
_hooks.set_here({kind!r}, loads({_transfer.ByValue(func).packed()!r}))
result = b""
"""
    here = current_interpreter_id()
    set_here(kind, func)
    for id in (0, *(one.id for one in subinterpreters() if one.name is not None)):
        if id is not None and id != here:
            look_into(id, source, _SECONDS_TO_HEAR)


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
    sys.stderr.write(f"Exception in thread {name}:\n")
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


_NONE: Hooks = (None, None, None)


def present(*, new: bool = False) -> Hooks | None:
    """What the user has set here; None if nothing ever was, or nothing is and the call goes to a new interpreter."""
    global _in_use
    hook: Hook | None = multigil.excepthook
    hooks = (None if hook is excepthook else hook, _trace, _profile)
    if hooks == _NONE:
        return hooks if _in_use and not new else None
    _in_use = True
    return hooks


def call(hooks: Hooks, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function where the hooks have arrived. They stay, for what is started from here."""
    global _trace, _profile
    hook, _trace, _profile = hooks
    multigil.excepthook = hook or excepthook  # type: ignore[assignment]
    trace, profile = _trace, _profile
    trace_before, profile_before = sys.gettrace(), sys.getprofile()
    try:
        if trace is not None:
            sys.settrace(trace)
        if profile is not None:
            sys.setprofile(profile)
        return function(*args, **kwargs)
    finally:
        # What the function itself has set stays.
        if profile is not None and sys.getprofile() is profile:
            sys.setprofile(profile_before)
        if trace is not None and sys.gettrace() is trace:
            sys.settrace(trace_before)
