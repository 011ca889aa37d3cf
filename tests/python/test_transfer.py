"""How things travel, seen from inside: `multigil._transfer` and `_by_value`, here and in another interpreter."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import pickle
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any

import pytest

from multigil import Interpreter, Lock, RemoteTraceback, _by_value, _transfer

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN = """
import enum, abc, dataclasses, typing

COUNTER = {"calls": 0}

def helper():
    COUNTER["calls"] += 1
    return COUNTER["calls"]

class Base:
    made = 0
    def who(self):
        return ("base", helper())

class Derived(Base):
    def __init__(self, value=None):
        self.value = value
    def who(self):
        return ("derived", *super().who())
    @classmethod
    def made_by_class(cls):
        return cls("class")
    @staticmethod
    def partner():
        return Partner()
    @property
    def double(self):
        return self.value * 2

class Partner:
    def friend(self):
        return Derived("friend")

class Slotted:
    __slots__ = ("open", "__hidden")
    def __init__(self):
        self.open, self.__hidden = 1, 2
    def both(self):
        return self.open, self.__hidden

class Color(enum.Enum):
    RED = 1
    BLUE = 2

class Abstract(abc.ABC):
    @abc.abstractmethod
    def work(self): ...

class Concrete(Abstract):
    def work(self):
        return "worked"

@dataclasses.dataclass
class Data:
    number: int
    numbers: list = dataclasses.field(default_factory=list)

class Pair(typing.NamedTuple):
    left: int
    right: str = "r"

class Outer:
    class Inner:
        def here(self):
            return "inner"

class TwoArguments(Exception):
    def __init__(self, left, right):
        super().__init__(f"{left}-{right}")
        self.left, self.right = left, right

nameless = lambda: "lambda"

def calls_nameless():
    return nameless()

def checked_only(value: "Missing") -> "Missing":
    return value
"""


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `__main__` with functions and classes."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(MAIN, "main.py", "exec", dont_inherit=True), vars(module))
    return module


def through(item: object) -> Any:
    return pickle.loads(_transfer.dumps(item))


class TestItems:
    def test_a_class_that_comes_home_is_the_original(self, main: Any) -> None:
        assert through(main.Derived) is main.Derived
        assert type(through([main.Derived(1)])[0]) is main.Derived

    def test_a_class_is_not_changed_by_a_copy_that_comes_home(self, main: Any) -> None:
        away = _transfer.dumps(main.Derived())
        main.Base.made = 5
        before = dict(vars(main.Derived)), dict(vars(main.Base))
        home = pickle.loads(away)
        assert (dict(vars(main.Derived)), dict(vars(main.Base))) == before
        assert home.made == 5
        home.who()
        assert main.COUNTER == {"calls": 1}

    def test_a_function_brings_copies_of_its_globals(self, main: Any) -> None:
        copy = through(main.helper)
        assert [copy(), copy()] == [1, 2]
        assert main.COUNTER == {"calls": 0}

    def test_functions_that_travel_together_share_their_globals(self, main: Any) -> None:
        first, second = through((main.helper, main.Derived.who))
        assert first() == 1
        assert second(main.Derived()) == ("derived", "base", 1)  # the class is the original and uses the original's

    def test_functions_may_use_lambdas_of_main_which_cannot_travel_alone(self, main: Any) -> None:
        assert through(main.calls_nameless)() == "lambda"
        for item in (main.nameless, [main.Derived(), main.nameless], main.Derived(lambda: 1)):
            with pytest.raises((pickle.PicklingError, AttributeError)):
                _transfer.dumps(item)

    @pytest.mark.parametrize("item", [threading.Lock(), (i for i in range(1)), sys.stderr])
    def test_what_cannot_be_pickled_raises_the_error_of_pickle(self, main: Any, item: object) -> None:
        with pytest.raises(Exception) as ours:  # noqa: PT011
            _transfer.dumps([main.Derived(), item])
        with pytest.raises(Exception) as plain:  # noqa: PT011
            pickle.dumps(item)
        assert (ours.type, str(ours.value)) == (plain.type, str(plain.value))


# What is sent to another interpreter, and what is done with it there.
TRAVELLERS: dict[str, tuple[Callable[[Any], object], Callable[[Any], object], object]] = {
    "methods of all kinds": (
        lambda main: main.Derived(3),
        lambda o: (o.who(), o.double, type(o).made_by_class().value),
        (("derived", "base", 1), 6, "class"),
    ),
    "classes that know each other": (
        lambda main: main.Partner(),
        lambda o: o.friend().partner().friend().value,
        "friend",
    ),
    "derived before base": (lambda main: (main.Derived, main.Base), lambda o: issubclass(*o), True),
    "slots": (lambda main: main.Slotted(), lambda o: (o.both(), hasattr(o, "__dict__")), ((1, 2), False)),
    "enum": (lambda main: main.Color.BLUE, lambda o: (o.name, list(type(o).__members__)), ("BLUE", ["RED", "BLUE"])),
    "abstract": (lambda main: main.Concrete(), lambda o: o.work(), "worked"),
    "dataclass": (
        lambda main: main.Data(1),
        lambda o: (repr(o), o == type(o)(1)),
        ("Data(number=1, numbers=[])", True),
    ),
    "named tuple": (lambda main: main.Pair(1), lambda o: (o, o._asdict()), ((1, "r"), {"left": 1, "right": "r"})),
    "nested class": (lambda main: main.Outer.Inner(), lambda o: o.here(), "inner"),
    "annotations of the type checker": (lambda main: main.checked_only, lambda o: o(1), 1),
    "annotations of a class": (lambda main: main.Data, lambda o: o.__annotations__["number"], int),
}


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("name", TRAVELLERS)
def test_what_main_defines_works_in_another_interpreter_and_comes_home(main: Any, name: str) -> None:
    make, use, expected = TRAVELLERS[name]
    sent = make(main)
    with Interpreter() as interpreter:
        assert interpreter.call(use, sent) == expected
        home = interpreter.call(lambda o: o, sent)
        if isinstance(sent, type | tuple) and not hasattr(sent, "_asdict"):
            assert home == sent
        elif not isinstance(sent, types.FunctionType):
            assert type(home) is type(sent)


@pytest.mark.usefixtures("each_backend")
def test_a_class_that_arrives_many_times_is_one_class_there(main: Any) -> None:
    with Interpreter() as interpreter:
        interpreter.exec("seen = []")
        for _ in range(3):
            interpreter.call(lambda o: __import__("sys").modules["__main__"].seen.append(type(o)), main.Derived())
        assert interpreter.call(lambda: len(set(__import__("sys").modules["__main__"].seen))) == 1


def test_threads_that_receive_a_new_class_at_once_see_it_complete(main: Any) -> None:
    data = _transfer.dumps(main.Derived(1))

    def in_there(data: bytes) -> list[int]:
        sys.setswitchinterval(1e-6)
        found: list[int] = []
        barrier = threading.Barrier(4)

        def load() -> None:
            barrier.wait()
            found.append(pickle.loads(data).double)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    for _ in range(5):
        with Interpreter() as interpreter:
            assert interpreter.call(in_there, data) == [2] * 4


class Slow(ValueError):
    __slots__ = ("_hidden", "seconds")

    def __init__(self, seconds: int, *, hidden: int) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds
        self._hidden = hidden


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    number: int


class Rebuilt(Exception):
    def __init__(self, *, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.number,)


def _rebuild(number: int) -> Rebuilt:
    return Rebuilt(number=number)


class OwnGroup(ExceptionGroup[Exception]):
    other: Any


def over(exception: BaseException) -> BaseException:
    return _transfer.loads_exception(_transfer.dumps_exception(exception))


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class TestExceptions:
    @pytest.mark.parametrize(
        "function",
        [
            lambda: os.stat("/nowhere/at/all"),
            b"\xff".decode,
            "\udcff".encode,
            lambda: compile("a b", "file.py", "exec"),
            lambda: next(iter(())),
            lambda: sys.exit(4),
            lambda: __import__("no.such"),
            lambda: [].no_such,  # type: ignore[attr-defined]
            lambda: no_such,  # type: ignore[name-defined]  # noqa: F821
            lambda: dict[str, int]()["key"],
            lambda: 1 / 0,
            lambda: json.loads("{"),
        ],
    )
    def test_those_of_c_keep_their_fields(self, function: Callable[[], object]) -> None:
        sent = raised_by(function)
        arrived = over(sent)
        assert type(arrived) is type(sent)
        assert (str(arrived), arrived.args, vars(arrived)) == (str(sent), sent.args, vars(sent))
        for name in (
            "errno",
            "filename",
            "filename2",
            "start",
            "reason",
            "lineno",
            "text",
            "value",
            "code",
            "name",
            "pos",
        ):
            assert getattr(arrived, name, None) == getattr(sent, name, None)

    def test_slots_and_keyword_arguments_of_the_constructor(self) -> None:
        arrived = over(Slow(3, hidden=4))
        assert isinstance(arrived, Slow)
        assert (arrived.seconds, arrived._hidden, str(arrived)) == (3, 4, "3 s")

    def test_a_class_that_forbids_assignment(self) -> None:
        arrived = over(FrozenError(7))
        assert isinstance(arrived, FrozenError)
        assert arrived.number == 7

    def test_its_own_reduce_is_asked_first(self) -> None:
        arrived = over(Rebuilt(number=5))
        assert isinstance(arrived, Rebuilt)
        assert arrived.number == 5
        assert arrived.lock.acquire(blocking=False)

    def test_links_between_exceptions(self) -> None:
        cause, context, other = KeyError("cause"), ValueError("context"), OSError(5, "other")
        sent = OwnGroup("group", [Slow(1, hidden=2), ExceptionGroup("inner", [cause, FrozenError(1)])])
        sent.__cause__, sent.__context__ = cause, context
        cause.__context__ = sent  # a circle
        sent.other = other
        arrived: Any = over(sent)
        assert type(arrived) is OwnGroup
        assert arrived.message == "group"
        inner: Any = arrived.exceptions[1]
        assert arrived.__cause__ is inner.exceptions[0]
        assert arrived.__cause__.__context__ is arrived
        assert (type(arrived.__context__), arrived.__suppress_context__) == (ValueError, True)
        assert (type(arrived.other), arrived.other.errno) == (OSError, 5)

    def test_what_cannot_be_pickled_arrives_as_its_repr_and_a_note_says_so(self) -> None:
        lock = threading.Lock()
        sent = OSError(lock, "text")
        sent.attribute = lock  # type: ignore[attr-defined]
        sent.add_note("own note")
        arrived: Any = over(sent)
        assert arrived.args == (repr(lock), "text")
        assert arrived.attribute == repr(lock)
        assert arrived.__notes__[0] == "own note"
        assert "argument 0 could not be pickled" in arrived.__notes__[1]

    def test_the_remote_traceback_ends_the_chain_of_causes_and_is_printed_once(self) -> None:
        def fails() -> None:
            try:
                dict[str, int]()["key"]
            except KeyError as error:
                raise Slow(1, hidden=2) from error

        arrived = over(raised_by(fails))
        assert type(arrived.__cause__) is KeyError
        assert type(arrived.__cause__.__cause__) is RemoteTraceback
        text = "".join(traceback.format_exception(arrived))
        assert text.count(f'File "{__file__}", line {fails.__code__.co_firstlineno + 4}, in fails') == 1
        assert text.count("multigil.RemoteTraceback") == 1

    def test_a_class_that_is_not_there_has_a_stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("only_there")
        exec(
            "class Base(LookupError): pass\n"
            "class Error(Base, OSError):\n"
            "    def __init__(self, a, b): super().__init__(a); self.b = b\n"
            "    def __str__(self): return f'own {self.b}'",
            vars(module),
        )
        monkeypatch.setitem(sys.modules, "only_there", module)
        data = [_transfer.dumps_exception(module.Error(1, number)) for number in (2, 3)]
        monkeypatch.delitem(sys.modules, "only_there")
        first, second = map(_transfer.loads_exception, data)
        assert isinstance(first, LookupError)
        assert isinstance(first, OSError)
        assert type(first) is type(second)
        assert (type(first).__module__, type(first).__qualname__) == ("only_there", "Error")
        assert (str(first), str(second), first.args) == ("own 2", "own 3", (1,))
        assert str(over(first)) == "own 2"


def test_a_parcel_is_packed_once_though_put_asks_twice(main: Any) -> None:
    class Counted(_transfer.Parcel):
        packings = 0

        def pack(self) -> bytes:
            self.packings += 1
            return _by_value.dumps(main.Derived(9))

    parcel = Counted()
    assert pickle.loads(pickle.dumps(parcel)).value == 9
    assert pickle.loads(_transfer.dumps(parcel)).value == 9
    assert parcel.packings == 1


@pytest.mark.usefixtures("each_backend")
def test_locks_in_a_closure_are_shared() -> None:
    lock = Lock()
    with Interpreter() as interpreter:
        interpreter.call(lambda: lock.acquire() and None)
        assert lock.locked()
        lock.release()


def test_an_enum_class_of_main_is_one_class(main: Any) -> None:
    assert issubclass(main.Color, enum.Enum)
    assert through(main.Color) is main.Color
    assert through(main.Color.RED) is main.Color.RED
