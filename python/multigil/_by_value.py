"""What cannot be imported elsewhere travels by value: as its code, with cloudpickle.

Loaded only when something does travel that way, for cloudpickle takes longer to import than all of multigil.

A function of `__main__` brings the globals that it names. In a worker, all of them share one set of globals, as they
do where they come from: the worker's own `__main__`. So what one of them stores in a global, the next one finds there.
Each global comes with a version, and one that has not changed where it comes from changes nothing where it arrives.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import sys
import threading
import types
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

from multigil import _worker
from multigil._core import NotShareable, current_interpreter_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# ruff: noqa: SLF001  (cloudpickle has no public way to know a class again, nor to make one step by step)

# Two threads of one interpreter may receive a new class at the same moment; the second must not see it half made.
_loading = threading.RLock()

# Classes made by `_make_class` whose attributes have not arrived yet.
_bare: weakref.WeakSet[type] = weakref.WeakSet()


def dumps(value: object) -> bytes:
    """Pickle `value` so that `pickle.loads` gives an equal one in any interpreter.

    Functions and classes that cannot be imported are sent as code, together with a copy of the globals that they
    name; all others by name. Raises what `pickle` raises for a value that cannot be sent either way.

    Code is of one version of Python; another one raises NotShareable where it arrives.
    """
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return pickle.dumps(_Locked(stream.getvalue()), protocol=pickle.HIGHEST_PROTOCOL)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, with four differences.

    * A class is never changed by the arrival of a copy of it. cloudpickle sets the attributes of a class anew each
      time; coming home, that would exchange the methods of the original for copies with globals of their own.
    * A class with `__slots__` has them where it arrives, so that its instances find their way back as well.
    * Annotations, lazy since 3.14, arrive with classes too, and where they cannot be evaluated (names imported for
      the type checker alone) as text.
    """

    def reducer_override(self, value: Any) -> Any:
        reduced = super().reducer_override(value)
        if not (isinstance(value, type) and isinstance(reduced, tuple) and len(reduced) == 6):
            return reduced
        construct, arguments, (attributes, slot_state) = reduced[:3]
        if "__annotate_func__" in vars(value):
            attributes["__annotations__"] = _annotations(value)
        if construct is cloudpickle._make_skeleton_class and any(vars(value).get("__slots__", ())):
            arguments[_NAMESPACE]["__slots__"] = vars(value)["__slots__"]
            attributes = {
                name: attribute
                for name, attribute in attributes.items()
                if name != "__slots__" and not isinstance(attribute, types.MemberDescriptorType)
            }
        return _make_class, (construct, arguments), (attributes, slot_state), None, None, _complete_class

    def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
        try:
            function.__annotations__  # noqa: B018  (evaluates them)
        except Exception:
            function = _with_annotations_as_text(function)
        reduced = super()._dynamic_function_reduce(function)
        if function.__globals__ is not vars(sys.modules["__main__"]):
            return reduced
        _, arguments, state = reduced[:3]
        _sent.update(state[1]["__globals__"])
        versions = {name: _version(value) for name, value in state[1]["__globals__"].items()}
        return _make_function, arguments, (*state, _origin(), versions), None, None, _complete_function


# Where cloudpickle's arguments for making a class hold the first entries of its namespace, and the tracker's id.
_NAMESPACE = 3
_TRACKER_ID = -2


def _annotations(made: type) -> dict[str, Any]:
    try:
        return made.__annotations__
    except Exception:
        return _annotations_as_text(made)


def _annotations_as_text(owner: type | types.FunctionType) -> dict[str, str]:
    annotationlib: Any = import_module("annotationlib")  # 3.14 has it, and only its annotations can fail
    texts: dict[str, str] = annotationlib.get_annotations(owner, format=annotationlib.Format.STRING)
    return texts


def _with_annotations_as_text(function: types.FunctionType) -> types.FunctionType:
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__dict__.update(function.__dict__)
    for name in ("__kwdefaults__", "__module__", "__qualname__", "__doc__"):
        setattr(twin, name, getattr(function, name))
    twin.__annotations__ = _annotations_as_text(function)
    return twin


# --- functions of __main__ --------------------------------------------------------------------------------------

# What has versions by what it is, not by what is in it, and the numbers that stand for that.
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_new_number = itertools.count(1).__next__

# The versions of the globals that have arrived here, by where they come from and their names.
_received: dict[tuple[tuple[int, int], str], object] = {}

type _Version = tuple[object, ...] | None  # None is another one each time


def _origin() -> tuple[int, int]:
    return os.getpid(), current_interpreter_id()


def _version(value: Any) -> _Version:
    """What is the same for a global as long as it has not changed."""
    if isinstance(value, types.FunctionType | type):
        return "object", _numbers.setdefault(value, _new_number())
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    try:
        pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return None
    return "value", len(pickled), hash(pickled)


def _make_function(code: types.CodeType, namespace: dict[str, Any], *others: Any) -> types.FunctionType:
    """Make a function of another `__main__`, with this one's globals if this is a worker."""
    if _worker.loop is not None:
        namespace = vars(sys.modules["__main__"])
    function: types.FunctionType = cloudpickle._make_function(code, namespace, *others)
    return function


def _complete_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Give it all else, and its globals those that are new here."""
    attributes, slots, origin, versions = state
    if _worker.loop is not None:
        there, coming = function.__globals__, slots["__globals__"]
        for name, version in versions.items():
            if version is not None and name in there and _received.get((origin, name)) == version:
                del coming[name]
            else:
                _received[origin, name] = version
    cloudpickle._function_setstate(function, (attributes, slots))


def received() -> dict[tuple[tuple[int, int], str], object]:
    """The versions of the globals that have arrived in this worker's `__main__`."""
    return _received


# --- functions that are sent often ------------------------------------------------------------------------------


class Kept:
    """The pickle of a function that travels by value, as long as neither that nor what it names can have changed."""

    __slots__ = ("_cells", "_code", "_defaults", "_globals", "packed")

    def __init__(self, function: types.FunctionType, names: Iterable[tuple[dict[str, Any], str, object]]) -> None:
        self._code = function.__code__
        self._defaults = function.__defaults__
        self._cells = tuple((cell, cell.cell_contents) for cell in function.__closure__ or ())
        self._globals = tuple(names)
        self.packed = dumps(function)

    def holds_for(self, function: Any) -> bool:
        """Whether it still is the function's pickle, and no other one has changed those globals where it was sent."""
        if function.__code__ is not self._code or function.__defaults__ is not self._defaults:
            return False
        for there, name, value in self._globals:
            if there.get(name) is not value or _sent.get(name) is not value:
                return False
        return all(cell.cell_contents is value for cell, value in self._cells)


_UNCHANGING = (type(None), bool, int, float, complex, str, bytes, types.ModuleType, types.BuiltinFunctionType, type)

# The globals of `__main__` as they were sent last.
_sent: dict[str, object] = {}


def keep(function: types.FunctionType) -> Kept | None:
    """Pickle a function that travels by value for several times; None if it cannot be known when it changes."""
    names: dict[tuple[int, str], tuple[dict[str, Any], str, object]] = {}
    return Kept(function, names.values()) if _cannot_change(function, names) else None


def _cannot_change(function: types.FunctionType, names: dict[tuple[int, str], Any]) -> bool:
    """Whether all that a function names is known by what it is; what that is, by where it is found, goes to `names`."""
    there = function.__globals__
    if vars(function) or function.__kwdefaults__:
        return False
    if not all(type(value) in _UNCHANGING for value in function.__defaults__ or ()):
        return False
    for cell in function.__closure__ or ():
        try:
            if type(cell.cell_contents) not in _UNCHANGING:
                return False
        except ValueError:  # empty
            return False
    for name in cloudpickle._extract_code_globals(function.__code__):
        if name not in there or (id(there), name) in names:
            continue
        value = there[name]
        names[id(there), name] = there, name, value
        if isinstance(value, types.FunctionType):
            if value.__module__ == "__main__" and not _cannot_change(value, names):
                return False
        elif type(value) not in _UNCHANGING:
            return False
    return True


class _Locked:
    """A pickle inside a pickle, loaded under the lock of the interpreter where it arrives."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def __reduce__(self) -> tuple[Callable[[bytes, str | None], object], tuple[bytes, str | None]]:
        return _loads, (self._stream, sys.implementation.cache_tag)


def _loads(stream: bytes, made_by: str | None) -> object:
    if made_by != sys.implementation.cache_tag:
        raise NotShareable(
            f"functions and classes that travel by value cannot go from {made_by} to {sys.implementation.cache_tag}: "
            "put them into a module that both can import"
        )
    with _loading:
        return pickle.loads(stream)


def _make_class(construct: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """The class that is known here by the tracker's id, or a new one that still lacks its attributes."""
    known: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[_TRACKER_ID])
    if known is not None:
        return known
    made = construct(*arguments)
    _bare.add(made)
    return made


def _complete_class(made: type, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    if made in _bare:
        _bare.discard(made)
        cloudpickle._class_setstate(made, state)
