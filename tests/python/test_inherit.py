"""`inherit=`: what workers log and warn is handled as if it came from here, with the settings of here."""

from __future__ import annotations

import enum
import io
import linecache
import logging
import logging.config
import pickle
import sys
import threading
import types
import warnings
from typing import TYPE_CHECKING, Any, Literal

import pytest

import log_workers
import multigil
from harness import AMPLE, MOMENT
from multigil import Event, Interpreter, InterpreterDied, Process, SimpleQueue, _inherit, wait_any
from multigil._inherit import capture, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness import ProgramRunner


class Kept(logging.Handler):
    """Keeps the records that it handles."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self, name: str = "") -> list[str]:
        return [record.getMessage() for record in self.records if record.name.startswith(name)]


class Calls(logging.Handler):
    """Calls a function with each record."""

    def __init__(self, function: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.emit = function  # type: ignore[assignment]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler at the root, which lets everything through. All settings are as before afterwards."""
    before = {name: settings_and_handlers(logging.getLogger(name)) for name in all_loggers()}
    handler = Kept()
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    yield handler
    logging.root.removeHandler(handler)
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)
    for name in all_loggers():
        logger = logging.getLogger(name)
        level, logger.disabled, logger.propagate, handlers, filters = before.get(name, (0, False, True, [], []))
        logger.setLevel(level)
        if logger is not logging.root:  # where pytest has its own
            logger.handlers[:] = handlers
        logger.filters[:] = filters


def all_loggers() -> list[str]:
    return ["root", *logging.Logger.manager.loggerDict]


def settings_and_handlers(logger: logging.Logger) -> tuple[int, bool, bool, list[logging.Handler], list[Any]]:
    return logger.level, logger.disabled, logger.propagate, logger.handlers[:], logger.filters[:]


def started(target: Callable[..., object], *args: object, inherit: Any = ("logging",), **how: Any) -> Interpreter:
    interpreter = Interpreter(target=target, args=args, inherit=inherit, **how)
    interpreter.start()
    return interpreter


def backend() -> str:
    """That of `Interpreter`, which `each_backend` replaces."""
    return Interpreter().backend


class TestNames:
    def test_there_are_four(self) -> None:
        assert check(["logging", "warnings", "path", "environ"]) == {"logging", "warnings"}
        assert check(name for name in ("path", "logging", "logging")) == {"logging"}

    @pytest.mark.parametrize("kind", [Interpreter, Process])
    def test_others_are_refused(self, kind: type[Interpreter]) -> None:
        with pytest.raises(ValueError, match=r"cannot inherit 'sys\.path', there are 'logging', 'warnings'"):
            kind(inherit=["logging", "sys.path"])
        with pytest.raises(TypeError, match="not a str"):
            kind(inherit="logging")
        with pytest.raises(TypeError, match="not iterable"):
            kind(inherit=5)  # type: ignore[arg-type]

    def test_nothing_to_inherit_is_none(self) -> None:
        assert capture(()) is capture({"path", "environ"}) is None

    def test_where_it_was_captured_it_changes_nothing(self, kept: Kept) -> None:
        inheritance = capture(["logging", "warnings"])
        assert inheritance is not None
        before = (logging.root.handlers[:], warnings.filters[:], warnings.showwarning)
        for one in (inheritance, pickle.loads(pickle.dumps(inheritance))):
            one.apply()
            assert (logging.root.handlers, warnings.filters, warnings.showwarning) == before
        assert kept in before[0]


@pytest.mark.usefixtures("each_backend")
class TestLogging:
    def test_without_it_a_worker_is_on_its_own(self, kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
        assert started(log_workers.settings_of, [""], inherit=()).result(AMPLE) == [(30, False, True, True)]
        started(log_workers.log, "own", logging.WARNING, "own", inherit=["path", "environ"]).join(AMPLE)
        assert kept.records == []
        assert capfd.readouterr().err == "own\n"

    def test_a_record_is_handled_here_with_the_fields_from_there(self, kept: Kept) -> None:
        interpreter = started(log_workers.log, "first.second", 25, "%s and %d", "one", 2, name="worker-1")
        interpreter.join(AMPLE)
        record = kept.records[0]
        assert len(kept.records) == 1
        assert (record.name, record.levelno, record.getMessage()) == ("first.second", 25, "one and 2")
        assert (record.processName, record.process) == ("worker-1", interpreter.pid)
        assert record.funcName == "log"
        assert record.pathname == log_workers.__file__
        assert record.taskName is None
        if isinstance(interpreter, Process):
            assert record.threadName == "MainThread"
        else:
            assert record.thread == interpreter.ident
        # Counted from the start of the program, as that of this interpreter's own records.
        own = logging.makeLogRecord({})
        later = (own.created - record.created) * 1000
        assert own.relativeCreated - record.relativeCreated == pytest.approx(later, abs=1)

    def test_loggers_have_the_settings_of_here(self, kept: Kept) -> None:
        logging.getLogger("settings.strict").setLevel(logging.ERROR)
        logging.getLogger("settings.off").disabled = True
        logging.getLogger("settings.apart").propagate = False
        logging.addLevelName(33, "NOTICE")
        levels = enum.IntEnum("levels", {"NEVER": 100})  # nobody else can import it
        logging.addLevelName(100, "NEVER")
        logging.getLogger("settings.never").setLevel(levels.NEVER)
        names = [
            "",
            "settings",
            "settings.strict",
            "settings.off",
            "settings.apart",
            "settings.strict.below",
            "settings.never",
        ]
        with Interpreter(inherit=["logging"]) as interpreter:
            assert interpreter.call(log_workers.settings_of, names) == log_workers.settings_of(names)
            for name in names[1:]:
                interpreter.call(log_workers.log, name, 33, name)
            interpreter.call(log_workers.log, "settings.strict.below", logging.ERROR, "error")
            interpreter.call(log_workers.log, "settings.never", levels.NEVER, "never")
        assert [(record.getMessage(), record.levelname) for record in kept.records] == [
            ("settings", "NOTICE"),
            ("error", "ERROR"),
            ("never", "NEVER"),
        ]
        assert type(kept.records[2].levelno) is int

    def test_those_are_as_when_it_was_started(self, kept: Kept) -> None:
        logging.disable(logging.INFO)
        interpreter = Interpreter(target=log_workers.log_numbers, args=("later", 1), inherit=["logging"])
        assert started(log_workers.settings_of, ["any"]).result(AMPLE) == [(0, False, True, True)]
        started(log_workers.log_numbers, "early", 1).join(AMPLE)
        logging.disable(logging.NOTSET)
        interpreter.start()
        interpreter.join(AMPLE)
        assert [record.name for record in kept.records] == ["later"]

    def test_handlers_formatters_and_filters_of_here_act(self, kept: Kept) -> None:
        stream = io.StringIO()
        apart = logging.StreamHandler(stream)
        apart.setFormatter(logging.Formatter("%(levelname)s|%(name)s|%(message)s"))
        apart.addFilter(lambda record: "no" not in record.getMessage())
        logger = logging.getLogger("apart")
        logger.addHandler(apart)
        logger.propagate = False
        logging.getLogger("dropped").addFilter(lambda _: False)
        with Interpreter(inherit=["logging"]) as interpreter:
            for name, text in (("apart", "yes"), ("apart", "no"), ("apart.later", "made there"), ("dropped", "x")):
                interpreter.call(log_workers.log, name, logging.INFO, text)
        assert stream.getvalue() == "INFO|apart|yes\nINFO|apart.later|made there\n"
        assert kept.records == []

    def test_a_configuration_by_dictionary_is_honoured(self, kept: Kept, tmp_path: Path) -> None:
        logging.getLogger("existing")
        path = tmp_path / "log"
        logging.config.dictConfig(
            {
                "version": 1,
                "formatters": {"short": {"format": "%(name)s %(processName)s %(message)s"}},
                "handlers": {"file": {"class": "logging.FileHandler", "filename": path, "formatter": "short"}},
                "loggers": {"configured": {"level": "INFO", "handlers": ["file"], "propagate": False}},
            }
        )
        with Interpreter(name="worker", inherit=["logging"]) as interpreter:
            for name, level in (("existing", 50), ("configured", 10), ("configured", 20), ("configured.child", 20)):
                interpreter.call(log_workers.log, name, level, str(level))
        assert path.read_text() == "configured worker 20\nconfigured.child worker 20\n"
        assert kept.records == []
        logging.getLogger("configured").handlers[0].close()

    def test_what_a_module_configures_there_does_not_double_anything(
        self, kept: Kept, capfd: pytest.CaptureFixture[str]
    ) -> None:
        started(log_workers.log_configured_anew).join(AMPLE)
        assert kept.texts() == ["once"]
        assert capfd.readouterr().err == ""

    def test_what_cannot_be_sent_arrives_as_text(self, kept: Kept) -> None:
        lock = started(log_workers.log_what_cannot_be_sent).result(AMPLE)
        record: Any = kept.records[0]
        assert record.getMessage() == f"with {lock} and b'bytes'"
        assert (record.number, record.some, record.lock) == (5, {"a": [1, 2]}, lock)
        assert "ModuleNotFoundError" in record.foreign
        assert record.args is None

    def test_an_exception_arrives_as_text_that_formatters_place(self, kept: Kept) -> None:
        started(log_workers.log_exception).join(AMPLE)
        record = kept.records[0]
        assert (record.getMessage(), record.exc_info) == ("failed", None)
        lines = logging.Formatter("<%(message)s>").format(record).splitlines()
        assert lines[:2] == ["<failed>", "Traceback (most recent call last):"]
        assert sum(line.startswith("ValueError: ") for line in lines) == 1
        assert "Stack (most recent call last):" in lines
        assert record.stack_info is not None

    @pytest.mark.parametrize("reported", [True, False])
    def test_an_error_of_logging_is_not_the_task_s(
        self, kept: Kept, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reported: bool
    ) -> None:
        monkeypatch.setattr(logging, "raiseExceptions", reported)
        with Interpreter(inherit=["logging"]) as interpreter:
            interpreter.call(log_workers.log_badly)
            interpreter.call(log_workers.log, "bad", logging.WARNING, log_workers.Unprintable())
        assert kept.texts() == ["went on"]
        printed = capfd.readouterr().err
        assert printed.count("--- Logging error ---") == printed.count("Message: ") == 2 * reported
        assert ("LookupError: no text" in printed) == reported

    def test_records_come_in_the_order_in_which_they_were_made(self, kept: Kept) -> None:
        interpreters = [started(log_workers.log_in_threads, f"order.{number}", 200) for number in range(3)]
        for interpreter in interpreters:
            interpreter.join(AMPLE)
        for number in range(3):
            for thread in range(2):
                assert kept.texts(f"order.{number}.{thread}") == [str(n) for n in range(200)]
        assert len(kept.records) == 1200
        assert sum(thread.name == "multigil-inherit" for thread in threading.enumerate()) == 1

    def test_they_were_handled_when_the_outcome_is_there(self, kept: Kept) -> None:
        with Interpreter(inherit=["logging"]) as interpreter:
            for number in range(200):
                interpreter.call(log_workers.log_numbers, "calls", 3)
                assert len(kept.records) == 3 * (number + 1)
            interpreter.submit(log_workers.log_numbers, "submitted", 100)
        assert len(kept.texts("submitted")) == 100
        started(log_workers.log_numbers, "result", 300).result(AMPLE)
        assert len(kept.texts("result")) == 300
        assert started(log_workers.log_numbers, "exception", 300).exception(AMPLE) is None
        assert len(kept.texts("exception")) == 300

    def test_join_waits_for_a_handler_as_long_as_it_says(self, kept: Kept) -> None:
        may_go = Event()
        logging.getLogger("slow").addHandler(Calls(lambda _: may_go.wait(AMPLE)))
        interpreter = started(log_workers.log_numbers, "slow", 1)
        assert wait_any(interpreter, timeout=AMPLE) is interpreter  # has ended
        interpreter.join(MOMENT)
        assert kept.records == []
        interpreter.result(0)
        may_go.set()
        interpreter.join(AMPLE)
        assert kept.texts("slow") == ["0"]

    def test_a_handler_may_log_and_start_and_wait(self, kept: Kept) -> None:
        def emit(record: logging.LogRecord) -> None:
            logging.getLogger("from handler").info(record.getMessage())
            interpreter = Interpreter(target=log_workers.log_numbers, args=("nested", 1), inherit=["logging"])
            interpreter.start()
            interpreter.result(AMPLE)
            interpreter.join(AMPLE)

        logging.getLogger("asks").addHandler(Calls(emit))
        started(log_workers.log_numbers, "asks", 2).join(AMPLE)
        _inherit.flush(AMPLE)
        assert [(record.name, record.getMessage()) for record in kept.records] == [
            ("from handler", "0"),
            ("asks", "0"),
            ("from handler", "1"),
            ("asks", "1"),
            ("nested", "0"),
            ("nested", "0"),
        ]

    def test_a_handler_that_raises_is_reported_and_the_next_record_handled(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(record: logging.LogRecord) -> None:
            raise (SystemExit if record.getMessage() == "0" else LookupError)("refused")

        def hook(kind: type[BaseException], *_: object) -> None:
            reported.append(kind)
            raise NotImplementedError

        reported: list[type[BaseException]] = []
        monkeypatch.setattr(sys, "excepthook", hook)
        logging.getLogger("raises").addHandler(Calls(refuse))
        logging.getLogger("raises").propagate = False
        with Interpreter(inherit=["logging"]) as interpreter:
            interpreter.call(log_workers.log_numbers, "raises", 2)
            interpreter.call(log_workers.log_numbers, "fine", 1)
        assert kept.texts() == ["0"]
        assert reported == [SystemExit, LookupError]

    def test_a_worker_s_worker_sends_its_records_up_the_chain(self, kept: Kept) -> None:
        started(log_workers.log_and_start, ["logging"], backend(), name="outer").join(AMPLE)
        assert [(record.name, record.processName, record.getMessage()) for record in kept.records] == [
            ("outer", "outer", "before"),
            ("inner", "inner", "deep"),
            ("outer", "outer", "after"),
        ]

    def test_what_it_leaves_to_its_end_arrives(self, kept: Kept) -> None:
        started(log_workers.start_and_leave, backend()).join(AMPLE)
        assert kept.texts("inner") == [str(number) for number in range(50)]

    def test_a_run_of_its_own_inherits(self, kept: Kept) -> None:
        interpreter = log_workers.LogsInRun(inherit=["logging"], backend=backend())
        interpreter.start()
        assert interpreter.result(AMPLE) == "from run"
        assert kept.texts("run") == ["from run"]

    def test_what_a_terminated_one_has_logged_is_handled(self, kept: Kept) -> None:
        told, go = SimpleQueue[None](), SimpleQueue[None]()
        interpreter = started(log_workers.log_and_tell, told, go, "before the end")
        told.get(timeout=AMPLE)
        interpreter.terminate(AMPLE)
        interpreter.join(AMPLE)
        assert kept.texts() == ["before the end"]


class TestDeath:
    def test_what_a_killed_process_has_logged_is_handled(self, kept: Kept) -> None:
        process = Process(target=log_workers.log_and_die, args=(500,), inherit=["logging"])
        process.start()
        with pytest.raises(InterpreterDied, match="SIGKILL"):
            process.result(AMPLE)
        process.join(AMPLE)
        assert kept.texts("dying") == [str(number) for number in range(500)]
        assert process.exitcode == -9


@pytest.mark.usefixtures("each_backend", "kept")
class TestWarnings:
    def test_a_filter_that_makes_them_errors_does_so_there(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            with pytest.raises(UserWarning, match="own"):
                started(log_workers.warn, "own", inherit=["warnings"]).result(AMPLE)

    def test_they_are_shown_here_unless_a_filter_says_otherwise(self, capfd: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message=".*silent", module="log_workers")
            warnings.filterwarnings("ignore", category=FutureWarning)
            messages = (UserWarning("shown"), UserWarning("is silent"), FutureWarning("not now"), RuntimeWarning("too"))
            started(log_workers.warn, *messages, inherit=["warnings"]).join(AMPLE)
        assert [repr(one.message) for one in shown] == ["UserWarning('shown')", "RuntimeWarning('too')"]
        assert {one.filename for one in shown} == {log_workers.__file__}
        assert capfd.readouterr().err == ""  # once is enough

    def test_the_function_that_shows_them_here_is_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(UserWarning):
            pass

        shown: list[Any] = []
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", lambda *args, **_: shown.append(args))
            started(log_workers.warn, Own("own", 5), inherit=["warnings"]).join(AMPLE)
        ((message, category, filename, line, *_),) = shown
        assert category is type(message) is Own
        assert (message.args, filename) == (("own", 5), log_workers.__file__)
        assert "warnings.warn" in linecache.getline(filename, line)

    def test_a_category_may_be_one_that_only_this_program_has(self) -> None:
        class Own(UserWarning):
            pass

        with warnings.catch_warnings():
            warnings.simplefilter("error", Own)
            with pytest.raises(Own, match="mine"):
                started(log_workers.warn, Own("mine"), inherit=["warnings"]).result(AMPLE)

    def test_a_filter_whose_category_cannot_be_had_there_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only_here: Any = types.ModuleType("only_here")
        exec("class Own(Warning): pass", vars(only_here))
        monkeypatch.setitem(sys.modules, "only_here", only_here)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("ignore", only_here.Own)
            with pytest.raises(RuntimeWarning):
                started(log_workers.warn, RuntimeWarning("x"), inherit=["warnings"]).result(AMPLE)

    def test_what_is_caught_there_is_not_shown(self) -> None:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with Interpreter(inherit=["warnings"]) as interpreter:
                assert interpreter.call(log_workers.caught, log_workers.warn, "kept there") == ["kept there"]
                interpreter.call(log_workers.warn, "shown")
        assert [str(one.message) for one in shown] == ["shown"]

    def test_logging_captures_them_as_here(self, kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
        logging.captureWarnings(True)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for inherit in (["logging", "warnings"], ["logging"], ["warnings"]):
                kept.records.clear()
                started(log_workers.warn_then_log, inherit=inherit, name="worker").join(AMPLE)
                found = [(record.name, record.processName) for record in kept.records]
                if "logging" in inherit:
                    assert found == [("log", "worker"), ("py.warnings", "worker"), ("log", "worker")]
                else:
                    assert found == [("py.warnings", "MainProcess")]
        assert "UserWarning: second" in kept.texts("py.warnings")[0]
        assert "UserWarning" not in capfd.readouterr().err


@pytest.mark.usefixtures("each_backend")
def test_it_may_be_applied_again(kept: Kept) -> None:
    def applied_with(action: Literal["always", "default"], level: int) -> list[str]:
        warnings.simplefilter(action)
        logging.root.setLevel(level)
        interpreter.call(capture(["logging", "warnings"]).apply)  # type: ignore[union-attr]
        for _ in range(2):
            interpreter.call(log_workers.warn_then_log)
        return [str(one.message) for one in shown]

    with warnings.catch_warnings(record=True) as shown, Interpreter(inherit=["logging"]) as interpreter:
        assert applied_with("default", logging.CRITICAL) == ["second"]
        assert applied_with("always", logging.WARNING) == ["second"] * 3
    assert kept.texts() == ["first", "third"] * 2


def test_what_comes_after_the_end_of_the_parent_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    queue = multigil.Queue[Any]()
    queue.shutdown()
    forwarder = _inherit.Forwarder(queue)
    for level in (logging.INFO, logging.WARNING):
        forwarder.handle(logging.makeLogRecord({"levelno": level, "msg": f"level {level}"}))
    shown: list[Any] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda *args, **_: shown.append(args)
        _inherit.WarningForwarder(queue)("text", UserWarning, "file", 5)
    assert capfd.readouterr().err == "level 30\n"
    assert shown == [("text", UserWarning, "file", 5, None, None)]


BACKENDS = pytest.mark.parametrize("backend", ["interpreter", "process"])


@BACKENDS
class TestEndOfProgram:
    def test_what_is_logged_last_is_printed_once(self, run_program: ProgramRunner, backend: str) -> None:
        outcome = run_program(f"""
            import logging, multigil
            logging.basicConfig(level=logging.INFO, format="%(name)s %(processName)s %(message)s")
            def work():
                logging.getLogger("late").info("the last line")
            if __name__ == "__main__":
                multigil.Interpreter(target=work, inherit=["logging"], backend="{backend}", name="worker").start()
        """)
        assert (outcome.stderr, outcome.stdout, outcome.status) == ("late worker the last line\n", "", 0)

    def test_a_warning_is_printed_once(self, run_program: ProgramRunner, backend: str) -> None:
        outcome = run_program(f"""
            import warnings, multigil
            warnings.simplefilter("always")
            def work():
                warnings.warn("the last one")
            if __name__ == "__main__":
                multigil.Interpreter(target=work, inherit=["warnings"], backend="{backend}").start()
        """)
        assert outcome.stderr.endswith(": UserWarning: the last one\n")
        assert (outcome.stderr.count("\n"), outcome.stdout, outcome.status) == (1, "", 0)

    def test_it_is_handled_before_handlers_are_closed(self, run_program: ProgramRunner, backend: str) -> None:
        # `logging` is imported, and closes its handlers at the end of the program, after the first interpreter.
        outcome = run_program(f"""
            import multigil
            with multigil.Interpreter() as first:
                first.call(int)
            import logging, logging.handlers, sys
            target = logging.StreamHandler(sys.stdout)
            logging.root.addHandler(logging.handlers.MemoryHandler(1000, target=target))
            def work():
                for number in range(3):
                    logging.getLogger("late").warning("%d", number)
            interpreter = multigil.Interpreter(inherit=["logging"], backend="{backend}")
            interpreter.submit(work)
        """)
        assert (outcome.stdout, outcome.stderr, outcome.status) == ("0\n1\n2\n", "", 0)

    def test_what_a_daemon_has_logged_is_printed(self, run_program: ProgramRunner, backend: str) -> None:
        outcome = run_program(f"""
            import log_workers, multigil
            told, go = multigil.SimpleQueue(), multigil.SimpleQueue()
            multigil.Interpreter(
                target=log_workers.log_and_tell, args=(told, go, "unconfigured"), inherit=["logging"], daemon=True,
                backend="{backend}",
            ).start()
            told.get()
        """)
        assert (outcome.stderr, outcome.stdout, outcome.status) == ("unconfigured\n", "", 0)


def test_a_forked_child_has_workers_of_its_own(run_program: ProgramRunner) -> None:
    outcome = run_program("""
        import logging, os, sys
        import log_workers, multigil
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        def work(name):
            worker = multigil.Process(target=log_workers.log, args=("any", logging.INFO, name), inherit=["logging"])
            worker.start()
            worker.join()
        work("parent")
        child = os.fork()
        if child == 0:
            logging.root.handlers[0].setFormatter(logging.Formatter("in the child: %(message)s"))
        work("child" if child == 0 else "parent again")
        if child:
            print("status", os.waitpid(child, 0)[1])
    """)
    assert sorted(outcome.stdout.splitlines()) == ["in the child: child", "parent", "parent again", "status 0"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="contexts have filters of their own since 3.14")
@BACKENDS
def test_filters_of_a_context_are_inherited(run_program: ProgramRunner, backend: str) -> None:
    outcome = run_program(
        f"""
        import log_workers, multigil, warnings
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            interpreter = multigil.Interpreter(
                target=log_workers.warn, args=("own",), inherit=["warnings"], backend="{backend}"
            )
            interpreter.start()
            print(repr(interpreter.exception()))
        """,
        options=["-X", "context_aware_warnings=1"],
    )
    assert outcome.stdout == "UserWarning('own')\n"
