"""`Condition` does between threads and interpreters what `threading.Condition` does between threads.

See test_cpython_suites.py for CPython's own tests.
"""

from __future__ import annotations

import gc
import inspect
import pickle
import queue
import re
import signal
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, ProgramRunner, assert_waits, in_fresh_process, in_thread, started
from multigil import Condition, Lock, NotShareable, RLock, SimpleQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


class MinimalLock:
    """What `threading.Condition` needs of a lock, and no more."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        return self.lock.acquire(blocking)

    def release(self) -> None:
        self.lock.release()


class OwnRLock(RLock):
    pass


LOCKS: list[Callable[[], Any]] = [Lock, RLock, OwnRLock, threading.Lock, threading.RLock, MinimalLock]


@pytest.fixture(params=LOCKS, ids=lambda make: f"{make.__module__}.{make.__name__}")
def condition(request: pytest.FixtureRequest) -> Condition:
    return Condition(request.param())


def waiting(condition: Condition) -> int:
    """How many wait."""
    match = re.fullmatch(r"<Condition\(.*, (\d+)\)>", repr(condition))
    assert match is not None
    return int(match[1])


def until_waiting(condition: Condition, count: int) -> None:
    """Return when so many wait, without the lock; fail if they do not come."""
    limit = time.monotonic() + AMPLE
    while waiting(condition) != count:
        assert time.monotonic() < limit
        time.sleep(MOMENT / 10)


def wait(condition: Condition, timeout: float | None = None) -> bool:
    """Wait, with the lock taken before and given back afterwards."""
    condition.acquire()
    try:
        return condition.wait(timeout)
    finally:
        condition.release()


def notify(condition: Condition, n: int = 1) -> None:
    condition.acquire()
    condition.notify(n)
    condition.release()


def released(futures: list[Future[bool]], count: int) -> list[int]:
    """The places of the waits that have ended, when so many have and no more do."""
    limit = time.monotonic() + AMPLE
    while sum(future.done() for future in futures) < count and time.monotonic() < limit:
        time.sleep(MOMENT / 10)
    time.sleep(MOMENT)
    return [place for place, future in enumerate(futures) if future.done()]


@pytest.mark.parametrize("method", ["wait", "wait_for", "notify", "notify_all", "notifyAll"])
def test_every_method_has_the_signature_of_threadings(method: str) -> None:
    theirs = inspect.signature(getattr(threading.Condition, method))
    assert str(inspect.signature(getattr(Condition, method))).replace("self, /", "self") == str(theirs)


def test_methods_of_a_condition_whose_lock_is_not_held_are_errors(condition: Condition) -> None:
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        condition.wait()
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        condition.wait_for(lambda: False)
    for call in (condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            call()
    with pytest.raises(RuntimeError):
        condition.release()
    assert not condition._is_owned()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda condition: condition.wait("1"), TypeError),
        (lambda condition: condition.wait(1e100), OverflowError),
        (lambda condition: condition.wait(1, 2), TypeError),
        (lambda condition: condition.wait(limit=2), TypeError),
        (lambda condition: condition.wait_for(), TypeError),
        (lambda condition: condition.wait_for(5), TypeError),
        (lambda condition: condition.wait_for(list, "1"), TypeError),
        (lambda condition: condition.notify(1, 2), TypeError),
        (lambda condition: condition.notify(count=2), TypeError),
    ],
)
def test_wrong_arguments_are_the_errors_of_threadings(
    call: Callable[[Any], object], error: type[Exception], condition: Condition
) -> None:
    theirs = threading.Condition()
    with theirs, pytest.raises(error):
        call(theirs)
    condition.acquire()
    with pytest.raises(error):
        call(condition)
    assert condition._is_owned()
    assert waiting(condition) == 0
    condition.release()


@pytest.mark.parametrize(("arguments", "error"), [((5,), AttributeError), ((None, None), TypeError)])
def test_wrong_arguments_of_the_constructor_are_the_errors_of_threadings(
    arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    for make in (threading.Condition, Condition):
        with pytest.raises(error):
            make(*arguments)


def test_nan_is_no_time_to_wait() -> None:
    condition = Condition()
    with condition:
        for call in (condition.wait, lambda timeout: condition.wait_for(lambda: False, timeout)):
            with pytest.raises(ValueError, match="NaN"):
                call(float("nan"))


def test_its_lock_is_an_rlock_of_its_own_if_none_is_given() -> None:
    condition = Condition()
    assert type(condition._lock) is RLock
    assert condition._lock is not Condition()._lock
    with condition as entered, condition:
        assert entered is True
        assert condition.locked()
        assert condition._lock.locked()
        assert in_thread(condition.acquire, False).result(AMPLE) is False
        assert in_thread(condition.acquire, timeout=0.01).result(AMPLE) is False
    assert not condition.locked()


def test_its_methods_are_those_of_its_lock(condition: Condition) -> None:
    lock = condition._lock
    assert condition.acquire(False) is True
    assert in_thread(lock.acquire, False).result(AMPLE) is False
    condition.release()
    lock.acquire()
    assert in_thread(condition.acquire, False).result(AMPLE) is False
    assert condition._is_owned()
    lock.release()
    saved = condition.acquire() and condition._release_save()
    assert not condition._is_owned()
    condition._acquire_restore(saved)
    assert condition._is_owned()
    condition.release()


def test_the_repr_is_that_of_threadings(condition: Condition) -> None:
    assert repr(condition) == f"<Condition({condition._lock}, 0)>"
    waits = [in_thread(wait, condition) for _ in range(2)]
    until_waiting(condition, 2)
    condition.acquire()
    condition.notify_all()
    condition.release()
    assert [future.result(AMPLE) for future in waits] == [True, True]
    assert waiting(condition) == 0


def test_wait_gives_the_lock_back_and_takes_it_again(condition: Condition) -> None:
    held: list[bool] = []

    def wait_and_look() -> None:
        condition.acquire()
        condition.wait()
        held.append(in_thread(condition.acquire, False).result(AMPLE))
        condition.release()

    waits = in_thread(wait_and_look)
    until_waiting(condition, 1)
    condition.acquire()
    condition.notify()
    assert_waits(waits)
    assert held == []
    condition.release()
    waits.result(AMPLE)
    assert held == [False]


@pytest.mark.parametrize("make", [RLock, OwnRLock, threading.RLock])
def test_wait_gives_back_all_levels_of_an_rlock(make: Callable[[], Any]) -> None:
    condition = Condition(make())
    told = queue.SimpleQueue[str]()

    def wait_in_three_levels() -> None:
        with condition, condition, condition:
            assert condition.wait(AMPLE)
            condition.release()
            condition.release()
            told.put("two levels left")
            assert condition._is_owned()
            condition.acquire()
            condition.acquire()

    waits = in_thread(wait_in_three_levels)
    until_waiting(condition, 1)
    notify(condition)
    waits.result(AMPLE)
    assert told.get_nowait() == "two levels left"
    assert in_thread(condition.acquire, False).result(AMPLE)


def test_notify_wakes_as_many_as_it_is_told_and_those_that_came_first(condition: Condition) -> None:
    waits = []
    for count in range(1, 7):
        waits.append(in_thread(wait, condition))
        until_waiting(condition, count)
    notify(condition)
    assert released(waits, 1) == [0]
    notify(condition, 2)
    assert released(waits, 3) == [0, 1, 2]
    for n in (0, -1, -(10**30)):
        notify(condition, n)
    assert released(waits, 3) == [0, 1, 2]
    notify(condition, 10**30)
    assert released(waits, 6) == [0, 1, 2, 3, 4, 5]
    assert all(future.result() is True for future in waits)
    notify(condition, 5)  # of which nothing is left for whoever comes next
    assert wait(condition, MOMENT) is False


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -1e300, 0.001, 0.05])
def test_wait_gives_false_when_its_time_is_up(condition: Condition, timeout: float) -> None:
    start = time.monotonic()
    assert wait(condition, timeout) is False
    assert timeout <= time.monotonic() - start < AMPLE
    assert waiting(condition) == 0


def test_wait_gives_true_if_it_is_notified_before_it_has_the_lock_again(condition: Condition) -> None:
    condition.acquire()
    waits = in_thread(wait, condition, MOMENT)
    condition.release()
    until_waiting(condition, 1)
    condition.acquire()
    time.sleep(2 * MOMENT)  # its time is up, and it waits for the lock
    condition.notify()
    condition.release()
    assert waits.result(AMPLE) is True


def test_wait_for_gives_what_the_predicate_gave(condition: Condition) -> None:
    content: list[int] = []
    condition.acquire()
    assert condition.wait_for(lambda: content, MOMENT) is content
    assert condition.wait_for(lambda: content, -1) is content
    condition.release()

    def wait_for_two() -> bool | list[int]:
        condition.acquire()
        result = condition.wait_for(lambda: len(content) == 2 and content)
        condition.release()
        return result

    waits = in_thread(wait_for_two)
    for number in range(2):
        until_waiting(condition, 1)
        assert_waits(waits)
        condition.acquire()
        content.append(number)
        condition.notify()
        condition.release()
    assert waits.result(AMPLE) is content


def test_the_time_of_wait_for_is_that_of_all_its_waits() -> None:
    condition, end = Condition(), threading.Event()

    def hail() -> None:
        while not end.is_set():
            notify(condition)
            time.sleep(MOMENT / 10)

    notifying = in_thread(hail)
    start = time.monotonic()
    with condition:
        assert condition.wait_for(lambda: 0, timeout=4 * MOMENT) == 0
    assert 4 * MOMENT <= time.monotonic() - start < AMPLE
    end.set()
    notifying.result(AMPLE)


def test_wait_for_does_not_wait_for_what_is_true_already() -> None:
    condition = Condition()
    assert condition.wait_for(lambda: 5) == 5
    assert condition.wait_for(lambda: 5, "no number") == 5  # type: ignore[arg-type]


def test_an_exception_of_the_predicate_leaves_with_the_lock_held(condition: Condition) -> None:
    condition.acquire()
    with pytest.raises(ZeroDivisionError):
        condition.wait_for(lambda: 1 / 0)
    assert condition._is_owned()
    condition.release()


def test_notify_all_has_a_deprecated_name() -> None:
    condition = Condition()
    waits = in_thread(wait, condition)
    until_waiting(condition, 1)
    with condition, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        condition.notifyAll()
    assert waits.result(AMPLE)
    assert [(each.category, str(each.message), each.filename) for each in caught] == [
        (DeprecationWarning, "notifyAll() is deprecated, use notify_all() instead", __file__)
    ]


def test_waiting_costs_no_processor_time(condition: Condition) -> None:
    start = time.thread_time()
    assert not wait(condition, 1)
    assert time.thread_time() - start < 0.02


def test_a_subclass_may_have_its_own_arguments_and_its_own_wait() -> None:
    class Counted(Condition):
        def __init__(self, name: str, *, lock: Any) -> None:
            super().__init__(lock)
            self.name = name
            self.waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            return super().wait(timeout)

    lock = Lock()
    condition = Counted("a", lock=lock)
    assert condition._lock is lock
    assert repr(condition).startswith("<Condition(<unlocked multigil.Lock ")
    with condition:
        assert condition.wait_for(lambda: condition.waits == 3, MOMENT) is False
    assert condition.waits == 1


def test_a_subclass_that_does_not_initialize_it_is_told_so() -> None:
    class Forgetful(Condition):
        def __init__(self) -> None:
            pass

    condition = Forgetful()
    for call in (condition.acquire, condition.wait, condition.notify, lambda: repr(condition)):
        with pytest.raises(RuntimeError, match=r"Condition.__init__\(\) not called"):
            call()
    with pytest.raises(RuntimeError, match=r"Condition.__init__\(\) not called"):
        pickle.dumps(condition)


class Traced:
    """A lock that knows how to be given back and taken again, and notes what is done with it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def acquire(self, *args: object) -> str:
        self.calls.append(("acquire", *args))
        return "acquired"

    def release(self) -> None:
        self.calls.append("release")

    def __enter__(self) -> str:
        self.calls.append("enter")
        return "entered"

    def __exit__(self, *args: object) -> None:
        self.calls.append(("exit", *args))

    def locked(self) -> str:
        return "locked?"

    def _is_owned(self) -> int:
        return 1

    def _release_save(self) -> str:
        self.calls.append("save")
        return "saved"

    def _acquire_restore(self, saved: object) -> None:
        self.calls.append(("restore", saved))


def test_another_lock_is_asked_by_its_own_methods() -> None:
    lock = Traced()
    condition = Condition(lock)
    assert condition.acquire(1, 2) == "acquired"  # type: ignore[comparison-overlap]
    condition.release()
    with condition as entered:
        assert entered == "entered"  # type: ignore[comparison-overlap]
    assert condition.locked() == "locked?"  # type: ignore[comparison-overlap]
    assert condition._is_owned() is True
    assert condition.wait(0) is False
    condition.notify()
    expected = [("acquire", 1, 2), "release", "enter", ("exit", None, None, None), "save", ("restore", "saved")]
    assert lock.calls == expected


def test_an_error_of_another_lock_leaves_with_what_came_before_as_context() -> None:
    class Broken(Traced):
        def _acquire_restore(self, _saved: object) -> None:
            raise ArithmeticError

    condition = Condition(Broken())
    with pytest.raises(ArithmeticError) as raised:
        condition.wait(0)
    assert raised.value.__context__ is None

    def handle(*_: object) -> None:
        raise LookupError

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(ArithmeticError) as raised:
            condition.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert isinstance(raised.value.__context__, LookupError)
    assert waiting(condition) == 0


def test_a_lock_that_is_not_given_back_leaves_no_waiter() -> None:
    class Kept(Traced):
        def _release_save(self) -> str:
            raise ArithmeticError

    condition = Condition(Kept())
    with pytest.raises(ArithmeticError):
        condition.wait()
    assert waiting(condition) == 0


@pytest.fixture
def alarm() -> Iterator[list[bool]]:
    """Lets SIGALRM raise ArithmeticError; has an entry for each time that it did."""
    before = signal.getsignal(signal.SIGALRM)
    handled: list[bool] = []

    def handle(*_: object) -> None:
        handled.append(True)
        raise ArithmeticError

    signal.signal(signal.SIGALRM, handle)
    yield handled
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", [Lock, RLock])
def test_a_signal_handler_may_end_the_wait_and_the_lock_is_held_then(make: Any, alarm: list[bool]) -> None:
    condition = Condition(make())
    with condition:
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(ArithmeticError):
            condition.wait()
        assert condition._is_owned()
        assert in_thread(condition.acquire, False).result(AMPLE) is False
    assert alarm == [True]
    assert not condition.locked()
    assert waiting(condition) == 0


@pytest.mark.parametrize("make", [Lock, RLock])
def test_an_exception_leaves_only_when_the_lock_is_taken_back(make: Any, alarm: list[bool]) -> None:
    condition, taken = Condition(make()), threading.Event()

    def hold_until_handled() -> None:
        with condition:
            taken.set()
            while len(alarm) < 3:
                time.sleep(MOMENT / 10)

    with condition:
        holding = in_thread(hold_until_handled)
        signal.setitimer(signal.ITIMER_REAL, 2 * MOMENT, MOMENT)
        with pytest.raises(ArithmeticError) as raised:
            condition.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert taken.is_set()
        assert condition._is_owned()
        assert in_thread(condition.acquire, False).result(AMPLE) is False
    assert isinstance(raised.value.__context__, ArithmeticError)
    holding.result(AMPLE)


@pytest.mark.parametrize("make", [Lock, RLock])
def test_a_notification_of_one_who_raises_goes_to_another(make: Any, alarm: list[bool]) -> None:
    condition = Condition(make())
    other: list[Future[bool]] = []

    def notify_and_disturb() -> None:
        until_waiting(condition, 1)  # the main thread, which is the first
        other.append(in_thread(wait, condition))
        until_waiting(condition, 2)
        with condition:
            condition.notify()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            while not alarm:
                time.sleep(MOMENT / 10)

    with condition:
        disturbing = in_thread(notify_and_disturb)
        with pytest.raises(ArithmeticError):
            condition.wait()
    disturbing.result(AMPLE)
    assert other[0].result(AMPLE) is True


@pytest.mark.parametrize("make", [Lock, RLock])
def test_a_notification_of_an_interpreter_that_is_interrupted_goes_to_another(make: Any) -> None:
    condition = Condition(make())
    first = started(workers.wait_on, condition)
    until_waiting(condition, 1)
    second = started(workers.wait_on, condition)
    until_waiting(condition, 2)
    with condition:
        condition.notify()
        first.interrupt()
    assert isinstance(first.exception(AMPLE), KeyboardInterrupt)
    assert second.result(AMPLE) is True
    assert not condition.locked()


def test_a_notification_does_not_go_to_one_who_came_later() -> None:
    condition = Condition()
    first = started(workers.wait_on, condition)
    until_waiting(condition, 1)
    with condition:
        condition.notify_all()
        first.interrupt()
        assert condition.wait(4 * MOMENT) is False
    assert isinstance(first.exception(AMPLE), KeyboardInterrupt)


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_an_interpreter_that_waits_can_be_ended(how: str) -> None:
    condition = Condition()
    interpreter = started(workers.wait_on, condition)
    until_waiting(condition, 1)
    getattr(interpreter, how)()
    interpreter.join(AMPLE)
    assert not interpreter.is_alive()
    assert waiting(condition) == 0
    assert not condition.locked()


class Accounts:
    """What every wait and notification is entered in, under the lock; `due` is what is still to be woken."""

    def __init__(self) -> None:
        self.waiting = self.due = self.notified = self.woken = self.timed_out = 0


def test_no_notification_is_lost_or_made_up_when_waits_time_out() -> None:
    condition, accounts, end = Condition(Lock()), Accounts(), time.monotonic() + 2.0

    def wait_again_and_again(timeout: float) -> None:
        while time.monotonic() < end:
            with condition:
                accounts.waiting += 1
                notified = condition.wait(timeout)
                accounts.waiting -= 1
                accounts.due -= notified
                accounts.woken += notified
                accounts.timed_out += not notified

    def notify_again_and_again(n: int) -> None:
        while time.monotonic() < end + MOMENT:
            with condition:
                count = min(n, accounts.waiting - accounts.due)
                condition.notify(n)
                accounts.due += count
                accounts.notified += count
            time.sleep(0)

    waits = [in_thread(wait_again_and_again, timeout) for timeout in (1e-6, 1e-5, 1e-4, 1e-3, 1e-3, 1e-2)]
    notifies = [in_thread(notify_again_and_again, n) for n in (1, 3)]
    for future in waits + notifies:
        future.result(AMPLE)
    assert (accounts.waiting, accounts.due) == (0, 0)
    assert accounts.woken == accounts.notified > 0
    assert accounts.timed_out > 0


@in_fresh_process
def test_fifty_can_wait() -> None:
    condition = Condition()
    waits = []
    for count in range(1, 51):
        waits.append(in_thread(wait, condition))
        until_waiting(condition, count)
    statistics = multigil._core.statistics()
    assert statistics["benches"] == 1
    for count in range(1, 31):
        notify(condition)
        waits[count - 1].result(AMPLE)
    assert released(waits, 30) == list(range(30))
    more = [in_thread(wait, condition) for _ in range(30)]  # in the seats of those who have left
    until_waiting(condition, 50)
    with condition:
        condition.notify_all()
    assert all(future.result(AMPLE) for future in waits + more)
    assert multigil._core.statistics()["benches"] == 1
    del condition, waits, more
    gc.collect()
    limit = time.monotonic() + AMPLE  # threads may still be on their way out
    while multigil._core.statistics()["conditions"] and time.monotonic() < limit:
        time.sleep(MOMENT / 10)
    left = multigil._core.statistics()
    assert (left["conditions"], left["benches"], left["rlocks"]) == (0, 0, 0)


def test_it_is_the_same_condition_with_the_same_lock_in_every_interpreter() -> None:
    lock = Lock()
    conditions = Condition(lock), Condition(lock), Condition()
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(workers.identity, conditions) == conditions
        assert interpreter.call(workers.locks_of, conditions) == [lock, lock, conditions[2]._lock]
        with conditions[0]:
            assert interpreter.call(conditions[1].acquire, False) is False
            assert interpreter.call(repr, conditions[0]).startswith("<Condition(<locked multigil.Lock object at ")
    assert pickle.loads(pickle.dumps(conditions[0])) is conditions[0]


def test_a_subclass_stays_one_in_another_interpreter() -> None:
    condition = workers.NamedCondition("a", OwnRLock())
    with multigil.Interpreter() as interpreter:
        with condition:
            assert interpreter.call(workers.classes_of, condition) == ("NamedCondition", "OwnRLock")
            assert interpreter.call(condition.acquire, False) is False
        assert interpreter.call(condition.acquire, False) is True


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, MinimalLock])
def test_a_lock_that_is_not_ours_keeps_it_in_its_interpreter(make: Callable[[], Any]) -> None:
    condition = Condition(make())
    carrier: SimpleQueue[Condition] = SimpleQueue()
    for send in (pickle.dumps, carrier.put):
        with pytest.raises(NotShareable, match=r"can leave its interpreter only with a lock of multigil, not with <"):
            send(condition)
    assert carrier.empty()
    assert issubclass(NotShareable, multigil.MultigilError)
    assert issubclass(NotShareable, TypeError)


def test_it_outlives_its_maker() -> None:
    carrier = SimpleQueue[Condition]()
    started(workers.put_new, carrier, "Condition").join(AMPLE)
    condition = carrier.get_nowait()
    interpreter = started(workers.wait_on, condition)
    until_waiting(condition, 1)
    with condition:
        condition.notify()
    assert interpreter.result(AMPLE) is True


def test_threads_and_interpreters_wait_together() -> None:
    condition = Condition(Lock())
    waits: list[Future[bool] | multigil.Interpreter] = []
    for count, begin in enumerate([in_thread, started, started, in_thread], 1):
        waits.append(begin(workers.wait_on, condition))
        until_waiting(condition, count)
    for each in waits:
        with condition:
            condition.notify()
        assert each.result(AMPLE) is True


@pytest.mark.parametrize("make", [Lock, RLock])
def test_a_buffer_of_two_conditions_passes_every_item_once(make: Any) -> None:
    lock = make()
    not_empty, not_full, items = Condition(lock), Condition(lock), SimpleQueue[int]()
    count, times = 3, 500
    consumers = [started(workers.consume_under, not_empty, not_full, items, times) for _ in range(count)]
    producers = [
        started(workers.produce_under, not_empty, not_full, items, range(place * times, (place + 1) * times))
        for place in range(count)
    ]
    for producer in producers:
        producer.result(2 * AMPLE)
    received = [number for consumer in consumers for number in consumer.result(2 * AMPLE)]
    assert sorted(received) == list(range(count * times))
    assert items.empty()


def test_a_weak_reference_ends_with_the_last_strong_one() -> None:
    class Linked(Condition):
        me: Condition

    condition = Linked(Lock())
    condition.me = condition
    condition_reference, lock_reference = weakref.ref(condition), weakref.ref(condition._lock)
    assert condition_reference() is condition
    del condition
    gc.collect()
    assert condition_reference() is None
    assert lock_reference() is None


def test_a_forked_child_has_no_waiters(run_program: ProgramRunner) -> None:
    source = """
        import os, threading, time, multigil
        condition = multigil.Condition()
        def wait():
            with condition:
                condition.wait()
        threads = [threading.Thread(target=wait) for _ in range(20)]
        for thread in threads:
            thread.start()
        while ", 20)" not in repr(condition):
            time.sleep(0.01)
        condition.acquire()
        child = os.fork()
        if not child:
            condition._at_fork_reinit()
            os._exit(", 0)" not in repr(condition) or condition.locked())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        condition.notify_all()
        condition.release()
        for thread in threads:
            thread.join()
        print(status, condition.locked())
    """
    assert run_program.output(source, options=["-W", "ignore::DeprecationWarning"]) == "0 False\n"
