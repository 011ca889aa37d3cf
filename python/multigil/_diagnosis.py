"""`diagnose()`: who holds what, who waits for what, and who waits for ever, in words.

The engine knows who holds each lock and what each thread waits for. Names and stacks are Python's, so every interpreter
is asked for those of its own threads: `look` runs in each.
"""

from __future__ import annotations

import marshal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multigil import _core
from multigil.interpreter import current_interpreter, main_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    # An object of the engine: what it is, and its id.
    type Subject = tuple[str, int, int]

# How long an interpreter may take to show its threads: one that keeps its GIL in a call of C cannot.
_SECONDS_TO_LOOK = 1.0

_LOOK = "from multigil._diagnosis import look\nresult = look()"


@dataclass(frozen=True)
class WaitingThread:
    """A thread that waits, or that others wait for."""

    interpreter_id: int
    native_id: int
    """The kernel's id of the thread."""
    name: str = ""
    """As `threading` has it; empty if it is not known there."""
    waits_for: str = ""
    """What it waits for, in words; empty if it runs."""
    seconds: float = 0.0
    """For how long."""
    holds: tuple[str, ...] = ()
    """The locks that it holds."""
    stack: tuple[str, ...] = ()
    """Lines of its stack, as `traceback` formats them; empty if its interpreter did not answer."""

    def __str__(self) -> str:
        name = self.name or "a thread"
        return f"{name} (interpreter {self.interpreter_id}, thread {self.native_id})"


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose()` found. `str()` of it is the report."""

    threads: list[WaitingThread] = field(default_factory=list)
    """Those that wait or hold a lock."""
    deadlocks: list[list[WaitingThread]] = field(default_factory=list)
    """Each of these threads waits for what the next one holds, and the last one for what the first one holds."""
    silent: list[int] = field(default_factory=list)
    """Ids of interpreters that did not show their stacks: they are in a call of C that keeps the GIL."""

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        waiting = sum(bool(thread.waits_for) for thread in self.threads)
        yield f"{_count(waiting, 'thread')} waiting, {_count(len(self.deadlocks), 'deadlock')}."
        for deadlock in self.deadlocks:
            yield ""
            yield "Deadlock: none of these can go on before another one does."
            for thread in deadlock:
                yield f"  {thread} waits for {thread.waits_for}"
        for thread in self.threads:
            yield ""
            yield f"{thread}"
            if thread.waits_for:
                yield f"  waits for {thread.waits_for}, for {thread.seconds:.1f} s now"
            for lock in thread.holds:
                yield f"  holds {lock}"
            yield from (f"  {line}" for text in thread.stack for line in text.rstrip("\n").split("\n"))
        for interpreter_id in self.silent:
            yield ""
            yield f"Interpreter {interpreter_id} did not show its stacks: a call of C keeps its GIL."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def diagnose() -> Diagnosis:
    """Find out who holds which lock, who waits for what, and which threads wait for each other.

    Looks at all threads of all interpreters of this process, those that neither wait for something of multigil's nor
    hold a lock of it left out. What runs meanwhile goes on, so two lines of the report may be of different moments; a
    deadlock does not change any more. A `Lock` may be released by any thread, so a cycle through one is a deadlock only
    if nobody else means to release it.
    """
    scene = _Scene()
    threads = {native_id: scene.thread(native_id) for native_id in {*scene.waits, *scene.holds}}
    in_order = sorted(threads.values(), key=lambda thread: (thread.interpreter_id, thread.native_id))
    cycles = _cycles({native_id: scene.holder(wait[2]) for native_id, wait in scene.waits.items()})
    return Diagnosis(in_order, [[threads[one] for one in cycle] for cycle in cycles], scene.silent)


class _Scene:
    """What the engine and the interpreters tell."""

    def __init__(self) -> None:
        # By the native ids of threads. An interpreter that waits for calls has nothing to do.
        self.waits = {wait[0]: wait[1:] for wait in _core.waits() if wait[3][0] != "calls"}
        self.holds: dict[int, list[tuple[Subject, int]]] = {}
        self.silent: list[int] = []
        self._holders: dict[Subject, int] = {}
        self._shown: dict[int, tuple[str, list[str]]] = {}
        for subject, interpreter_id, native_id in _core.held_locks():
            self.holds.setdefault(native_id, []).append((subject, interpreter_id))
            self._holders[subject] = native_id
        for interpreter_id in _core.interpreter_ids():
            shown = _look_into(interpreter_id)
            if shown is None:
                self.silent.append(interpreter_id)
            else:
                self._shown.update(shown)

    def thread(self, native_id: int) -> WaitingThread:
        name, stack = self._shown.get(native_id, ("", []))
        held = self.holds.get(native_id, [])
        locks = tuple(_name(subject) for subject, _ in held)
        if native_id not in self.waits:
            return WaitingThread(held[0][1], native_id, name, holds=locks, stack=tuple(stack))
        interpreter_id, seconds, subject = self.waits[native_id]
        return WaitingThread(interpreter_id, native_id, name, self._words(subject), seconds, locks, tuple(stack))

    def holder(self, subject: Subject) -> int | None:
        """The thread that a wait for it waits for."""
        return subject[1] if subject[0] == _INTERPRETER else self._holders.get(subject)

    def _words(self, subject: Subject) -> str:
        holder = self.holder(subject)
        if holder is None:
            return _name(subject)
        name = self._shown.get(holder, ("", []))[0] or "a thread"
        who = f"{name} (thread {holder})"
        return who if subject[0] == _INTERPRETER else f"{_name(subject)}, held by {who}"


# What `_core.waits` calls an interpreter; its thread's native id follows.
_INTERPRETER = "Interpreter"


def _name(subject: Subject) -> str:
    kind, index, generation = subject
    return kind if generation < 0 else f"{kind} {index:#x}.{generation}"


def _cycles(next_of: dict[int, int | None]) -> list[list[int]]:
    """The cycles of a graph in which every node leads to at most one other."""
    cycles = []
    done: set[int] = set()
    for start in next_of:
        path: list[int] = []
        node: int | None = start
        while node is not None and node not in done:
            done.add(node)
            path.append(node)
            node = next_of.get(node)
        if node in path:
            cycles.append(path[path.index(node) :])
    return cycles


def _look_into(interpreter_id: int) -> dict[int, tuple[str, list[str]]] | None:
    """What `look` gives there; None if it does not answer."""
    if interpreter_id == _core.current_interpreter_id():
        answer: bytes | None = look()
    else:
        answer = _core.look_into(interpreter_id, _LOOK, _SECONDS_TO_LOOK)
    return None if answer is None else marshal.loads(answer)


def look() -> bytes:
    """The threads of this interpreter by native id: their names and stacks, marshalled."""
    import traceback

    names = {thread.ident: (thread.native_id, thread.name) for thread in threading.enumerate()}
    here = current_interpreter() if _core.current_interpreter_id() else main_interpreter()
    names[here.ident] = (here.native_id, here.name)
    shown = {}
    for ident, frame in _core.frames().items():
        native_id, name = names.get(ident, (None, ""))
        if native_id is not None:
            stack = [(frame, line) for frame, line in traceback.walk_stack(frame) if not _is_ours(frame)]
            shown[native_id] = (name, traceback.StackSummary.extract(reversed(stack)).format())
    return marshal.dumps(shown)


def _is_ours(frame: FrameType) -> bool:
    """Whether it is of what lies between an interpreter's thread and the user's function."""
    return frame.f_globals.get("__name__") in _OURS


# None is the bootstrap.
_OURS = (None, "multigil._diagnosis", "multigil._worker", "multigil.interpreter", "threading")
