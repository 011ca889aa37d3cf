"""The tools of `threading` for iterators, which 3.15 has, on every version."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import multigil
from harness import AMPLE, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def slow_count(stop: int) -> Iterator[int]:
    """A generator, which two threads must not enter at once, that lets others run in the middle."""
    for number in range(stop):
        time.sleep(0.0001)
        yield number


def collect(iterator: Iterator[int]) -> list[int]:
    return list(iterator)


class TestSerialized:
    def test_threads_share_the_items(self) -> None:
        iterator = multigil.serialize_iterator(slow_count(300))
        collected = [in_thread(collect, iterator) for _ in range(4)]
        assert sorted(itertools.chain(*(one.result(AMPLE) for one in collected))) == list(range(300))

    def test_it_is_its_own_iterator_and_takes_any_iterable(self) -> None:
        iterator = multigil.serialize_iterator([1, 2])
        assert iter(iterator) is iterator
        assert list(iterator) == [1, 2]

    def test_a_generator_can_be_sent_to_thrown_at_and_closed(self) -> None:
        def echo() -> Any:
            value = None
            while True:
                try:
                    value = yield value
                except ArithmeticError as error:
                    value = repr(error)

        generator: Any = multigil.serialize_iterator(echo())
        assert next(generator) is None
        assert generator.send("sent") == "sent"
        assert generator.throw(ArithmeticError("thrown")) == "ArithmeticError('thrown')"
        assert generator.close() is None
        with pytest.raises(StopIteration):
            next(generator)

    @pytest.mark.parametrize("use", [lambda it: it.send(1), lambda it: it.throw(ValueError), lambda it: it.close()])
    def test_what_is_no_generator_has_no_such_methods(self, use: Callable[[Any], object]) -> None:
        with pytest.raises(AttributeError):
            use(multigil.serialize_iterator([1]))

    def test_a_function_may_give_serialized_ones(self) -> None:
        @multigil.synchronized_iterator
        def numbers(stop: int, *, step: int = 1) -> Iterator[int]:
            """Give numbers."""
            yield from range(0, stop, step)

        assert numbers.__name__ == "numbers"
        assert numbers.__doc__ == "Give numbers."
        iterator = numbers(6, step=2)
        assert isinstance(iterator, multigil.serialize_iterator)
        assert list(iterator) == [0, 2, 4]


class TestTee:
    def test_each_thread_sees_all_items(self) -> None:
        branches = multigil.concurrent_tee(slow_count(300), 3)
        collected = [in_thread(collect, branch) for branch in branches]
        assert [one.result(AMPLE) for one in collected] == [list(range(300))] * 3

    def test_one_may_be_ahead_of_the_others(self) -> None:
        first, second = multigil.concurrent_tee(iter(range(3)))
        assert list(first) == [0, 1, 2]
        assert next(second) == 0
        third, fourth = multigil.concurrent_tee(second)
        assert [list(second), list(third), list(fourth)] == [[1, 2]] * 3

    def test_the_number_is_checked(self) -> None:
        assert multigil.concurrent_tee([1], 0) == ()
        assert len(multigil.concurrent_tee([1], n=5)) == 5
        with pytest.raises(ValueError, match="n must be a non-negative integer"):
            multigil.concurrent_tee([1], -1)

    def test_an_exception_of_the_source_is_raised_where_it_is_asked_for_an_item(self) -> None:
        def fail() -> Iterator[int]:
            yield 1
            raise ArithmeticError

        first, second = multigil.concurrent_tee(fail())
        assert (next(first), next(second)) == (1, 1)
        with pytest.raises(ArithmeticError):
            next(first)
        with pytest.raises(StopIteration):
            next(second)


def test_they_stay_in_their_interpreter() -> None:
    q: multigil.Queue[Any] = multigil.Queue()
    for iterator in (multigil.serialize_iterator([1]), *multigil.concurrent_tee([1])):
        with pytest.raises(TypeError, match="share a Queue instead"):
            q.put(iterator)
    assert q.empty()


@pytest.mark.skipif(not hasattr(threading, "serialize_iterator"), reason="threading has them since 3.15")
def test_they_take_what_those_of_threading_take() -> None:
    import inspect

    for name in ("serialize_iterator", "synchronized_iterator", "concurrent_tee"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (multigil, threading))
        assert [(one.name, one.kind, one.default) for one in ours.values()] == [
            (one.name, one.kind, one.default) for one in theirs.values()
        ]
