"""Every object goes to the processes that the standard library starts, and back."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import multigil
from multigil import Region, StaleHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AMPLE = 60

METHODS = ["spawn", "forkserver", "fork"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield


def call(report: multigil.Queue[Any], function: Callable[..., object], *args: Any) -> None:
    """Run in the child: tell what came out."""
    try:
        report.put(function(*args))
    except BaseException as error:
        report.put(error)
        raise


def in_child(method: str, function: Callable[..., Any], *args: Any) -> Any:
    report: multigil.Queue[Any] = multigil.Queue()
    process = multiprocessing.get_context(method).Process(target=call, args=(report, function, *args))
    process.start()
    result = report.get(timeout=AMPLE)
    process.join(AMPLE)
    if isinstance(result, BaseException):
        raise result
    assert process.exitcode == 0
    return result


def make_all() -> dict[str, Any]:
    condition = multigil.Condition(multigil.Lock())
    return {
        "queue": multigil.Queue(5),
        "lifo": multigil.LifoQueue(),
        "priority": multigil.PriorityQueue(),
        "simple": multigil.SimpleQueue(),
        "lock": multigil.Lock(),
        "rlock": multigil.RLock(),
        "condition": condition,
        "event": multigil.Event(),
        "semaphore": multigil.Semaphore(0),
        "bounded": multigil.BoundedSemaphore(3),
        "barrier": multigil.Barrier(2),
        "value": multigil.Value("q", 5),
        "array": multigil.Array("d", [1, 2, 3]),
    }


def use_all(objects: dict[str, Any]) -> list[str]:
    for name in ("queue", "lifo", "priority", "simple"):
        objects[name].put((name, objects["lock"]))
    objects["lock"].acquire()
    with objects["rlock"]:
        objects["event"].set()
    objects["semaphore"].release(2)
    objects["bounded"].acquire()
    objects["value"].fetch_add(1)
    objects["array"][1] = 20
    objects["barrier"].wait(AMPLE)
    with objects["condition"]:
        objects["condition"].notify()
    objects["lock"].release()
    return list(objects)


def make_there() -> tuple[Any, ...]:
    q: multigil.Queue[Any] = multigil.Queue()
    q.put("made in the child")
    return q, multigil.Value("i", 7)


@pytest.mark.parametrize("method", METHODS)
def test_every_object_is_the_same_one_in_a_child(method: str) -> None:
    objects = make_all()
    report: multigil.Queue[Any] = multigil.Queue()
    process = multiprocessing.get_context(method).Process(target=call, args=(report, use_all, objects))
    with objects["condition"]:
        process.start()
        objects["barrier"].wait(AMPLE)
        assert objects["condition"].wait(AMPLE)
    assert report.get(timeout=AMPLE) == list(objects)
    process.join(AMPLE)
    assert process.exitcode == 0
    for name in ("queue", "lifo", "priority", "simple"):
        assert objects[name].get(timeout=AMPLE) == (name, objects["lock"])
    assert not objects["lock"].locked()
    assert objects["event"].is_set()
    assert objects["semaphore"].acquire(timeout=0)
    assert objects["value"].value == 6
    assert list(objects["array"]) == [1, 20, 3]


def keep_until(q: multigil.Queue[Any], made: multigil.Queue[Any], done: multigil.Event) -> str:
    mine, value = make_there()
    made.put((mine, value))
    assert done.wait(AMPLE)
    return str(q.get(timeout=AMPLE))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_child_makes_comes_back(method: str) -> None:
    q, made, done = multigil.Queue[Any](), multigil.Queue[Any](), multigil.Event()
    report: multigil.Queue[Any] = multigil.Queue()
    process = multiprocessing.get_context(method).Process(target=call, args=(report, keep_until, q, made, done))
    process.start()
    mine, value = made.get(timeout=AMPLE)
    assert mine.get(timeout=AMPLE) == "made in the child"
    assert value.value == 7
    q.put("until now")
    done.set()
    assert report.get(timeout=AMPLE) == "until now"
    process.join(AMPLE)


def add(value: multigil.Value, lock: multigil.Lock, times: int) -> int:
    for _ in range(times):
        with lock:
            value.value += 1
    return os.getpid()


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_process_pool(method: str) -> None:
    value, lock = multigil.Value("q"), multigil.Lock()
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        futures = [pool.submit(add, value, lock, 500) for _ in range(8)]
        processes = {future.result(AMPLE) for future in futures}
    assert value.value == 4000
    assert os.getpid() not in processes


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_multiprocessing(method: str) -> None:
    value, lock = multigil.Value("q"), multigil.RLock()
    with multiprocessing.get_context(method).Pool(2) as pool:
        pool.starmap(add, [(value, lock, 100)] * 10)
    assert value.value == 1000


def die(lock: multigil.Lock, ready: multigil.Event) -> None:
    lock.acquire()
    ready.set()
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_dies_with_a_lock(method: str) -> None:
    lock, ready = multigil.Lock(), multigil.Event()
    process = multiprocessing.get_context(method).Process(target=die, args=(lock, ready))
    process.start()
    assert ready.wait(AMPLE)
    with pytest.raises(multigil.OwnerDied):
        lock.acquire(timeout=AMPLE)
    assert lock.acquire(timeout=AMPLE)
    process.join(AMPLE)


@pytest.mark.parametrize("method", METHODS)
def test_a_pickle_of_what_is_gone(method: str) -> None:
    pickled = pickle.dumps(multigil.Queue())
    gc.collect()
    with pytest.raises(StaleHandle):
        in_child(method, pickle.loads, pickled)


@pytest.mark.parametrize("method", METHODS)
def test_a_region_goes_along(method: str) -> None:
    region = Region()
    region.Queue("inbox").put("found")
    assert in_child(method, find, region) == "found"


def find(region: Region) -> object:
    return region.Queue("inbox").get(timeout=AMPLE)


def test_a_process_that_knows_nothing_but_a_pickle() -> None:
    q: multigil.Queue[Any] = multigil.Queue()
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])).put('from a subprocess')"
    pickled = pickle.dumps(q)
    subprocess.run([sys.executable, "-c", code, pickled.hex()], check=True, timeout=AMPLE)
    assert q.get(timeout=AMPLE) == "from a subprocess"
    assert len(pickled) < 100


def test_a_pickle_of_a_process_that_has_ended() -> None:
    code = "import multigil, pickle; q = multigil.Queue(); print(pickle.dumps(q).hex())"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=AMPLE, capture_output=True, text=True)
    with pytest.raises(StaleHandle, match="the region of the object is gone"):
        pickle.loads(bytes.fromhex(done.stdout))


CHILD = """
import os, sys, multigil
from multigil import _core
q = _core.attach(*eval(sys.argv[1]))
q.put((multigil.Queue().__reduce__()[1][1], "MULTIGIL_REGION" in os.environ))
q.put(sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]))
"""


class TestInheritedRegion:
    @staticmethod
    def run(q: multigil.Queue[Any], variable: str) -> subprocess.CompletedProcess[str]:
        identity = q.__reduce__()[1]
        descriptor = int(identity[2].split(":")[1])  # type: ignore[index]
        return subprocess.run(
            [sys.executable, "-c", CHILD, repr(identity)],
            pass_fds=[descriptor],
            env={**os.environ, "MULTIGIL_REGION": variable.format(number=identity[1], descriptor=descriptor)},  # type: ignore[index]
            timeout=AMPLE,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_it_is_the_childs_own_region(self) -> None:
        q: multigil.Queue[Any] = multigil.Queue()
        assert self.run(q, "{number}:{descriptor}").stderr == ""
        assert q.get(timeout=AMPLE) == (q.__reduce__()[1][1], False)  # type: ignore[index]
        assert sum("memfd:multigil" in link for link in q.get(timeout=AMPLE)) == 1

    @pytest.mark.parametrize(
        ("variable", "error"),
        [
            ("nonsense", "ValueError: MULTIGIL_REGION is no number:descriptor: nonsense"),
            ("1:-1", "ValueError: MULTIGIL_REGION is no number:descriptor: 1:-1"),
            ("{number}:999", "FileNotFoundError"),
            ("1:{descriptor}", "ValueError: this is no region"),
        ],
    )
    def test_what_is_wrong_with_it_is_said(self, variable: str, error: str) -> None:
        assert error in self.run(multigil.Queue(), variable).stderr
