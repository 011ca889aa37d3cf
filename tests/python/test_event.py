"""`Event` does between threads and interpreters what `threading.Event` does between threads.

test_cpython_suites.py has CPython's own tests.
"""

from __future__ import annotations

import gc
import inspect
import pickle
import re
import threading
import time
import weakref
from typing import Any

import pytest

import workers
from harness import AMPLE, MOMENT, assert_waits, in_thread, started
from multigil import Event, Interpreter, Queue, SimpleQueue, StaleHandle


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("is_set", "(self, /)"),
        ("isSet", "(self, /)"),
        ("set", "(self, /)"),
        ("clear", "(self, /)"),
        ("wait", "(self, /, timeout=None)"),
    ],
)
def test_every_method_has_the_signature_of_threading_events(method: str, signature: str) -> None:
    assert str(inspect.signature(getattr(Event, method))) == signature


def test_it_is_not_set_at_first_and_then_what_set_and_clear_say() -> None:
    event = Event()
    assert event.is_set() is False
    event.set()
    event.set()
    assert event.is_set() is True
    event.clear()
    event.clear()
    assert event.is_set() is False


def test_the_constructor_takes_no_argument() -> None:
    kind: Any = Event
    with pytest.raises(TypeError):
        kind(1)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [("1", TypeError), (float("inf"), OverflowError), (threading.TIMEOUT_MAX * 2, OverflowError)],
)
def test_wrong_timeouts_are_errors(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Event().wait(timeout)


def test_the_repr_tells_whether_it_is_set() -> None:
    event = Event()
    assert repr(event) == f"<multigil.Event at {id(event):#x}: unset>"
    event.set()
    assert repr(event) == f"<multigil.Event at {id(event):#x}: set>"


def test_the_deprecated_name_warns_where_it_is_called() -> None:
    event = Event()
    with pytest.warns(DeprecationWarning, match=re.escape("isSet() is deprecated, use is_set() instead")) as warnings:
        assert event.isSet() is False  # type: ignore[deprecated]
    assert warnings[0].filename == __file__


def test_wait_gives_true_at_once_when_it_is_set_and_false_after_the_timeout_when_not() -> None:
    event = Event()
    assert event.wait(0) is False
    assert event.wait(-1) is False
    start = time.monotonic_ns()
    assert event.wait(timeout=0.1) is False
    assert 100_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
    event.set()
    assert event.wait() is True
    assert event.wait(0) is True


def test_set_lets_everybody_go_on_even_if_it_is_cleared_at_once() -> None:
    event = Event()
    for _ in range(5):
        waiting = [in_thread(event.wait, timeout) for timeout in (None, AMPLE) for _ in range(25)]
        assert_waits(*waiting)
        event.set()
        event.clear()
        assert [future.result(AMPLE) for future in waiting] == [True] * 50
        assert event.is_set() is False


def test_set_lets_interpreters_go_on_even_if_it_is_cleared_at_once() -> None:
    event, told = Event(), SimpleQueue[None]()
    interpreters = [started(workers.tell_and_call, told, event.wait) for _ in range(3)]
    for _ in interpreters:
        told.get(timeout=AMPLE)
    # Past what takes time in an interpreter that has begun.
    interpreters[0].join(10 * MOMENT)
    event.set()
    event.clear()
    assert [interpreter.result(AMPLE) for interpreter in interpreters] == [True] * 3


def test_it_may_be_set_in_an_interpreter() -> None:
    event = Event()
    waiting = in_thread(event.wait)
    assert_waits(waiting)
    started(event.set).join(AMPLE)
    assert waiting.result(AMPLE) is True
    assert event.is_set()
    assert started(repr, event).result(AMPLE).endswith(": set>")
    started(event.clear).join(AMPLE)
    assert not event.is_set()


def test_thousands_of_times_it_is_set_waited_for_and_cleared() -> None:
    there, back, times = Event(), Event(), 5_000
    interpreter = started(workers.answer_events, there, back, times)
    for _ in range(times):
        there.set()
        assert back.wait(AMPLE)
        back.clear()
    assert interpreter.result(AMPLE) == times
    assert not there.is_set()


def test_what_was_done_before_set_is_seen_after_wait() -> None:
    event, results = Event(), Queue[int]()
    interpreter = started(workers.put_and_set, results, event)
    assert event.wait(AMPLE)
    assert results.get_nowait() == 1
    interpreter.result(AMPLE)


def test_waiting_costs_no_processor_time() -> None:
    event = Event()
    start = time.thread_time()
    assert not event.wait(1)
    assert time.thread_time() - start < 0.02


def test_it_outlives_the_interpreter_that_made_it() -> None:
    interpreter = started(Event)
    event = interpreter.result(AMPLE)
    interpreter.join(AMPLE)
    assert type(event) is Event
    waiting = in_thread(event.wait)
    assert_waits(waiting)
    event.set()
    assert waiting.result(AMPLE) is True


def test_a_pickle_gives_the_same_object_while_there_is_one() -> None:
    event = Event()
    pickled = pickle.dumps(event)
    assert pickle.loads(pickled) is event
    with Interpreter() as interpreter:
        assert interpreter.call(workers.identity, event) is event
        del event
        gc.collect()
        # The interpreter has let go of it, too.
        interpreter.call(gc.collect)
        with pytest.raises(StaleHandle):
            pickle.loads(pickled)


def test_a_weak_reference_ends_with_the_last_strong_one() -> None:
    event = Event()
    reference = weakref.ref(event)
    assert reference() is event
    del event
    gc.collect()
    assert reference() is None


class Named(Event):
    def __init__(self, name: str, *, ready: bool = False) -> None:
        super().__init__()
        self.name = name
        if ready:
            self.set()


def test_a_subclass_may_have_arguments_of_its_own() -> None:
    event = Named("a name", ready=True)
    assert (event.name, event.is_set()) == ("a name", True)
    assert repr(event).startswith("<test_event.Named at 0x")
    assert pickle.loads(pickle.dumps(event)) is event


def test_what_threading_calls_in_a_forked_child_leaves_it_as_it_was() -> None:
    event: Any = Event()
    event._at_fork_reinit()
    assert not event.is_set()
    event.set()
    event._at_fork_reinit()
    assert event.wait(0)
