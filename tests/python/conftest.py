"""Fixtures of all tests, and what no test may leave behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

import multigil
from harness import AMPLE, ProgramRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds or much memory; left out by -m 'not slow'")


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
    # What has given its result is about to end.
    for left in (*left_threads, *left_interpreters):
        left.join(AMPLE)
    assert [left for left in (*left_threads, *left_interpreters) if left.is_alive()] == []
