"""How items, calls, results and exceptions travel from one interpreter to another.

Everything travels as a pickle that `pickle.loads` reads in any interpreter. What can be imported goes by name;
functions and classes of `__main__`, which another interpreter cannot import, go by value (`_by_value`):

* a class stays one class: copies that come home become the original again, and an interpreter that receives a class
  many times has it once;
* a function takes along the globals that it names. They are copied, so a change to one of them is not seen by the
  other side until the function travels again; a `Queue` or a `Lock` among them is shared, as ever. In a worker they
  become globals of its `__main__`, which all functions have that come from there.

| what | plain pickle | `__main__` by value | lambdas, closures by value |
|---|---|---|---|
| an item of a queue (`dumps`) | yes | yes | no, as with `pickle` |
| a call and its result (`ByValue`) | tried first | yes | yes |
| an exception (`Failure`) | each part of it | yes | yes |
"""

from __future__ import annotations

import contextlib
import operator
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOL = 5


# --- items ------------------------------------------------------------------------------------------------------


def dumps(item: object) -> bytes:
    """Pickle a queue's item that mentions `__main__`, or that plain pickle refused.

    Raises the error of plain pickle when the item holds more than that: a lambda, a lock, an open file.
    """
    if isinstance(item, Parcel):
        return item.packed()
    _Check(_Nowhere(), protocol=_PROTOCOL).dump(item)
    return _by_value_dumps(item)


class _Check(pickle.Pickler):
    """Plain pickle to whom all that `__main__` defines is fine; what it writes is of no use."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | types.FunctionType) and _is_of_main(value):
            return object, ()
        return NotImplemented


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _is_of_main(value: type | types.FunctionType) -> bool:
    return value.__module__ == "__main__" and "<" not in value.__qualname__  # <locals>, <lambda>


def _by_value_dumps(value: object) -> bytes:
    from multigil import _by_value

    return _by_value.dumps(value)


def any_dumps(value: object) -> bytes:
    """By name if that is possible, else by value."""
    try:
        data = pickle.dumps(value, protocol=_PROTOCOL)
    except Exception:
        return _by_value_dumps(value)
    return _by_value_dumps(value) if b"__main__" in data else data


class Parcel:
    """An item of a queue that arrives as something else than itself.

    It is packed inside of `put`, which sees to it that the queues and locks in it stay alive on the way.
    """

    _packed: bytes | None = None

    def packed(self) -> bytes:
        """The pickle of what arrives, made once: `put` asks twice if it mentions `__main__`."""
        if self._packed is None:
            self._packed = self.pack()
        return self._packed

    def pack(self) -> bytes:
        """Make that pickle."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Callable[[bytes], object], tuple[bytes]]:
        return pickle.loads, (self.packed(),)


class ByValue(Parcel):
    """Arrives as `value`, lambdas and closures included."""

    def __init__(self, value: object) -> None:
        self._value = value

    def pack(self) -> bytes:
        return _by_value_dumps(self._value)


class Sealed(Parcel):
    """Arrives as `Opened`, whatever becomes of the value: several of them in one item do each other no harm."""

    def __init__(self, value: object, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def pack(self) -> bytes:
        error = self._error
        if error is None:
            try:
                return pickle.dumps(_Opening(_open, any_dumps(self._value)), protocol=_PROTOCOL)
            except Exception as failure:
                error = failure
                error.add_note(f"The result is of type {type(self._value).__qualname__!r}.")
        return pickle.dumps(_Opening(_open_failure, dumps_exception(error)), protocol=_PROTOCOL)


class Opened(NamedTuple):
    """A value, or the exception that is in its place."""

    value: Any
    error: BaseException | None = None


class _Opening:
    def __init__(self, function: Callable[[bytes], Opened], data: bytes) -> None:
        self._reduced = (function, (data,))

    def __reduce__(self) -> tuple[Callable[[bytes], Opened], tuple[bytes]]:
        return self._reduced


def _open(data: bytes) -> Opened:
    try:
        return Opened(pickle.loads(data))
    except Exception as error:
        return Opened(None, error)


def _open_failure(data: bytes) -> Opened:
    return Opened(None, loads_exception(data))


# --- exceptions -------------------------------------------------------------------------------------------------


class RemoteTraceback(Exception):
    """The traceback of an exception in the interpreter where it was raised, as text.

    It ends the chain of causes of an exception that came from there: it is the `__cause__` of the exception, or of
    the last of its own causes. So `exc.__cause__` is what the user's `raise ... from` made it, where there was one.
    """

    __module__ = "multigil"

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Failure(Parcel):
    """Arrives as `exception`, chained to its remote traceback."""

    def __init__(self, exception: BaseException) -> None:
        self._exception = exception

    def pack(self) -> bytes:
        return pickle.dumps(_Arriving(dumps_exception(self._exception)), protocol=_PROTOCOL)


class _Arriving:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Callable[[bytes], BaseException], tuple[bytes]]:
        return loads_exception, (self._data,)


class _Class(NamedTuple):
    """A class, and what to make of it where it cannot be had."""

    module: str
    qualname: str
    pickled: bytes | None
    bases: list[_Class]


class _Node(NamedTuple):
    """One exception of a chain. Exceptions are named by their index in the list of nodes."""

    kind: _Class
    text: str
    reduced: bytes | None  # by the class's own __reduce__, if it has one
    arguments: list[int | bytes]
    fields: dict[str, int | bytes]  # __slots__, and those of C: errno, offset, code
    attributes: dict[str, int | bytes]  # __dict__, notes included
    notes: list[str]  # about what was lost
    message: str | None  # of a group
    members: list[int]
    cause: int | None
    context: int | None
    suppress_context: bool


def dumps_exception(exception: BaseException) -> bytes:
    """Pickle any exception: type, arguments, attributes, notes, causes and contexts, and the traceback as text.

    It never calls a constructor, here or where it arrives. What cannot be pickled in it arrives as its `repr`, and a
    note says so.
    """
    import traceback

    text = "".join(traceback.format_exception(exception))
    return pickle.dumps((_Flattening(exception).nodes, text), protocol=_PROTOCOL)


def loads_exception(data: bytes) -> BaseException:
    """Rebuild the exception of `dumps_exception`.

    Where its class cannot be had, a stand-in has the same name and every base class that can be had.
    """
    nodes, text = pickle.loads(data)
    exception = _Rebuilding(nodes).exception(0)
    object.__setattr__(_innermost(exception), "__cause__", RemoteTraceback(text))
    return exception


def _innermost(exception: BaseException) -> BaseException:
    """The last of the chain that a traceback prints."""
    seen: set[int] = set()
    while True:
        seen.add(id(exception))
        following = exception.__cause__
        if following is None and not exception.__suppress_context__:
            following = exception.__context__
        if following is None or id(following) in seen:
            return exception
        exception = following


class _Flattening:
    """Turns an exception and all that it is linked to into a list of nodes."""

    def __init__(self, exception: BaseException) -> None:
        self.nodes: list[_Node] = []
        self._found: list[BaseException] = []
        self._indices: dict[int, int] = {}
        self._index(exception)
        for found in self._found:  # grows meanwhile
            self.nodes.append(self._node(found))

    def _index(self, exception: BaseException | None) -> int | None:
        # The text of a traceback that came from further away is part of the text made here.
        if exception is None or isinstance(exception, RemoteTraceback):
            return None
        if id(exception) not in self._indices:
            self._indices[id(exception)] = len(self._found)
            self._found.append(exception)
        return self._indices[id(exception)]

    def _node(self, exception: BaseException) -> _Node:
        notes: list[str] = []

        def encode(name: str, value: object) -> int | bytes:
            if isinstance(value, BaseException) and (index := self._index(value)) is not None:
                return index
            try:
                return any_dumps(value)
            except Exception as error:
                notes.append(f"{name} could not be pickled and arrived as its repr: {error}")
                return any_dumps(describe(value))

        group = exception if isinstance(exception, BaseExceptionGroup) else None
        members = () if group is None else group.exceptions
        return _Node(
            kind=_pickled_class(type(exception)),
            text=describe(exception, str),
            reduced=_reduced(exception),
            arguments=[encode(f"argument {i}", value) for i, value in enumerate(exception.args)],
            fields={name: encode(name, value) for name, value in _fields(exception).items()},
            attributes={name: encode(name, value) for name, value in vars(exception).items()},
            notes=notes,
            message=None if group is None else group.message,
            members=[index for member in members if (index := self._index(member)) is not None],
            cause=self._index(exception.__cause__),
            context=self._index(exception.__context__),
            suppress_context=exception.__suppress_context__,
        )


def describe(value: object, how: Callable[[object], str] = repr) -> str:
    try:
        return how(value)
    except Exception:
        return f"<{type(value).__qualname__} object>"


def _reduced(exception: BaseException) -> bytes | None:
    kind = type(exception)
    if not any(isinstance(reduce, types.FunctionType) for reduce in (kind.__reduce__, kind.__reduce_ex__)):
        return None
    try:
        return any_dumps(exception)
    except Exception:
        return None


def _fields(exception: BaseException) -> dict[str, object]:
    """The attributes that are not in `__dict__`, for C's exceptions and for `__slots__`."""
    fields = {}
    for base in type(exception).__mro__:
        if base in (BaseException, BaseExceptionGroup):  # their fields have a place of their own in _Node
            continue
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, _DESCRIPTORS) and not name.startswith("__"):
                with contextlib.suppress(AttributeError):  # not set
                    fields[name] = descriptor.__get__(exception)
    # None is what C's fields are from the start; stored, OSError's message would show it as a second file name.
    fields = {name: value for name, value in fields.items() if value is not None}
    if isinstance(exception, AttributeError):
        fields.pop("obj", None)  # anything, perhaps large; the class's own pickle leaves it out as well
    return fields


_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)


class _Rebuilding:
    """Turns a list of nodes into exceptions, without a call of any constructor but those of C."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes
        self._made: dict[int, BaseException] = {}
        for index, node in enumerate(nodes):
            if node.reduced is not None and (exception := _loads_reduced(node.reduced)) is not None:
                self._made[index] = exception
        bare = [index for index in range(len(nodes)) if index not in self._made]
        for index in bare:
            self._make(index)
        for index in bare:
            self._fill(nodes[index], self._made[index])
        for index, node in enumerate(nodes):
            self._link(node, self._made[index])

    def exception(self, index: int) -> BaseException:
        return self._made[index]

    def _make(self, index: int) -> BaseException:
        if index not in self._made:
            node = self._nodes[index]
            kind = _class(node.kind)
            native: Any = kind  # whose memory layout the class has: only its __new__ may make one
            while native.__flags__ & _HEAP_TYPE:
                native = native.__base__
            if node.message is None:
                self._made[index] = native.__new__(kind)
            else:
                self._made[index] = native.__new__(kind, node.message, [self._make(i) for i in node.members])
        return self._made[index]

    def _fill(self, node: _Node, exception: BaseException) -> None:
        notes = list(node.notes)

        def decode(name: str, value: int | bytes) -> object:
            if isinstance(value, int):
                return self._made[value]
            try:
                return pickle.loads(value)
            except Exception as error:
                notes.append(f"{name} could not be unpickled: {error!r}")
                return f"<not unpickled: {error!r}>"

        # object.__setattr__, because a class may forbid its own (a frozen dataclass does).
        arguments = tuple(decode(f"argument {i}", value) for i, value in enumerate(node.arguments))
        object.__setattr__(exception, "args", arguments)
        for name, value in node.fields.items():
            with contextlib.suppress(AttributeError, TypeError):  # cannot be set
                object.__setattr__(exception, name, decode(name, value))
        vars(exception).update({name: decode(name, value) for name, value in node.attributes.items()})
        if isinstance(exception, _StandIn):
            vars(exception)["remote_str"] = node.text
        for note in notes:
            exception.add_note(f"multigil: {note}")

    def _link(self, node: _Node, exception: BaseException) -> None:
        for name, index in (("__cause__", node.cause), ("__context__", node.context)):
            object.__setattr__(exception, name, None if index is None else self._made[index])
        object.__setattr__(exception, "__suppress_context__", node.suppress_context)


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not in C


def _loads_reduced(data: bytes) -> BaseException | None:
    try:
        exception = pickle.loads(data)
    except Exception:
        return None
    return exception if isinstance(exception, BaseException) else None


# --- classes of exceptions --------------------------------------------------------------------------------------


class _StandIn:
    """First base of a class that stands in for one that cannot be had; its instances print as the original did."""

    __slots__ = ()

    def __str__(self) -> str:
        return str(vars(self)["remote_str"])


_stand_ins: dict[tuple[str, str, tuple[type, ...]], type] = {}


def _pickled_class(kind: type) -> _Class:
    try:
        pickled = any_dumps(kind)
    except Exception:
        pickled = None
    bases = [_pickled_class(base) for base in kind.__bases__] if kind.__flags__ & _HEAP_TYPE else []
    return _Class(kind.__module__, kind.__qualname__, pickled, bases)


def _class(wanted: _Class) -> type[Any]:
    """The class itself, or a stand-in with the same name and the nearest bases that can be had."""
    if (found := _find(wanted)) is not None:
        return found
    nearest = dict.fromkeys(_nearest(wanted))
    bases = tuple(base for base in nearest if not any(base in other.__mro__[1:] for other in nearest))
    key = (wanted.module, wanted.qualname, bases)
    if key not in _stand_ins:
        namespace = {"__module__": wanted.module, "__qualname__": wanted.qualname}
        _stand_ins[key] = type(wanted.qualname.rpartition(".")[2], (_StandIn, *bases), namespace)
    return _stand_ins[key]


def _nearest(wanted: _Class) -> list[type]:
    """The class itself if it can be had, else the nearest of its bases that can."""
    if (found := _find(wanted)) is not None:
        return [found]
    return [found for base in wanted.bases for found in _nearest(base)]


def _find(wanted: _Class) -> type | None:
    found: object = None
    if wanted.pickled is not None:
        with contextlib.suppress(Exception):
            found = pickle.loads(wanted.pickled)
    elif wanted.module == "__main__":
        with contextlib.suppress(AttributeError):
            found = operator.attrgetter(wanted.qualname)(sys.modules["__main__"])
    return found if isinstance(found, type) else None
