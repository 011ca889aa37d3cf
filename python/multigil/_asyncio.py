"""What can be awaited: `aget aput ajoin aacquire await_`, `async with`, `async for`, and interpreters.

    the loop's selector ──> reader ──> _Alarm ──> core.Alarm, an eventfd         one for each loop
                                         └──> _Group, one for each thing and what of it is awaited ──> futures

Whoever awaits tries first, and suspends only if that finds nothing. Then it gets a future in the group of those in this
loop who wait for the same. While a group has futures, the region's thread watches the thing for it, without a system
call until something happens; then the eventfd is readable, and the group wakes as many as can be served.

Who is woken takes the item, or whatever it is, by itself: the wake gives nothing, so nothing is lost with a task that
is cancelled. The last of those who were woken, be it served, cancelled or too late, sees to it that the thing is looked
at again, so no wake is lost either.

A thing is not watched at once, but when the loop has gone round: tasks of one loop that answer each other wake each
other without anybody else. When it is watched at last, it is looked at, so it does not matter what came meanwhile.

Only the reader of the loop's selector refers to the alarm. So it goes with the loop: when that is closed, or dropped.
"""

from __future__ import annotations

import itertools
import weakref
from asyncio import get_running_loop
from collections import OrderedDict
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

from multigil import _core, _custom_queue
from multigil._core import Empty, Event, Full, ShutDown

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable

    from multigil._core import Lock, Queue, Semaphore, SimpleQueue
    from multigil.interpreter import Interpreter

# What of a thing is awaited, as `core.Alarm.arm` says it: that `wait_any` would give it, that a put or a join would not
# wait, that an event has been set since.
_READY, _PLACE, _DONE, _SINCE = range(4)

# What an attempt gives that has to be made again.
_NOT_YET: Final = cast("Any", object())

# As many as there are.
_ALL = 1 << 62


async def aget(queue: Queue[Any] | SimpleQueue[Any]) -> Any:
    """`Queue.aget`."""
    loop = get_running_loop()  # before anything is taken
    item = _get(queue)
    if item is _NOT_YET:
        item = await _until(loop, queue, _READY, lambda: _get(queue), lambda: _items(queue))
    _tell(loop, queue, _PLACE)
    return item


async def anext(queue: Queue[Any]) -> Any:
    """`Queue.__anext__`."""
    try:
        return await queue.aget()
    except ShutDown:
        raise StopAsyncIteration from None


async def aput(queue: Queue[Any] | SimpleQueue[Any], item: Any) -> None:
    """`Queue.aput`."""
    loop = get_running_loop()
    if _put(queue, item) is _NOT_YET:
        await _until(loop, queue, _PLACE, lambda: _put(queue, item), lambda: _places(cast("Queue[Any]", queue)))
    _tell(loop, queue, _READY)


async def ajoin(queue: Queue[Any]) -> None:
    """`Queue.ajoin`."""

    def attempt() -> Any:
        return _NOT_YET if queue.unfinished_tasks else None

    if attempt() is _NOT_YET:
        await _until(get_running_loop(), queue, _DONE, attempt, _everybody)


async def aacquire(lock: Lock | Semaphore) -> bool:
    """`Lock.aacquire`, and that of semaphores."""
    loop = get_running_loop()

    def attempt() -> Any:
        return lock.acquire(blocking=False) or _NOT_YET

    if attempt() is _NOT_YET:
        await _until(loop, lock, _READY, attempt, lambda: getattr(lock, "_value", 1))
    return True


async def aexit(lock: Lock | Semaphore, *_: object) -> None:
    """`Lock.__aexit__`, and that of semaphores."""
    loop = get_running_loop()
    lock.release()
    _tell(loop, lock, _READY)


async def await_(event: Event) -> bool:
    """`Event.await_`."""
    times_set = _core.times_set(event)
    if not event.is_set():
        await _set_since(event, times_set)
    return True


async def result(interpreter: Interpreter) -> Any:
    """What `await interpreter` gives."""
    finished = interpreter._asked_for().finished  # noqa: SLF001

    def attempt() -> Any:
        return None if finished.is_shutdown else _NOT_YET

    if attempt() is _NOT_YET:
        await _until(get_running_loop(), finished, _READY, attempt, _everybody)
    return interpreter.result()


async def attempted[T](queue: _custom_queue.Queue, attempt: Callable[[], T], not_yet: type[Exception]) -> T:
    """What a method of a queue with hooks gives that does not wait, once it does not raise `not_yet` any more."""
    changed = _custom_queue.changed(queue)
    while True:
        times_set = _core.times_set(changed)
        try:
            return attempt()
        except not_yet:
            pass
        await _set_since(changed, times_set)


# --- attempts ---------------------------------------------------------------------------------------------------


def _get(queue: Queue[Any] | SimpleQueue[Any]) -> Any:
    try:
        return queue.get_nowait()
    except Empty:
        return _NOT_YET


def _put(queue: Queue[Any] | SimpleQueue[Any], item: Any) -> Any:
    try:
        return queue.put_nowait(item)
    except Full:
        return _NOT_YET


async def _set_since(event: Event, times_set: int) -> None:
    def attempt() -> Any:
        return None if event.is_set() or _core.times_set(event) != times_set else _NOT_YET

    await _until(get_running_loop(), event, _SINCE, attempt, _everybody, times_set)


# How many of those who wait can be served: at least one, who sees what it is.


def _everybody() -> int:
    return _ALL


def _items(queue: Queue[Any] | SimpleQueue[Any]) -> int:
    return _ALL if getattr(queue, "is_shutdown", False) else queue.qsize()


def _places(queue: Queue[Any]) -> int:
    return _ALL if queue.maxsize <= 0 or queue.is_shutdown else queue.maxsize - queue.qsize()


async def _until[T](
    loop: AbstractEventLoop,
    thing: object,
    what: int,
    attempt: Callable[[], T],
    served: Callable[[], int],
    times_set: int = 0,
) -> T:
    """What `attempt` gives, which has given `_NOT_YET` and is made again when the thing may be ready."""
    is_first = True
    while True:
        group = _alarm_of(loop).group(thing, what, served)
        future = loop.create_future()
        group.add(future, times_set, in_front=not is_first and what != _SINCE)
        try:
            await future
        except BaseException:
            group.leave(future)
            raise
        try:
            given = attempt()
        finally:
            group.go_on()
        if given is not _NOT_YET:
            return given
        is_first = False


# --- waiting ----------------------------------------------------------------------------------------------------


class _Group:
    """Those in one loop who wait for the same of a thing."""

    def __init__(self, alarm: _Alarm, number: int, thing: object, what: int, served: Callable[[], int]) -> None:
        # Weak, since those who wait refer to the group: nobody but the loop is to keep the alarm.
        self._alarm = weakref.ref(alarm)
        self._number = number
        self._thing = thing
        self._what = what
        self._served = served
        # In the order in which they came, with the number that `Event`s have; who comes back comes first.
        self._waiting: OrderedDict[Future[None], int] = OrderedDict()
        self._woken = 0  # that many have not said yet what became of it; while there are any, nothing is watched
        self._armed = False
        self._deferred = False  # it is among those that are seen to when the loop has gone round

    def add(self, future: Future[None], times_set: int, *, in_front: bool) -> None:
        """Have somebody woken by a future. The caller's attempt has just found nothing."""
        self._waiting[future] = times_set
        if in_front:
            self._waiting.move_to_end(future, last=False)
        if not self._woken and not self._armed:
            self._defer()

    def leave(self, future: Future[None]) -> None:
        """Forget one whose wait ended by an exception."""
        if future.done() and not future.cancelled():
            self.go_on()
            return
        self._waiting.pop(future, None)
        if not self._waiting and not self._woken:
            self.advance()

    def go_on(self) -> None:
        """Count back one that was woken, whatever came of it."""
        self._woken -= 1
        if self._woken:
            return
        if self._waiting:
            self._defer()
        else:
            self.advance()

    def tell(self) -> None:
        """Wake those who can be served: this loop has just made it ready."""
        if self._waiting and not self._woken:
            self._stop_watching()
            self._wake()

    def ring(self) -> None:
        """Wake those who can be served: the thing may be ready."""
        if self._armed:
            self._armed = False
            self._wake()

    def _defer(self) -> None:
        alarm = self._alarm()
        if alarm is not None and not self._deferred:
            self._deferred = True
            alarm.defer(self)

    def _stop_watching(self) -> None:
        alarm = self._alarm()
        if self._armed and alarm is not None:
            alarm.core.disarm(self._number)
        self._armed = False

    def advance(self) -> None:
        """See to it that somebody is woken when the thing is ready, if that is not so yet."""
        self._deferred = False
        alarm = self._alarm()
        if alarm is None or self._woken:
            return  # the loop is closed, and its tasks are dropped; or whoever is woken sees to it
        if not self._waiting:
            self._stop_watching()
            alarm.forget(self._number, self._thing, self._what)
            return
        self._armed = alarm.core.arm(self._number, self._thing, self._what, next(iter(self._waiting.values())))
        if not self._armed:
            self._wake()

    def _wake(self) -> None:
        wanted = max(1, self._served())
        while self._waiting and self._woken < wanted:
            future, _ = self._waiting.popitem(last=False)
            if not future.done():
                future.set_result(None)
                self._woken += 1
        if not self._woken:
            self.advance()  # all have been cancelled


class _Alarm:
    """All that is awaited in one loop."""

    def __init__(self) -> None:
        self.core = _core.Alarm()
        self._numbers = itertools.count(1)
        self._groups: dict[int, _Group] = {}
        self._by_thing: dict[tuple[int, int], _Group] = {}  # the id stays the thing's while the group refers to it
        # Those that are seen to at the next turn of the loop, and at the one after that.
        self._due: list[_Group] = []
        self._later: list[_Group] = []

    def group(self, thing: object, what: int, served: Callable[[], int]) -> _Group:
        """The group of those who wait for that."""
        group = self._by_thing.get((id(thing), what))
        if group is None:
            number = next(self._numbers)
            group = self._by_thing[id(thing), what] = self._groups[number] = _Group(self, number, thing, what, served)
        return group

    def forget(self, number: int, thing: object, what: int) -> None:
        """Forget a group in which nobody is any more."""
        if self._groups.pop(number, None) is not None:
            del self._by_thing[id(thing), what]

    def find(self, thing: object, what: int) -> _Group | None:
        """The same, if there is one."""
        return self._by_thing.get((id(thing), what))

    def defer(self, group: _Group) -> None:
        """Have a group advance when all have had a turn who are ready to run now, and whom those make ready."""
        if not self._due and not self._later:
            get_running_loop().call_soon(self._turn)
        self._later.append(group)

    def _turn(self) -> None:
        due, self._due, self._later = self._due, self._later, []
        if self._due:
            get_running_loop().call_soon(self._turn)
        for group in due:
            group.advance()

    def ring(self) -> None:
        """Tell the groups whose watches went off: what the loop calls when the descriptor is readable."""
        for number in self.core.take():
            group = self._groups.get(number)
            if group is not None:
                group.ring()


# The alarms of the loops that have one; and the one that was asked for last.
_alarms: weakref.WeakKeyDictionary[AbstractEventLoop, weakref.ref[_Alarm]] = weakref.WeakKeyDictionary()
_recent: tuple[weakref.ref[AbstractEventLoop], weakref.ref[_Alarm]] | None = None


def _known_alarm(loop: AbstractEventLoop) -> _Alarm | None:
    global _recent  # noqa: PLW0603
    recent = _recent
    if recent is not None and recent[0]() is loop:
        return recent[1]()
    known = _alarms.get(loop)
    if known is None:
        return None
    _recent = weakref.ref(loop), known
    return known()


def _alarm_of(loop: AbstractEventLoop) -> _Alarm:
    alarm = _known_alarm(loop)
    if alarm is None:
        alarm = _Alarm()
        # In no task's context, which would live as long as the loop.
        Context().run(loop.add_reader, alarm.core.fileno(), alarm.ring)
        _forget_recent()
        _alarms[loop] = weakref.ref(alarm)
    return alarm


def _forget_recent() -> None:
    global _recent  # noqa: PLW0603
    _recent = None


def _tell(loop: AbstractEventLoop, thing: object, what: int) -> None:
    """Wake those of this loop who wait for what has just been made ready."""
    alarm = _known_alarm(loop)
    group = None if alarm is None else alarm.find(thing, what)
    if group is not None:
        group.tell()
