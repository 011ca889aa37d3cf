"""CPython's own tests of `threading`, run with ours: where they make threads, they make interpreters.

Left out are tests that look at what is private to `threading`, and those in which threads talk through the variables
of one interpreter. Tests of locks and their kin are in test_cpython_suites.py.
"""

from __future__ import annotations

import functools
import re
import unittest
from typing import Any

import pytest

import multigil
import workers

REASON = "this Python was installed without its package `test`"
test_threading = pytest.importorskip("test.test_threading", reason=REASON)
test_threading_local = pytest.importorskip("test.test_threading_local", reason=REASON)

pytestmark = pytest.mark.usefixtures("threading_is_multigil")


@pytest.fixture
def threading_is_multigil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tests multigil for threading, and the programs that they run too."""
    run: Any = test_threading.assert_python_ok

    def run_changed(option: str, program: str) -> object:
        changed, count = re.subn(r"(?m)^(\s*import .*?)\bthreading\b", r"\1multigil as threading", program)
        assert count
        return run(option, changed)

    monkeypatch.setattr(test_threading, "threading", multigil)
    monkeypatch.setattr(test_threading, "assert_python_ok", run_changed)


def only(suite: Any, *names: str) -> Any:
    """Make a suite of some of the tests of one; not all versions have all of them."""
    others = {name: None for name in dir(suite) if name.startswith("test") and name not in names}
    return type(suite.__name__, (suite,), others)


class TestThreads(
    only(  # type: ignore[misc]
        test_threading.ThreadTests,
        "test_BoundedSemaphore_limit",
        "test_daemon_param",
        "test_enumerate_after_join",
        "test_finalization_shutdown",
        "test_finalize_with_trace",
        "test_getprofile",
        "test_gettrace",
        "test_join_nondaemon_on_shutdown",
        "test_leak_without_join",
        "test_locals_at_exit",
        "test_lock_no_args",
        "test_main_thread_during_shutdown",
        "test_no_refcycle_through_target",
        "test_old_threading_api",
        "test_repr_daemon",
    )
):
    pass


class TestErrors(
    only(  # type: ignore[misc]
        test_threading.ThreadingExceptionTests,
        "test_daemonize_active_thread",
        "test_joining_current_thread",
        "test_joining_inactive_thread",
        "test_releasing_unacquired_lock",
        "test_start_thread_again",
    )
):
    pass


class TestExcepthook(only(test_threading.ExceptHookTests, "test_excepthook_thread_None")):  # type: ignore[misc]
    pass


class TestShutdown(
    only(test_threading.ThreadJoinOnShutdown, "test_1_join_on_shutdown", "test_thread_from_thread")  # type: ignore[misc]
):
    pass


class Calls(list[object]):
    """A list of what is in a queue."""

    def __init__(self, q: multigil.SimpleQueue[object]) -> None:
        self.queue = q

    def __len__(self) -> int:
        self.extend(self.queue.get() for _ in range(self.queue.qsize()))
        return super().__len__()


class TestTimer(test_threading.TimerTests):  # type: ignore[misc, name-defined]
    def setUp(self) -> None:
        super().setUp()
        calls: multigil.SimpleQueue[object] = multigil.SimpleQueue()
        self.callback_args = Calls(calls)
        self._callback_spy = functools.partial(workers.tell_call, calls, self.callback_event)


class TestLocal(test_threading_local.BaseLocalTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    """With threads, and interpreters have one each."""

    _local = multigil.local
