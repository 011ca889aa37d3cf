"""`Array` is `multiprocessing.Array` between threads and interpreters, a buffer, and each element a `Value`."""

from __future__ import annotations

import array
import ctypes
import gc
import inspect
import math
import multiprocessing
import pickle
import re
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cell_workers
import multigil
from harness import AMPLE, MOMENT, assert_waits, in_fresh_process, in_thread, started
from machine import resident_bytes
from multigil import Array, Lock, RLock, StaleHandle, _core

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
SIGNED = "bhilq"
UNSIGNED = "BHILQ"
INTEGERS = SIGNED + UNSIGNED
NUMBERS = INTEGERS + "fd"


def outcome(function: Callable[..., Any], *args: object) -> object:
    """What a call returns, as text, or the type and text of what it raises."""
    try:
        return repr(function(*args))
    except (TypeError, OverflowError, ValueError, IndexError) as error:
        return type(error), str(error)


# --------------------------------------------------------------------------------------- making one


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("fetch_add", "(self, /, index, n)"),
        ("fetch_sub", "(self, /, index, n)"),
        ("fetch_and", "(self, /, index, n)"),
        ("fetch_or", "(self, /, index, n)"),
        ("fetch_xor", "(self, /, index, n)"),
        ("exchange", "(self, /, index, value)"),
        ("compare_exchange", "(self, /, index, expected, new)"),
        ("wait", "(self, /, index, expected, timeout=None)"),
        ("notify", "(self, /, index, n=1)"),
        ("notify_all", "(self, /, index)"),
    ],
)
def test_signatures(method: str, signature: str) -> None:
    assert str(inspect.signature(getattr(Array, method))) == signature
    assert str(inspect.signature(Array)) == "(typecode, size_or_values, *, lock=True)"


@pytest.mark.parametrize("typecode", [*NUMBERS, "?", "c"])
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_an_array_of_a_size_is_of_zeros(typecode: str, size: int) -> None:
    made = Array(typecode, size)
    theirs = multiprocessing.Array(ctypes.c_bool if typecode == "?" else typecode, size, lock=False)
    assert (made.typecode, len(made)) == (typecode, size)
    assert repr(made[:]) == repr(theirs[:])


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2, 3), range(1, 4), b"\1\2\3", array.array("h", [1, 2, 3]), []])
def test_an_array_of_values_holds_them(values: Any) -> None:
    assert Array("q", values)[:] == list(values)
    assert Array(ctypes.c_double, iter(values))[:] == [float(number) for number in values]


def test_an_index_is_a_size_unless_it_has_items() -> None:
    class Index:
        def __index__(self) -> int:
            return 3

    class ArrayOfOne(Index):  # numpy's can be used as an index, too
        def __iter__(self) -> Any:
            return iter([9])

    assert Array("i", Index())[:] == [0, 0, 0]  # type: ignore[arg-type]
    assert Array("i", ArrayOfOne())[:] == [9]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("i", -1), ValueError, "Array length must be >= 0, not -1"),
        (("i", 2**70), OverflowError, "cannot fit 'int' into an index-sized integer"),
        (("i", 1.5), TypeError, "'float' object is not iterable"),
        (("i", None), TypeError, "'NoneType' object is not iterable"),
        (("i", [1, "2"]), TypeError, "'str' object cannot be interpreted as an integer"),
        (("i", "12"), TypeError, "'str' object cannot be interpreted as an integer"),
        (("B", [1, 256]), OverflowError, "unsigned byte integer is greater than maximum"),
        (("x", 1), ValueError, "bad typecode"),
        (("i",), TypeError, "missing required argument 'size_or_values'"),
        (("i", 1, True), TypeError, "at most 2 positional arguments"),
    ],
)
def test_wrong_arguments(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    before = _core.statistics()["memories"]
    with pytest.raises(error, match=re.escape(message)):
        Array(*args)
    assert _core.statistics()["memories"] == before


@pytest.mark.parametrize("size", [2**44, 2**60, 2**63 - 1])
def test_an_array_too_large_for_any_memory_is_an_error_that_names_both_numbers(size: int) -> None:
    with pytest.raises(MemoryError) as caught:
        Array("d", size)
    needed, available = (int(number) for number in re.findall(r"\d+", str(caught.value))[:2])
    assert needed > available
    assert needed >= min(8 * size, 2**63)


def test_its_repr_says_how_many_of_what_it_has() -> None:
    assert re.fullmatch(r"<multigil\.Array at 0x[0-9a-f]+: 3 of 'd'>", repr(Array("d", 3)))


# --------------------------------------------------------------------------------------- as a sequence


@given(data=st.data(), typecode=st.sampled_from(NUMBERS))
def test_elements_are_those_of_an_array(data: st.DataObject, typecode: str) -> None:
    bits = 8 * struct.calcsize(typecode)
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if typecode in SIGNED else (0, 2**bits - 1)
    one: st.SearchStrategy[Any] = st.floats(width=16) if typecode in "fd" else st.integers(least, most)
    theirs: array.array[Any] = array.array(typecode, data.draw(st.lists(one, max_size=20)))
    ours = Array(typecode, theirs)
    index = st.integers(-25, 25)
    for _ in range(data.draw(st.integers(0, 10))):
        place = data.draw(index)
        new = data.draw(one | st.sampled_from(["x", None]))
        assert outcome(ours.__setitem__, place, new) == outcome(theirs.__setitem__, place, new)
        some = data.draw(index)
        assert outcome(ours.__getitem__, some) == outcome(theirs.__getitem__, some)
    part = data.draw(st.slices(25))
    assert repr(ours[part]) == repr(theirs[part].tolist())
    new_part = data.draw(st.lists(one, min_size=len(theirs[part]), max_size=len(theirs[part])))
    ours[part] = new_part
    theirs[part] = array.array(typecode, new_part)
    assert repr(ours[:]) == repr(list(ours)) == repr(theirs.tolist())
    assert len(ours) == len(theirs)
    assert memoryview(ours).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("key", ["0", 1.0, None, (0, 1)])
def test_other_indices_are_type_errors(key: Any) -> None:
    numbers = Array("i", 3)
    for use in (lambda: numbers[key], lambda: numbers.__setitem__(key, 1), lambda: numbers.fetch_add(key, 1)):
        with pytest.raises(TypeError, match="array indices must be integers"):
            use()


@pytest.mark.parametrize("index", [3, -4, 2**62, -(2**63), 2**70, -(2**70)])
def test_an_index_beyond_is_an_index_error(index: int) -> None:
    numbers = Array("i", [1, 2, 3])
    uses: list[Callable[[], object]] = [
        lambda: numbers[index],
        lambda: numbers.__setitem__(index, 1),
        lambda: numbers.fetch_add(index, 1),
        lambda: numbers.wait(index, 1),
        lambda: numbers.notify(index),
    ]
    for use in uses:
        with pytest.raises(IndexError):
            use()
    assert numbers[:] == [1, 2, 3]


def test_a_slice_is_set_as_a_whole_or_not_at_all() -> None:
    numbers = Array("b", [1, 2, 3])
    for wrong, error in (([1, 2], ValueError), ([9, 9, 1000], OverflowError), ([9, "x", 9], TypeError), (5, TypeError)):
        with pytest.raises(error):
            numbers[:] = wrong
        assert numbers[:] == [1, 2, 3]
    with pytest.raises(ValueError, match="Can only assign sequence of same size"):
        numbers[::2] = range(3)
    numbers[::-2] = iter((7, 8))
    numbers[1:1] = []
    assert numbers[:] == [8, 2, 7]
    numbers[:] = numbers
    assert numbers[:] == [8, 2, 7]


def test_elements_cannot_be_deleted() -> None:
    numbers: Any = Array("i", 3)
    for key in (0, slice(0, 1)):
        with pytest.raises(TypeError, match="Array does not support item deletion"):
            del numbers[key]


def test_what_a_sequence_can_do() -> None:
    numbers = Array("i", [3, 1, 2])
    assert 1 in numbers
    assert 4 not in numbers
    assert list(reversed(numbers)) == [2, 1, 3]  # type: ignore[call-overload]
    assert sorted(numbers) == [1, 2, 3]
    assert [*numbers, *Array("i", 0)] == [3, 1, 2]


# --------------------------------------------------------------------------------------- strings


def test_an_array_of_chars_is_a_string_of_ctypes() -> None:
    ours: Any = Array("c", b"hello")
    theirs: Any = multiprocessing.Array("c", b"hello", lock=False)
    steps: list[Callable[[Any], object]] = [
        lambda string: setattr(string, "value", b"hi"),
        lambda string: setattr(string, "raw", b"yo"),
        lambda string: setattr(string, "raw", bytearray(b"ab\0de")),
        lambda string: string.__setitem__(1, b"x"),
        lambda string: string.__setitem__(1, 65),
        lambda string: string.__setitem__(slice(1, 3), b"zz"),
        lambda string: setattr(string, "value", b"12345"),
        lambda string: setattr(string, "value", b""),
    ]
    for step in steps:
        step(ours)
        step(theirs)
        assert (ours.value, ours.raw) == (theirs.value, theirs.raw)
        assert (ours[:], ours[::-1], ours[1], len(ours)) == (theirs[:], theirs[::-1], theirs[1], len(theirs))


def test_wrong_strings_change_nothing() -> None:
    string: Any = Array("c", b"hello")
    with pytest.raises(ValueError, match="byte string too long"):
        string.value = b"123456"
    with pytest.raises(ValueError, match="byte string too long"):
        string.raw = b"123456"
    with pytest.raises(TypeError, match="bytes expected instead of str instance"):
        string.value = "hello"
    with pytest.raises(TypeError, match="a bytes-like object is required, not 'int'"):
        string.raw = 5
    for name in ("value", "raw"):
        with pytest.raises(AttributeError):
            delattr(string, name)
    assert string.raw == b"hello"


def test_only_an_array_of_chars_is_a_string() -> None:
    numbers = Array("B", 5)
    for name in ("value", "raw"):
        assert not hasattr(numbers, name)
        with pytest.raises(AttributeError, match="only an Array of 'c' is a string"):
            setattr(numbers, name, b"x")


# --------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("index", [1, -2])
def test_operations_on_an_element_are_those_on_a_value(index: int) -> None:
    numbers = Array("h", [1, 2, 3])
    assert numbers.fetch_add(index, 5) == 2
    assert numbers.fetch_sub(index, 1) == 7
    assert numbers.fetch_or(index, 1) == 6
    assert numbers.fetch_and(index, 3) == 7
    assert numbers.fetch_xor(index, -1) == 3
    assert numbers.exchange(index, 10) == -4
    assert numbers.compare_exchange(index, 9, 11) is False
    assert numbers.compare_exchange(index=index, expected=10, new=11) is True
    assert numbers.wait(index, 10) is True
    assert numbers.wait(index, 11, timeout=0) is False
    with pytest.raises(OverflowError, match="signed short integer is greater than maximum"):
        numbers.fetch_add(index, 2**15)
    with pytest.raises(TypeError, match="missing required argument 'n'"):
        numbers.fetch_add(index)  # type: ignore[call-arg]
    assert numbers[:] == [1, 11, 3]


def test_operations_of_floats_and_bools() -> None:
    floats = Array("d", 2)
    assert floats.fetch_add(0, 0.5) == 0.0
    assert floats.compare_exchange(1, -0.0, 1.0) is False
    floats[1] = math.nan
    assert floats.compare_exchange(1, math.nan, 2) is True
    assert floats[:] == [0.5, 2.0]
    with pytest.raises(TypeError, match="elements of typecode 'd' have no such operation"):
        floats.fetch_or(0, 1)
    bools = Array("?", [0, 1])
    assert [bools.fetch_xor(index, True) for index in range(2)] == [False, True]
    assert bools[:] == [True, False]


@pytest.mark.parametrize("typecode", ["B", "h", "i", "q", "d"])
def test_additions_of_interpreters_to_neighbours_are_all_counted(typecode: str) -> None:
    numbers = Array(typecode, 3)
    adding = [started(cell_workers.add_to_each, numbers, 3 * 30) for _ in range(2)]
    cell_workers.add_to_each(numbers, 3 * 30)
    for each in adding:
        each.result(AMPLE)
    assert numbers[:] == [90] * 3


def test_slices_and_strings_are_never_torn() -> None:
    """They are got and set with the lock held."""
    numbers = Array("i", 50)
    string = Array("c", b"a" * 50)
    writing = [
        *(started(cell_workers.write_whole_slices, numbers, 2_000, number) for number in (1, 2)),
        *(started(cell_workers.write_whole_strings, string, 2_000, text * 50) for text in (b"b", b"c")),
    ]
    while any(each.is_alive() for each in writing):
        assert len(set(numbers[:])) == 1
        assert len(set(string.raw)) == 1
        assert len(set(string.value)) == 1
    for each in writing:
        each.result(AMPLE)


# --------------------------------------------------------------------------------------- waiting


def test_a_wait_ends_when_its_element_was_changed() -> None:
    numbers = Array("d", 20)
    waiting = {index: in_thread(numbers.wait, index, 0) for index in (0, 1, 8, 9, 16)}
    for index in (8, 1, 16, 0, 9):
        assert_waits(*waiting.values())
        numbers[index] = 1
        numbers.notify(index)
        assert waiting.pop(index).result(AMPLE) is True


def test_interpreters_hand_a_number_round_a_ring() -> None:
    ring = Array("i", 11)
    going = [started(cell_workers.take_turns_in_ring, ring, 300, place) for place in range(11)]
    ring[0] = 1
    ring.notify(0)
    for each in going:
        each.result(AMPLE)
    assert ring[:] == [301] + [300] * 10


def test_a_wait_gives_false_when_its_time_is_up() -> None:
    assert Array("i", 3).wait(2, 0, MOMENT) is False


@pytest.mark.parametrize("n", [0, -1])
def test_notifying_fewer_than_one_is_a_value_error(n: int) -> None:
    with pytest.raises(ValueError, match="n must be one or more"):
        Array("i", 3).notify(1, n)


# --------------------------------------------------------------------------------------- the lock


def test_its_lock_is_as_that_of_a_value() -> None:
    numbers = Array("i", 3)
    assert type(numbers.get_lock()) is RLock
    with multigil.Interpreter() as interpreter, numbers:
        assert not interpreter.call(cell_workers.try_lock, numbers)
        assert numbers[:] == [0, 0, 0]
        numbers[:] = [1, 2, 3]
    lock = Lock()
    assert Array("i", 3, lock=lock).get_lock() is lock
    unlocked = Array("i", 3, lock=False)
    with pytest.raises(AttributeError, match="there is no lock: it was made with lock=False"):
        unlocked.get_lock()
    unlocked[:] = [1, 2, 3]
    assert unlocked[:] == [1, 2, 3]
    assert unlocked.get_obj() is unlocked


def test_a_slice_waits_for_the_lock_and_an_element_does_not() -> None:
    numbers = Array("i", 3)
    with numbers:
        element = in_thread(numbers.__getitem__, 0)
        part = in_thread(numbers.__getitem__, slice(1))
        assert element.result(AMPLE) == 0
        assert_waits(part)
    assert part.result(AMPLE) == [0]


def test_a_lock_that_fails_fails_the_slice() -> None:
    class Broken:
        def acquire(self) -> None:
            raise ArithmeticError

        def release(self) -> None:
            raise AssertionError("it was not acquired")

    numbers = Array("i", 3, lock=Broken())
    with pytest.raises(ArithmeticError):
        numbers[:]
    with pytest.raises(ArithmeticError):
        numbers[:] = [1, 2, 3]
    assert list(numbers) == [0, 0, 0]


# --------------------------------------------------------------------------------------- as a buffer


@pytest.mark.parametrize("typecode", [*NUMBERS, "?", "c"])
def test_a_memoryview_is_the_memory_itself(typecode: str) -> None:
    numbers = Array(typecode, 3)
    with memoryview(numbers) as view:
        itemsize = struct.calcsize(typecode)
        assert (view.format, view.itemsize, view.shape, view.strides) == (typecode, itemsize, (3,), (itemsize,))
        assert (view.nbytes, view.readonly, view.contiguous, view.obj) == (3 * itemsize, False, True, numbers)
        view[1] = b"x" if typecode == "c" else 1
        assert view.tolist() == list(numbers)
        numbers[2] = view[1]
        assert view[2] == view[1]


def test_other_buffers_of_it() -> None:
    numbers = Array("i", [1, 2, 3])
    assert bytes(numbers) == struct.pack("3i", 1, 2, 3)
    assert array.array("i", bytes(numbers)).tolist() == [1, 2, 3]
    struct.pack_into("i", numbers, 4, 9)
    assert numbers[1] == 9
    overlay = (ctypes.c_int * 3).from_buffer(numbers)
    overlay[0] = 7
    assert numbers[:] == [7, 9, 3]
    assert memoryview(Array("d", 0)).tolist() == []
    assert bytes(Array("d", 0)) == b""


def test_other_interpreters_see_what_is_written_to_a_buffer() -> None:
    numbers = Array("i", 1000)
    started(cell_workers.fill_buffer, numbers, 5).result(AMPLE)
    assert numbers[:] == [5] * 1000


@in_fresh_process
def test_a_view_keeps_the_memory() -> None:
    view = memoryview(Array("i", [1, 2, 3]))
    others = [Array("i", 3) for _ in range(100)]
    gc.collect()
    assert view.tolist() == [1, 2, 3]
    del others
    assert _core.statistics()["memories"] == 1
    view.release()
    gc.collect()
    assert _core.statistics()["memories"] == 0


def test_an_interpreter_may_end_with_a_view_alive() -> None:
    numbers = Array("i", [1, 2, 3])
    for _ in range(3):
        assert started(cell_workers.keep_view, numbers).result(AMPLE) == 12
        assert started(cell_workers.keep_view, Array("i", 100_000)).result(AMPLE) == 400_000
    assert numbers[:] == [1, 2, 3]


# --------------------------------------------------------------------------------------- one memory for all


def test_it_is_one_object_in_an_interpreter_and_one_memory_in_all() -> None:
    numbers = Array("H", [1, 2, 3])
    assert pickle.loads(pickle.dumps(numbers)) is numbers
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.elements, numbers) == ([1, 2, 3], "H")
        interpreter.call(cell_workers.add_to_each, numbers, 3)
    assert numbers[:] == [2, 3, 4]
    pickled = pickle.dumps(Array("i", 3, lock=False))
    with pytest.raises(StaleHandle):
        pickle.loads(pickled)


@in_fresh_process
def test_memory_comes_back() -> None:
    def counts() -> tuple[int, int, int]:
        gc.collect()
        statistics = _core.statistics()
        return statistics["memories"], statistics["rlocks"], statistics["bytes_in_use"]

    before = counts()
    for size in (0, 1, 100, 10_000, 1_000_000):
        arrays = [Array("d", size) for _ in range(5)]
        assert counts()[0] == before[0] + 5
        assert counts()[2] >= before[2] + 5 * 8 * size
        del arrays
        assert counts() == before


@in_fresh_process
def test_an_array_that_is_not_touched_takes_no_memory() -> None:
    before = resident_bytes()
    numbers = Array("B", 512 * MIB)
    assert len(numbers) == 512 * MIB
    assert numbers[-1] == 0
    numbers[-1] = 9
    assert resident_bytes() - before < 16 * MIB
    del numbers
    again = Array("B", 512 * MIB)
    assert again[-1] == 0
    assert resident_bytes() - before < 16 * MIB


@in_fresh_process
def test_what_was_an_item_or_an_array_before_is_zero() -> None:
    q: multigil.Queue[bytes] = multigil.Queue()
    for size in (1, 100, 1_000, 70_000, 1_000_000, 80_000_000):
        q.put(b"\xff" * size)
        q.get()
        numbers = Array("B", size)
        with memoryview(numbers) as view:
            assert bytes(view).count(0) == size
            view[:] = b"\xff" * size
        del numbers
        assert bytes(Array("B", size)).count(0) == size


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before, an interpreter's end leaks memory of CPython's")
@in_fresh_process
def test_interpreters_leave_nothing_of_their_arrays() -> None:
    def use(count: int) -> None:
        for _ in range(count):
            numbers = Array("d", 1000)
            started(cell_workers.fill_buffer, numbers, 5).result(AMPLE)

    use(2)
    gc.collect()
    before = _core.statistics()["memories"]
    use(5)
    gc.collect()
    assert _core.statistics()["memories"] == before
