"""A forked child has the same objects, as a participant of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import ProgramRunner

IGNORED = ["-W", "ignore::DeprecationWarning"]  # CPython's own, about threads

# What the programs below have in common: `fork(function)` gives the child's process id.
FORK = """
import os, signal, sys, threading, traceback
import multigil
from multigil import _core

def fork(function):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""


def test_messages_go_both_ways_and_bring_new_objects(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
there, back = multigil.Queue(), multigil.Queue()
def work():
    answer = there.get()
    own = multigil.Queue()
    back.put(own)
    answer.put("through a queue that the parent sent")
    assert own.get() == "through a queue that the child made"
child = fork(work)
answer = multigil.Queue()
there.put(answer)
back.get().put("through a queue that the child made")
print(answer.get(), end(child))
"""
    )
    assert output == "through a queue that the parent sent 0\n"


def test_every_object_is_the_same_one(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
objects = {
    "queue": multigil.Queue(), "lifo": multigil.LifoQueue(), "priority": multigil.PriorityQueue(),
    "simple": multigil.SimpleQueue(), "lock": multigil.Lock(), "rlock": multigil.RLock(),
    "event": multigil.Event(), "semaphore": multigil.Semaphore(0), "bounded": multigil.BoundedSemaphore(2),
    "value": multigil.Value("q", 5), "array": multigil.Array("q", 3), "condition": multigil.Condition(),
    "barrier": multigil.Barrier(2), "memory": multigil.SharedMemory("the name", create=True, size=10),
}
globals().update(objects)
def work():
    for name in ("queue", "lifo", "priority", "simple"):
        objects[name].put(name)
    lock.acquire()
    event.set()
    semaphore.release()
    bounded.acquire()
    value.fetch_add(1)
    array[1] = 7
    memory.buf[:3] = b"abc"
    barrier.wait()
    with condition:
        condition.notify()
    lock.release()
condition.acquire()
child = fork(work)
barrier.wait()
condition.wait()
condition.release()
print([objects[name].get() for name in ("queue", "lifo", "priority", "simple")])
print(event.is_set(), semaphore.acquire(), value.value, list(array), bytes(memory.buf[:3]), end(child), lock.locked())
memory.unlink()
"""
    )
    assert output == "['queue', 'lifo', 'priority', 'simple']\nTrue True 6 [0, 7, 0] b'abc' 0 False\n"


def test_what_the_parent_holds_stays_its_own(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
lock, rlock, done = multigil.Lock(), multigil.RLock(), multigil.Event()
lock.acquire(); rlock.acquire()
def work():
    assert lock.locked() and lock.owner.interpreter_id == -1 and lock.owner.process_id == os.getppid()
    assert not rlock.acquire(blocking=False)
    try:
        rlock.release()
    except RuntimeError as error:
        print(error)
    done.set()
child = fork(work)
done.wait()
assert lock.owner.process_id == os.getpid()
print(lock.owner == (0, threading.get_native_id()), rlock.owner == (0, threading.get_native_id()), end(child))
"""
    )
    assert output == "cannot release un-acquired lock\nTrue True 0\n"


def test_an_object_that_only_the_child_still_has_lives_on(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
q, gone, result = multigil.Queue(), multigil.Event(), multigil.Queue()
q.put("kept")
def work():
    gone.wait()
    result.put((q.get(), _core.statistics()["queues"]))
child = fork(work)
del q
gone.set()
print(result.get(), end(child))
"""
    )
    assert output == "('kept', 2) 0\n"


def test_a_child_that_is_killed_loses_what_it_held(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
lock, ready, q = multigil.Lock(), multigil.Event(), multigil.Queue()
def work():
    lock.acquire()
    global mine
    mine = [multigil.Queue() for _ in range(100)]
    ready.set()
    signal.pause()
child = fork(work)
ready.wait()
os.kill(child, signal.SIGKILL)
try:
    lock.acquire(timeout=20)
except OSError as error:
    print(type(error).__name__)
print(lock.acquire(timeout=20), end(child), _core.statistics()["queues"], _core.statistics()["interpreters"])
"""
    )
    assert output == "OwnerDied\nTrue -9 1 1\n"


def test_a_child_notices_the_death_of_its_parent(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
result = multigil.Queue()
def parent():
    lock = multigil.Lock()
    lock.acquire()
    def child():
        try:
            lock.acquire(timeout=20)
        except OSError as error:
            result.put(type(error).__name__)
    fork(child)
    os.kill(os.getpid(), signal.SIGKILL)
print(end(fork(parent)), result.get(timeout=20))
"""
    )
    assert output == "-9 OwnerDied\n"


def test_the_end_of_a_child_ends_nothing_of_the_parents(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
q, lock = multigil.Queue(), multigil.Lock()
lock.acquire()
if not os.fork():
    raise SystemExit  # with all that Python does at an end
print(os.wait()[1], lock.locked(), _core.statistics()["queues"])
q.put(1)
print(q.get(), lock.owner == (0, threading.get_native_id()))
""",
        options=IGNORED,
    )
    assert output == "0 True 1\n1 True\n"


def test_children_of_children(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
q = multigil.Queue()
def work(depth):
    q.put(depth)
    if depth:
        assert end(fork(lambda: work(depth - 1))) == 0
work(5)
print([q.get() for _ in range(6)], _core.statistics()["interpreters"])
"""
    )
    # Those who have ended are put right when somebody looks.
    assert output.startswith("[5, 4, 3, 2, 1, 0] ")


def test_who_forks_and_never_waits_collects_no_dead(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
import time
locks = [multigil.Lock() for _ in range(100)]
assert end(fork(locks.clear)) == 0
alone = _core.statistics()["bytes_in_use"]
for _ in range(60):
    assert end(fork(locks.clear)) == 0
    time.sleep(0.021)  # those who look do so every 20 ms
print(_core.statistics()["interpreters"] <= 3, _core.statistics()["bytes_in_use"] <= 2 * alone)
"""
    )
    assert output == "True True\n"


def test_a_fork_beside_busy_threads(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
q, lock, stop = multigil.Queue(100), multigil.Lock(), multigil.Event()
count = multigil.Value("q", 0)
def run():
    while not stop.is_set():
        with lock:
            q.put(object)
            q.get()
            multigil.Event()
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
def work():
    for _ in range(10):
        with lock:
            count.fetch_add(1)
        multigil.Queue().put(q)
children = [fork(work) for _ in range(30)]
print({end(child) for child in children}, count.value)
stop.set()
for thread in threads:
    thread.join()
""",
        options=IGNORED,
    )
    assert output == "{0} 300\n"


def test_a_fork_on_another_thread(run_program: ProgramRunner) -> None:
    output = run_program.output(
        FORK
        + """
q = multigil.Queue()
def work():
    lock = multigil.Lock()
    lock.acquire()
    q.put(lock.owner == (0, threading.get_native_id()))
results = []
thread = threading.Thread(target=lambda: results.append(end(fork(work))))
thread.start()
thread.join()
print(results, q.get())
""",
        options=IGNORED,
    )
    assert output == "[0] True\n"


def test_failing_forks_leave_nothing(run_program: ProgramRunner) -> None:
    if sys.platform != "linux":
        pytest.skip("rlimits of Linux")
    output = run_program.output(
        FORK
        + """
import resource
q = multigil.Queue()
before = sorted(os.listdir("/proc/self/fd"))
if os.getuid() == 0:  # a limit on processes is none for root
    os.setresuid(65534, 65534, 65534)
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
for _ in range(10):
    try:
        os.fork()
    except OSError as error:
        failed = type(error).__name__
q.put("still there")
print(failed, q.get(), sorted(os.listdir("/proc/self/fd")) == before)
"""
    )
    assert output == "BlockingIOError still there True\n"
