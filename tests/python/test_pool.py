"""What pools do inside: tickets and backlogs, parts of maps, functions that travel by value, workers that end."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import multigil
import tasks
from harness import AMPLE, ProgramRunner
from multigil import _pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from pools import Kind


class TestTickets:
    @pytest.fixture
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_pool, "_MOST_PENDING", 16)

    @pytest.mark.usefixtures("few")
    def test_more_tasks_than_tickets_wait_for_their_turn(self, kind: Kind) -> None:
        with kind.make(2) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(500)]
            assert [future.result(AMPLE) for future in futures] == [2 * number for number in range(500)]

    @pytest.mark.usefixtures("few")
    def test_what_waits_for_a_ticket_can_be_cancelled(self, kind: Kind) -> None:
        go = multigil.Event()
        with kind.make(1) as pool:
            first = pool.submit(go.wait, AMPLE)
            futures = [pool.submit(tasks.double, number) for number in range(40)]
            assert futures[-1].cancel()
            assert not futures[-2].running()
            go.set()
            assert first.result(AMPLE)
            assert [future.result(AMPLE) for future in futures[:-1]] == [2 * number for number in range(39)]

    @pytest.mark.usefixtures("few")
    def test_and_the_shutdown_waits_for_it(self, kind: Kind) -> None:
        with kind.make(2) as pool:
            futures = [pool.submit(tasks.double, number) for number in range(100)]
        assert [future.result(0) for future in futures] == [2 * number for number in range(100)]

    @pytest.mark.usefixtures("few")
    def test_a_part_of_calls_that_cannot_be_sent_becomes_more_parts_than_tickets(self, kind: Kind) -> None:
        with kind.make(2) as pool:
            items = [*range(40), tasks.lock_of_threading(), *range(5)]
            results = pool.map(tasks.identity, items, chunksize=len(items))
            assert list(itertools.islice(results, 40)) == list(range(40))
            with pytest.raises(TypeError, match="lock"):
                next(results)


class TestFunctionsOfMain:
    """A script's initializer sets globals that its tasks use, and the script changes globals between tasks."""

    PROGRAM = """
        import multigil

        connection = None
        factor = 1
        settings = {"offset": 0}

        def connect(name):
            global connection
            connection = [name]

        def use(number):
            connection.append(number)
            return len(connection)

        def scaled(number):
            return factor * number + settings["offset"]

        def set_factor(number):
            global factor
            factor = number

        def scaled_twice(number):
            return scaled(scaled(number))

        if __name__ == "__main__":
            with multigil.EXECUTOR(1, initializer=connect, initargs=("here",)) as pool:
                print([pool.submit(use, number).result() for number in range(3)], list(pool.map(use, range(2))))
                print(connection)
                for factor in (1, 2, 1):
                    print(pool.submit(scaled, 5).result(), list(pool.map(scaled, [5, 6])))
                settings["offset"] = 100
                print(pool.submit(scaled, 5).result(), pool.submit(scaled_twice, 5).result())
                pool.submit(set_factor, 3).result()
                print(factor, pool.submit(scaled, 5).result())
                factor = 4
                print(pool.submit(scaled, 5).result(), [pool.submit(lambda n=n: n * factor).result() for n in (1, 2)])
    """

    @pytest.mark.parametrize("executor", ["InterpreterPoolExecutor", "ProcessPoolExecutor"])
    def test_their_globals(self, run_program: ProgramRunner, executor: str) -> None:
        lines = run_program(self.PROGRAM.replace("EXECUTOR", executor)).stdout.splitlines()
        assert lines == [
            "[2, 3, 4] [5, 6]",
            "None",
            "5 [5, 6]",
            "10 [10, 12]",
            "5 [5, 6]",
            "105 205",
            "1 115",  # what a task has set stays there, until it changes here
            "120 [4, 8]",
        ]


class TestSettings:
    def test_the_next_task_sees_what_has_changed(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        with kind.make(1) as pool:
            assert pool.submit(os.environ.get, "MULTIGIL_TEST").result(AMPLE) is None
            for value in ("one", "other"):
                monkeypatch.setenv("MULTIGIL_TEST", value)
                assert pool.submit(get_environment, "MULTIGIL_TEST").result(AMPLE) == value
            monkeypatch.syspath_prepend("/nowhere")
            assert pool.submit(get_path).result(AMPLE)[0] == "/nowhere"

    def test_and_so_does_a_worker_that_is_started_later(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        with kind.make(1, max_tasks_per_child=1) as pool:
            monkeypatch.setenv("MULTIGIL_TEST", "one")
            results = [pool.submit(get_environment, "MULTIGIL_TEST").result(AMPLE) for _ in range(2)]
            assert results == ["one", "one"]


def get_environment(name: str) -> str | None:
    return os.environ.get(name)


def get_path() -> list[str]:
    return sys.path


class TestNobodyAsks:
    """A pool goes on although nobody waits for its futures."""

    def test_workers_that_have_done_their_tasks_are_replaced(self, kind: Kind) -> None:
        told: multigil.SimpleQueue[int] = multigil.SimpleQueue()
        with kind.make(1, max_tasks_per_child=1) as pool:
            for number in range(3):
                pool.submit(tasks.tell, told, number)
            assert [told.get(timeout=AMPLE) for _ in range(3)] == [0, 1, 2]

    def test_all_of_a_map_is_done(self, kind: Kind) -> None:
        told: multigil.Queue[int] = multigil.Queue()
        with kind.make(2) as pool:
            pool.map(tasks.tell, [told] * 300, range(300))
            assert sorted(told.get(timeout=AMPLE) for _ in range(300)) == list(range(300))

    def test_the_calls_of_a_part_are_shared_with_who_is_idle(self, kind: Kind) -> None:
        barrier = multigil.Barrier(2)
        with kind.make(2) as pool:
            for _ in range(3):  # a worker is started for the second call, and woken for it later
                pool.map(tasks.meet, [barrier] * 2, chunksize=2)
                assert pool.submit(tasks.double, 2).result(AMPLE) == 4
        assert not barrier.broken


class TestParts:
    def test_the_iterable_may_use_the_pool(self, pool: Executor) -> None:
        futures = [pool.submit(tasks.double, number) for number in range(20)]
        watched = [pool.submit(tasks.double, number) for number in range(20)]
        for future in watched:
            future.add_done_callback(lambda _: None)  # so that the pool's thread collects
        items = (future.result(AMPLE) for future in (*futures, *watched))
        assert list(pool.map(tasks.double, items)) == [4 * number for number in range(20)] * 2

    def test_the_iterable_may_wait_for_another_thread_that_uses_the_pool(self, pool: Executor) -> None:
        def items() -> Iterator[int]:
            done = threading.Event()
            threading.Thread(target=lambda: (pool.submit(tasks.double, 1).result(AMPLE), done.set())).start()
            assert done.wait(AMPLE)
            yield 5

        assert list(pool.map(tasks.double, items())) == [10]

    def test_calls_that_take_longer_than_was_thought_are_given_back(self, kind: Kind) -> None:
        told: multigil.Queue[int] = multigil.Queue()
        with kind.make(1) as pool:
            results = pool.map(wait_from, itertools.repeat(told), range(2000), itertools.repeat(1970))
            assert list(itertools.islice(results, 1971)) == list(range(1971))
            # The part of the first slow call ended soon after it, and not with the last of those that were in it.
            assert told.qsize() < 25
            assert list(results) == list(range(1971, 2000))

    @pytest.mark.parametrize("buffersize", [None, 50])
    def test_each_call_has_an_outcome_of_its_own(self, pool: Executor, buffersize: int | None) -> None:
        results = pool.map(tasks.cannot_be_unpickled_if, range(300), [200] * 300, buffersize=buffersize)
        assert list(itertools.islice(results, 200)) == list(range(200))
        with pytest.raises(ArithmeticError, match="loads"):
            next(results)

    def test_the_size_of_arguments_counts(self, pool: Executor) -> None:
        blocks = [bytes(100_000)] * 200
        before = multigil._core.statistics()["bytes_in_use"]
        results = pool.map(tasks.length, blocks)
        assert next(results) == 100_000
        assert multigil._core.statistics()["bytes_in_use"] - before < 20_000_000
        assert sum(results) == 199 * 100_000


def wait_from(told: multigil.Queue[int], number: int, first: int) -> int:
    """Take 20 ms from the first slow number on."""
    if number >= first:
        told.put(number)
        threading.Event().wait(0.02)
    return number
