"""`Region`: shared memory that programs open by its name, and the objects in it that have names."""

from __future__ import annotations

import atexit
import errno
import os
from typing import TYPE_CHECKING, Any, TypeVar

from multigil import _core
from multigil.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["Region"]

_NAME_MAX = 200
"""Bytes of a region's longest name."""

_T = TypeVar("_T")


class Region:
    """Shared memory beside the process's own: with a name, programs that know nothing of each other open it.

    With a name, the region of this user that has it is opened, or made if nobody has one; with `create` true it must be
    new, with `create` false it must be there. Without a name a new one is made. A region stays as long as anybody uses
    it, in whatever process: a `Region`, or an object that is in it.

    The methods named as classes give objects of the region. With a name, that is the one that everybody gets who asks
    for it, and the other arguments count only for whoever is the first. Without, it is a new one. A name keeps its
    object alive until `unlink()`.

    With a `key`, all messages of its queues are sealed: each has a keyed hash, and `get` raises AuthenticationError
    for one that was made or changed without the key, and throws it away. All who use the region have to give the same
    key; it is not pickled. Whoever can write to the region may still repeat, drop and reorder messages.
    """

    def __init__(self, name: str | None = None, create: bool | None = None, *, key: bytes | None = None) -> None:
        self._number: int | None = None
        if name is not None:
            _check(name)
        elif create is False:
            raise ValueError("'name' can only be None if the region is made")
        number = _core.open_region(name, create)
        if number is None:
            code = errno.EEXIST if create else errno.ENOENT
            raise OSError(code, os.strerror(code), name)
        self._open(number, name)
        if key is not None:
            _core.set_key(number, key)

    def _open(self, number: int, name: str | None) -> None:
        self._number = number
        self._name = name

    # --- itself -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The name by which it is opened; None if it has none."""
        return self._name

    @property
    def number(self) -> int:
        """The random number that tells it from other regions."""
        if self._number is None:
            raise ValueError("the region is closed")
        return self._number

    def close(self) -> None:
        """Give up this access to the region. Objects that are in it go on as they are. May be called again."""
        if self._number is not None:
            number, self._number = self._number, None
            _core.close_region(number)

    def __del__(self) -> None:
        if getattr(self, "_number", None) is not None:
            self.close()

    def __enter__(self) -> Self:
        self.number  # noqa: B018  # raises if it is closed
        return self

    def __exit__(
        self, class_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _join, (type(self), self.number, _core.region_location(self.number), self._name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and self._number == other._number

    def __hash__(self) -> int:
        return hash((Region, self._name))

    def __repr__(self) -> str:
        name = "" if self._name is None else repr(self._name)
        return f"{type(self).__name__}({name})" + (" (closed)" if self._number is None else "")

    @staticmethod
    def list() -> list[str]:
        """Give the names of this user's regions."""
        return _core.region_names()

    # --- the objects in it --------------------------------------------------------------------------------------

    def Queue(self, name: str | None = None, maxsize: int = 0) -> _core.Queue[Any]:  # noqa: N802
        """Give the `Queue` of that name, or a new one."""
        return self._get(_core.Queue, name, maxsize)

    def LifoQueue(self, name: str | None = None, maxsize: int = 0) -> _core.LifoQueue[Any]:  # noqa: N802
        """Give the `LifoQueue` of that name, or a new one."""
        return self._get(_core.LifoQueue, name, maxsize)

    def PriorityQueue(self, name: str | None = None, maxsize: int = 0) -> _core.PriorityQueue[Any]:  # noqa: N802
        """Give the `PriorityQueue` of that name, or a new one."""
        return self._get(_core.PriorityQueue, name, maxsize)

    def SimpleQueue(self, name: str | None = None) -> _core.SimpleQueue[Any]:  # noqa: N802
        """Give the `SimpleQueue` of that name, or a new one."""
        return self._get(_core.SimpleQueue, name)

    def Lock(self, name: str | None = None) -> _core.Lock:  # noqa: N802
        """Give the `Lock` of that name, or a new one."""
        return self._get(_core.Lock, name)

    def RLock(self, name: str | None = None) -> _core.RLock:  # noqa: N802
        """Give the `RLock` of that name, or a new one."""
        return self._get(_core.RLock, name)

    def Event(self, name: str | None = None) -> _core.Event:  # noqa: N802
        """Give the `Event` of that name, or a new one."""
        return self._get(_core.Event, name)

    def Condition(self, name: str | None = None, lock: _core.Lock | _core.RLock | None = None) -> _core.Condition:  # noqa: N802
        """Give the `Condition` of that name with its lock, or a new one. `lock` has to be one of the region."""
        return self._get(_core.Condition, name, lock)

    def Semaphore(self, name: str | None = None, value: int = 1) -> _core.Semaphore:  # noqa: N802
        """Give the `Semaphore` of that name, or a new one."""
        return self._get(_core.Semaphore, name, value)

    def BoundedSemaphore(self, name: str | None = None, value: int = 1) -> _core.BoundedSemaphore:  # noqa: N802
        """Give the `BoundedSemaphore` of that name, or a new one."""
        return self._get(_core.BoundedSemaphore, name, value)

    def Barrier(  # noqa: N802
        self,
        name: str | None = None,
        parties: int | None = None,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> _core.Barrier:
        """Give the `Barrier` of that name, or a new one. One that has a name has no action."""
        if name is not None and action is not None:
            raise TypeError("a barrier with an action can't have a name: whoever finds it would have no action")
        arguments = () if parties is None else (parties, action, timeout)
        return self._get(_core.Barrier, name, *arguments)

    def Value(  # noqa: N802
        self, name: str | None = None, typecode: Any = None, value: Any = 0, *, lock: Any = True
    ) -> _core.Value:
        """Give the `Value` of that name, or a new one. `lock` is True, False, or a lock of the region."""
        return self._get(_core.Value, name, *(() if typecode is None else (typecode, value)), lock=lock)

    def Array(  # noqa: N802
        self,
        name: str | None = None,
        typecode: Any = None,
        size_or_values: int | Iterable[Any] | None = None,
        *,
        lock: Any = True,
    ) -> _core.Array:
        """Give the `Array` of that name, or a new one. `lock` is True, False, or a lock of the region."""
        arguments = [argument for argument in (typecode, size_or_values) if argument is not None]
        return self._get(_core.Array, name, *arguments, lock=lock)

    def SharedMemory(self, name: str | None = None, create: bool = False, size: int = 0) -> SharedMemory:  # noqa: N802
        """Make or open a `SharedMemory`, whose names are those of the region."""
        made: SharedMemory = _core.make_in(self.number, SharedMemory, (name, create, size), {})
        return made

    def _get(self, class_: Callable[..., _T], name: str | None, *args: Any, **kwargs: Any) -> _T:
        found: _T | None = None
        while found is None:
            if name is not None:
                found = _core.find_object(self.number, class_, name)
            if found is None:
                made: _T = _core.make_in(self.number, class_, args, kwargs)
                if name is None or _core.name_object(self.number, class_, name, made):
                    return made
        return found

    def unlink(self, class_: Any, name: str) -> None:
        """Take a name away. The object stays for those who have it; the name may be given to a new one.

        Names are apart for each class: `region.unlink(multigil.Queue, "inbox")`. Any object of the class will do, and
        so does the name of the class.
        """
        if isinstance(class_, str):
            class_ = SharedMemory if class_ == "SharedMemory" else getattr(_core, class_, class_)
        elif not isinstance(class_, type):
            class_ = type(class_)
        if class_ is SharedMemory:
            taken = _core.unlink_memory(f"/{name}", self.number)
        else:
            taken = _core.unname_object(self.number, class_, name)
        if not taken:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def names(self) -> list[tuple[str, str]]:  # type: ignore[valid-type]  # the builtin, not the method
        """Give the names that objects have, each with the name of its class: `[("Queue", "inbox")]`."""
        names = _core.object_names(self.number)
        return sorted((class_, name[1:] if class_ == "SharedMemory" else name) for class_, name in names)


def _join(class_: type[Region], number: int, location: str, name: str | None) -> Region:
    """Unpickle one."""
    _core.join_region(number, location)
    region = class_.__new__(class_)
    region._open(number, name)  # noqa: SLF001
    return region


def _check(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a region's name has to be a str, not {type(name).__name__}")
    if not 1 <= len(os.fsencode(name)) <= _NAME_MAX or name.startswith(".") or set(name) & {"/", "\0"}:
        raise ValueError(
            f"a region's name has 1 to {_NAME_MAX} bytes, no '/', no NUL, and no '.' at its start: {name!r}"
        )


if _core.current_interpreter_id() == 0:
    atexit.register(_core.retire_regions)
