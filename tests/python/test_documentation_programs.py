"""Programs as the documentation of `threading` and `queue` has them do the same after the change of their imports."""

from __future__ import annotations

import re
import sys
from textwrap import dedent

import pytest

from harness import ProgramRunner

PROGRAMS = {
    "a queue of jobs, and a daemon that works on them": """
        import queue
        import threading

        jobs = queue.Queue()

        def work():
            while True:
                number = jobs.get()
                print(f"{number} squared is {number * number}")
                jobs.task_done()

        threading.Thread(target=work, daemon=True).start()
        for number in range(10):
            jobs.put(number)
        jobs.join()
        print("all jobs are done")
    """,
    "several workers that end at a sentinel": """
        import queue
        import threading

        jobs, results = queue.Queue(), queue.SimpleQueue()

        def work(number):
            for job in iter(jobs.get, None):
                results.put((job, job % 7))
                jobs.task_done()
            jobs.task_done()
            results.put(("ended", number))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        for job in [*range(50), None, None, None]:
            jobs.put(job)
        jobs.join()
        for worker in workers:
            worker.join()
        print(sorted((results.get() for _ in range(53)), key=repr))
    """,
    "a queue that is shut down": """
        import queue
        import threading

        jobs, told = queue.Queue(maxsize=2), queue.SimpleQueue()

        def work():
            while True:
                try:
                    told.put(jobs.get())
                except queue.ShutDown:
                    told.put("shut down")
                    return
                jobs.task_done()

        worker = threading.Thread(target=work)
        worker.start()
        for number in range(6):
            jobs.put(number)
        jobs.shutdown()
        worker.join()
        print([told.get() for _ in range(7)])
        try:
            jobs.put(6)
        except queue.ShutDown as error:
            print(type(error).__module__, type(error).__name__)
        jobs.shutdown(immediate=True)
        print(jobs.empty(), worker.is_alive())
    """,
    "queues with a bound, and in other orders": """
        import queue
        import threading

        small = queue.Queue(1)
        small.put("one", timeout=1)
        for attempt in (lambda: small.put_nowait("two"), lambda: small.put("two", timeout=0.01)):
            try:
                attempt()
            except queue.Full:
                print("full", small.qsize(), small.full())
        print(small.get(), small.empty())
        for attempt in (small.get_nowait, lambda: small.get(True, 0.01), lambda: small.get(block=False)):
            try:
                attempt()
            except queue.Empty:
                print("empty")
        try:
            small.task_done()
            small.task_done()
        except ValueError as error:
            print(error)
        last, lowest = queue.LifoQueue(), queue.PriorityQueue()

        def fill():
            for priority, name in ((3, "low"), (1, "high"), (2, "middle")):
                last.put(name)
                lowest.put((priority, name))

        thread = threading.Thread(target=fill)
        thread.start()
        thread.join()
        print([last.get() for _ in range(3)], [lowest.get() for _ in range(3)])
    """,
    "a producer and a consumer with a condition": """
        import queue
        import threading

        shelf = queue.SimpleQueue()
        changed = threading.Condition()

        def consume():
            for _ in range(5):
                with changed:
                    while shelf.empty():
                        changed.wait()
                    print("consumed", shelf.get())
                    changed.notify()

        def produce():
            for number in range(5):
                with changed:
                    changed.wait_for(shelf.empty)
                    shelf.put(number)
                    changed.notify()

        threads = [threading.Thread(target=consume), threading.Thread(target=produce)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with changed:
            print(changed.wait(timeout=0.01), changed.wait_for(lambda: False, 0.01))
        try:
            changed.notify_all()
        except RuntimeError as error:
            print(error)
    """,
    "a barrier at which all begin": """
        import queue
        import threading

        told = queue.SimpleQueue()
        start = threading.Barrier(3, action=lambda: told.put("action"), timeout=30)

        def run():
            told.put("ready")
            places.put(start.wait())
            told.put("off")

        places = queue.SimpleQueue()
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print([told.get() for _ in range(7)], sorted(places.get() for _ in range(3)))
        print(start.parties, start.n_waiting, start.broken)

        def be_left_alone():
            try:
                start.wait()
            except threading.BrokenBarrierError:
                told.put("broken")

        thread = threading.Thread(target=be_left_alone)
        thread.start()
        start.abort()
        thread.join()
        print(told.get(), start.broken)
        start.reset()
        print(start.broken)
    """,
    "timers": """
        import threading

        def greet(greeting, name="nobody"):
            print(greeting, name)

        first = threading.Timer(0.05, greet, ["hello"], {"name": "world"})
        second = threading.Timer(30.0, greet, args=["never"])
        for timer in (first, second):
            timer.start()
        first.join()
        second.cancel()
        second.join()
        print(first.finished.is_set(), second.finished.is_set(), first.is_alive(), second.is_alive())
        print(second.interval, second.args, second.kwargs, second.function is greet)
        third = threading.Timer(0, greet, ("too late",))
        third.cancel()
        third.start()
        third.join()
    """,
    "a pool that a semaphore guards": """
        import queue
        import threading

        connections = queue.SimpleQueue()
        for number in range(2):
            connections.put(number)
        pool = threading.BoundedSemaphore(value=2)
        used = queue.SimpleQueue()

        def query():
            with pool:
                connection = connections.get_nowait()  # raises Empty if there were more than two at once
                used.put(connection)
                connections.put(connection)

        threads = [threading.Thread(target=query) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(used.qsize(), connections.qsize())
        try:
            pool.release()
        except ValueError as error:
            print(error)
        plain = threading.Semaphore(0)
        plain.release(2)
        print(plain.acquire(), plain.acquire(timeout=1), plain.acquire(blocking=False))
    """,
    "an event that starts and one that stops": """
        import queue
        import threading

        start, stop, ticks = threading.Event(), threading.Event(), queue.SimpleQueue()

        def tick():
            start.wait()
            while not stop.wait(timeout=0.01):
                ticks.put("tick")

        thread = threading.Thread(target=tick)
        thread.start()
        print(start.is_set(), ticks.empty(), thread.is_alive())
        start.set()
        print(ticks.get(), ticks.get())
        stop.set()
        thread.join()
        start.clear()
        print(start.wait(0.01), stop.wait(), thread.is_alive())
    """,
    "locks": """
        import threading

        lock, again = threading.Lock(), threading.RLock()

        def attempt():
            print("taken" if not lock.acquire(blocking=False) else "free", lock.locked())
            print(again.acquire(timeout=0.01))

        lock.acquire()
        with again, again:
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
        lock.release()
        with lock:
            print(lock.locked())
        for release in (lock.release, again.release):
            try:
                release()
            except RuntimeError as error:
                print(error)
    """,
    "data of each thread's own": """
        import queue
        import threading

        data = threading.local()
        data.number = 1
        told = queue.SimpleQueue()

        class Counted(threading.local):
            start = 0

            def __init__(self, step, *, start):
                told.put(f"made with {step}")
                self.start = start
                self.step = step

            def advance(self):
                self.start += self.step
                return self.start

        counted = Counted(2, start=10)
        counted.advance()

        def look():
            before = hasattr(data, "number")
            data.number = 2
            told.put((before, data.number, counted.advance(), counted.advance()))

        for _ in range(2):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        print(data.number, counted.advance(), vars(data))
        print([told.get() for _ in range(5)])
    """,
    "exceptions that nobody catches": """
        import sys
        import threading

        def hook(args):
            print(args.exc_type.__name__, args.exc_value, args.thread.name, args.exc_traceback is not None, flush=True)

        def fail(error):
            raise error

        threading.excepthook = hook
        for error in (ValueError("seen by the hook"), SystemExit(3)):
            thread = threading.Thread(target=fail, args=[error], name="failing")
            thread.start()
            thread.join()
        threading.excepthook = threading.__excepthook__
        thread = threading.Thread(target=fail, args=[SystemExit("silent")])
        thread.start()
        thread.join()
        print("goes on")
    """,
    "a class of threads": """
        import queue
        import threading

        class Summing(threading.Thread):
            def __init__(self, numbers, results):
                super().__init__(name=f"summing {numbers}")
                self.numbers = numbers
                self.results = results

            def run(self):
                self.results.put((self.name, sum(self.numbers), threading.current_thread() is self))

        results = queue.Queue()
        threads = [Summing(range(number), results) for number in (3, 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(results.get() for _ in threads))
    """,
    "who is there": """
        import threading

        ready, go = threading.Barrier(2), threading.Event()

        def wait(others):
            me, main = threading.current_thread(), threading.main_thread()
            names = sorted(thread.name for thread in threading.enumerate())
            print(me.name, me.daemon, me.is_alive(), main.name, main.is_alive(), me is main, others == names)
            print(threading.active_count() == len(names), me.ident == threading.get_ident() != main.ident)
            print(me.native_id == threading.get_native_id() != main.native_id)
            me.name = "renamed"
            ready.wait()
            go.wait()

        thread = threading.Thread(None, wait, "waiting", (["MainThread", "waiting"],), daemon=True)
        print(thread.name, thread.daemon, thread.ident, thread.native_id, thread.is_alive())
        thread.start()
        ready.wait()
        print(thread.name, threading.enumerate() == [threading.main_thread(), thread], threading.active_count())
        try:
            thread.start()
        except RuntimeError:
            print("cannot be started again")
        thread.join(timeout=0.01)
        print(thread.is_alive())
        go.set()
        thread.join()
        print(thread.is_alive(), threading.enumerate() == [threading.current_thread()], thread.ident is not None)
        for join in (threading.current_thread().join, threading.Thread().join):
            try:
                join()
            except RuntimeError:
                print("cannot be joined")
    """,
    "threads that threads start": """
        import threading

        def count(number):
            if number:
                inner = threading.Thread(target=count, args=(number - 1,))
                inner.start()
                inner.join()
            print(number)

        outer = threading.Thread(target=count, args=(2,))
        outer.start()
        outer.join()
    """,
    "one that waits for the end of the main thread": """
        import threading

        main_has_more_to_say = threading.Event()

        def wait():
            threading.main_thread().join()
            print("the main thread has ended:", not threading.main_thread().is_alive())

        threading.Thread(target=wait).start()
        print("the main thread ends", flush=True)
    """,
    "one that waits for another": """
        import threading

        go = threading.Event()

        def join(other):
            go.set()
            other.join()
            print(f"{other.name} has ended: {not other.is_alive()}")

        first = threading.Thread(target=go.wait, name="the first")
        first.start()
        second = threading.Thread(target=join, args=(first,))
        second.start()
        second.join()
    """,
    "tracing and profiling": """
        import queue
        import sys
        import threading

        seen = queue.SimpleQueue()

        def trace(frame, event, argument):
            if frame.f_code.co_name == "traced":
                seen.put((event, frame.f_lineno - frame.f_code.co_firstlineno))
            return trace

        def profile(frame, event, argument):
            if frame.f_code.co_name == "traced":
                seen.put(event)

        def traced():
            return 1

        def run():
            thread = threading.Thread(target=traced)
            thread.start()
            thread.join()
            seen.put("end")
            print(list(iter(seen.get, "end")))

        threading.settrace(trace)
        print(threading.gettrace() is trace, sys.gettrace())
        run()
        threading.settrace(None)
        threading.setprofile(profile)
        print(threading.getprofile() is profile, sys.getprofile())
        run()
        threading.setprofile(None)
        run()
    """,
    "the size of the stack": """
        import threading

        print(threading.stack_size())
        threading.stack_size(1 << 20)

        def depth(levels):
            return 1 + depth(levels - 1) if levels else 0

        thread = threading.Thread(target=lambda: print(depth(100), threading.stack_size(1 << 20)))
        thread.start()
        thread.join()
        print(threading.stack_size(0), threading.stack_size())
        for size in (-1, 1):
            try:
                threading.stack_size(size)
            except ValueError as error:
                print(error)
    """,
    "the old names": """
        import threading
        import warnings

        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as caught:
            thread = threading.Thread(name="old")
            thread.setName(thread.getName() + " name")
            thread.setDaemon(not thread.isDaemon())
            print(thread.name, thread.daemon, threading.activeCount(), threading.currentThread().name)
        print(*(f"{warning.category.__name__}: {warning.message}" for warning in caught), sep="\\n")
    """,
}

# What `queue` has since 3.13.
LATER = {"a queue that is shut down"} if sys.version_info < (3, 13) else set()


def with_interpreters(program: str) -> str:
    return re.sub(r"(?m)^import (threading|queue)$", r"import multigil as \1", dedent(program))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in LATER])
def test_a_program_does_the_same_after_the_change_of_its_imports(run_program: ProgramRunner, name: str) -> None:
    program = dedent(PROGRAMS[name])
    changed = with_interpreters(program)
    assert changed.count("multigil") == len(re.findall(r"(?m)^import (?:threading|queue)$", program)) > 0
    expected = run_program.output(program)
    assert expected
    assert run_program.output(changed) == expected


# What works with threads alone, and what the README advises instead, which works with both.
REMEDIES = {
    "a list that threads append to": (
        """
        import threading

        squares = []

        def square(number):
            squares.append(number * number)

        threads = [threading.Thread(target=square, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(squares))
        """,
        """
        import queue
        import threading

        squares = queue.SimpleQueue()

        def square(number):
            squares.put(number * number)

        threads = [threading.Thread(target=square, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(squares.get() for _ in threads))
        """,
    ),
    "what run stores in the object": (
        """
        import threading

        class Squaring(threading.Thread):
            square = None

            def __init__(self, number):
                super().__init__()
                self.number = number

            def run(self):
                self.square = self.number * self.number

        thread = Squaring(7)
        thread.start()
        thread.join()
        print(thread.square)
        """,
        """
        import queue
        import threading

        class Squaring(threading.Thread):
            def __init__(self, number):
                super().__init__()
                self.number = number
                self.squares = queue.SimpleQueue()

            def run(self):
                self.squares.put(self.number * self.number)

        thread = Squaring(7)
        thread.start()
        thread.join()
        print(thread.squares.get())
        """,
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_what_threads_alone_share_has_a_remedy(run_program: ProgramRunner, name: str) -> None:
    program, remedy = (dedent(text) for text in REMEDIES[name])
    expected = run_program.output(program)
    assert run_program.output(with_interpreters(program)) != expected
    assert run_program.output(remedy) == run_program.output(with_interpreters(remedy)) == expected


def test_what_belongs_to_one_interpreter_cannot_be_sent(run_program: ProgramRunner) -> None:
    outcome = run_program("""
        import multigil as threading

        threading.Thread(target=list, args=[(number for number in range(3))]).start()
    """)
    assert outcome.stdout == ""
    assert "\nTypeError: cannot pickle 'generator' object\n" in outcome.stderr
    assert outcome.status == 1


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="both modules have it")
def test_a_queue_that_is_shut_down_where_queue_has_no_such_method(run_program: ProgramRunner) -> None:
    output = run_program.output(with_interpreters(PROGRAMS["a queue that is shut down"]))
    assert output.splitlines()[0] == "[0, 1, 2, 3, 4, 5, 'shut down']"


def test_an_exception_that_no_hook_catches_is_printed_by_both(run_program: ProgramRunner) -> None:
    program = """
        import threading

        def fail():
            raise ValueError("not caught")

        thread = threading.Thread(target=fail, name="failing")
        thread.start()
        thread.join()
        print("goes on")
    """
    for source in (dedent(program), with_interpreters(program)):
        outcome = run_program(source)
        assert (outcome.stdout, outcome.status) == ("goes on\n", 0)
        lines = outcome.stderr.splitlines()
        assert lines[:2] == ["Exception in thread failing:", "Traceback (most recent call last):"]
        assert any(line.endswith(", in fail") for line in lines)
        assert lines[-1] == "ValueError: not caught"
