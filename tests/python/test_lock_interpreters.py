"""One lock is the same lock in every interpreter and thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import workers
from harness import AMPLE, MOMENT, in_thread, started
from multigil import Lock, SimpleQueue

if TYPE_CHECKING:
    from pathlib import Path


def test_interpreters_and_threads_exclude_each_other(tmp_path: Path) -> None:
    lock, path, times = Lock(), tmp_path / "number", 2_000
    path.write_text("0")
    working = [started(workers.count_in_file, path, lock, times) for _ in range(3)]
    in_thread(workers.count_in_file, path, lock, times).result(2 * AMPLE)
    for interpreter in working:
        interpreter.result(AMPLE)
    assert path.read_text() == str(4 * times)


def test_an_interpreter_may_release_what_another_acquired() -> None:
    lock = Lock()
    started(lock.acquire).result(AMPLE)
    assert lock.locked()
    started(lock.release).result(AMPLE)
    assert not lock.locked()


def test_the_repr_tells_in_every_interpreter_whether_it_is_locked() -> None:
    lock = Lock()
    with lock:
        assert started(repr, lock).result(AMPLE).startswith("<locked ")
    assert started(repr, lock).result(AMPLE).startswith("<unlocked ")


def test_one_release_lets_one_of_those_who_wait_go_on() -> None:
    lock, told = Lock(), SimpleQueue[str]()
    lock.acquire()
    names = ["interpreter 1", "interpreter 2", "thread 1", "thread 2"]
    interpreters = [started(workers.acquire_and_tell, lock, told, name) for name in names[:2]]
    threads = [in_thread(workers.acquire_and_tell, lock, told, name) for name in names[2:]]
    gone_on = []
    for _ in names:
        interpreters[0].join(MOMENT)
        assert told.empty()
        lock.release()
        gone_on.append(told.get(timeout=AMPLE))
    assert sorted(gone_on) == names
    for interpreter in interpreters:
        interpreter.result(AMPLE)
    for thread in threads:
        thread.result(AMPLE)


def test_a_lock_must_be_released_before_an_interpreter_acquires_it_again() -> None:
    lock, told = Lock(), SimpleQueue[str]()
    interpreter = started(workers.acquire_twice, lock, told)
    assert told.get(timeout=AMPLE) == "once"
    interpreter.join(MOMENT)
    assert told.empty()
    lock.release()
    interpreter.result(AMPLE)
    assert told.get_nowait() == "twice"


def test_a_timeout_in_an_interpreter_is_kept() -> None:
    lock = Lock()
    lock.acquire()
    acquired, elapsed = started(workers.timed_acquire, lock, 0.25).result(AMPLE)
    assert acquired is False
    assert 250_000_000 <= elapsed < AMPLE * 1e9


def test_a_release_here_ends_the_wait_of_an_interpreter() -> None:
    lock = Lock()
    lock.acquire()
    waiting = started(workers.timed_acquire, lock, threading.TIMEOUT_MAX)
    waiting.join(MOMENT)
    lock.release()
    acquired, _ = waiting.result(AMPLE)
    assert acquired is True


def test_a_lock_stays_held_after_the_end_of_the_interpreter_that_acquired_it() -> None:
    lock = Lock()
    started(lock.acquire).join(AMPLE)
    assert lock.locked()
    assert not lock.acquire(timeout=MOMENT)
    lock.release()
    assert lock.acquire(timeout=0)
