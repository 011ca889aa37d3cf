"""`SharedMemory`: `multiprocessing.shared_memory.SharedMemory`, between threads and interpreters."""

from __future__ import annotations

import errno
import os
from typing import Any

from multigil import _core

__all__ = ["SharedMemory"]

_NAME_MAX = 255
"""Bytes of the longest name, which is that of a file."""


class SharedMemory:
    """A named block of memory that threads and interpreters share.

    With `create` it is made, of `size` bytes that are zero, under a name that is made up if none is given. Otherwise
    the block of that name is opened. Names are those of this process with all its interpreters.

    As with POSIX shared memory, a name keeps its block until somebody calls `unlink()`; after that it stays for as long
    as somebody has it open. It ends with the process, so there is nothing to `track`.
    """

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True) -> None:  # noqa: ARG002
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create and size == 0:
            raise ValueError("'size' must be a positive number different from zero")
        if name is None and not create:
            raise ValueError("'name' can only be None if create=True")
        if name is None:
            memory = None
            while memory is None:
                path = f"/psm_{os.urandom(4).hex()}"
                memory = _core.create_memory(path, size)
        else:
            path = _path(name)
            memory = _core.create_memory(path, size) if create else _core.open_memory(path)
            if memory is None:
                raise _os_error(errno.EEXIST if create else errno.ENOENT, path)
        self._hold(path, memory)

    def _hold(self, path: str, memory: _core.Memory) -> None:
        self._path = path
        self._region = memory.region
        self._size = len(memory)
        self._memory: _core.Memory | None = memory
        self._buf: memoryview | None = memoryview(memory)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._memory is None:
            return type(self), (self.name, False, self.size)
        return _reopen, (type(self), self._path, self._memory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview | None:
        """A view of the bytes; None after `close()`."""
        return self._buf

    @property
    def name(self) -> str:
        """The name by which others can open it."""
        return self._path[1:]

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._size

    def close(self) -> None:
        """Give up this access to the block. Raises BufferError if there are views of `buf` left; close again then."""
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._memory is not None:
            if self._memory.views:
                raise BufferError("cannot close exported pointers exist")
            self._memory = None

    def unlink(self) -> None:
        """Take the name away. The block stays for those who have it open, and no one else will open it."""
        if not _core.unlink_memory(self._path, self._region):
            raise _os_error(errno.ENOENT, self._path)


def _reopen(class_: type[SharedMemory], path: str, memory: _core.Memory) -> SharedMemory:
    """Unpickle one: it is open, whether or not it still has its name."""
    opened = class_.__new__(class_)
    opened._hold(path, memory)  # noqa: SLF001
    return opened


def _path(name: str) -> str:
    """Give the path that a name is for `shm_open`, or raise what that does."""
    path = "/" + ("/" + name).lstrip("/")
    if "\0" in path:
        raise ValueError("embedded null character")
    if path == "/" or "/" in path[1:]:
        raise _os_error(errno.EINVAL, path)
    if len(os.fsencode(path)) > 1 + _NAME_MAX:
        raise _os_error(errno.ENAMETOOLONG, path)
    return path


def _os_error(number: int, path: str) -> OSError:
    """Make the OSError of that number: a FileExistsError, a FileNotFoundError."""
    return OSError(number, os.strerror(number), path)
