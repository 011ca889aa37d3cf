"""`local`: what `threading.local` is, and what becomes of one that is sent to other interpreters."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, in_thread, started
from multigil import Interpreter, Queue, _core


def test_each_thread_has_its_own_attributes() -> None:
    local = multigil.local()
    local.number = 1
    assert in_thread(lambda: vars(local)).result(AMPLE) == {}
    assert vars(local) == {"number": 1}


def test_a_subclass_is_initialized_in_each_thread_with_the_arguments() -> None:
    local = workers.Numbered(5, step=2)
    assert workers.advance(local) == 7
    assert in_thread(workers.advance, local).result(AMPLE) == 7
    assert workers.advance(local) == 9


def test_arguments_without_an_initializer_are_a_type_error() -> None:
    make: Any = multigil.local
    for args, kwargs in (((1,), {}), ((), {"number": 1})):
        with pytest.raises(TypeError, match="Initialization arguments are not supported"):
            make(*args, **kwargs)


def test_it_is_a_local_of_threading() -> None:
    assert issubclass(multigil.local, threading.local)


class TestSent:
    def test_it_arrives_empty_and_keeps_there_what_is_stored_there(self) -> None:
        local = multigil.local()
        local.visits = 10
        with Interpreter() as interpreter:
            # Nobody there holds it between the calls.
            assert [interpreter.call(workers.visit, local) for _ in range(3)] == [(1, 1), (2, 1), (3, 1)]
        assert vars(local) == {"visits": 10}

    def test_each_interpreter_has_its_own(self) -> None:
        local = multigil.local()
        assert [started(workers.visit, local).result(AMPLE) for _ in range(2)] == [(1, 1), (1, 1)]

    def test_a_subclass_is_initialized_where_it_arrives(self) -> None:
        local = workers.Numbered(5, step=2)
        workers.advance(local)
        with Interpreter() as interpreter:
            assert [interpreter.call(workers.advance, local) for _ in range(2)] == [7, 9]

    def test_it_comes_home_as_itself(self) -> None:
        local = multigil.local()
        local.here = True
        assert started(workers.identity, local).result(AMPLE) is local
        assert local.here is True

    def test_it_is_itself_when_it_is_unpickled_where_it_was_made(self) -> None:
        local = workers.Numbered(1)
        assert pickle.loads(pickle.dumps(local)) is local

    def test_two_are_two(self) -> None:
        one, other = multigil.local(), multigil.local()
        with Interpreter() as interpreter:
            assert interpreter.call(workers.is_same, one, other) is False
            assert interpreter.call(workers.is_same, one, one) is True

    def test_it_may_be_sent_on(self) -> None:
        local = multigil.local()
        q: Queue[Any] = Queue()
        with Interpreter() as first, Interpreter() as second:
            first.call(workers.visit, local)
            first.call(workers.send_twice, local, q)
            assert second.call(workers.get_two, q) is True
            first.call(workers.send_twice, local, q)
            assert q.get() is local
            assert q.get() == [local]

    def test_one_that_was_made_there_works_here_when_that_interpreter_is_gone(self) -> None:
        local = started(workers.Numbered, 3).result(AMPLE)
        assert workers.advance(local) == 4
        assert in_thread(workers.advance, local).result(AMPLE) == 4

    def test_many_threads_may_receive_it_at_once(self) -> None:
        local = workers.Numbered(1)
        data = pickle.dumps(local)
        del local
        gc.collect()
        start = threading.Barrier(4)

        def receive() -> None:
            start.wait()
            arrived.append(pickle.loads(data))

        arrived: list[Any] = []
        for future in [in_thread(receive) for _ in range(4)]:
            future.result(AMPLE)
        assert len(arrived) == 4
        assert len(set(map(id, arrived))) == 1

    def test_arguments_that_cannot_be_pickled_are_an_error_of_the_put(self) -> None:
        q: Queue[Any] = Queue()
        local = workers.Numbered(threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="cannot pickle"):
            q.put(local)
        assert q.empty()

    def test_an_initializer_that_raises_there_is_an_error_of_the_call(self) -> None:
        class Refusing(multigil.local):
            def __init__(self) -> None:
                if multigil.current_interpreter() is not multigil.main_interpreter():
                    raise ArithmeticError("not here")

        with Interpreter() as interpreter:
            with pytest.raises(ArithmeticError, match="not here"):
                interpreter.call(workers.identity, Refusing())
            assert interpreter.call(workers.identity, 1) == 1


class TestMemory:
    def test_nothing_keeps_one_where_it_was_made(self) -> None:
        local = multigil.local()
        with Interpreter() as interpreter:
            assert interpreter.call(workers.identity, local) is local
        gone = weakref.ref(local)
        del local
        gc.collect()
        assert gone() is None

    def test_one_that_is_not_sent_costs_no_shared_memory(self) -> None:
        before = _core.statistics()
        locals_ = [multigil.local() for _ in range(100)]
        assert _core.statistics()["locks"] == before["locks"]
        pickle.dumps(locals_)
        assert _core.statistics()["locks"] == before["locks"] + 100
        del locals_
        gc.collect()
        assert _core.statistics()["locks"] == before["locks"]

    def test_those_whose_first_one_is_gone_are_let_go_there(self) -> None:
        stays = multigil.local()
        with Interpreter() as interpreter:
            interpreter.call(workers.visit, stays)
            for _ in range(1_000):
                interpreter.call(workers.identity, multigil.local())
            assert interpreter.call(workers.kept_locals) < 200
            assert interpreter.call(workers.visit, stays) == (2, 1)
