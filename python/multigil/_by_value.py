"""What cannot be imported elsewhere travels by value: as its code, with cloudpickle.

Loaded only when something does travel that way, for cloudpickle takes longer to import than all of multigil.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import types
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

from multigil._core import NotShareable

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """cloudpickle's, with three differences.

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
        return super()._dynamic_function_reduce(function)


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
