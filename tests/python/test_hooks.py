"""The hooks of `threading` reach interpreters: `excepthook`, `settrace`, `setprofile` and their kin."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import multigil
import workers
from harness import AMPLE, started
from multigil import Event, Interpreter, Queue, SimpleQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import ProgramRunner

seen: SimpleQueue[Any] = SimpleQueue()


@pytest.fixture(autouse=True)
def _hooks_are_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(multigil, "excepthook", multigil.excepthook)
    yield
    multigil.settrace(None)
    multigil.setprofile(None)
    while not seen.empty():
        seen.get()


def all_seen() -> list[Any]:
    return [seen.get() for _ in range(seen.qsize())]


# A function for tracing and profiling, which takes its queue along.
watch: Any = functools.partial(workers.watch, seen)


class Hook(NamedTuple):
    set: Callable[[Any], None]
    get: Callable[[], Any]
    set_everywhere: Callable[[Any], None]


TRACE = Hook(multigil.settrace, multigil.gettrace, multigil.settrace_all_threads)
PROFILE = Hook(multigil.setprofile, multigil.getprofile, multigil.setprofile_all_threads)


@pytest.mark.parametrize("hook", [TRACE, PROFILE], ids=["trace", "profile"])
class TestTracingAndProfiling:
    def test_what_was_set_can_be_got(self, hook: Hook) -> None:
        assert hook.get() is None
        hook.set(watch)
        assert hook.get() is watch
        assert (sys.gettrace(), sys.getprofile()) == (None, None)
        hook.set(None)
        assert hook.get() is None

    def test_it_is_called_in_what_is_started_later(self, hook: Hook) -> None:
        hook.set(watch)
        interpreter = started(workers.to_be_traced)
        interpreter.join(AMPLE)
        assert ("call", interpreter.ident) in all_seen()
        hook.set(None)
        started(workers.to_be_traced).join(AMPLE)
        assert all_seen() == []

    def test_it_is_called_in_calls_of_an_open_interpreter(self, hook: Hook) -> None:
        with Interpreter() as interpreter:
            interpreter.call(workers.to_be_traced)
            hook.set(watch)
            interpreter.call(workers.to_be_traced)
            interpreter.submit(workers.to_be_traced).result(AMPLE)
            assert [entry for entry in all_seen() if entry[0] == "call"] == [("call", interpreter.ident)] * 2
            hook.set(None)
            interpreter.call(workers.to_be_traced)
            assert interpreter.call(workers.tracing) == (False, False, False, False)
            assert all_seen() == []

    def test_what_a_thread_has_set_itself_is_there_again_after_a_call(self, hook: Hook) -> None:
        with Interpreter() as interpreter:
            interpreter.exec("import sys; own = lambda *_: None; sys.settrace(own); sys.setprofile(own)")
            hook.set(watch)
            interpreter.call(workers.to_be_traced)
            hook.set(None)
            interpreter.exec("assert (sys.gettrace(), sys.getprofile()) == (own, own)")
            interpreter.exec("sys.settrace(None); sys.setprofile(None)")

    def test_it_reaches_what_those_start(self, hook: Hook) -> None:
        hook.set(watch)
        expected = (hook is TRACE, hook is PROFILE, hook is TRACE, hook is PROFILE)
        assert started(workers.tracing_of_a_nested_one).result(AMPLE) == expected
        hook.set(None)
        assert started(workers.tracing_of_a_nested_one).result(AMPLE) == (False, False, False, False)

    def test_it_may_be_a_closure(self, hook: Hook) -> None:
        q: Queue[str] = Queue()
        hook.set(lambda frame, _event, _argument: q.put(frame.f_code.co_name))
        started(workers.to_be_traced).join(AMPLE)
        assert q.get() == "to_be_traced"

    def test_one_that_cannot_be_sent_is_an_error_of_start(self, hook: Hook) -> None:
        lock = threading.Lock()
        hook.set(lambda *_: lock.locked())
        before = multigil.enumerate()
        with pytest.raises(TypeError, match="cannot pickle"):
            started(workers.to_be_traced)
        assert multigil.enumerate() == before

    def test_for_all_threads_it_reaches_what_runs(self, hook: Hook) -> None:
        stop, told = Event(), SimpleQueue[str]()
        interpreters = [started(workers.call_until, stop, told, workers.to_be_traced) for _ in range(2)]
        nested = started(workers.raise_and_be_joined, workers.call_until, stop, told, workers.to_be_traced)
        for _ in range(3):
            told.get(timeout=AMPLE)
        inner = next(one for one in multigil.enumerate() if one.name == "inner")
        try:
            hook.set_everywhere(watch)
            wanted = {inner.ident, *(one.ident for one in interpreters)}
            while wanted:
                wanted.discard(seen.get(timeout=AMPLE)[1])
            assert hook.get() is watch
        finally:
            hook.set_everywhere(None)
            stop.set()
        for interpreter in (*interpreters, nested):
            interpreter.join(AMPLE)
        assert hook.get() is None
        assert (sys.gettrace(), sys.getprofile()) == (None, None)

    def test_for_all_threads_it_reaches_the_threads_of_this_interpreter(self, hook: Hook) -> None:
        stop, told = Event(), SimpleQueue[str]()
        thread = threading.Thread(target=workers.call_until, args=(stop, told, workers.to_be_traced))
        thread.start()
        told.get(timeout=AMPLE)
        try:
            hook.set_everywhere(watch)
            while seen.get(timeout=AMPLE) != ("call", thread.ident):
                pass
        finally:
            hook.set_everywhere(None)
            stop.set()
        thread.join(AMPLE)

    def test_for_all_threads_it_may_be_set_from_an_interpreter(self, hook: Hook) -> None:
        try:
            started(hook.set_everywhere, watch).join(AMPLE)
            assert hook.get() is not None
            workers.to_be_traced()
            assert ("call", multigil.get_ident()) in all_seen()
        finally:
            hook.set_everywhere(None)


class TestExcepthook:
    def test_it_is_taken_along_to_what_interpreters_start(self) -> None:
        multigil.excepthook = lambda args: seen.put((args.thread.name, str(args.exc_value)))
        started(workers.raise_and_be_joined, workers.refuse).join(AMPLE)
        assert seen.get(timeout=AMPLE) == ("inner", "not here")

    def test_one_that_the_target_sets_is_called(self) -> None:
        def set_hook_and_fail() -> None:
            multigil.excepthook = lambda args: seen.put(f"{args.exc_type.__name__} in {args.thread.name}")
            raise ArithmeticError

        interpreter = Interpreter(target=set_hook_and_fail, name="hooked")
        interpreter.start()
        interpreter.join(AMPLE)
        assert seen.get(timeout=AMPLE) == "ArithmeticError in hooked"

    @pytest.mark.parametrize(
        "reset", ["multigil.excepthook = multigil.__excepthook__", "multigil.excepthook = None"], ids=["old", "None"]
    )
    def test_the_original_can_be_had_back(self, run_program: ProgramRunner, reset: str) -> None:
        outcome = run_program(f"""
            import multigil
            def fail():
                raise ValueError("own")
            def hook(args):
                print("hook", args.exc_value)
            def run():
                interpreter = multigil.Interpreter(target=fail)
                interpreter.start()
                interpreter.join()
            multigil.excepthook = hook
            run()
            {reset}
            run()
        """)
        assert outcome.stdout == "hook own\n"
        assert outcome.stderr.endswith("ValueError: own\n")
        assert outcome.stderr.count("Traceback") == 1

    def test_one_that_fails_is_reported_with_the_exception_hook_of_sys(self, run_program: ProgramRunner) -> None:
        outcome = run_program("""
            import multigil
            def hook(args):
                raise LookupError("the hook failed")
            multigil.excepthook = hook
            interpreter = multigil.Interpreter(target=int, args=("x",))
            interpreter.start()
            interpreter.join()
        """)
        assert outcome.stderr.startswith("Exception in multigil.excepthook:\n")
        assert outcome.stderr.endswith("LookupError: the hook failed\n")

    def test_called_by_hand_it_prints_what_it_gets(self, capsys: pytest.CaptureFixture[str]) -> None:
        original: Callable[..., object] = multigil.__excepthook__
        error = ValueError("by hand")
        original(multigil.ExceptHookArgs((ValueError, error, None, None)))
        original(multigil.ExceptHookArgs((SystemExit, SystemExit(1), None, None)))
        assert capsys.readouterr().err == f"Exception in thread {multigil.get_ident()}:\nValueError: by hand\n"
