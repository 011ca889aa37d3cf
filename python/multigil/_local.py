"""`local`: `threading.local` that can be sent to other interpreters, and is the same one each time it arrives there."""

from __future__ import annotations

import _thread
from weakref import WeakValueDictionary

from multigil._core import Lock, StaleHandle, attach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Self

    # What tells the locals of all interpreters apart: what a `Lock` of the first one's is pickled as.
    type Key = tuple[int, int, str, int, int]
    type Name = tuple[int, int, int, int]


class local(_thread._local):  # noqa: N801, SLF001  (what `threading.local` is)
    """Attributes of which every thread has its own: `threading.local`.

    A subclass may have an `__init__`, which is called with the constructor's arguments in each thread that uses it.

    Sent to another interpreter it arrives as it is in a new thread: empty, after a call of `__init__`. What is stored
    there stays, because it arrives as the same object each time, for as long as the first one exists where it was made.
    """

    __slots__ = ("_arguments", "_key", "_token")

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _key: Key | None
    _token: Lock  # of the first one: exists as long as that

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self._arguments = args, kwargs
        self._key = None
        return self

    def __reduce__(self) -> tuple[Callable[..., local], tuple[Any, ...]]:
        with _lock:
            if self._key is None:
                self._token = Lock()
                self._key = _key_of(self._token)
                _here[_name(self._key)] = self
        return _arrive, (self._key, type(self), *self._arguments)


_lock = _thread.RLock()

# All that were sent or have arrived here, and of the latter those that are kept although nobody may hold them.
_here: WeakValueDictionary[Name, local] = WeakValueDictionary()
_kept: dict[Key, local] = {}
_enough = 64  # entries of `_kept`, at which it is time to look for some that can go


def _key_of(token: Lock) -> Key:
    key: Any = token.__reduce__()[1]
    return key  # type: ignore[no-any-return]


def _name(key: Key) -> Name:
    """Leave out where the region is, which each process says in its own way."""
    kind, region, _, index, generation = key
    return kind, region, index, generation


def _arrive(key: Key, kind: type[local], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> local:
    found = _here.get(_name(key))
    if found is not None:
        return found
    made = kind(*args, **kwargs)
    with _lock:
        found = _here.get(_name(key))  # another thread may have been quicker
        if found is None:
            made._key = key  # noqa: SLF001
            found = _here[_name(key)] = made
            _keep(key, made)
    return found


def _keep(key: Key, arrived: local) -> None:
    global _enough  # noqa: PLW0603
    if len(_kept) >= _enough:
        for known in [known for known in _kept if not _first_exists(known)]:
            del _kept[known]
        _enough = max(64, 2 * len(_kept))
    if _first_exists(key):
        _kept[key] = arrived


def _first_exists(key: Key) -> bool:
    try:
        attach(*key)
    except StaleHandle:
        return False
    return True
