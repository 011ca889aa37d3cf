"""`Interpreter` behaves as `threading.Thread` does."""

from __future__ import annotations

import contextvars
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import workers
from harness import AMPLE, MOMENT, in_thread, started
from multigil import Interpreter, Queue, SimpleQueue, _exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import ProgramRunner


@pytest.mark.usefixtures("each_backend")
class TestLife:
    def test_a_target_gets_its_arguments_and_gives_its_result(self) -> None:
        interpreter = Interpreter(target=workers.describe_call, args=(1, "two"), kwargs={"three": [3]})
        interpreter.start()
        assert interpreter.result(AMPLE) == ((1, "two"), {"three": [3]})

    def test_arguments_may_be_any_iterable(self) -> None:
        interpreter = Interpreter(target=workers.describe_call, args=[1, 2])
        interpreter.start()
        assert interpreter.result(AMPLE) == ((1, 2), {})

    def test_it_runs_beside_the_one_who_started_it(self) -> None:
        q: Queue[int] = Queue()
        interpreter = started(q.get)
        assert interpreter.is_alive()
        assert not interpreter.done()
        q.put(5)
        assert interpreter.result(AMPLE) == 5

    def test_it_is_alive_from_start_to_end(self) -> None:
        q: Queue[None] = Queue()
        interpreter = Interpreter(target=q.get)
        assert not interpreter.is_alive()
        interpreter.start()
        assert interpreter.is_alive()
        q.put(None)
        interpreter.join()
        assert not interpreter.is_alive()
        assert interpreter.done()

    def test_join_returns_none_at_the_end_and_may_be_called_again(self) -> None:
        interpreter = started(workers.identity, 5)
        assert interpreter.join(AMPLE) is None  # type: ignore[func-returns-value]
        assert interpreter.join() is None  # type: ignore[func-returns-value]
        assert interpreter.result() == interpreter.result(0) == 5

    def test_join_waits_at_least_its_timeout_and_then_returns(self) -> None:
        q: Queue[None] = Queue()
        interpreter = started(q.get)
        start = time.monotonic_ns()
        interpreter.join(0.25)
        assert 250_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        interpreter.join(timeout=0)
        interpreter.join(-1)
        assert interpreter.is_alive()
        q.put(None)
        interpreter.join()

    def test_result_and_exception_raise_timeout_error(self) -> None:
        q: Queue[None] = Queue()
        interpreter = started(q.get)
        for wait in (interpreter.result, interpreter.exception):
            start = time.monotonic_ns()
            with pytest.raises(TimeoutError):
                wait(timeout=0.1)
            assert 100_000_000 <= time.monotonic_ns() - start < AMPLE * 1e9
        q.put(None)
        assert interpreter.exception(AMPLE) is None

    def test_many_threads_may_join_it(self) -> None:
        q: Queue[int] = Queue()
        interpreter = started(q.get)
        joining = [in_thread(interpreter.join), in_thread(interpreter.result), in_thread(interpreter.exception)]
        q.put(5)
        assert [future.result(AMPLE) for future in joining] == [None, 5, None]

    def test_any_thread_may_start_it(self) -> None:
        interpreter = Interpreter(target=workers.identity, args=(5,))
        in_thread(interpreter.start).result(AMPLE)
        assert interpreter.result(AMPLE) == 5

    def test_an_interpreter_may_start_another(self) -> None:
        assert (
            started(workers.start_and_get_result, workers.start_and_get_result, workers.identity, 5).result(AMPLE) == 5
        )

    def test_twenty_at_once(self) -> None:
        interpreters = [started(workers.identity, number) for number in range(20)]
        assert [interpreter.result(2 * AMPLE) for interpreter in interpreters] == list(range(20))

    def test_it_can_be_dropped_while_it_runs(self) -> None:
        q: Queue[Any] = Queue()
        replies: Queue[Any] = Queue()
        started(workers.echo, q, replies)
        q.put("still running")
        assert replies.get(timeout=AMPLE) == "still running"
        q.shutdown()
        for interpreter in multigil.enumerate():
            if interpreter is not multigil.main_interpreter():
                interpreter.join(AMPLE)


@pytest.mark.usefixtures("each_backend")
class TestErrors:
    def test_starting_twice_is_a_runtime_error(self) -> None:
        interpreter = started(workers.identity, 5)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="only be started once"):
                interpreter.start()
            interpreter.join(AMPLE)
        assert interpreter.result() == 5

    def test_joining_before_the_start_is_a_runtime_error(self) -> None:
        interpreter = Interpreter(target=workers.identity, args=(5,))
        for wait in (interpreter.join, interpreter.result, interpreter.exception):
            with pytest.raises(RuntimeError, match="before it is started"):
                wait()
        assert not interpreter.done()

    def test_joining_itself_is_a_runtime_error(self) -> None:
        with pytest.raises(RuntimeError, match="cannot join current"):
            started(workers.join_itself).result(AMPLE)

    def test_a_group_is_an_error(self) -> None:
        group: Any = "group"
        with pytest.raises(AssertionError, match="group argument must be None for now"):
            Interpreter(group, workers.identity)

    def test_a_subclass_that_does_not_call_the_constructor_cannot_be_started(self) -> None:
        class Forgetful(Interpreter):
            def __init__(self) -> None:
                pass

        with pytest.raises(RuntimeError, match="__init__"):
            Forgetful().start()

    def test_setting_daemon_after_the_start_is_a_runtime_error(self) -> None:
        interpreter = started(workers.identity, 5)
        with pytest.raises(RuntimeError, match="daemon"):
            interpreter.daemon = True
        interpreter.join(AMPLE)

    @pytest.mark.parametrize(
        ("target", "args"),
        [
            (workers.identity, (threading.Lock(),)),
            (threading.Lock().acquire, ()),
            (workers.identity, ((number for number in range(3)),)),
        ],
    )
    def test_what_cannot_be_sent_is_an_error_of_start_and_nothing_is_started(self, target: Any, args: Any) -> None:
        before = multigil.enumerate()
        interpreter = Interpreter(target=target, args=args)
        with pytest.raises(TypeError):
            interpreter.start()
        assert not interpreter.is_alive()
        assert multigil.enumerate() == before

    def test_a_target_that_cannot_be_called_is_the_error_of_its_call(self) -> None:
        target: Any = 5
        with pytest.raises(TypeError, match="'int' object is not callable"):
            started(target).result(AMPLE)


class TestNames:
    def test_a_name_is_made_of_a_number_and_the_target(self) -> None:
        names = [Interpreter(target=workers.identity).name for _ in range(2)]
        first, second = (re.fullmatch(r"Interpreter-(\d+) \(identity\)", name) for name in names)
        assert first
        assert second
        assert int(second[1]) == int(first[1]) + 1

    def test_without_a_target_it_is_a_number(self) -> None:
        assert re.fullmatch(r"Interpreter-\d+", Interpreter().name)

    def test_a_name_may_be_given_and_changed(self) -> None:
        interpreter = Interpreter(name="first")
        assert interpreter.name == "first"
        interpreter.name = 5  # type: ignore[assignment]
        assert interpreter.name == "5"

    @pytest.mark.usefixtures("each_backend")
    def test_it_is_known_inside(self) -> None:
        interpreter = Interpreter(target=workers.own_name, name="worker")
        interpreter.start()
        assert interpreter.result(AMPLE) == "worker"

    def test_a_change_is_seen_on_both_sides(self) -> None:
        with Interpreter(name="first") as interpreter:
            assert interpreter.call(workers.own_name) == "first"
            interpreter.name = "second"
            assert interpreter.call(workers.own_name) == "second"
            interpreter.call(workers.rename, "third")
            assert interpreter.name == "third"
        assert repr(interpreter) == f"<Interpreter(third, stopped {interpreter.ident})>"

    def test_any_text_is_a_name(self) -> None:
        for name in ("\ud800 alone", "zero \0 in it", "é" * 100):
            interpreter = Interpreter(target=workers.own_name, name=name)
            interpreter.start()
            assert interpreter.result(AMPLE) == interpreter.name == name
            interpreter.join(AMPLE)

    def test_the_kernel_knows_its_beginning(self) -> None:
        with Interpreter(name="seen by the kernel") as interpreter:
            assert interpreter.call(workers.kernel_name) == "seen by the ker"
            interpreter.name = "by 0\0"
            assert interpreter.call(workers.kernel_name) == "by 0"

    def test_numbers_are_given_once_wherever_one_is_made(self) -> None:
        inside = started(workers.default_name).result(AMPLE)
        assert int(inside.removeprefix("Interpreter-")) < int(Interpreter().name.removeprefix("Interpreter-"))

    def test_the_old_methods_warn(self) -> None:
        interpreter = Interpreter(name="old")
        with pytest.warns(DeprecationWarning, match="get the name attribute") as warned:
            assert interpreter.getName() == "old"
        assert warned[0].filename == __file__
        with pytest.warns(DeprecationWarning, match="set the name attribute"):
            interpreter.setName("new")
        with pytest.warns(DeprecationWarning, match="set the daemon attribute"):
            interpreter.setDaemon(True)
        with pytest.warns(DeprecationWarning, match="get the daemon attribute"):
            assert interpreter.isDaemon() is True
        assert repr(interpreter) == "<Interpreter(new, initial daemon)>"


class TestAttributes:
    def test_the_identifiers_are_none_before_the_start_and_those_seen_inside_afterwards(self) -> None:
        interpreter = Interpreter(target=workers.identifiers)
        assert (interpreter.ident, interpreter.native_id, interpreter.id) == (None, None, None)
        interpreter.start()
        inside = interpreter.result(AMPLE)
        assert inside == (interpreter.ident, interpreter.native_id, interpreter.id)
        assert interpreter.native_id != threading.get_native_id()
        assert interpreter.id != multigil.main_interpreter().id

    def test_the_identifiers_are_there_as_soon_as_start_has_returned(self) -> None:
        q: Queue[None] = Queue()
        interpreter = started(q.get)
        assert interpreter.ident is not None
        assert interpreter.native_id is not None
        q.put(None)
        interpreter.join(AMPLE)

    @pytest.mark.usefixtures("each_backend")
    def test_it_is_no_daemon_unless_told_to_be(self) -> None:
        assert Interpreter().daemon is False
        assert Interpreter(daemon=True).daemon is True
        interpreter = Interpreter()
        interpreter.daemon = True
        assert interpreter.daemon is True

    @pytest.mark.usefixtures("each_backend")
    def test_it_is_a_daemon_if_its_creator_is_one(self) -> None:
        for daemon in (True, False):
            interpreter = Interpreter(target=workers.daemon_of_a_new_interpreter, daemon=daemon)
            interpreter.start()
            assert interpreter.result(AMPLE) is daemon

    def test_the_backend_is_named(self) -> None:
        assert Interpreter().backend == "interpreter"
        with pytest.raises(ValueError, match="backend"):
            Interpreter(backend="no such backend")

    @pytest.mark.parametrize("daemon", [False, True])
    def test_the_repr_tells_name_state_and_daemon(self, daemon: bool) -> None:
        suffix = " daemon" if daemon else ""
        q: Queue[None] = Queue()
        interpreter = Interpreter(target=q.get, name="worker", daemon=daemon)
        assert repr(interpreter) == f"<Interpreter(worker, initial{suffix})>"
        interpreter.start()
        assert repr(interpreter) == f"<Interpreter(worker, started{suffix} {interpreter.ident})>"
        q.put(None)
        interpreter.join()
        assert repr(interpreter) == f"<Interpreter(worker, stopped{suffix} {interpreter.ident})>"


@pytest.mark.usefixtures("each_backend")
class TestContext:
    def test_an_interpreter_begins_with_an_empty_context(self) -> None:
        variable = contextvars.ContextVar[str]("variable")
        variable.set("here")
        for context in (None, contextvars.Context()):
            interpreter = Interpreter(target=workers.context_is_empty, context=context)
            interpreter.start()
            assert interpreter.result(AMPLE) is True

    def test_one_that_is_not_empty_is_a_type_error(self) -> None:
        context = contextvars.Context()
        context.run(contextvars.ContextVar[str]("variable").set, "here")
        with pytest.raises(TypeError, match="pass their values as arguments"):
            Interpreter(target=int, context=context)


class TestStackSize:
    @pytest.fixture(autouse=True)
    def _size_is_as_before(self) -> Iterator[None]:
        yield
        multigil.stack_size(0)

    def test_it_is_that_of_threads_too(self) -> None:
        assert multigil.stack_size(1 << 20) == 0
        assert workers.thread_stack_size() == 1 << 20
        assert multigil.stack_size() == 1 << 20
        assert multigil.stack_size() == 0

    @pytest.mark.parametrize("size", [-1, 1, "big", None])
    def test_one_that_is_no_size_is_an_error_and_changes_nothing(self, size: Any) -> None:
        multigil.stack_size(1 << 20)
        with pytest.raises((ValueError, TypeError)):
            multigil.stack_size(size)
        assert multigil.stack_size(0) == 1 << 20

    @pytest.mark.skipif(sys.version_info < (3, 13), reason="ctypes does not load in an interpreter of 3.12")
    @pytest.mark.parametrize(("size", "least"), [(0, 16 << 20), (64 << 10, 512 << 10), (32 << 20, 32 << 20)])
    def test_interpreters_get_at_least_what_was_set_or_else_16_mib(self, size: int, least: int) -> None:
        multigil.stack_size(size)
        # The C library keeps stacks of threads that have ended, and may give a larger one.
        assert started(workers.stack_bytes).result(AMPLE) >= least
        assert started(workers.stack_bytes_of_a_nested_one).result(AMPLE) >= least

    def test_threads_in_an_interpreter_get_what_was_set(self) -> None:
        multigil.stack_size(1 << 20)
        assert started(workers.thread_stack_size).result(AMPLE) == 1 << 20

    def test_interpreters_that_were_made_ahead_are_not_used_when_another_size_is_wanted(self) -> None:
        started(int).join(AMPLE)
        spares = list(_exit._all.spares)
        multigil.stack_size(1 << 20)
        started(int).join(AMPLE)
        assert list(_exit._all.spares) == spares


class Doubling(Interpreter):
    def __init__(self, number: int) -> None:
        super().__init__(name=f"doubling {number}")
        self.number = number

    def run(self) -> int:
        return 2 * self.number


class TestSubclass:
    def test_run_may_be_overridden_and_uses_the_attributes_of_the_object(self) -> None:
        interpreter = Doubling(21)
        interpreter.start()
        assert interpreter.result(AMPLE) == 42
        assert interpreter.name == "doubling 21"


class TestListing:
    def test_the_main_interpreter_is_the_current_one_here(self) -> None:
        main = multigil.main_interpreter()
        assert multigil.current_interpreter() is main
        assert main in multigil.enumerate()
        assert main.is_alive()
        assert main.ident == multigil.get_ident() == threading.get_ident()
        assert main.native_id == multigil.get_native_id() == threading.get_native_id()

    @pytest.mark.usefixtures("each_backend")
    def test_those_that_run_are_listed(self) -> None:
        q: Queue[None] = Queue()
        before = multigil.active_count()
        interpreters = [Interpreter(target=q.get) for _ in range(3)]
        assert not set(interpreters) & set(multigil.enumerate())
        for interpreter in interpreters:
            interpreter.start()
        assert set(interpreters) <= set(multigil.enumerate())
        assert multigil.active_count() == len(multigil.enumerate()) == before + 3
        for _ in interpreters:
            q.put(None)
        for interpreter in interpreters:
            interpreter.join(AMPLE)
        assert not set(interpreters) & set(multigil.enumerate())
        assert multigil.active_count() == before

    def test_the_names_of_threading_are_names_of_the_same_things(self) -> None:
        assert multigil.Thread is Interpreter
        assert multigil.current_thread is multigil.current_interpreter
        assert multigil.main_thread is multigil.main_interpreter
        assert multigil.TIMEOUT_MAX == threading.TIMEOUT_MAX
        assert multigil.get_ident() == threading.get_ident()

    def test_inside_the_current_one_is_not_the_main_one(self) -> None:
        assert started(workers.is_main).result(AMPLE) is False

    def test_the_main_one_is_called_as_the_main_thread(self) -> None:
        assert multigil.main_interpreter().name == threading.main_thread().name == "MainThread"

    def test_they_are_listed_everywhere(self) -> None:
        with Interpreter(name="first") as first, Interpreter(name="second") as second:
            expected = ["MainThread", "first", "second"]
            assert [interpreter.name for interpreter in multigil.enumerate()] == expected
            for interpreter in (first, second):
                assert interpreter.call(workers.listing) == (expected, 3, interpreter.name, "MainThread")

    def test_those_that_another_one_started_are_listed(self) -> None:
        go: Queue[None] = Queue()
        with Interpreter(name="outer") as outer:
            outer.call(workers.start_named, go.get, (), "inner", daemon=True)
            names, count, *_ = outer.call(workers.listing)
            assert (names, count) == (["MainThread", "outer", "inner"], 3)
            inner = multigil.enumerate()[-1]
            assert inner.name == "inner"
            assert inner is multigil.enumerate()[-1]
            assert inner.daemon
            assert inner.is_alive()
            inner.join(0.01)
            assert inner.is_alive()
            go.put(None)
            inner.join(AMPLE)
            assert not inner.is_alive()
            assert inner not in multigil.enumerate()
            assert outer.call(workers.listing)[0] == ["MainThread", "outer"]
            assert repr(inner) == f"<Interpreter(inner, stopped daemon {inner.ident})>"

    def test_one_that_another_one_started_can_be_terminated_but_not_asked(self) -> None:
        with Interpreter() as outer:
            outer.call(workers.start_named, workers.spin, (), "inner")
            outer.call(workers.start_named, Queue().get, (), "waiting")
            spinning, waiting = multigil.enumerate()[-2:]
            for inner in (spinning, waiting):
                assert workers.errors_of(inner) == [
                    "interpreters can only be started once",
                    "cannot wait for interpreter that was not started from here",
                    "cannot interrupt interpreter that was not started from here",
                    "cannot close interpreter that was not started from here",
                    "cannot call interpreter that was not started from here",
                    "cannot set daemon status of active interpreter",
                ]
                assert inner.is_alive()
                inner.terminate(AMPLE)
                assert not inner.is_alive()

    def test_an_open_one_that_another_one_opened_can_be_terminated(self) -> None:
        with Interpreter() as outer:
            outer.exec("import multigil; inner = multigil.Interpreter(name='open'); inner.call(int)")
            inner = multigil.enumerate()[-1]
            assert inner.name == "open"
            inner.terminate(AMPLE)
            assert outer.call(workers.listing)[0] == ["MainThread", outer.name]

    def test_spares_are_not_listed(self) -> None:
        started(int).join(AMPLE)
        assert len(_exit._all.spares) > 0
        assert multigil.enumerate() == [multigil.main_interpreter()]

    def test_the_main_one_has_ended_when_the_main_thread_has(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, time
            def watch(started):
                main = multigil.main_interpreter()
                started.put(main.is_alive())
                main.join()
                print(main.is_alive(), main)
            started = multigil.Queue()
            multigil.Interpreter(target=watch, args=(started,)).start()
            print(started.get(), multigil.main_interpreter().ident, flush=True)
        """)
        first, second = output.splitlines()
        ident = first.removeprefix("True ")
        assert second == f"False <Interpreter(MainThread, stopped {ident})>"

    def test_a_forked_child_has_the_main_one_of_its_own(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, os, threading, warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, about threads
            main = multigil.main_interpreter()
            interpreter = multigil.Interpreter(target=int)
            interpreter.start()
            interpreter.join()
            if os.fork() == 0:
                assert multigil.current_interpreter() is main
                assert multigil.enumerate() == [main]
                thread = threading.main_thread()
                assert (main.ident, main.native_id) == (thread.ident, thread.native_id)
                raise SystemExit
            _, status = os.wait()
            print(status, main.is_alive(), main.native_id == multigil.get_native_id())
        """)
        assert output == "0 True True\n"

    def test_the_old_names_warn(self) -> None:
        with pytest.warns(DeprecationWarning, match="use current_thread") as warned:
            assert multigil.currentThread() is multigil.main_interpreter()
        assert warned[0].filename == __file__
        with pytest.warns(DeprecationWarning, match="use active_count"):
            assert multigil.activeCount() == 1


class TestSending:
    """An interpreter's object arrives elsewhere as the object that stands for it there."""

    def test_it_is_recognized_where_it_was_started(self) -> None:
        with Interpreter() as one:
            assert one.call(workers.who_am_i) is one
            assert one.call(workers.identity, multigil.main_interpreter()) is multigil.main_interpreter()
            with Interpreter() as other:
                assert other.call(workers.identity, one) is one

    def test_elsewhere_it_shows_the_same(self) -> None:
        with Interpreter(name="one") as one, Interpreter(daemon=True) as other:
            one.call(int)
            assert other.call(workers.facts, one) == workers.facts(one)
            assert other.call(workers.is_same, one, one) is True
        assert started(workers.facts, one).result(AMPLE) == workers.facts(one)

    def test_it_can_be_joined_there(self) -> None:
        go: Queue[None] = Queue()
        one = started(go.get)
        joining = started(one.join)
        go.put(None)
        joining.join(AMPLE)
        assert not one.is_alive()
        assert joining.result() is None

    def test_it_is_the_current_one_where_it_runs(self) -> None:
        with Interpreter() as one:
            own = one.call(workers.errors_of, one)
            assert own[0] == "interpreters can only be started once"
            assert set(own[1:-1]) == {
                f"cannot {verb} current interpreter" for verb in ("wait for", "interrupt", "close", "call")
            }

    def test_one_that_is_not_started_cannot_be_sent(self) -> None:
        q: Queue[Any] = Queue()
        with pytest.raises(TypeError, match="cannot pickle 'Interpreter' object that is not started"):
            q.put(Interpreter())
        assert q.empty()

    def test_a_subclass_comes_home_as_itself(self) -> None:
        interpreter = Doubling(21)
        interpreter.start()
        assert started(workers.identity, interpreter).result(AMPLE) is interpreter
        interpreter.join(AMPLE)


class TestExcepthook:
    def test_an_exception_that_nobody_asks_for_is_printed_as_threading_does(self, run_program: ProgramRunner) -> None:
        outcome = run_program("""
            import multigil
            def fail():
                raise ValueError("not asked for")
            interpreter = multigil.Interpreter(target=fail, name="failing")
            interpreter.start()
            interpreter.join()
            print("goes on")
        """)
        assert (outcome.stdout, outcome.status) == ("goes on\n", 0)
        lines = outcome.stderr.splitlines()
        assert re.fullmatch(r"Exception in \w+ failing:", lines[0])
        assert lines[1] == "Traceback (most recent call last):"
        assert any(line.endswith(", in fail") for line in lines)
        assert lines[-1] == "ValueError: not asked for"

    def test_the_hook_may_be_replaced(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil
            def fail():
                raise ValueError("for the hook")
            def hook(args):
                print(args.exc_type.__name__, args.exc_value, args.thread.name)
            multigil.excepthook = hook
            interpreter = multigil.Interpreter(target=fail, name="failing")
            interpreter.start()
            interpreter.join()
            print(type(interpreter.exception()).__name__)
        """)
        assert output == "ValueError for the hook failing\nValueError\n"

    def test_system_exit_ends_the_interpreter_alone_and_prints_nothing(self, run_program: ProgramRunner) -> None:
        output = run_program.output("""
            import multigil, sys
            interpreter = multigil.Interpreter(target=sys.exit, args=("only here",))
            interpreter.start()
            interpreter.join()
            print("goes on")
        """)
        assert output == "goes on\n"


def test_it_starts_quickly_when_a_spare_is_ready() -> None:
    # The figures of the documentation are those of the benchmark; here a fault of another order would be seen.
    started(workers.identity, 0).join(AMPLE)
    durations = []
    for _ in range(10):
        time.sleep(MOMENT)
        start = time.perf_counter()
        interpreter = started(workers.identity, 0)
        durations.append(time.perf_counter() - start)
        interpreter.join(AMPLE)
    assert min(durations) < 0.005


def test_two_interpreters_compute_in_parallel() -> None:
    # Each notes when it was inside of calls that keep the GIL from start to end. Whatever else the machine does, under
    # one GIL such calls would come one after the other.
    ready: SimpleQueue[None] = SimpleQueue()
    go: SimpleQueue[None] = SimpleQueue()
    interpreters = [started(workers.keep_the_gil, ready, go, 20) for _ in range(2)]
    for _ in interpreters:
        ready.get(timeout=AMPLE)
    for _ in interpreters:
        go.put(None)
    one, other = (interpreter.result(AMPLE) for interpreter in interpreters)
    both = sum(
        max(0, min(end, other_end) - max(begin, other_begin)) for begin, end in one for other_begin, other_end in other
    )
    alone = sum(end - begin for begin, end in one)
    assert both > alone / 4
