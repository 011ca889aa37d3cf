"""What `threading` has for iterators that several threads use, since 3.15.

An iterator belongs to the interpreter that made it, so these serve threads of one interpreter. Interpreters take items
from a queue, which may be iterated in all of them.
"""

from __future__ import annotations

from functools import update_wrapper
from threading import Lock

from multigil._core import NotShareable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any, Never, Self


class serialize_iterator[T]:  # noqa: N801
    """An iterator that threads may share: each has to wait until the one before it has got its item.

    If the iterator is a generator, `send`, `throw` and `close` wait in the same way.
    """

    __slots__ = ("_iterator", "_lock")

    def __init__(self, iterable: Iterable[T]) -> None:
        self._iterator: Iterator[T] | Generator[T, Any, Any] = iter(iterable)
        self._lock = Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._iterator)

    def send(self, value: Any, /) -> T:
        """Send a value to the generator. Raises AttributeError if it is none."""
        with self._lock:
            return self._iterator.send(value)  # type: ignore[union-attr]

    def throw(self, *args: Any) -> T:
        """Raise an exception in the generator. Raises AttributeError if it is none."""
        with self._lock:
            return self._iterator.throw(*args)  # type: ignore[union-attr]

    def close(self) -> None:
        """Close the generator. Raises AttributeError if it is none."""
        with self._lock:
            self._iterator.close()  # type: ignore[union-attr]

    def __reduce__(self) -> Never:
        _refuse()


def synchronized_iterator[**P, T](func: Callable[P, Iterable[T]]) -> Callable[P, serialize_iterator[T]]:
    """Make a function give its iterators as `serialize_iterator`; of use as a decorator of generator functions."""

    def inner(*args: P.args, **kwargs: P.kwargs) -> serialize_iterator[T]:
        return serialize_iterator(func(*args, **kwargs))

    return update_wrapper(inner, func)


def concurrent_tee[T](iterable: Iterable[T], n: int = 2) -> tuple[Iterator[T], ...]:
    """Give n iterators, each over all items of `iterable`: `itertools.tee`, for as many threads.

    Each is for one thread; `serialize_iterator` makes one for several. Raises ValueError if n is negative.
    """
    if n < 0:
        raise ValueError("n must be a non-negative integer")
    if n == 0:
        return ()
    first = iterable if isinstance(iterable, _Branch) else _Branch(iter(iterable), Lock(), [])
    return tuple(_Branch(first.source, first.lock, first.place) for _ in range(n))


class _Branch[T]:
    """One of the iterators of `concurrent_tee`.

    The items are a chain of lists: an empty one is the end, where `source` gives the next item, and one that is not
    holds an item and what follows.
    """

    __slots__ = ("lock", "place", "source")

    def __init__(self, source: Iterator[T], lock: Any, place: list[Any]) -> None:
        self.source = source
        self.lock = lock
        self.place = place

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        place = self.place
        if not place:
            with self.lock:
                if not place:  # no other thread was quicker
                    place.extend((next(self.source), []))
        item: T
        item, self.place = place
        return item

    def __reduce__(self) -> Never:
        _refuse()


def _refuse() -> Never:
    raise NotShareable("an iterator belongs to the interpreter that made it: share a Queue instead")
