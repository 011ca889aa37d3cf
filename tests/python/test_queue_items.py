"""Whatever can be pickled goes through a queue and comes out as the same value of the same type."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import itertools
import math
import operator
import pathlib
import pickle
import random
import re
import struct
import sys
import threading
import types
import uuid
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine import available_bytes
from multigil import Queue, SimpleQueue

KIB, MIB, GIB = 2**10, 2**20, 2**30


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Word(enum.StrEnum):
    YES = "yes"


class OwnInt(int):
    pass


class OwnFloat(float):
    pass


class OwnStr(str):
    __slots__ = ("note",)
    note: str


class OwnBytes(bytes):
    pass


class OwnList(list[Any]):
    pass


class OwnDict(dict[Any, Any]):
    pass


class Point(NamedTuple):
    x: float
    y: float


@dataclasses.dataclass
class Record:
    name: str
    values: list[float]
    parent: Record | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenRecord:
    number: int


class TwoArgumentsError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Reduced:
    """Says itself how it is to be pickled."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Reduced], tuple[object]]:
        return Reduced, (self.value,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reduced) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


def through_a_queue(item: Any) -> Any:
    q: Queue[Any] = Queue()
    q.put(item)
    return q.get()


def random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def around(*centres: int) -> list[int]:
    return [sign * (centre + offset) for centre in centres for offset in (-1, 0, 1) for sign in (1, -1)]


class TestScalars:
    @pytest.mark.parametrize("item", [None, True, False, ..., NotImplemented])
    def test_singletons_stay_the_same_object(self, item: object) -> None:
        assert through_a_queue(item) is item

    @pytest.mark.parametrize(
        "item",
        [
            *range(-6, 7),
            *around(*(2**bits for bits in (7, 8, 15, 16, 29, 30, 31, 32, 59, 60, 62, 63, 64, 127, 128))),
            *around(10**18, 10**100),
        ],
    )
    def test_integers_of_every_width(self, item: int) -> None:
        result = through_a_queue(item)
        assert type(result) is int
        assert result == item

    @pytest.mark.parametrize("bits", [255 * 8 - 1, 255 * 8, 256 * 8, 100_000, 8 * MIB])
    def test_integers_of_very_many_digits(self, bits: int) -> None:
        assert through_a_queue(1 << bits) == 1 << bits
        assert through_a_queue(-(1 << bits)) == -(1 << bits)

    @pytest.mark.parametrize(
        "item", [0.0, -0.0, 1.5, -1e-300, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, -math.nan]
    )
    def test_floats_keep_every_bit(self, item: float) -> None:
        result = through_a_queue(item)
        assert type(result) is float
        assert struct.pack("<d", result) == struct.pack("<d", item)

    @pytest.mark.parametrize(
        "item",
        [
            "",
            "a",
            "\0",
            "ascii and \0 and \x7f",
            "é",
            "\x80\xff",
            "中文 and ascii",
            "\uffff",
            "\U00010000",
            "🐍 snake",
            "mixed é 中 🐍",
            "\ud800",
            "\udfff a lone surrogate among é",
            "\ud83d\udc0d",
            "\ud800\U0001f40d",
        ],
        ids=ascii,
    )
    @pytest.mark.parametrize("repeat", [1, 1000])
    def test_text_of_every_kind(self, item: str, repeat: int) -> None:
        result = through_a_queue(item * repeat)
        assert type(result) is str
        assert result == item * repeat
        assert hash(result) == hash(item * repeat)

    def test_bytes_and_text_of_every_small_size(self) -> None:
        for size in (*range(300), *around(512, 1 * KIB, 2 * KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB)[::2]):
            content = random_bytes(size)
            for item in (content, content.decode("latin-1"), "a" * size, "中" * size):
                result = through_a_queue(item)
                assert type(result) is type(item)
                assert result == item

    @pytest.mark.parametrize("size", [*around(64 * KIB, MIB)[::2], 3 * MIB + 7, 64 * MIB])
    def test_bytes_of_large_sizes(self, size: int) -> None:
        item = random_bytes(size)
        assert through_a_queue(item) == item

    @pytest.mark.parametrize("character", ["a", "é", "中", "🐍"])
    def test_text_of_large_sizes(self, character: str) -> None:
        item = character * (5 * MIB + 1)
        assert through_a_queue(item) == item

    @pytest.mark.slow
    def test_bytes_of_one_gibibyte(self) -> None:
        if available_bytes() < 5 * GIB:
            pytest.skip("needs 5 GiB of free memory")
        item = random_bytes(MIB) * 1024
        q: Queue[bytes] = Queue()
        q.put(item)
        result = q.get()
        # Without the explanation that `assert` would make of a difference.
        same = result == item
        assert same


class TestSubclassesOfScalars:
    @pytest.mark.parametrize(
        "item",
        [
            Level.LOW,
            Flags.A | Flags.B,
            Word.YES,
            Colour.RED,
            OwnInt(5),
            OwnInt(2**100),
            OwnFloat(0.5),
            OwnStr("text"),
            OwnBytes(b"bytes"),
            OwnBytes(random_bytes(MIB)),
        ],
        ids=lambda item: type(item).__name__,
    )
    def test_they_keep_their_type(self, item: object) -> None:
        result = through_a_queue(item)
        assert type(result) is type(item)
        assert result == item

    def test_they_keep_their_attributes(self) -> None:
        number = OwnInt(5)
        number.note = "five"  # type: ignore[attr-defined]
        text = OwnStr("text")
        text.note = "slot"
        assert through_a_queue(number).note == "five"
        assert through_a_queue(text).note == "slot"

    def test_members_of_enumerations_stay_the_same_object(self) -> None:
        assert through_a_queue(Level.LOW) is Level.LOW
        assert through_a_queue(Colour.RED) is Colour.RED


class TestObjects:
    @pytest.mark.parametrize(
        "item",
        [
            [],
            (),
            {},
            set(),
            frozenset(),
            [1, "a", b"b", None, 1.5, True],
            (1, (2, (3, (4, ())))),
            {"id": 1, "name": "sixteen letters.", "vals": [i / 7 for i in range(8)]},
            {(1, 2): {3: {4}}, None: frozenset({1})},
            OwnList([1, 2]),
            OwnDict(a=1),
            collections.deque([1, 2], maxlen=3),
            collections.OrderedDict([("b", 1), ("a", 2)]),
            collections.Counter("mississippi"),
            range(10, 0, -3),
            slice(1, None, 2),
            1 + 2j,
            bytearray(b""),
            bytearray(b"changeable"),
            array.array("d", [1.5, -2.5]),
            array.array("i"),
            decimal.Decimal("0.1"),
            fractions.Fraction(1, 3),
            datetime.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=datetime.UTC),
            uuid.UUID(int=5),
            pathlib.PurePosixPath("/a/b"),
            re.compile(r"\d+", re.ASCII),
            types.SimpleNamespace(a=1),
            Point(1.0, 2.0),
            Record("child", [0.5], Record("parent", [])),
            FrozenRecord(5),
            Reduced([1, 2]),
            len,
            int,
            Record,
            operator.attrgetter("name"),
        ],
        ids=lambda item: getattr(item, "__name__", type(item).__name__),
    )
    def test_objects_of_many_types_come_out_equal(self, item: object) -> None:
        result = through_a_queue(item)
        assert type(result) is type(item)
        assert repr(result) == repr(item) or result == item

    def test_a_mutable_item_is_a_copy(self) -> None:
        item = [1]
        q: Queue[list[int]] = Queue()
        q.put(item)
        item.append(2)
        assert q.get() == [1]

    def test_what_occurs_twice_in_an_item_occurs_twice_in_the_copy(self) -> None:
        inner: list[object] = []
        first, second = through_a_queue([inner, inner])
        assert first is second

    def test_an_item_may_contain_itself(self) -> None:
        item: list[object] = []
        item.append(item)
        result = through_a_queue(item)
        assert result[0] is result

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("text", 5),
            OSError(2, "No such file", "name"),
            KeyError("key"),
            TwoArgumentsError(5, "text"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            ExceptionGroup("several", [ValueError(1), TypeError(2)]),
            StopIteration(5),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_exceptions_keep_type_arguments_and_attributes(self, error: BaseException) -> None:
        result = through_a_queue(error)
        assert type(result) is type(error)
        assert str(result) == str(error)
        assert repr(result) == repr(error)
        assert repr(vars(result)) == repr(vars(error))

    @pytest.mark.parametrize("item", [Record("r", []).__eq__, "text".upper, Point(1, 2)._asdict])
    def test_bound_methods_come_out_callable(self, item: Any) -> None:
        assert through_a_queue(item).__name__ == item.__name__


class TestLargePickles:
    # Pickles larger than 64 KiB are written in several frames, and long `bytes` outside of them.
    @pytest.mark.parametrize(
        "item",
        [
            [random_bytes(64 * KIB - 1), random_bytes(64 * KIB), random_bytes(64 * KIB + 1)],
            [b"small", random_bytes(MIB), "between", random_bytes(5 * MIB), b""],
            {"key": [random_bytes(200_000)] * 3},
            bytearray(random_bytes(5 * MIB)),
            array.array("d", [i / 3 for i in range(300_000)]),
            ["中" * 100_000, "a" * 200_000],
            [{"id": i, "name": f"name {i}", "parts": (i, [i / 2])} for i in range(50_000)],
            [OwnBytes(random_bytes(100_000)), Reduced(random_bytes(100_000))],
            list(range(300_000)),
            Record("r", [i / 3 for i in range(100_000)], Record("p", [])),
        ],
        ids=itertools.count(),
    )
    def test_they_come_out_equal(self, item: object) -> None:
        # Without the explanation that `assert` would make of a difference.
        same = through_a_queue(item) == item
        assert same

    def test_every_size_around_that_of_a_frame(self) -> None:
        for size in range(64 * KIB - 40, 64 * KIB + 10):
            item = [b"x" * size, size]
            assert through_a_queue(item) == item

    def test_a_deeply_nested_item(self) -> None:
        item: list[Any] = []
        for _ in range(100):
            item = [item, {"deep": item[:1]}]
        assert pickle.dumps(through_a_queue(item)) == pickle.dumps(item)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(ANYTHING, max_size=5))
def test_any_items_come_out_equal_and_in_order(items: list[object]) -> None:
    q: SimpleQueue[object] = SimpleQueue()
    for item in items:
        q.put(item)
    # The repr tells apart 1, 1.0 and True.
    assert repr([q.get() for _ in items]) == repr(items)


class Refusing:
    """Cannot be pickled: raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class RefusalError(Exception):
    pass


class RefusalToStop(BaseException):
    pass


def refuse_to_load(text: str) -> None:
    raise RefusalError(text)


class RefusingToLoad:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return refuse_to_load, ("not here",)


class TestPicklingErrors:
    @pytest.mark.parametrize("error", [RefusalError("no"), RefusalToStop(), KeyboardInterrupt(), MemoryError()])
    def test_put_raises_what_pickling_raised(self, error: BaseException) -> None:
        q: Queue[object] = Queue()
        with pytest.raises(type(error)) as caught:
            q.put([1, Refusing(error)])
        assert caught.value.args == error.args

    @pytest.mark.parametrize(
        "item",
        [threading.Lock(), (i for i in range(3)), threading, sys.stderr, lambda: None],
        ids=lambda item: type(item).__name__,
    )
    def test_what_pickle_refuses_put_refuses_with_the_same_error(self, item: object) -> None:
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)) as expected:
            pickle.dumps([item])
        q: Queue[object] = Queue()
        with pytest.raises(expected.type, match=re.escape(str(expected.value))):
            q.put([item])
        assert q.empty()

    def test_an_item_nested_too_deeply_is_an_error_of_put(self) -> None:
        item: list[object] = []
        for _ in range(100_000):
            item = [item]
        q: Queue[object] = Queue()
        with pytest.raises((RecursionError, pickle.PicklingError)):
            q.put(item)
        assert q.empty()

    @pytest.mark.parametrize("size", [0, 100, 10_000, 5 * MIB])
    def test_the_queue_is_as_it_was(self, size: int) -> None:
        q: Queue[object] = Queue(2)
        q.put("first")
        with pytest.raises(RefusalError):
            q.put([random_bytes(size), "text", Refusing(RefusalError())])
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
        q.put_nowait("second")
        assert (q.get(), q.get()) == ("first", "second")

    def test_a_pickling_error_comes_before_the_wait_for_room(self) -> None:
        q: Queue[object] = Queue(1)
        q.put(1)
        with pytest.raises(RefusalError):
            q.put(Refusing(RefusalError()))


class TestUnpicklingErrors:
    def test_get_raises_it_and_the_queue_goes_on(self) -> None:
        q: Queue[object] = Queue(3)
        q.put(RefusingToLoad())
        q.put([random_bytes(5 * MIB), RefusingToLoad()])
        q.put("next")
        for _ in range(2):
            with pytest.raises(RefusalError, match="not here"):
                q.get()
        assert (q.qsize(), q.unfinished_tasks) == (1, 3)
        assert q.get() == "next"

    def test_a_failing_get_makes_room(self) -> None:
        q: Queue[object] = Queue(1)
        q.put(RefusingToLoad())
        with pytest.raises(RefusalError):
            q.get()
        q.put_nowait(1)
        assert q.get() == 1


class CallsWhenPickled:
    def __init__(self, call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return list, ([self.call()],)


def put_one_into(q: Queue[object]) -> str:
    q.put("put while unpickling")
    return "unpickled"


def get_one_from(q: Queue[object]) -> object:
    return q.get_nowait()


class CallsWhenUnpickled:
    def __init__(self, function: Any, *args: object) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> Any:
        return self.function, self.args


class TestReentrance:
    def test_pickling_may_put_into_the_same_queue(self) -> None:
        q: Queue[object] = Queue(2)
        q.put([random_bytes(10_000), CallsWhenPickled(lambda: q.put_nowait("inner"))])
        assert q.get() == "inner"
        assert q.get() == [random_bytes(10_000), [None]]

    def test_pickling_may_get_from_the_same_queue(self) -> None:
        q: Queue[object] = Queue(1)
        q.put("first")
        q.put(CallsWhenPickled(q.get_nowait))
        assert q.get() == ["first"]
        assert q.empty()

    def test_unpickling_may_put_into_the_same_queue(self) -> None:
        q: Queue[object] = Queue(1)
        q.put(CallsWhenUnpickled(put_one_into, q))
        assert q.get() == "unpickled"
        assert q.get() == "put while unpickling"

    def test_unpickling_may_get_from_the_same_queue(self) -> None:
        q: Queue[object] = Queue()
        q.put([random_bytes(MIB), CallsWhenUnpickled(get_one_from, q)])
        q.put(random_bytes(MIB + 1))
        assert q.get() == [random_bytes(MIB), random_bytes(MIB + 1)]
        assert q.empty()
