"""What stands for functions in the tasks of pools: their pickles, which workers unpickle once."""

from __future__ import annotations

import itertools
import pickle
import types
import weakref
from typing import TYPE_CHECKING, Any

from multigil._pool_worker import function_bytes

if TYPE_CHECKING:
    from multigil import _by_value

# What stands for functions in tasks, by their ids: a function, its bytes, and its pickle if that is not good for ever.
_known: dict[int, tuple[weakref.ref[Any], bytes, _by_value.Kept | None]] = {}
_new_token = itertools.count(1).__next__


def packed(function: Any) -> Any:
    """The bytes that stand for a function in tasks; the function itself if it may be another one each time."""
    known = _known.get(id(function))
    if known is not None:
        reference, stands_for, kept = known
        if reference() is function and (kept is None or kept.holds_for(function)):
            return stands_for
    return _pack(function)


def _pack(function: Any) -> Any:
    if type(function) not in (types.FunctionType, types.BuiltinFunctionType, type):
        return function
    kept: _by_value.Kept | None = None
    try:
        module, name = function.__module__, function.__qualname__
        if module == "__main__" or "<" in name:  # <lambda>, <locals>
            if type(function) is type:
                return function
            from multigil import _by_value

            kept = _by_value.keep(function)
            if kept is None:
                return function
            pickled = kept.packed
        else:
            pickled = pickle.dumps(function, protocol=pickle.HIGHEST_PROTOCOL)
            if b"__main__" in pickled:
                return function
    except Exception:  # the task will say why it can't be sent
        return function
    key = id(function)
    stands_for = function_bytes(pickled, _new_token())
    _known[key] = weakref.ref(function, lambda _: _known.pop(key, None)), stands_for, kept
    return stands_for
