"""Exceptions that are difficult to send, and functions that raise them in other interpreters."""

from __future__ import annotations

import threading
from typing import Any

import multigil

NOTHING: dict[str, int] = {}


class TwoArgumentsError(Exception):
    """Its pickle cannot be loaded: that would call the constructor with the one argument that `args` has."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class KeywordOnlyError(ValueError):
    def __init__(self, *, limit: int) -> None:
        super().__init__("over the limit")
        self.limit = limit


class SlottedError(Exception):
    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = position


class HoldsLockError(LookupError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()
        self.text = text


class ArgumentCannotBePickledError(LookupError):
    def __init__(self) -> None:
        super().__init__("text", threading.Lock())


class ReducedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __reduce__(self) -> Any:
        return ReducedError, (self.number,)


class FrozenError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


class SharesQueueError(Exception):
    def __init__(self, q: multigil.Queue[str]) -> None:
        super().__init__(q)


class QuietBaseError(BaseException):
    pass


def two_arguments() -> None:
    raise TwoArgumentsError(5, "wrong")


def keyword_only() -> None:
    raise KeywordOnlyError(limit=3)


def slotted() -> None:
    raise SlottedError(7)


def holds_lock() -> None:
    raise HoldsLockError("held")


def argument_cannot_be_pickled() -> None:
    raise ArgumentCannotBePickledError


def reduced() -> None:
    raise ReducedError(9)


def frozen() -> None:
    raise FrozenError("frozen")


def with_notes() -> None:
    error = ValueError("noted")
    error.add_note("first note")
    error.add_note("second note")
    raise error


def with_cause() -> None:
    try:
        two_arguments()
    except TwoArgumentsError as error:
        raise RuntimeError("effect") from error


def with_context() -> None:
    try:
        NOTHING["missing"]
    except KeyError:
        raise RuntimeError("while handling")  # noqa: B904 - the context is what is tested


def with_suppressed_context() -> None:
    try:
        NOTHING["missing"]
    except KeyError:
        raise RuntimeError("alone") from None


def group() -> None:
    inner = ExceptionGroup("inner", [TwoArgumentsError(1, "one"), KeyError("two")])
    raise ExceptionGroup("outer", [inner, OSError(13, "Permission denied", "file")])


def base_group() -> None:
    raise BaseExceptionGroup("base", [KeyboardInterrupt(), ValueError(1)])


def file_not_found() -> None:
    with open("/no/such/file"):
        pass


def wrong_syntax() -> None:
    compile("x = (1,\ny = 2", "some.py", "exec")


def wrong_unicode() -> None:
    b"abc\xff".decode()


def no_module() -> None:
    import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401


def no_attribute() -> None:
    object().no_such_attribute  # type: ignore[attr-defined]  # noqa: B018


def quiet() -> None:
    raise QuietBaseError(1)


def local_class() -> None:
    class LocalError(LookupError):
        pass

    error = LocalError("of a local class")
    error.detail = 5  # type: ignore[attr-defined]
    raise error


def too_deep() -> None:
    too_deep()


def system_exit() -> None:
    raise SystemExit(5)


def shares_queue() -> None:
    q: multigil.Queue[str] = multigil.Queue()
    q.put("in the queue of the exception")
    raise SharesQueueError(q)


def raised_further_away() -> None:
    interpreter = multigil.Interpreter(target=two_arguments)
    interpreter.start()
    interpreter.result()
