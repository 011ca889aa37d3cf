"""Workers that are processes of their own: `Child` here, `main` there.

    the parent                                     the child, a fresh Python
    Popen(region's file, pipe, script) ----------> runs the script: joins the region, then `main`
    the five queues  <============================ the loop of `_worker`, on the first thread
    pipe: interrupt, terminate ------------------> a thread of `_core.obey`, which strikes the first one with SIGINT
    epoll(pidfd of each child) <------------------ ends, however that comes

A thread of the parent waits for the end of all its children. It reaps a child, has the region put right what that held,
and shuts the queues down, so that whoever waits for an outcome hears of it at once.

A child whose parent has died is nobody's: it is terminated, so that it cleans up, and killed after two seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from _pickle import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigil import _core, _worker
from multigil._core import Event, ShutDown, StaleHandle, Value
from multigil._worker import Loop, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multigil._core import Queue
    from multigil._worker import Queues

# How it hears of its region, until importing `_core` has joined that: "number:descriptor".
_REGION = "MULTIGIL_REGION"

# Seconds between `terminate()` and the signals that end a child that does not listen, if there is no other time limit.
_PATIENCE = 2.0
# Seconds between SIGTERM and SIGKILL.
_LAST_PATIENCE = 0.25
# Seconds that another Python gets to tell whether it has multigil.
_SECONDS_TO_TELL = 60.0

# More than any request's number: nothing will be asked of the dead.
_ALL = (1 << 64) - 1

# A path of ASCII and a line of bytes; an empty path stands for that Python's own.
_BOOTSTRAP = """\
import sys
sys.path[:] = {path!a} or [entry for entry in sys.path if entry]
from multigil import _process
_process.main({control}, {parent}, {line!r})
"""


# --- the end here -----------------------------------------------------------------------------------------------


class ProcessWorker(Worker):
    """A worker that is a process. Raises OSError and RuntimeError when it can't be started."""

    body: Child

    def __init__(self, name: str, daemon: bool, executable: str) -> None:
        self._name = name
        self._daemonic = daemon
        self._executable = executable
        super().__init__(_worker.wanted_stack_size())

    def _begin(self, queues: Queues, stack_size: int) -> Child:
        foreign = self._executable != sys.executable
        left_out = _own_folders() if foreign else None
        by_value = "multigil._by_value" in sys.modules
        about = (stack_size, by_value, self._name, self._daemonic, left_out, self._known)
        answered = Value("Q", lock=False)
        line = dumps((queues, self.asked, answered, *about))
        return Child(self._executable, [] if foreign else self._known["path"], line, queues, answered)

    @property
    def returncode(self) -> int | None:
        """The status that the process ended with, or the negative number of the signal; None before."""
        return self.body.returncode

    def terminate(self, timeout: float | None) -> bool:
        """End it as `Worker.terminate` does, then by signals."""
        return super().terminate(_PATIENCE if timeout is None else timeout) or self.body.abandon()

    def fate(self) -> str:
        """What became of the process."""
        status = self.body.returncode
        if self.terminated:
            return "was terminated"
        if status is None:
            return "is closed"
        return f"exited with status {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Child:
    """A process, with all that a worker asks a `Subinterpreter` for."""

    error = None
    backend = "process"

    def __init__(self, executable: str, path: list[str], line: bytes, queues: Queues, answered: Value) -> None:
        self.name: str | None = None
        self.daemon = False
        self.returncode: int | None = None
        self.ended = Event()
        self._queues = queues
        self._requests = itertools.count(1)
        self._answered = answered
        self._heirs: list[tuple[Queue[Any], int]] = []
        with contextlib.ExitStack() as opened:
            theirs, self._control = os.pipe()
            opened.callback(os.close, theirs)
            weakref.finalize(self, os.close, self._control).atexit = False
            os.set_blocking(self._control, False)
            script = os.memfd_create("multigil")
            opened.callback(os.close, script)
            text = _BOOTSTRAP.format(path=path, control=theirs, parent=os.getpid(), line=line)
            os.pwrite(script, text.encode("ascii"), 0)
            region = _core.region_descriptor()
            command = f"exec(open({script}, encoding='ascii').read(), {{}})"
            with _without_interrupts():
                self._process = subprocess.Popen(
                    [executable, *_flags(), "-c", command, "multigil"],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(region, theirs, script),
                    env={**os.environ, _REGION: f"{_core.region_number()}:{region}"},
                )
        self.pid = self._process.pid
        self.sentinel = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self.sentinel).atexit = False
        _watcher.watch(self)

    @property
    def id(self) -> int:
        return self.pid

    @property
    def ident(self) -> int:
        return self.pid

    @property
    def native_id(self) -> int:
        return self.pid

    def is_alive(self) -> bool:
        return not self.ended.is_set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended, at most `timeout` seconds; whether it has."""
        return self.ended.wait(timeout)

    def tell(self, queue: Queue[Any], number: int) -> None:
        """Put (number, None, None) into the queue when the process has ended."""
        self._heirs.append((queue, number))
        if self.ended.is_set():
            self._tell_heirs()

    def _tell_heirs(self) -> None:
        # The watcher and whoever calls `tell` just then may both be here: each takes what the other one has not.
        while self._heirs:
            with contextlib.suppress(IndexError, ShutDown):
                _core.put_numbered(*self._heirs.pop(), None)

    def interrupt(self, last: int) -> None:
        """Raise KeyboardInterrupt in the task that runs, if its number is at most `last`.

        Waits until it was seen to, so that it comes before what is done here afterwards.
        """
        request = self._ask(b"I", last)
        while (answered := self._answered.value) < request:
            self._answered.wait(answered)

    def terminate(self, timeout: float | None = None) -> None:  # noqa: ARG002  (it does not wait)
        """Drop what is queued, and raise InterpreterTerminated in what runs."""
        self._queues[0].shutdown(immediate=True)
        self._ask(b"T", 0)

    def abandon(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        """End the process by signals."""
        self.send_signal(signal.SIGTERM)
        if not self.join(_LAST_PATIENCE):
            self.send_signal(signal.SIGKILL)
            self.join()
        return True

    def send_signal(self, number: int) -> None:
        """Send the process a signal; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.sentinel, number)

    def _ask(self, what: bytes, last: int) -> int:
        """Send a request, and give its number; 0 if nobody will see to it."""
        request = next(self._requests)
        try:
            os.write(self._control, request.to_bytes(8, "little") + last.to_bytes(8, "little") + what)
        except (BlockingIOError, BrokenPipeError):
            return 0  # thousands of others have not been read, or the process has ended
        return request

    def end(self) -> None:
        """Do what is to be done when the process is dead: what the watcher calls."""
        self.returncode = self._process.wait()
        _core.recover_dead()
        self._answered.value = _ALL
        self._answered.notify_all()
        for queue in self._queues:
            queue.shutdown()
        self.ended.set()
        self._tell_heirs()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let what is started meanwhile begin with SIGINT blocked: Ctrl-C in a terminal goes to all processes there.

    The signal of this process goes to another thread, or waits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """The options that this Python was started with, as `multiprocessing` hands them on."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    return flags


class _Watcher:
    """The thread that sees this interpreter's children end. It is there as long as one of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._children: dict[int, Child] = {}
        self._thread: threading.Thread | None = None

    def watch(self, child: Child) -> None:
        """Have `child.end()` called when it has ended."""
        with self._lock:
            if self._thread is None:
                # A sub-interpreter allows no daemon threads, and ends its workers before it waits for threads.
                daemon = _core.current_interpreter_id() == 0
                thread = threading.Thread(target=self._run, name="multigil-children", daemon=daemon)
                thread.start()
                self._thread = thread
            self._children[child.sentinel] = child
            self._epoll.register(child.sentinel, select.EPOLLIN)

    def children(self) -> list[Child]:
        """Those that have not ended."""
        with self._lock:
            return list(self._children.values())

    def _run(self) -> None:
        while True:
            for sentinel, _ in self._epoll.poll():
                self._children[sentinel].end()
                with self._lock:
                    self._epoll.unregister(sentinel)
                    del self._children[sentinel]
            with self._lock:
                if not self._children:
                    self._thread = None
                    return


_watcher = _Watcher()


def children() -> list[Child]:
    """The processes that were started from this interpreter and have not ended."""
    return _watcher.children()


def _after_fork_in_child() -> None:
    global _watcher  # noqa: PLW0603
    _watcher = _Watcher()  # the children are the parent's


os.register_at_fork(after_in_child=_after_fork_in_child)


# --- another Python ---------------------------------------------------------------------------------------------

# Those that have told that they have this version of multigil.
_checked = {sys.executable}

_PROBE = "import multigil._core; print('multigil', multigil._core.__version__)"


def usable(executable: str | None) -> str:
    """Give the Python that is meant, None being this one. Raises what keeps it from running a worker."""
    executable = executable or sys.executable
    if not executable:
        raise RuntimeError("this Python does not know its executable: name one with executable=")
    if executable in _checked:
        return executable
    try:
        told = subprocess.run(
            [executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_TO_TELL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{executable} has not said within {_SECONDS_TO_TELL} s whether it has multigil") from None
    if told.returncode != 0:
        reason = (told.stderr.strip() or f"it exited with status {told.returncode}").splitlines()[-1]
        raise RuntimeError(f"{executable} cannot run multigil: {reason}")
    if told.stdout.split() != ["multigil", _core.__version__]:
        raise RuntimeError(f"{executable} is not a Python with multigil {_core.__version__}: {told.stdout.strip()!r}")
    _checked.add(executable)
    return executable


def _own_folders() -> list[str]:
    """Where this Python's own modules are, which are not another one's."""
    import sysconfig

    return [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]


# --- the end there ----------------------------------------------------------------------------------------------


def main(control: int, parent: int, line: bytes) -> None:
    """Serve tasks, then exit: what a worker's process runs, with SIGINT blocked at first."""
    signal.signal(signal.SIGINT, _core.answer_signal)
    try:
        arguments = loads(line)
    except StaleHandle:
        sys.exit(1)  # the parent is dead
    loop = _worker.loop = ProcessLoop(*arguments)
    _core.obey(control, parent, loop.answered, loop.inboxes)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    loop.run()
    sys.exit(loop.status)


class ProcessLoop(Loop):
    """The loop of a worker in a process of its own, which shares neither `os.environ` nor perhaps `sys.path`."""

    def __init__(
        self,
        queues: Queues,
        asked: Queue[None],
        answered: Value,
        stack_size: int,
        by_value: bool,
        name: str,
        daemon: bool,
        left_out: list[str] | None,
        known: dict[str, Any],
    ) -> None:
        self.name = name
        self.daemon = daemon
        self.answered = answered
        self.inboxes = queues[:1]
        self._left_out = left_out
        self._own_path = list(sys.path)
        self.apply({"path": known["path"], "argv": known["argv"]})
        super().__init__(queues, asked, None, stack_size, by_value)

    def apply(self, changes: dict[str, Any]) -> None:
        """Take over what has changed in the parent."""
        if "path" in changes and self._left_out is not None:
            changes["path"] = [*self._own_path, *self._foreign(changes["path"], self._left_out)]
        if "environ" in changes:
            before, after = _worker.environment(), changes["environ"]
            for name in before.keys() - after.keys():
                os.unsetenv(name)
            for name, value in after.items():
                if before.get(name) != value:
                    os.putenv(name, value)
        super().apply(changes)

    def _foreign(self, path: Iterable[str], left_out: list[str]) -> list[str]:
        """What the path of the parent, which is another Python, has beside that one's own modules."""
        return [
            entry
            for entry in path
            if entry not in self._own_path
            and not any(Path(entry).is_relative_to(folder) for folder in left_out)
            and not entry.endswith(".zip")
        ]
