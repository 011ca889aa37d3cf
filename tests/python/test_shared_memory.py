"""`SharedMemory` is `multiprocessing.shared_memory.SharedMemory` between threads and interpreters."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import pickle
import re
from multiprocessing import shared_memory as standard
from typing import TYPE_CHECKING, Any

import pytest

import cell_workers
import multigil
from harness import AMPLE, in_fresh_process, started
from machine import resident_bytes
from multigil import Queue, SharedMemory, StaleHandle, _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 2**20


@pytest.fixture(autouse=True)
def _every_name_is_unlinked() -> Iterator[None]:
    gc.collect()
    before = _core.statistics()["memories"]
    yield
    gc.collect()
    assert _core.statistics()["memories"] <= before


@pytest.fixture
def name() -> str:
    """A name that nobody else has, in this process or on this machine."""
    return f"multigil_{os.urandom(6).hex()}"


def error_of(function: Callable[..., object], *args: object, **kwargs: object) -> tuple[type[BaseException], str]:
    with pytest.raises((OSError, ValueError, TypeError)) as caught:
        function(*args, **kwargs)
    return caught.type, str(caught.value)


def test_its_signature_is_that_of_the_standard_library() -> None:
    ours = inspect.signature(SharedMemory).parameters.values()
    assert [(each.name, each.kind, each.default) for each in ours] == [
        ("name", inspect.Parameter.POSITIONAL_OR_KEYWORD, None),
        ("create", inspect.Parameter.POSITIONAL_OR_KEYWORD, False),
        ("size", inspect.Parameter.POSITIONAL_OR_KEYWORD, 0),
        ("track", inspect.Parameter.KEYWORD_ONLY, True),
    ]


def test_a_block_is_bytes_that_are_zero_at_first(name: str) -> None:
    block = SharedMemory(name, create=True, size=10)
    assert (block.name, block.size) == (name, 10)
    assert repr(block) == f"SharedMemory({name!r}, size=10)"
    assert block.buf is not None
    assert (block.buf.format, block.buf.shape, block.buf.readonly, block.buf.c_contiguous) == ("B", (10,), False, True)
    assert block.buf == bytes(10)
    block.buf[2:4] = b"hi"
    assert bytes(block.buf[:5]) == b"\0\0hi\0"
    for attribute in ("name", "size", "buf"):
        with pytest.raises(AttributeError):
            setattr(block, attribute, None)
    block.unlink()


def test_a_name_is_made_up_if_none_is_given() -> None:
    blocks = [SharedMemory(create=True, size=1) for _ in range(100)]
    assert len({block.name for block in blocks}) == 100
    for block in blocks:
        assert re.fullmatch("psm_[0-9a-f]{8}", block.name)
        block.unlink()


def test_who_opens_the_name_has_the_same_bytes(name: str) -> None:
    made = SharedMemory(name, create=True, size=1000)
    opened = SharedMemory(name=name, track=False)
    again = SharedMemory("/" + name, size=5)
    assert opened.size == again.size == 1000
    assert made.buf is not None
    made.buf[:3] = b"abc"
    for other in (opened, again):
        assert other.buf is not None
        assert other.buf[:3] == b"abc"
    made.close()
    opened.unlink()
    assert opened.buf is not None
    assert opened.buf[:3] == b"abc"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((), {"create": True}),
        (("{name}", True, 0), {}),
        ((), {"create": True, "size": -1}),
        (("{name}", False, -1), {}),
        (("{name}",), {}),
        (("",), {}),
        (("", True, 1), {}),
        (("a/b",), {}),
        (("a/b", True, 1), {}),
        ((5,), {}),
        ((b"abc",), {}),
        (("{name}", True, "1"), {}),
    ],
)
def test_wrong_arguments_are_the_errors_of_the_standard_library(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    args = tuple(name if each == "{name}" else each for each in args)
    ours, theirs = (error_of(each, *args, **kwargs) for each in (SharedMemory, standard.SharedMemory))
    assert ours[0] is theirs[0]
    if issubclass(ours[0], (OSError, ValueError)):
        assert ours[1] == theirs[1]


@pytest.mark.parametrize("create", [False, True])
def test_names_that_no_file_can_have(create: bool) -> None:
    """What the standard library raises depends on its version and on that of the C library."""
    with pytest.raises(ValueError, match="embedded null character"):
        SharedMemory("a\0b", create, 1)
    for name in ("x" * 256, "é" * 128):
        with pytest.raises(OSError, match="File name too long") as caught:
            SharedMemory(name, create, 1)
        assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, "/" + name)
    SharedMemory("x" * 255, create=True, size=1).unlink()


@pytest.mark.parametrize("size", [1.5, 10**30])
def test_a_wrong_size_leaves_no_name(name: str, size: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        SharedMemory(name, create=True, size=size)
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_too_much_is_a_memory_error_that_names_both_numbers_and_leaves_no_name(name: str) -> None:
    with pytest.raises(MemoryError) as caught:
        SharedMemory(name, create=True, size=2**50)
    needed, available = (int(number) for number in re.findall(r"\d+", str(caught.value))[:2])
    assert needed >= 2**50 > available
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


def test_a_name_is_there_once_as_in_the_standard_library(name: str) -> None:
    ours = SharedMemory(name, create=True, size=1)
    theirs = standard.SharedMemory(name, create=True, size=1)
    try:
        expected = error_of(standard.SharedMemory, name, create=True, size=1)
        assert expected[0] is FileExistsError
        assert error_of(SharedMemory, name, create=True, size=1) == expected
    finally:
        theirs.close()
        theirs.unlink()
    ours.unlink()
    expected = error_of(theirs.unlink)
    assert expected[0] is FileNotFoundError
    assert error_of(ours.unlink) == expected
    assert error_of(SharedMemory, name) == expected


# --------------------------------------------------------------------------------------- its life


def test_what_close_leaves(name: str) -> None:
    block = SharedMemory(name, create=True, size=10)
    block.close()
    block.close()
    assert block.buf is None
    assert repr(block) == f"SharedMemory({name!r}, size=10)"
    other = SharedMemory(name)
    assert other.size == 10
    block.unlink()


def test_a_block_with_views_cannot_be_closed_yet(name: str) -> None:
    block, other = SharedMemory(name, create=True, size=10), SharedMemory(name)
    assert block.buf is not None
    part = block.buf[2:4]
    with pytest.raises(BufferError, match="cannot close exported pointers exist"):
        block.close()
    part[0] = 5
    other.close()  # it has no views of its own
    part.release()
    block.close()

    block = SharedMemory(name)
    assert block.buf is not None
    cast = memoryview(block.buf)
    assert cast[2] == 5
    array = __import__("ctypes").c_char.from_buffer(block.buf)
    with pytest.raises(BufferError):
        block.close()
    del array
    cast.release()
    gc.collect()
    block.close()
    block.unlink()


def test_the_name_keeps_the_block_and_after_unlink_whoever_has_it_open(name: str) -> None:
    block = SharedMemory(name, create=True, size=10)
    assert block.buf is not None
    block.buf[0] = 7
    block.close()
    block = SharedMemory(name)
    assert block.buf is not None
    assert block.buf[0] == 7
    block.unlink()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    new = SharedMemory(name, create=True, size=20)
    assert new.buf is not None
    assert (new.buf[0], block.buf[0]) == (0, 7)
    new.unlink()


@in_fresh_process
def test_its_memory_comes_back() -> None:
    def counts() -> tuple[int, int]:
        gc.collect()
        statistics = _core.statistics()
        return statistics["memories"], statistics["bytes_in_use"]

    before = counts()
    for size in (1, 5_000, 3 * MIB):
        block = SharedMemory("a", create=True, size=size)
        assert counts()[1] >= before[1] + size
        assert block.buf is not None
        view = block.buf[1:]
        block.unlink()
        del block
        assert counts()[0] == before[0] + 1
        assert len(view) == size - 1
        del view
        assert counts() == before


@in_fresh_process
def test_a_huge_block_takes_the_memory_that_is_touched() -> None:
    before = resident_bytes()
    block = SharedMemory("huge", create=True, size=700 * MIB)
    assert block.buf is not None
    assert (block.buf[0], block.buf[-1]) == (0, 0)
    assert resident_bytes() - before < 16 * MIB
    block.buf[-1] = 9
    other = SharedMemory("huge")
    assert other.buf is not None
    assert other.buf[700 * MIB - 1] == 9
    block.unlink()


# --------------------------------------------------------------------------------------- elsewhere


def test_an_interpreter_opens_it_by_its_name(name: str) -> None:
    block = SharedMemory(name, create=True, size=5)
    assert block.buf is not None
    with multigil.Interpreter() as interpreter:
        interpreter.call(cell_workers.write_to, name, b"hello")
        assert bytes(block.buf) == b"hello"
        assert interpreter.call(cell_workers.create, "other_" + name, b"made there") == 10
    other = SharedMemory("other_" + name)
    assert other.buf is not None
    assert bytes(other.buf) == b"made there"
    block.unlink()
    other.unlink()


def test_it_travels_and_is_open_then_even_without_its_name(name: str) -> None:
    block = SharedMemory(name, create=True, size=5)
    block.unlink()
    assert block.buf is not None
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.write_into, block, b"hello") == (name, 5)
    assert bytes(block.buf) == b"hello"

    q: Queue[SharedMemory] = Queue()
    q.put(block)
    block.close()
    del block
    received = q.get()
    assert received.buf is not None
    assert bytes(received.buf) == b"hello"


def test_each_unpickled_one_is_closed_by_itself(name: str) -> None:
    block = SharedMemory(name, create=True, size=5)
    copy = pickle.loads(pickle.dumps(block))
    assert copy is not block
    assert block.buf is not None
    view = block.buf[1:]
    copy.close()
    with pytest.raises(BufferError):
        block.close()
    view.release()
    block.close()
    reopened = pickle.loads(pickle.dumps(block))  # by its name
    assert (reopened.name, reopened.size) == (name, 5)
    pickled = pickle.dumps(reopened)
    reopened.unlink()
    reopened.close()
    with pytest.raises(StaleHandle):
        pickle.loads(pickled)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(block))


def test_a_subclass_travels_as_such(name: str) -> None:
    class Named(SharedMemory):
        pass

    block = Named(name, create=True, size=5)
    block.unlink()
    rebuild, arguments = block.__reduce__()
    assert type(rebuild(*arguments)) is Named
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.write_into, block, b"x") == (name, 5)


def test_an_interpreter_may_end_with_views_alive(name: str) -> None:
    block = SharedMemory(name, create=True, size=100_000)
    for _ in range(3):
        assert started(cell_workers.keep_view, block).result(AMPLE) == 100_000
    with multigil.Interpreter() as interpreter:
        assert interpreter.call(cell_workers.keep_block, name) == 100_000
    assert block.buf is not None
    block.buf[-1] = 1
    block.unlink()


def test_the_native_type_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=re.escape("cannot create 'multigil._core.Memory' instances")):
        _core.Memory()
    for wrong in ((5, 1), ("\ud800", 1), ("x", -1)):
        with pytest.raises((TypeError, ValueError)):
            _core.create_memory(*wrong)  # type: ignore[arg-type]
