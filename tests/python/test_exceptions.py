"""An exception comes back as its own type with all that it holds, and with the traceback of where it was raised."""

from __future__ import annotations

import errno
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import raising
from harness import AMPLE, started
from multigil import Interpreter, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


type Catch = Callable[[Callable[[], object]], Any]


@pytest.fixture(scope="module", params=[Interpreter, Process], ids=["interpreter", "process"])
def service(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    with request.param() as interpreter:
        yield interpreter


@pytest.fixture
def caught(service: Interpreter) -> Catch:
    """Calls a function in another interpreter; gives the exception that arrives here."""

    def catch(function: Callable[[], object]) -> BaseException:
        with pytest.raises(BaseException) as info:  # noqa: PT011 - tests look at all of it
            service.call(function)
        return info.value

    return catch


class TestContent:
    def test_a_constructor_with_two_arguments(self, caught: Catch) -> None:
        error = caught(raising.two_arguments)
        assert type(error) is raising.TwoArgumentsError
        assert (str(error), error.args, error.code, error.text) == ("wrong (5)", ("wrong (5)",), 5, "wrong")

    def test_a_constructor_with_keywords_only(self, caught: Catch) -> None:
        error = caught(raising.keyword_only)
        assert type(error) is raising.KeywordOnlyError
        assert (str(error), error.limit) == ("over the limit", 3)

    def test_slots(self, caught: Catch) -> None:
        error = caught(raising.slotted)
        assert type(error) is raising.SlottedError
        assert error.position == 7

    def test_a_reduce_of_its_own(self, caught: Catch) -> None:
        error = caught(raising.reduced)
        assert type(error) is raising.ReducedError
        assert error.number == 9

    def test_a_class_whose_attributes_cannot_be_set(self, caught: Catch) -> None:
        error = caught(raising.frozen)
        assert type(error) is raising.FrozenError
        assert str(error) == "frozen"

    def test_an_attribute_that_cannot_be_pickled_hides_neither_class_nor_message_nor_the_others(
        self, caught: Catch
    ) -> None:
        error = caught(raising.holds_lock)
        assert type(error) is raising.HoldsLockError
        assert (str(error), error.text) == ("held", "held")

    def test_an_argument_that_cannot_be_pickled_hides_neither_class_nor_the_others(self, caught: Catch) -> None:
        error = caught(raising.argument_cannot_be_pickled)
        assert type(error) is raising.ArgumentCannotBePickledError
        assert error.args[0] == "text"

    def test_notes(self, caught: Catch) -> None:
        assert caught(raising.with_notes).__notes__ == ["first note", "second note"]

    def test_an_operating_systems_error(self, caught: Catch) -> None:
        error = caught(raising.file_not_found)
        assert type(error) is FileNotFoundError
        assert (error.errno, error.filename) == (errno.ENOENT, "/no/such/file")
        assert str(error) == "[Errno 2] No such file or directory: '/no/such/file'"

    def test_a_syntax_error(self, caught: Catch) -> None:
        error = caught(raising.wrong_syntax)
        assert type(error) is SyntaxError
        with pytest.raises(SyntaxError) as here:
            raising.wrong_syntax()
        for attribute in ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"):
            assert getattr(error, attribute) == getattr(here.value, attribute)

    def test_a_unicode_error(self, caught: Catch) -> None:
        error = caught(raising.wrong_unicode)
        assert type(error) is UnicodeDecodeError
        assert (error.encoding, error.object, error.start, error.end) == ("utf-8", b"abc\xff", 3, 4)

    def test_an_import_error(self, caught: Catch) -> None:
        error = caught(raising.no_module)
        assert type(error) is ModuleNotFoundError
        assert error.name == "no_such_module_anywhere"

    def test_an_attribute_error(self, caught: Catch) -> None:
        error = caught(raising.no_attribute)
        assert type(error) is AttributeError
        assert error.name == "no_such_attribute"

    def test_a_recursion_error(self, caught: Catch) -> None:
        assert type(caught(raising.too_deep)) is RecursionError

    def test_what_is_no_exception_but_a_base_exception(self, caught: Catch) -> None:
        error = caught(raising.quiet)
        assert type(error) is raising.QuietBaseError
        assert error.args == (1,)

    def test_system_exit(self, caught: Catch) -> None:
        error = caught(raising.system_exit)
        assert type(error) is SystemExit
        assert error.code == 5

    def test_a_queue_that_only_the_exception_holds(self, caught: Catch) -> None:
        error = caught(raising.shares_queue)
        assert error.args[0].get_nowait() == "in the queue of the exception"


class TestChains:
    def test_a_cause(self, caught: Catch) -> None:
        error = caught(raising.with_cause)
        assert (type(error), str(error)) == (RuntimeError, "effect")
        assert type(error.__cause__) is raising.TwoArgumentsError
        assert error.__cause__.code == 5

    def test_a_context(self, caught: Catch) -> None:
        error = caught(raising.with_context)
        assert type(error.__context__) is KeyError
        assert not error.__suppress_context__

    def test_a_context_that_is_suppressed(self, caught: Catch) -> None:
        error = caught(raising.with_suppressed_context)
        assert type(error.__context__) is KeyError
        assert "KeyError" not in "".join(traceback.format_exception(error))

    def test_a_group_and_the_groups_in_it(self, caught: Catch) -> None:
        error = caught(raising.group)
        inner, permission = error.exceptions
        assert (type(error), error.message) == (ExceptionGroup, "outer")
        assert (type(inner), inner.message) == (ExceptionGroup, "inner")
        assert [type(each) for each in inner.exceptions] == [raising.TwoArgumentsError, KeyError]
        assert inner.exceptions[0].code == 1
        assert (type(permission), permission.filename) == (PermissionError, "file")

    def test_a_group_of_base_exceptions(self, caught: Catch) -> None:
        error = caught(raising.base_group)
        assert type(error) is BaseExceptionGroup
        assert [type(each) for each in error.exceptions] == [KeyboardInterrupt, ValueError]


class TestClasses:
    def test_one_that_cannot_be_had_here_is_stood_in_for_by_one_with_its_name_and_bases(self, caught: Catch) -> None:
        error = caught(raising.local_class)
        assert type(error).__name__ == "LocalError"
        assert issubclass(type(error), LookupError)
        assert (str(error), error.detail) == ("of a local class", 5)

    def test_one_of_main_there_is_stood_in_for_too(self, service: Interpreter) -> None:
        service.exec("class OwnError(KeyError): pass")
        with pytest.raises(KeyError) as info:
            service.exec("raise OwnError(5)")
        assert type(info.value).__name__ == "OwnError"


class TestTraceback:
    def test_it_is_printed_with_the_exception(self, caught: Catch) -> None:
        text = "".join(traceback.format_exception(caught(raising.with_cause)))
        for part in ("RemoteTraceback", "raising.py", "in with_cause", "in two_arguments", "raise TwoArgumentsError(5"):
            assert part in text
        assert text.rstrip().endswith("RuntimeError: effect")

    def test_it_does_not_show_how_the_call_was_made_there(self, caught: Catch) -> None:
        text = "".join(traceback.format_exception(caught(raising.two_arguments)))
        remote, here = text.split('"""')[1:]
        assert "_worker.py" not in remote
        assert "in two_arguments" not in here

    def test_that_of_an_interpreter_further_away_is_there_too(self, caught: Catch) -> None:
        error = caught(raising.raised_further_away)
        assert type(error) is raising.TwoArgumentsError
        text = "".join(traceback.format_exception(error))
        assert "in two_arguments" in text
        assert "in raised_further_away" in text

    def test_it_does_not_grow_each_time_the_result_is_asked_for(self) -> None:
        interpreter = started(raising.two_arguments)
        texts = []
        for _ in range(3):
            with pytest.raises(raising.TwoArgumentsError) as info:
                interpreter.result(AMPLE)
            texts.append("".join(traceback.format_exception(info.value)))
        assert texts[0] == texts[1] == texts[2]
        assert interpreter.exception(AMPLE) is info.value


@pytest.mark.usefixtures("each_backend")
class TestResults:
    def test_exception_gives_it_without_raising(self) -> None:
        error = started(raising.two_arguments).exception(AMPLE)
        assert isinstance(error, raising.TwoArgumentsError)
        assert error.code == 5

    def test_a_result_that_is_an_exception_is_not_raised(self) -> None:
        interpreter = started(ValueError, "a value")
        assert repr(interpreter.result(AMPLE)) == "ValueError('a value')"
        assert interpreter.exception(AMPLE) is None

    def test_a_result_that_cannot_be_pickled_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="cannot pickle"):
            started(threading.Lock).result(AMPLE)

    @pytest.mark.parametrize(
        ("target", "args", "exitcode"),
        [
            (int, (), 0),
            (raising.two_arguments, (), 1),
            (raising.system_exit, (), 5),
            (exit, (), 0),
            (exit, ("text",), 1),
        ],
    )
    def test_the_exit_code_tells_how_it_ended(self, target: Any, args: tuple[Any, ...], exitcode: int) -> None:
        interpreter = Interpreter(target=target, args=args)
        assert interpreter.exitcode is None
        interpreter.start()
        interpreter.join(AMPLE)
        assert interpreter.exitcode == exitcode
