"""Every public name of `threading` and `queue` is one of multigil's, with the same signature, on every version."""

from __future__ import annotations

import inspect
import queue
import sys
import threading
from typing import Any

import pytest

import multigil

# What the documentation of `threading` and `queue` of 3.14 lists, with the signatures of 3.14, without `self`. None is
# for attributes and constants, and for what has no signature there.
QUEUE_METHODS = {
    "empty": "()",
    "full": "()",
    "get": "(block=True, timeout=None)",
    "get_nowait": "()",
    "join": "()",
    "put": "(item, block=True, timeout=None)",
    "put_nowait": "(item)",
    "qsize": "()",
    "shutdown": "(immediate=False)",
    "task_done": "()",
}
THREAD_METHODS = {
    "daemon": None,
    "getName": "()",
    "ident": None,
    "isDaemon": "()",
    "is_alive": "()",
    "join": "(timeout=None)",
    "name": None,
    "native_id": None,
    "run": "()",
    "setDaemon": "(daemonic)",
    "setName": "(name)",
    "start": "()",
}
LOCK_METHODS = {"acquire": "(blocking=True, timeout=-1)", "locked": "()", "release": "()"}
SEMAPHORE_METHODS = {"acquire": "(blocking=True, timeout=None)", "release": "(n=1)"}
THREADING: dict[str, Any] = {
    "Barrier": "(parties, action=None, timeout=None)",
    "BoundedSemaphore": "(value=1)",
    "BrokenBarrierError": None,
    "Condition": "(lock=None)",
    "Event": "()",
    "ExceptHookArgs": None,
    "Lock": "()",
    "RLock": "()",
    "Semaphore": "(value=1)",
    "TIMEOUT_MAX": None,
    "Thread": "(group=None, target=None, name=None, args=(), kwargs=None, *, daemon=None, context=None)",
    "ThreadError": None,
    "Timer": "(interval, function, args=None, kwargs=None)",
    "__excepthook__": "(args, /)",
    "activeCount": "()",
    "active_count": "()",
    "currentThread": "()",
    "current_thread": "()",
    "enumerate": "()",
    "excepthook": "(args, /)",
    "get_ident": "()",
    "get_native_id": "()",
    "getprofile": "()",
    "gettrace": "()",
    "local": "()",
    "main_thread": "()",
    "setprofile": "(func)",
    "setprofile_all_threads": "(func)",
    "settrace": "(func)",
    "settrace_all_threads": "(func)",
    "stack_size": "(size=0, /)",
}
QUEUE: dict[str, Any] = {
    "Empty": None,
    "Full": None,
    "LifoQueue": "(maxsize=0)",
    "PriorityQueue": "(maxsize=0)",
    "Queue": "(maxsize=0)",
    "ShutDown": None,
    "SimpleQueue": "()",
}
METHODS: dict[str, dict[str, str | None]] = {
    "Barrier": {
        "abort": "()",
        "broken": None,
        "n_waiting": None,
        "parties": None,
        "reset": "()",
        "wait": "(timeout=None)",
    },
    "BoundedSemaphore": SEMAPHORE_METHODS,
    "Condition": {
        **LOCK_METHODS,
        "notify": "(n=1)",
        "notifyAll": "()",
        "notify_all": "()",
        "wait": "(timeout=None)",
        "wait_for": "(predicate, timeout=None)",
    },
    "Event": {"clear": "()", "isSet": "()", "is_set": "()", "set": "()", "wait": "(timeout=None)"},
    "ExceptHookArgs": dict.fromkeys(["exc_traceback", "exc_type", "exc_value", "thread"]),
    "LifoQueue": QUEUE_METHODS,
    "Lock": {
        **LOCK_METHODS,
        "acquire_lock": "(blocking=True, timeout=-1)",
        "locked_lock": "()",
        "release_lock": "()",
    },
    "PriorityQueue": QUEUE_METHODS,
    "Queue": QUEUE_METHODS,
    "RLock": LOCK_METHODS,
    "Semaphore": SEMAPHORE_METHODS,
    "SimpleQueue": {name: QUEUE_METHODS[name] for name in ("empty", "get", "get_nowait", "put", "put_nowait", "qsize")},
    "Thread": THREAD_METHODS,
    "Timer": {**THREAD_METHODS, "cancel": "()"},
}
# Of the objects, where the class does not have them.
ATTRIBUTES = {
    "Queue": ["maxsize"],
    "LifoQueue": ["maxsize"],
    "PriorityQueue": ["maxsize"],
    "Timer": ["args", "finished", "function", "interval", "kwargs"],
}
# What an object of each class is made of here.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Barrier": (2,),
    "ExceptHookArgs": ((ValueError, ValueError(), None, None),),
    "Timer": (1, print),
}

ALL = {**THREADING, **QUEUE}
MEMBERS = [(name, member, signature) for name, members in METHODS.items() for member, signature in members.items()]
IDS = [f"{name}.{member}" for name, member, _ in MEMBERS]


def parameters(text: str) -> list[inspect.Parameter]:
    namespace: dict[str, Any] = {}
    exec(f"def function{text}: pass", namespace)
    return list(inspect.signature(namespace["function"]).parameters.values())


def assert_takes(function: Any, text: str) -> None:
    """Check that a function takes what one of that signature takes: the same names, places and defaults."""
    ours = inspect.signature(function).parameters
    wanted = parameters(text)
    for parameter, mine in zip(wanted, ours.values(), strict=False):
        assert (mine.name, mine.kind, mine.default) == (parameter.name, parameter.kind, parameter.default)
    assert set(ours) >= {parameter.name for parameter in wanted}
    more = list(ours.values())[len(wanted) :]
    assert all(mine.default is not mine.empty or mine.kind in (mine.VAR_KEYWORD, mine.VAR_POSITIONAL) for mine in more)


@pytest.mark.parametrize("name", ALL)
def test_every_name_is_there(name: str) -> None:
    assert hasattr(multigil, name)


@pytest.mark.parametrize("module", [threading, queue], ids=lambda module: module.__name__)
def test_what_an_import_with_a_star_gives_is_given_here(module: Any) -> None:
    assert set(module.__all__) <= set(multigil.__all__)


@pytest.mark.parametrize(("name", "signature"), [(name, text) for name, text in ALL.items() if text is not None])
def test_every_function_and_class_has_the_signature(name: str, signature: str) -> None:
    ours = getattr(multigil, name)
    if ours is not getattr(threading, name, None):  # get_ident, whose signature cannot be seen before 3.13
        assert_takes(ours, signature)


@pytest.mark.parametrize(("name", "member", "signature"), MEMBERS, ids=IDS)
def test_every_method_and_attribute_is_there_with_its_signature(name: str, member: str, signature: str | None) -> None:
    made = getattr(multigil, name)(*ARGUMENTS.get(name, ()))
    value = getattr(made, member)
    if signature is not None:
        assert_takes(value, signature)


@pytest.mark.parametrize(("name", "member"), [(name, member) for name in ATTRIBUTES for member in ATTRIBUTES[name]])
def test_every_attribute_of_an_object_is_there(name: str, member: str) -> None:
    assert hasattr(getattr(multigil, name)(*ARGUMENTS.get(name, ())), member)


@pytest.mark.parametrize("name", ["Empty", "Full", *(["ShutDown"] if sys.version_info >= (3, 13) else [])])
def test_the_exceptions_of_queue_are_its_own(name: str) -> None:
    assert getattr(multigil, name) is getattr(queue, name)


def test_the_others_are_caught_as_those_of_threading() -> None:
    assert multigil.ThreadError is threading.ThreadError
    assert multigil.BrokenBarrierError is threading.BrokenBarrierError
    assert multigil.ExceptHookArgs is threading.ExceptHookArgs


def test_nothing_of_a_later_version_is_missing() -> None:
    names = {*threading.__all__, *queue.__all__}
    assert {name for name in names if not hasattr(multigil, name)} == set()


@pytest.mark.skipif(sys.version_info[:2] != (3, 14), reason="the lists of this module are those of 3.14")
class TestTheLists:
    """The lists above are complete and right."""

    def test_they_have_every_name(self) -> None:
        assert {*threading.__all__, "__excepthook__", "activeCount", "currentThread"} == set(THREADING)
        assert set(queue.__all__) == set(QUEUE)

    @pytest.mark.parametrize("name", METHODS)
    def test_they_have_every_member(self, name: str) -> None:
        kind = getattr(threading, name, None) or getattr(queue, name)
        made = kind(*ARGUMENTS.get(name, ()))
        public = {member for member in dir(made) if not member.startswith("_")}
        inner = {"queue", "mutex", "not_empty", "not_full", "all_tasks_done", "unfinished_tasks", "is_shutdown"}
        of_tuples = {*dir(tuple), "n_fields", "n_sequence_fields", "n_unnamed_fields"}
        listed = {*METHODS[name], *ATTRIBUTES.get(name, ())}
        assert public - inner - of_tuples == listed - of_tuples

    @pytest.mark.parametrize(("name", "signature"), [(name, text) for name, text in ALL.items() if text is not None])
    def test_they_have_the_signatures(self, name: str, signature: str) -> None:
        # RLock still takes arguments, to warn that it will not; pytest has an excepthook of its own.
        if name not in ("RLock", "excepthook"):
            function = getattr(threading, name, None) or getattr(queue, name)
            assert list(inspect.signature(function).parameters.values()) == parameters(signature)

    @pytest.mark.parametrize(("name", "member", "signature"), MEMBERS, ids=IDS)
    def test_they_have_the_signatures_of_methods(self, name: str, member: str, signature: str | None) -> None:
        kind = getattr(threading, name, None) or getattr(queue, name)
        value = getattr(kind(*ARGUMENTS.get(name, ())), member)
        if signature is None:
            assert not callable(value) or isinstance(value, type)
        else:
            assert list(inspect.signature(value).parameters.values()) == parameters(signature)
