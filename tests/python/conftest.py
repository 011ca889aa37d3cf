"""Fixtures of all tests, and what no test may leave behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

import harness
import multigil
import pools
from harness import AMPLE, ProgramRunner
from pools import Gate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from pools import Kind


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds or much memory; left out by -m 'not slow'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Let a KeyboardInterrupt that came from an interpreter fail its test, not end the run as Ctrl-C does."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error.__cause__, multigil.RemoteTraceback):
            pytest.fail("an interpreter was interrupted where it should not have been")
        raise


@pytest.fixture(params=[multigil.Interpreter, multigil.Process], ids=["interpreter", "process"])
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: with interpreters, and with processes in their place."""
    for module in (request.module, harness):
        monkeypatch.setattr(module, "Interpreter", request.param, raising=False)


@pytest.fixture(scope="module", params=pools.KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Run a test twice: with each of the two executors."""
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def pool(kind: Kind) -> Iterator[Executor]:
    """An executor with two workers that all tests of a module share: they leave it idle and able to work."""
    with kind.make(pools.WORKERS) as pool:
        yield pools.warmed(pool)


@pytest.fixture
def gate(pool: Executor) -> Iterator[Gate]:
    """Tasks in the shared pool that run until they are let go, at the end of the test at the latest."""
    gate = Gate(pool)
    yield gate
    gate.go.set()
    pools.warmed(pool)  # so that all of them have ended


@pytest.fixture
def run_program(tmp_path: Path) -> ProgramRunner:
    return ProgramRunner(tmp_path)


def is_ours(thread: threading.Thread) -> bool:
    """Whether a thread is one that multigil keeps in the background, as the one that makes spare interpreters."""
    return thread.name.startswith("multigil-")


@pytest.fixture(autouse=True)
def _no_thread_and_no_interpreter_is_left_over() -> Iterator[None]:
    threads = threading.enumerate()
    interpreters = multigil.enumerate()
    yield
    left_threads = [thread for thread in threading.enumerate() if thread not in threads and not is_ours(thread)]
    left_interpreters = [interpreter for interpreter in multigil.enumerate() if interpreter not in interpreters]
    all_left: list[threading.Thread | multigil.Interpreter] = [*left_threads, *left_interpreters]
    # What has given its result is about to end.
    for left in all_left:
        left.join(AMPLE / 4)
    left_over = [left for left in all_left if left.is_alive()]
    for left in left_over:
        if isinstance(left, multigil.Interpreter):
            left.terminate(AMPLE)
    assert left_over == []
