"""What the tests of executors let their workers run. Imports little, because each worker imports it anew."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import multigil

if TYPE_CHECKING:
    from collections.abc import Callable

# --- plain ones -------------------------------------------------------------------------------------------------


def double(number: Any) -> Any:
    return number * 2


def add(one: Any, other: Any, third: Any = 0) -> Any:
    return one + other + third


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def identity(value: Any) -> Any:
    return value


def nothing() -> None:
    pass


def raise_it(error: BaseException) -> Any:
    raise error


def raise_for(number: int, wrong: int) -> int:
    """Raise for one of the numbers."""
    if number == wrong:
        raise ValueError(number)
    return number


def worker() -> tuple[int, int]:
    """Which process and which interpreter this is."""
    return os.getpid(), multigil.get_ident()


def sum_slowly(pause: float, number: int) -> int:
    time.sleep(pause)
    return number


def length(data: bytes) -> int:
    return len(data)


def zeros(size: int) -> bytes:
    return bytes(size)


class Point:
    """Its methods and its class are callables to be sent."""

    def __init__(self, x: int, y: int = 0) -> None:
        self.x = x
        self.y = y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Point({self.x}, {self.y})"

    def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y + by)

    def __call__(self, factor: int) -> Point:
        return Point(self.x * factor, self.y * factor)

    @classmethod
    def origin(cls) -> Point:
        return cls(0)

    @staticmethod
    def length_of(x: int, y: int) -> float:
        return (x**2 + y**2) ** 0.5


# --- tasks that wait until they are let go ----------------------------------------------------------------------


def meet(barrier: Any, value: Any = None) -> Any:
    """Wait for the others: as many workers must run at the same time as the barrier has parties."""
    barrier.wait(20)
    return value


def meet_and_tell_worker(barrier: Any) -> tuple[int, int]:
    barrier.wait(20)
    return worker()


def tell_and_wait(told: Any, go: Any, value: Any = None) -> Any:
    """Say that it has begun, and wait until the event is set."""
    told.put(value)
    go.wait(20)
    return value


def tell(told: Any, value: Any) -> Any:
    told.put(value)
    return value


def wait_if(number: int, which: int, go: Any) -> int:
    """Wait until the event is set if the number is that one."""
    if number == which:
        go.wait(20)
    return number


def tell_and_raise_or_wait(told: Any, go: Any, number: int) -> int:
    """Item 0 raises, each other one waits until the event is set."""
    told.put(number)
    if number == 0:
        raise ArithmeticError(number)
    go.wait(20)
    return number


def tell_and_give_or_wait(told: Any, go: Any, number: int) -> int:
    """Item 0 is ready at once, each other one waits until the event is set."""
    told.put(number)
    if number > 0:
        go.wait(20)
    return number


def meet_at_the_end(barrier: Any, number: int, first: int) -> int:
    """The items from the first on wait for each other."""
    if number >= first:
        barrier.wait(20)
    return number


def worker_after(pause: float) -> tuple[int, int]:
    time.sleep(pause)
    return worker()


def give_or_spin(told: Any, number: int) -> int:
    """Item 0 is ready at once; each other one runs until somebody ends it."""
    if number > 0:
        spin_and_clean_up(told)
    return number


# In functions of their own, because the jump back of a loop is not inside of the `try` around it in 3.13.0.
def _spin() -> None:
    while True:
        pass


def _spin_until(go: Any) -> None:
    while not go.is_set():
        pass


def spin_until(told: Any, go: Any) -> None:
    """Run Python code until the event is set, or somebody ends it; tell which."""
    told.put("running")
    try:
        _spin_until(go)
        told.put("let go")
    except KeyboardInterrupt:
        told.put("KeyboardInterrupt")
        raise


def wait_and_raise(go: Any, error: BaseException) -> Any:
    go.wait(20)
    raise error


def tell_and_spin(told: Any, value: Any = None) -> None:
    """Say that it has begun, and run Python code until somebody ends it."""
    told.put(value)
    _spin()


def spin_and_clean_up(told: Any, interrupted: type[BaseException] = KeyboardInterrupt) -> str:
    """As `tell_and_spin`; tells what ended it."""
    told.put("running")
    try:
        _spin()
    except interrupted as error:
        told.put(type(error).__name__)
        raise


def tell_and_wait_for_ever(told: Any) -> None:
    told.put("waiting")
    try:
        multigil.Event().wait()
    except KeyboardInterrupt:
        told.put("KeyboardInterrupt")
        raise


def open_and_spin(path: str, told: Any) -> None:
    """Keep a file open and run Python code until somebody ends it."""
    with open(path, "wb"):
        told.put(None)
        _spin()


def print_flushed(value: Any) -> None:
    print(value, flush=True)


def leave_pool(make: Callable[..., Any]) -> None:
    """End with an executor that nobody has shut down."""
    state["pool"] = pool = make(1)
    if pool.submit(double, 21).result(20) != 42:
        raise AssertionError


def tell_and_sleep(told: Any, seconds: float) -> None:
    told.put("sleeping")
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        told.put("KeyboardInterrupt")
        raise


def spin_for(seconds: float, number: int) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return number


def put_all(q: Any, *items: Any) -> int:
    for item in items:
        q.put(item)
    return len(items)


def count_under(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


# --- state of a worker ------------------------------------------------------------------------------------------

state: dict[str, Any] = {}


def set_state(**values: Any) -> None:
    state.update(values)


def set_state_and_tell(told: Any, **values: Any) -> None:
    state.update(values, times=state.get("times", 0) + 1)
    told.put(worker())


def capture_state(*args: Any) -> None:
    state["args"] = args


def get_state(name: str, barrier: Any = None) -> Any:
    if barrier is not None:
        barrier.wait(20)
    return state.get(name)


def count_up(name: str) -> int:
    state[name] = state.get(name, 0) + 1
    return int(state[name])


def set_in_main(name: str, value: Any) -> None:
    setattr(sys.modules["__main__"], name, value)


def get_from_main(name: str) -> Any:
    return getattr(sys.modules["__main__"], name, None)


def delete_from_main(name: str) -> None:
    delattr(sys.modules["__main__"], name)


def fail(*args: Any) -> None:
    raise ArithmeticError(*args)


def fail_after(event: Any) -> None:
    event.wait(20)
    raise ArithmeticError("initializer")


def tell_and_fail(told: Any) -> None:
    told.put(None)
    raise ArithmeticError("initializer")


# --- what cannot be sent ----------------------------------------------------------------------------------------


class CannotBePickled:
    def __reduce__(self) -> Any:
        raise ArithmeticError("in __reduce__")


class ExitsWhenPickled:
    def __reduce__(self) -> Any:
        raise SystemExit("in __reduce__")


def _raise_in_loads(error: BaseException) -> Any:
    raise error


class CannotBeUnpickled:
    """Can be pickled, but raises where it arrives."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = ArithmeticError("in loads") if error is None else error

    def __reduce__(self) -> Any:
        return _raise_in_loads, (self.error,)


def cannot_be_pickled() -> Any:
    return CannotBePickled()


def exits_when_pickled() -> Any:
    return ExitsWhenPickled()


def cannot_be_unpickled(error: BaseException | None = None) -> Any:
    return CannotBeUnpickled(error)


def cannot_be_pickled_if(number: int, which: int) -> Any:
    return CannotBePickled() if number == which else number


def cannot_be_unpickled_if(number: int, which: int) -> Any:
    return CannotBeUnpickled() if number == which else number


def lock_of_threading() -> Any:
    return threading.Lock()


def _only_in_workers(pid: int, interpreter: int) -> int:
    if (pid, interpreter) == worker():
        raise RuntimeError("unpickled at home")
    return pid


class OnlyInWorkers:
    """Can be unpickled anywhere but where it was made."""

    def __reduce__(self) -> Any:
        return _only_in_workers, worker()


class FalsyBoolError(Exception):
    def __bool__(self) -> bool:
        return False


class FalsyLengthError(Exception):
    def __len__(self) -> int:
        return 0


def raise_unknown() -> None:
    """Raise an exception whose class nobody else can have."""

    class UnknownError(LookupError):
        pass

    UnknownError.__module__ = "no_such_module"
    UnknownError.__qualname__ = "UnknownError"
    raise UnknownError("unknown")


def raise_with_notes_and_cause() -> None:
    try:
        "text".index("z")
    except ValueError as error:
        effect = LookupError("effect")
        effect.add_note("a note")
        raise effect from error


# --- deaths -----------------------------------------------------------------------------------------------------


def die(how: str) -> Any:
    """End this process at once."""
    match how:
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            import faulthandler
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            faulthandler._sigsegv()  # type: ignore[attr-defined]
    time.sleep(20)


def die_unless(how: str, runs: Any, wanted: int, value: Any = None) -> Any:
    """Die, but for the run with that number."""
    if runs.fetch_add(1) + 1 < wanted:
        die(how)
    return value


def tell_and_be_ended(told: Any) -> Any:
    """Say who this is, and run Python code until somebody ends the worker."""
    told.put((os.getpid(), multigil.current_interpreter()))
    _spin()


def who() -> Any:
    """The process and the interpreter, as `tell_and_be_ended` tells them."""
    return os.getpid(), multigil.current_interpreter()


def be_ended_unless(told: Any, runs: Any, wanted: int, value: Any) -> Any:
    """Be ended, but for the run with that number."""
    if runs.fetch_add(1) + 1 < wanted:
        tell_and_be_ended(told)
    return value


def be_ended_if(number: int, which: int, told: Any, runs: Any = None) -> int:
    """Be ended if the number is that one; with `runs`, only twice."""
    if number == which and (runs is None or runs.fetch_add(1) < 2):
        tell_and_be_ended(told)
    return number


def die_if(number: int, which: int) -> int:
    if number == which:
        die("kill")
    return number


def die_with(lock: Any, how: str) -> None:
    lock.acquire()
    die(how)


def end(function: Callable[..., Any], *args: Any) -> Any:
    """Call what ends this worker; `args` are made into a tuple by pickle, so it is a function that loads can call."""
    return function(*args)


class EndsWhenUnpickled:
    """Calls the function wherever it arrives, and becomes its result."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, *args)

    def __reduce__(self) -> Any:
        return end, self.call


class EndsWhenPickled:
    """Calls the function where it is pickled, in a worker, after `make_ends_when_pickled`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, *args)

    def __reduce__(self) -> Any:
        function, *args = self.call
        return identity, (function(*args),)


def make_ends_when_pickled(function: Callable[..., Any], *args: Any) -> EndsWhenPickled:
    return EndsWhenPickled(function, *args)


class EndsWhenPickledError(LookupError):
    def __reduce__(self) -> Any:
        function, *args = self.args
        function(*args)
        raise AssertionError("it should have ended")


def raise_what_ends_when_pickled(function: Callable[..., Any], *args: Any) -> None:
    raise EndsWhenPickledError(function, *args)


class CannotBePickledError(LookupError):
    def __reduce__(self) -> Any:
        raise ArithmeticError("in __reduce__")


class CannotBeUnpickledError(LookupError):
    def __reduce__(self) -> Any:
        return _raise_in_loads, (ArithmeticError("in loads"),)


def raise_what_cannot_be_pickled() -> None:
    raise CannotBePickledError("text")


def raise_what_cannot_be_unpickled() -> None:
    raise CannotBeUnpickledError("text")
