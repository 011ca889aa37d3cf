"""The region's memory as interpreters see it, and the memory that interpreters take."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

import multigil
import workers
from harness import AMPLE, in_fresh_process, started
from machine import resident_bytes
from multigil import Queue, SimpleQueue, _core

MIB = 2**20


def test_blocks_are_read_only_views_of_bytes() -> None:
    blocks = _core.blocks()
    assert blocks
    for block in blocks:
        assert isinstance(block, memoryview)
        assert (block.readonly, block.itemsize, block.ndim) == (True, 1, 1)
        with pytest.raises(TypeError):
            block[0] = 0


def test_the_bytes_of_an_item_are_at_the_same_places_for_every_interpreter() -> None:
    marker = os.urandom(16)
    q: Queue[bytes] = Queue()
    q.put(marker + bytes(10_000))
    here = workers.places(marker)
    assert here
    # On its way to the interpreter, the marker itself leaves more traces.
    assert set(here) <= set(started(workers.places, marker).result(AMPLE))


@in_fresh_process
def test_a_view_shows_what_is_put_later_and_stays_valid_when_the_region_grows() -> None:
    (view, *_) = _core.blocks()
    q: SimpleQueue[bytes] = SimpleQueue()
    marker = os.urandom(16)
    q.put(marker + bytes(10_000))
    (offset,) = (match.start() for match in re.finditer(re.escape(marker), view))
    for _ in range(200):
        q.put(bytes(MIB))
    assert sum(block.nbytes for block in _core.blocks()) >= 200 * MIB
    assert view[offset : offset + 16] == marker


@in_fresh_process
def test_a_hundred_calls_of_one_interpreter_take_no_memory() -> None:
    with multigil.Interpreter() as interpreter:

        def call_often() -> None:
            for i in range(500):
                assert interpreter.call(workers.identity, [i, bytes(1_000)]) == [i, bytes(1_000)]

        call_often()
        before = resident_bytes()
        call_often()
        call_often()
        assert resident_bytes() - before < MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython leaks with each interpreter before 3.14")
@in_fresh_process
def test_interpreters_one_after_another_leave_less_than_20_kib_each() -> None:
    def create_and_end(count: int) -> None:
        for i in range(count):
            assert started(workers.identity, [i]).result(AMPLE) == [i]

    create_and_end(20)
    before = resident_bytes()
    create_and_end(400)
    assert resident_bytes() - before < 400 * 20 * 1024


@in_fresh_process
def test_interpreters_that_ended_leave_no_queue_no_lock_and_no_bytes() -> None:
    def use(count: int) -> None:
        for i in range(count):
            interpreter = started(workers.identity, [Queue[Any](), bytes(100_000)])
            assert interpreter.result(AMPLE)[1] == bytes(100_000)
            with multigil.Interpreter() as other:
                assert other.call(workers.identity, i) == i

    use(5)
    before = _core.statistics()
    use(20)
    after = _core.statistics()
    # There may be a spare interpreter more or less, with the queues that lead to it.
    assert after["queues"] - before["queues"] < 20
    assert after["bytes_in_use"] - before["bytes_in_use"] < 100_000
