"""A progress bar over workers: `multigil.progress`, and `tqdm.contrib.concurrent` with multigil's executors."""

from __future__ import annotations

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import multigil
import progress_workers
from harness import AMPLE, ProgramRunner
from multigil import InterpreterPoolExecutor, ProcessPoolExecutor, progress

tqdm = pytest.importorskip("tqdm")

from progress_bar import Bar  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Bar]]:
    """Give the bars that were made, of which no thread takes care."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    yield Bar.made
    Bar.made.clear()


@pytest.mark.parametrize("map_", [progress.map, progress.interpreter_map, progress.process_map])
def test_results_are_in_order_and_the_bar_counts_every_item(map_: Any, bars: list[Bar]) -> None:
    expected = [math.gcd(i, i + 10) for i in range(20)]
    assert map_(math.gcd, range(20), range(10, 40), max_workers=2, tqdm_class=Bar, desc="gcd") == expected
    (bar,) = bars
    assert bar.options["total"] == bar.total == bar.n == 20
    assert bar.options["desc"] == "gcd"
    assert bar.steps == [1] * 20


def test_it_runs_where_it_says() -> None:
    own = (os.getpid(), 0)
    options: dict[str, Any] = {"max_workers": 1, "file": io.StringIO()}
    ((process, interpreter),) = progress.map(progress_workers.here, [1], **options)
    assert process == own[0]
    assert interpreter != 0
    ((process, _),) = progress.process_map(progress_workers.here, [1], **options)
    assert process != own[0]
    with ThreadPoolExecutor(1) as executor:
        assert progress.map(progress_workers.here, [1], executor=executor, file=io.StringIO()) == [own]
        assert executor.submit(abs, -1).result() == 1  # still open
        with pytest.raises(TypeError, match="max_workers"):
            progress.map(abs, [1], executor=executor, max_workers=1)


def test_chunks_and_buffers(bars: list[Bar]) -> None:
    for options in ({"chunksize": 7}, {"buffersize": 3}, {"chunksize": 3, "buffersize": 1}):
        squares = (i * i for i in range(20))
        results = progress.map(math.sqrt, squares, max_workers=2, tqdm_class=Bar, **options)
        assert results == list(range(20))
        assert bars[-1].n == 20
        assert bars[-1].total is None  # a generator does not tell
        assert max(bars[-1].steps) == options.get("chunksize", 1)
    assert progress.map(abs, [], tqdm_class=Bar) == []
    with pytest.raises(ValueError, match="chunksize"):
        progress.map(abs, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize"):
        progress.map(abs, [1], buffersize=0)


def test_no_more_is_taken_than_the_buffer_allows() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    with pytest.raises(ZeroDivisionError):
        progress.map(progress_workers.reciprocal, items(), max_workers=2, buffersize=2, file=io.StringIO())
    assert taken == [0, 1]


def test_the_first_failure_in_order_is_raised(bars: list[Bar]) -> None:
    with pytest.raises(ValueError, match=r"expected a nonnegative input|math domain error") as caught:
        progress.map(math.sqrt, [4, -1, *range(100), -2], max_workers=2, tqdm_class=Bar)
    assert isinstance(caught.value.__cause__, multigil.RemoteTraceback)
    assert bars[0].disable  # it is closed


def test_the_timeout_interrupts_what_runs() -> None:
    begun, lock = multigil.Event(), multigil.Lock()
    with InterpreterPoolExecutor(1, cancel_running=True) as executor:
        executor.submit(abs, -1).result()
        with pytest.raises(TimeoutError):
            progress.map(
                progress_workers.hold_until_interrupted, [begun], [lock], timeout=0.1, executor=executor, disable=True
            )
        assert lock.acquire(timeout=AMPLE)


def test_bars_of_workers_share_its_lock() -> None:
    own = tqdm.tqdm.get_lock()
    shared = progress.map(
        progress_workers.lock_of_bars, range(4), max_workers=2, tqdm_class=tqdm.tqdm, file=io.StringIO()
    )
    assert isinstance(shared[0][0], type(multigil.RLock()))
    assert len(set(shared)) == 1
    assert shared[0][1] == 0
    assert tqdm.tqdm.get_lock() is own


@pytest.mark.parametrize("pool", [InterpreterPoolExecutor, ProcessPoolExecutor])
def test_tqdms_own_way_works_with_these_executors(pool: Any, bars: list[Bar]) -> None:
    """It gives workers its lock, which has to be one that can be sent, and counts by its own `submit`."""
    from tqdm.contrib.concurrent import _executor_map

    Bar.set_lock(multigil.RLock())
    assert _executor_map(pool, abs, [-1, -2, -3], max_workers=1, tqdm_class=Bar) == [1, 2, 3]
    assert sum(bars[0].steps) == 3


def test_without_tqdm_the_error_says_what_to_do(run_program: ProgramRunner) -> None:
    printed = run_program.output("""
        import sys

        from multigil import progress

        print([name for name in sys.modules if name.startswith("tqdm")])
        sys.modules["tqdm"] = None
        try:
            progress.map(abs, [1])
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert printed == "[]\nmultigil.progress needs tqdm: pip install tqdm\n"
