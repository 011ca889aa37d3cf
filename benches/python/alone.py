"""Measurements that need a program of their own: `python alone.py NAME [COUNT]` prints the figures.

`cold` and `bare` are the first interpreter of a program, through multigil and without, `bare-many` several; `ended`,
`called` and `bare-ended` tell by how many bytes a program grows.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

from model import Sample

WARM_UP = 20
"""How often something is done before its memory is measured, so that caches and pools are full."""


def run(name: str, count: int = 1, script: str = __file__) -> Sample:
    """Run one of the measurements, of this script or of another one, in a new program.

    Raises subprocess.CalledProcessError if it fails.
    """
    command = [sys.executable, script, name, str(count)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    sample: Sample = ast.literal_eval(printed)
    return sample


def cold(_count: int) -> Sample:
    """The start of the first interpreter, for which no spare can be ready."""
    # Here, because `start` imports this module, and the other measurements need neither.
    import start
    from workers import Kind

    return start.once(Kind.INTERPRETER)


def bare(_count: int) -> Sample:
    """The creation of an interpreter with its own GIL by what CPython itself has for it."""
    create, _ = _bare_interpreters()
    begun = time.monotonic_ns()
    create()
    taken = (time.monotonic_ns() - begun) / 1e9
    return {"returned": taken, "began": taken, "result": taken}


def bare_many(count: int) -> Sample:
    """The creation of the first of so many interpreters, and of all of them, as in `bare`."""
    create, _ = _bare_interpreters()
    begun = time.monotonic_ns()
    create()
    first = time.monotonic_ns()
    for _ in range(count - 1):
        create()
    return {"first": (first - begun) / 1e9, "all": (time.monotonic_ns() - begun) / 1e9}


def ended(count: int) -> Sample:
    """Start, use and end one multigil.Interpreter after another."""
    import multigil

    def once() -> None:
        interpreter = multigil.Interpreter(target=time.monotonic_ns)
        interpreter.start()
        interpreter.result()
        interpreter.join()

    return {"grown": _growth(once, count)}


def called(count: int) -> Sample:
    """Call into the same multigil.Interpreter again and again."""
    import multigil

    with multigil.Interpreter() as interpreter:
        return {"grown": _growth(lambda: interpreter.call(time.monotonic_ns), count)}


def bare_ended(count: int) -> Sample:
    """Make and end one interpreter after another by what CPython itself has for it."""
    create, destroy = _bare_interpreters()
    return {"grown": _growth(lambda: destroy(create()), count)}


def _bare_interpreters() -> tuple[Callable[[], int], Callable[[int], object]]:
    """CPython's private functions to create and to destroy an interpreter with its own GIL."""
    if sys.version_info >= (3, 13):
        native = importlib.import_module("_interpreters")
        return lambda: native.create("isolated"), native.destroy
    native = importlib.import_module("_xxsubinterpreters")
    return lambda: native.create(isolated=True), native.destroy


def _growth(once: Callable[[], object], count: int) -> int:
    for _ in range(WARM_UP):
        once()
    before = _resident()
    for _ in range(count):
        once()
    return _resident() - before


def _resident() -> int:
    """The bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASUREMENTS: dict[str, Callable[[int], Sample]] = {
    "cold": cold,
    "bare": bare,
    "bare-many": bare_many,
    "ended": ended,
    "called": called,
    "bare-ended": bare_ended,
}

if __name__ == "__main__":
    figures = MEASUREMENTS[sys.argv[1]](int(sys.argv[2]))
    print(dict(figures), flush=True)
    if sys.argv[1] in ("bare", "bare-many"):
        # The interpreters are open still, which CPython would complain of.
        os._exit(0)
