"""Queues take the memory that their items need, give it back, and say so when there is not enough."""

from __future__ import annotations

import re
import resource

import pytest

from harness import in_fresh_process
from machine import reserved_bytes, resident_bytes
from multigil import Empty, Queue

KIB, MIB, GIB = 2**10, 2**20, 2**30


def limit_address_space_to(more: int | None) -> None:
    """Let this process reserve `more` bytes than it has now; None: as many as it likes."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard if more is None else reserved_bytes() + more, hard))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(1_000_000, None), (1_000_000, 64), (100_000, 4_000), (50, 8 * MIB)])
@in_fresh_process
def test_puts_without_a_consumer_succeed_and_the_memory_comes_back(count: int, size: int | None) -> None:
    q: Queue[object] = Queue()
    before = resident_bytes()
    for i in range(count):
        q.put(i if size is None else i.to_bytes(4, "little") * (size // 4))
    assert q.qsize() == count
    if size:
        assert resident_bytes() - before > count * size
    for i in range(count):
        item = q.get()
        assert item == i if size is None else item[:4] == i.to_bytes(4, "little")  # type: ignore[index]
    # Up to 64 MiB of large blocks stay for the next items; two items are still held here.
    kept = 64 * MIB if size and size >= 64 * KIB else 0
    assert resident_bytes() - before < 40 * MIB + kept


@in_fresh_process
def test_memory_does_not_grow_while_items_of_all_sizes_go_through() -> None:
    q: Queue[bytes] = Queue()

    def pass_items() -> None:
        for size in range(0, 300_000, 1_000):
            q.put(bytes(size))
            q.put(bytes(300_000 - size))
            q.get()
            q.get()

    pass_items()
    before = resident_bytes()
    for _ in range(20):
        pass_items()
    assert resident_bytes() - before < 4 * MIB


@in_fresh_process
def test_an_item_too_large_for_the_memory_is_an_error_that_names_both_numbers_and_loses_nothing() -> None:
    q: Queue[object] = Queue(3)
    q.put("first")
    for item, size in ((bytes(GIB), GIB), ([bytes(GIB)], GIB), ("中" * (GIB // 3), GIB // 3 * 2)):
        limit_address_space_to(256 * MIB)
        with pytest.raises(MemoryError) as caught:
            q.put(item)
        limit_address_space_to(None)
        needed, available = (int(number) for number in re.findall(r"\d+", str(caught.value))[:2])
        assert needed >= size > available
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
        q.put(bytes(100 * KIB))
        assert (q.get(), q.get()) == ("first", bytes(100 * KIB))
        q.task_done()
        q.task_done()
        q.put("first")


@in_fresh_process
def test_an_item_for_which_the_receiver_has_no_memory_stays_in_the_queue() -> None:
    q: Queue[object] = Queue()
    q.put(bytes(GIB))
    q.put("second")
    limit_address_space_to(256 * MIB)
    with pytest.raises(MemoryError):
        q.get()
    limit_address_space_to(None)
    assert q.qsize() == 2
    assert q.get() == bytes(GIB)
    assert q.get() == "second"
    with pytest.raises(Empty):
        q.get_nowait()


@in_fresh_process
def test_filling_the_memory_with_small_items_is_a_memory_error_and_loses_nothing() -> None:
    q: Queue[int] = Queue()
    count = 0

    def fill() -> None:
        nonlocal count
        while True:
            q.put(count)
            count += 1

    limit_address_space_to(64 * MIB)
    with pytest.raises(MemoryError):
        fill()
    limit_address_space_to(None)
    assert q.qsize() == count
    for i in range(count):
        assert q.get() == i
    q.put(count)
    assert q.get() == count
