"""`Value` is `multiprocessing.Value` between threads and interpreters, with what a machine can do in one step."""

from __future__ import annotations

import array
import concurrent.futures
import ctypes
import gc
import inspect
import math
import multiprocessing
import operator
import pickle
import re
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cell_workers
import multigil
from harness import AMPLE, MOMENT, ProgramRunner, assert_waits, in_fresh_process, in_thread, started
from multigil import Lock, Queue, RLock, SimpleQueue, StaleHandle, Value, _core

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNED = "bhilq"
UNSIGNED = "BHILQ"
INTEGERS = SIGNED + UNSIGNED
NUMBERS = INTEGERS + "fd"


def limits(typecode: str) -> tuple[int, int]:
    bits = 8 * struct.calcsize(typecode)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if typecode in SIGNED else (0, 2**bits - 1)


def outcome(function: Callable[..., Any], *args: object) -> object:
    """What a call returns, as text, or the exception that it raises."""
    try:
        return repr(function(*args))
    except (TypeError, OverflowError, ValueError) as error:
        return type(error), str(error)


# --------------------------------------------------------------------------------------- one thread


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("fetch_add", "(self, /, n)"),
        ("fetch_sub", "(self, /, n)"),
        ("fetch_and", "(self, /, n)"),
        ("fetch_or", "(self, /, n)"),
        ("fetch_xor", "(self, /, n)"),
        ("exchange", "(self, /, value)"),
        ("compare_exchange", "(self, /, expected, new)"),
        ("wait", "(self, /, expected, timeout=None)"),
        ("notify", "(self, /, n=1)"),
        ("notify_all", "(self, /)"),
        ("get_lock", "(self, /)"),
        ("get_obj", "(self, /)"),
    ],
)
def test_signatures(method: str, signature: str) -> None:
    assert str(inspect.signature(getattr(Value, method))) == signature
    assert str(inspect.signature(Value)) == "(typecode, value=0, *, lock=True)"


@pytest.mark.parametrize("typecode", [*NUMBERS, "?", "c"])
def test_it_is_zero_if_nothing_is_said_as_in_multiprocessing(typecode: str) -> None:
    value = Value(typecode)
    theirs = multiprocessing.Value(ctypes.c_bool if typecode == "?" else typecode, lock=False)
    assert (value.typecode, repr(value.value)) == (typecode, repr(theirs.value))


@pytest.mark.parametrize("typecode", INTEGERS)
def test_it_holds_the_numbers_of_its_range_and_no_others(typecode: str) -> None:
    least, most = limits(typecode)
    value = Value(typecode, least)
    assert value.value == least
    value.value = most
    assert value.value == most
    for beyond in (least - 1, most + 1, -(2**70), 2**70):
        with pytest.raises(OverflowError):
            value.value = beyond
        with pytest.raises(OverflowError):
            Value(typecode, beyond)
    assert value.value == most


def around(typecode: str) -> st.SearchStrategy[int]:
    """Integers in the range and a little beyond; of what is further off, an `array` names another range."""
    least, most = limits(typecode)
    return st.integers(least, most) | st.integers(least - 9, least + 9) | st.integers(most - 9, most + 9)


anything = st.floats() | st.booleans() | st.none() | st.text(max_size=2) | st.binary(max_size=2)


@given(data=st.data(), typecode=st.sampled_from(NUMBERS))
def test_it_takes_what_an_array_takes_and_raises_what_an_array_raises(data: st.DataObject, typecode: str) -> None:
    new: Any = data.draw(around(typecode) | anything)
    theirs: array.array[Any] = array.array(typecode, [0])
    value = Value(typecode)
    expected = outcome(theirs.__setitem__, 0, new)
    assert outcome(setattr, value, "value", new) == expected
    assert repr(value.value) == repr(theirs[0])
    assert outcome(lambda: Value(typecode, new).value) == (expected if isinstance(expected, tuple) else repr(theirs[0]))


@pytest.mark.parametrize("new", [0, 1, 5, "", "x", None, [], [0], 0.0])
def test_a_bool_is_the_truth_of_anything(new: object) -> None:
    value = Value("?", new)
    assert value.value is bool(new)


@pytest.mark.parametrize("new", [b"x", bytearray(b"y"), 0, 255])
def test_a_char_takes_what_ctypes_takes(new: Any) -> None:
    assert Value("c", new).value == ctypes.c_char(new).value


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("x", "one character bytes, bytearray, or an integer in range(256) expected, not str"),
        (b"", "one character bytes, bytearray, or an integer in range(256) expected, not bytes"),
        (bytearray(2), "one character bytes, bytearray, or an integer in range(256) expected, not bytearray"),
        (256, "integer not in range(256)"),
        (-1, "integer not in range(256)"),
        (2**70, "integer not in range(256)"),
    ],
)
def test_a_char_refuses_what_ctypes_refuses(new: Any, message: str) -> None:
    with pytest.raises(TypeError):
        ctypes.c_char(new)
    with pytest.raises(TypeError, match=re.escape(message)):
        Value("c", new)


CTYPES: list[Any] = [
    *(ctypes.c_byte, ctypes.c_short, ctypes.c_int, ctypes.c_long, ctypes.c_longlong, ctypes.c_size_t, ctypes.c_int8),
    *(ctypes.c_ubyte, ctypes.c_ushort, ctypes.c_uint, ctypes.c_ulong, ctypes.c_float, ctypes.c_double, ctypes.c_bool),
    *(ctypes.c_char, ctypes.c_uint64),
]


@pytest.mark.parametrize("type_", CTYPES)
def test_a_type_of_ctypes_is_as_good_as_its_typecode(type_: Any) -> None:
    value = Value(type_)
    assert value.typecode == type_._type_
    assert repr(value.value) == repr(type_().value)


@pytest.mark.parametrize("typecode", ["x", "", "ii", "u", "w", "é", ctypes.c_wchar, ctypes.c_void_p, ctypes.py_object])
def test_other_typecodes_are_value_errors_that_name_the_good_ones(typecode: Any) -> None:
    message = "bad typecode (must be c, b, B, h, H, i, I, l, L, q, Q, f, d or ?)"
    with pytest.raises(ValueError, match=re.escape(message)):
        Value(typecode)


@pytest.mark.parametrize("typecode", [None, 5, b"i", [], int, ctypes.c_int * 3, ctypes.Structure])
def test_what_is_no_typecode_at_all_is_a_type_error(typecode: Any) -> None:
    with pytest.raises(TypeError, match="typecode must be a character or a type of ctypes, not "):
        Value(typecode)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), (("i", 1, True), {}), (("i",), {"values": 3}), (("i",), {"typecode": "i"})]
)
def test_wrong_arguments_are_type_errors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Value(*args, **kwargs)


def test_attributes_that_cannot_be_changed() -> None:
    value = Value("i", 5)
    with pytest.raises(AttributeError):
        del value.value
    with pytest.raises(AttributeError):
        value.typecode = "d"  # type: ignore[misc]
    assert look(value) == (5, "i")


look = cell_workers.look


def test_its_repr_says_what_it_holds() -> None:
    assert re.fullmatch(r"<multigil\.Value at 0x[0-9a-f]+: 'd', 1\.5>", repr(Value("d", 1.5)))
    assert re.fullmatch(r"<cell_workers\.Counter at 0x[0-9a-f]+: 'b', -1>", repr(cell_workers.Counter("b", -1)))


# --------------------------------------------------------------------------------------- one step

INTEGER_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "fetch_add": operator.add,
    "fetch_sub": operator.sub,
    "fetch_and": operator.and_,
    "fetch_or": operator.or_,
    "fetch_xor": operator.xor,
}


@given(data=st.data(), typecode=st.sampled_from(INTEGERS), method=st.sampled_from(list(INTEGER_OPERATIONS)))
def test_operations_are_those_of_integers_within_the_range(data: st.DataObject, typecode: str, method: str) -> None:
    least, most = limits(typecode)
    old = data.draw(st.integers(least, most) | st.sampled_from([least, most, 0]))
    n = data.draw(st.integers(-300, 300) | st.integers(-(2**64) + 1, 2**64 - 1))
    value = Value(typecode, old)
    new = INTEGER_OPERATIONS[method](old, n)
    if least <= new <= most:
        assert getattr(value, method)(n) == old
        assert value.value == new
    else:
        with pytest.raises(OverflowError):
            getattr(value, method)(n)
        assert value.value == old


@pytest.mark.parametrize("method", INTEGER_OPERATIONS)
@pytest.mark.parametrize("n", [2**64, -(2**64), 2**200])
def test_a_number_of_more_than_64_bits_is_an_overflow_error_that_changes_nothing(method: str, n: int) -> None:
    value = Value("Q", 2**63)
    with pytest.raises(OverflowError):
        getattr(value, method)(n)
    assert value.value == 2**63


@given(old=st.floats(), n=st.floats() | st.integers(-(2**60), 2**60))
def test_sums_of_doubles_are_those_of_floats(old: float, n: float) -> None:
    for method, operation in (("fetch_add", operator.add), ("fetch_sub", operator.sub)):
        value = Value("d", old)
        assert repr(getattr(value, method)(n)) == repr(old)
        assert repr(value.value) == repr(operation(old, n))


def test_sums_of_single_floats_are_rounded_to_single_floats() -> None:
    value = Value("f", 0.1)
    rounded = struct.unpack("f", struct.pack("f", 0.1))[0]
    assert value.fetch_add(0.2) == rounded
    assert value.value == struct.unpack("f", struct.pack("f", rounded + 0.2))[0]
    value.value = 3e38
    value.fetch_add(3e38)
    assert value.value == math.inf


def test_bits_of_bools_are_bools() -> None:
    value = Value("?")
    assert value.fetch_or(True) is False
    assert value.fetch_and(True) is True
    assert value.fetch_xor(True) is True
    assert value.value is False


@pytest.mark.parametrize(
    ("typecode", "methods"),
    [
        ("f", ["fetch_and", "fetch_or", "fetch_xor"]),
        ("d", ["fetch_and", "fetch_or", "fetch_xor"]),
        ("?", ["fetch_add", "fetch_sub"]),
        ("c", list(INTEGER_OPERATIONS)),
    ],
)
def test_an_operation_that_a_type_does_not_have_is_a_type_error(typecode: str, methods: list[str]) -> None:
    value = Value(typecode, 1)
    before = value.value
    for method in methods:
        with pytest.raises(TypeError, match=re.escape(f"elements of typecode '{typecode}' have no such operation")):
            getattr(value, method)(1)
    assert value.value == before


@pytest.mark.parametrize("method", ["fetch_add", "fetch_or", "exchange"])
def test_a_wrong_operand_is_a_type_error_that_changes_nothing(method: str) -> None:
    value = Value("i", 5)
    for wrong in ("1", 1.5, None, [1]):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            getattr(value, method)(wrong)
    assert value.value == 5


def test_exchange_gives_the_old_value() -> None:
    value = Value("h", 3)
    assert value.exchange(-4) == 3
    with pytest.raises(OverflowError, match="signed short integer is greater than maximum"):
        value.exchange(2**15)
    assert value.exchange(value=0) == -4


def test_compare_exchange_tells_whether_it_was_the_expected_value() -> None:
    value = Value("B", 3)
    assert value.compare_exchange(3, 5) is True
    assert value.compare_exchange(3, 7) is False
    assert value.compare_exchange(expected=5, new=6) is True
    for wrong in ((256, 1), (6, -1)):
        with pytest.raises(OverflowError):
            value.compare_exchange(*wrong)
    assert value.value == 6


def test_floats_are_compared_bit_by_bit() -> None:
    value = Value("d", math.nan)
    assert value.compare_exchange(math.nan, 0.0) is True
    assert value.compare_exchange(-0.0, 1.0) is False
    assert value.compare_exchange(0, 1) is True
    single = Value("f", 0.1)
    assert single.compare_exchange(0.1, 0.2) is True


# --------------------------------------------------------------------------------------- at once


@pytest.mark.parametrize("add", [cell_workers.add, cell_workers.add_by_compare_exchange, cell_workers.add_with_lock])
@pytest.mark.parametrize("typecode", ["i", "Q", "d", "f"])
def test_additions_of_threads_are_all_counted(add: Callable[[Value, int, int], None], typecode: str) -> None:
    value = Value(typecode)
    adding = [in_thread(add, value, 5_000, 1) for _ in range(4)]
    for each in adding:
        each.result(AMPLE)
    assert value.value == 20_000


@pytest.mark.parametrize("typecode", ["i", "d"])
def test_100_000_additions_of_each_of_4_interpreters_are_all_counted(typecode: str) -> None:
    value = Value(typecode)
    adding = [started(cell_workers.add, value, 100_000, n) for n in (1, 2, 3, 4)]
    for each in adding:
        each.result(AMPLE)
    assert value.value == 1_000_000


@pytest.mark.parametrize("add", [cell_workers.add_by_compare_exchange, cell_workers.add_with_lock])
def test_other_additions_of_interpreters_are_all_counted(add: Callable[[Value, int, int], None]) -> None:
    value = Value("q")
    adding = [started(add, value, 10_000, n) for n in (1, -3)]
    for each in adding:
        each.result(AMPLE)
    assert value.value == -20_000


# --------------------------------------------------------------------------------------- waiting


def test_a_wait_for_what_is_there_already_is_over_at_once() -> None:
    assert Value("i", 5).wait(4) is True
    assert Value("i", 5).wait(expected=4, timeout=0) is True


@pytest.mark.parametrize("timeout", [0, -1, 0.001, 0.05])
def test_a_wait_gives_false_when_its_time_is_up(timeout: float) -> None:
    changed, waited, _ = cell_workers.timed_wait(Value("i", 5), timeout)
    assert changed is False
    assert waited >= timeout


def test_a_wait_costs_no_processor_time() -> None:
    _, waited, processor = cell_workers.timed_wait(Value("d", 5), 0.5)
    assert processor < waited / 10


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"timeout": math.nan}, ValueError),
        ({"timeout": 1e12}, OverflowError),
        ({"timeout": "1"}, TypeError),
        ({"expected": "1"}, TypeError),
        ({"expected": 2**40}, OverflowError),
    ],
)
def test_wrong_arguments_of_wait(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Value("i").wait(**{"expected": 0, **kwargs})


@pytest.mark.parametrize("n", [0, -1, -(2**70)])
def test_notifying_fewer_than_one_is_a_value_error(n: int) -> None:
    with pytest.raises(ValueError, match="n must be one or more"):
        Value("i").notify(n)


def test_notifying_nobody_is_forgotten() -> None:
    value = Value("i")
    value.notify()
    value.notify(2**70)
    value.notify_all()
    assert value.wait(0, MOMENT) is False


@pytest.mark.parametrize("typecode", ["b", "H", "i", "d", "?"])
def test_a_wait_ends_when_the_value_was_changed_and_notified(typecode: str) -> None:
    value = Value(typecode)
    waiting = in_thread(value.wait, value.value)
    assert_waits(waiting)
    value.notify()  # it has not changed
    assert_waits(waiting)
    value.value = 1
    value.notify()
    assert waiting.result(AMPLE) is True


def test_each_notification_wakes_at_least_as_many_as_it_says() -> None:
    value = Value("i")
    waiting = [in_thread(value.wait, 0) for _ in range(6)]
    assert_waits(*waiting)
    value.value = 1
    still_waiting = set(waiting)
    for n, left in ((1, 5), (2, 3)):
        value.notify(n)
        while len(still_waiting) > left:
            woken, still_waiting = concurrent.futures.wait(still_waiting, AMPLE, concurrent.futures.FIRST_COMPLETED)
            assert woken
    value.notify_all()
    assert [future.result(AMPLE) for future in waiting] == [True] * 6


def test_a_notification_reaches_the_one_that_waits_for_something_else() -> None:
    value = Value("i", 1)
    others = [in_thread(value.wait, 1, AMPLE) for _ in range(3)]
    assert_waits(*others)
    value.value = 2
    waiting = in_thread(value.wait, 2)
    assert_waits(waiting)
    value.value = 1
    value.notify()
    assert waiting.result(AMPLE) is True
    value.value = 3
    value.notify(3)
    assert [other.result(AMPLE) for other in others] == [True] * 3


def test_those_who_were_woken_in_vain_let_each_other_sleep() -> None:
    value = Value("i")
    waiting = [in_thread(value.wait, 0, 10 * MOMENT) for _ in range(3)]
    assert_waits(*waiting)
    before = time.process_time()
    value.notify()
    assert [future.result(AMPLE) for future in waiting] == [False] * 3
    assert time.process_time() - before < 2 * MOMENT


def test_interpreters_take_turns() -> None:
    value = Value("i")
    one, other = (started(cell_workers.take_turns, value, 5_000, first) for first in (0, 1))
    one.result(AMPLE)
    other.result(AMPLE)
    assert value.value == 10_000


def test_a_change_wakes_all_interpreters_that_wait() -> None:
    value = Value("d", 1.5)
    waiting: SimpleQueue[None] = SimpleQueue()
    interpreters = [started(cell_workers.wait_for_change, value, 1.5, waiting) for _ in range(3)]
    for _ in interpreters:
        waiting.get(timeout=AMPLE)
    cell_workers.set_value(value, 2.5)
    assert [interpreter.result(AMPLE) for interpreter in interpreters] == [2.5] * 3


def test_interrupt_and_terminate_end_a_wait() -> None:
    value = Value("i")
    waiting: SimpleQueue[None] = SimpleQueue()
    interrupted, terminated = (started(cell_workers.wait_for_change, value, 0, waiting) for _ in range(2))
    for _ in range(2):
        waiting.get(timeout=AMPLE)
    interrupted.interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupted.result(AMPLE)
    terminated.terminate(AMPLE)
    assert not terminated.is_alive()


def test_ctrl_c_ends_a_wait(run_program: ProgramRunner) -> None:
    program = """
        import multigil
        value = multigil.Value("i")
        print("waiting", flush=True)
        try:
            value.wait(0)
        except KeyboardInterrupt:
            print("interrupted")
    """
    ran = run_program(program, interrupt_after="waiting")
    assert (ran.stdout, ran.stderr, ran.status) == ("waiting\ninterrupted\n", "", 0)


def test_diagnosis_shows_who_waits() -> None:
    value = Value("i")
    waiting = in_thread(value.wait, 0)
    assert_waits(waiting)
    assert "Value or Array" in [class_ for *_, (class_, _, _) in _core.waits()]
    cell_workers.set_value(value, 1)
    waiting.result(AMPLE)


# --------------------------------------------------------------------------------------- the lock


def test_its_lock_is_an_rlock_of_its_own() -> None:
    value = Value("i")
    assert type(value.get_lock()) is RLock
    assert value.get_lock() is value.get_lock()
    assert Value("i").get_lock() is not value.get_lock()
    assert type(Value("i", lock=None).get_lock()) is RLock


def test_its_lock_is_the_same_for_everybody() -> None:
    value = Value("i")
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.try_lock, value)
        with value:
            assert not interpreter.call(cell_workers.try_lock, value)
        assert interpreter.call(cell_workers.try_lock, value)
        assert interpreter.call(cell_workers.lock_type, value) == "RLock"


def test_another_lock_is_taken_along() -> None:
    lock = Lock()
    value = Value("i", lock=lock)
    assert value.get_lock() is lock
    with multigil.Interpreter() as interpreter, lock:
        assert interpreter.call(cell_workers.lock_type, value) == "Lock"
        assert not interpreter.call(cell_workers.try_lock, value)


def test_a_lock_that_cannot_be_pickled_says_so() -> None:
    value = Value("i", lock=threading.Lock())
    with value:
        assert value.get_lock().locked()
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(value)


def test_without_a_lock_there_is_none() -> None:
    value = Value("i", lock=False)
    uses: list[Callable[[], object]] = [value.get_lock, value.acquire, value.release, value.__enter__]
    for use in uses:
        with pytest.raises(AttributeError, match="there is no lock: it was made with lock=False"):
            use()
    assert value.fetch_add(1) == 0


def test_what_has_no_acquire_is_no_lock() -> None:
    with pytest.raises(AttributeError, match="3 has no method 'acquire'"):
        Value("i", lock=3)


def test_acquire_release_and_with_are_the_locks() -> None:
    value = Value("i")
    assert value.acquire() is True
    assert value.acquire(False) is True
    value.release()
    assert in_thread(value.acquire, timeout=0.01).result(AMPLE) is False
    with value as entered:
        assert entered is True
    value.release()
    with pytest.raises(RuntimeError):
        value.release()


def test_the_value_itself_needs_no_lock() -> None:
    value = Value("i", 1)
    with value:
        in_thread(cell_workers.set_value, value, 2).result(AMPLE)
    assert value.get_obj() is value
    assert value.value == 2


# --------------------------------------------------------------------------------------- one object for all


def test_it_is_one_object_in_an_interpreter_and_one_value_in_all() -> None:
    value = Value("i", 5)
    assert pickle.loads(pickle.dumps(value)) is value
    with multigil.Interpreter() as interpreter:
        interpreter.call(cell_workers.set_value, value, 6)
        assert interpreter.call(cell_workers.look, value) == (6, "i")
    assert value.value == 6


def test_a_subclass_travels_as_such() -> None:
    counter = cell_workers.Counter("i", lock=False)
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.Counter.increment, counter) == 0
    assert counter.increment() == 1


def test_it_outlives_the_interpreter_that_made_it() -> None:
    carrier: Queue[Any] = Queue()
    started(cell_workers.make_values, carrier).join(AMPLE)
    value, array = carrier.get(timeout=AMPLE)
    assert value.fetch_add(1) == 7
    assert array[:] == [1.5, 2.5]
    with value, array:
        pass


def test_once_it_is_gone_its_pickle_is_stale() -> None:
    pickled = pickle.dumps(Value("i", lock=False))
    with pytest.raises(StaleHandle):
        pickle.loads(pickled)


@in_fresh_process
def test_its_memory_comes_back() -> None:
    def counts() -> tuple[int, int, int]:
        gc.collect()
        statistics = _core.statistics()
        return statistics["memories"], statistics["rlocks"], statistics["bytes_in_use"]

    before = counts()
    values = [Value("d", number) for number in range(1000)]
    assert counts()[:2] == (before[0] + 1000, before[1] + 1000)
    assert sum(value.value for value in values) == sum(range(1000))
    with pytest.raises(OverflowError):
        Value("b", 1000)
    del values
    assert counts() == before


def test_it_is_collected_in_a_cycle_with_its_lock() -> None:
    class Holder(RLock):
        value: Value

    lock = Holder()
    lock.value = Value("i", lock=lock)
    gone = weakref.ref(lock.value)
    del lock
    gc.collect()
    assert gone() is None


def test_a_pickle_of_something_else_is_refused() -> None:
    """What is no value's memory is an error, not a crash."""
    lock = multigil.Lock()
    rebuild, (number, region, *others) = lock.__reduce__()  # type: ignore[misc]
    assert number == 3
    with pytest.raises(multigil.RegionCorrupt):
        rebuild(12, region, *others)
