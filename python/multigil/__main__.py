"""The command line: `python -m multigil demo`, `info`, `doctor` and `bench`."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
import tracemalloc
from pathlib import Path

import multigil
from multigil import _core, demo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # A status (ok, warning or error) and what there is to say.
    type Finding = tuple[str, str]

# What CPython cannot do with interpreters, and the version from which on it can, if there is one.
LIMITS: tuple[tuple[tuple[int, int, int] | None, str], ...] = (
    ((3, 12, 4), "asyncio, ssl and decimal crash in an interpreter unless used in the main one before"),
    ((3, 13, 0), "ctypes cannot be imported in an interpreter"),
    ((3, 14, 0), "multiprocessing forks by default, see os.fork; pass the context `spawn` or `forkserver`"),
    ((3, 14, 1), "each interpreter leaks 1.7 to 4 MB when it ends; keep interpreters, and use `call`"),
    ((3, 14, 8), "sys._current_frames() crashes while an interpreter runs; faulthandler works"),
    (None, "os.fork() crashes the child while an interpreter is open; use subprocess, spawn or forkserver"),
    (None, "in an interpreter there are no daemon threads, no signal handlers and no os.fork()"),
    (None, "NumPy and other extension modules not made for it raise ImportError in an interpreter"),
)
# Seconds in which an interpreter must be made and must answer.
PATIENCE = 20.0


def check_system() -> Finding:
    """Check the operating system."""
    found = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return ("ok", found) if sys.platform == "linux" else ("error", f"{found}: multigil needs Linux")


def check_python() -> Finding:
    """Check the version of Python."""
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.implementation.name != "cpython" or sys.version_info < (3, 12, 1):
        return "error", f"{found}: multigil needs CPython 3.12.1 or newer"
    return "ok", found


def check_gil() -> Finding:
    """Tell whether this is a free-threaded build."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "ok", "each interpreter has its own; threads share one"
    enabled = sys.version_info >= (3, 13) and sys._is_gil_enabled()
    return "ok", f"free-threaded build, in which the GIL is {'enabled' if enabled else 'disabled'}"


def check_cpus() -> Finding:
    """Tell how many CPUs there are for this process."""
    available = demo.available_cpus()
    found = f"{available} of {os.cpu_count()} may be used"
    return ("ok", found) if available > 1 else ("warning", f"{found}: nothing can run in parallel")


def check_memory() -> Finding:
    """Tell how much memory is free, of which an interpreter takes 3 to 6 MB."""
    entries = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(entries["MemAvailable"].split()[0]) / 1024
    return "ok" if available >= 256 else "warning", f"{available:,.0f} MiB available"


def check_huge_pages() -> Finding:
    """Tell whether the kernel backs memory with transparent huge pages."""
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "ok", "transparent huge pages: not in this kernel"
    return "ok", f"transparent huge pages: {modes.partition('[')[2].partition(']')[0]}"


def check_futex() -> Finding:
    """Check that a wait lasts as long as it should and costs no CPU."""
    lock = multigil.Lock()
    lock.acquire()
    begin, cpu = time.perf_counter(), time.thread_time()
    lock.acquire(timeout=0.05)
    waited, used = time.perf_counter() - begin, time.thread_time() - cpu
    found = f"a wait of 50 ms took {waited * 1e3:.1f} ms, and {used * 1e3:.1f} ms of CPU"
    return "ok" if waited >= 0.05 and used < 0.005 else "error", found


def check_tracemalloc() -> Finding:
    """Check that nobody traces allocations, with which CPython aborts or hangs."""
    if tracemalloc.is_tracing():
        return "warning", "on: with several interpreters the program may abort or hang"
    return "ok", "off"


def check_interpreter() -> Finding:
    """Make an interpreter and call into it."""
    begin = time.perf_counter()
    try:
        with multigil.Interpreter() as interpreter:
            there = interpreter.submit(_core.current_interpreter_id).result(PATIENCE)
            seconds = time.perf_counter() - begin
    except Exception as error:
        return "error", f"none can be used: {type(error).__name__}: {error}"
    if there == _core.current_interpreter_id():
        return "error", "the call ran in this interpreter"
    return "ok", f"number {there} was made and answered a call within {seconds * 1e3:.1f} ms"


CHECKS: dict[str, Callable[[], Finding]] = {
    "system": check_system,
    "python": check_python,
    "GIL": check_gil,
    "CPUs": check_cpus,
    "memory": check_memory,
    "huge pages": check_huge_pages,
    "futex": check_futex,
    "tracemalloc": check_tracemalloc,
    "interpreter": check_interpreter,
}


def run_doctor(options: argparse.Namespace) -> int:
    """Print what this machine and this Python can do; return 1 if multigil cannot work here."""
    findings = {name: check() for name, check in CHECKS.items()}
    limits = [text for fixed, text in LIMITS if fixed is None or sys.version_info < fixed]
    works = all(status != "error" for status, _ in findings.values())
    if options.json:
        checks = {name: {"status": status, "found": found} for name, (status, found) in findings.items()}
        print(json.dumps({"works": works, "checks": checks, "limits": limits}, indent=2))
    else:
        for name, (status, found) in findings.items():
            print(f"{status:8} {name:12} {found}")
        for limit in limits:
            print(f"limit    {limit}")
    return 0 if works else 1


def run_info(options: argparse.Namespace) -> int:
    """Print the versions, and the statistics of this process's shared memory."""
    versions = {
        "multigil": importlib.metadata.version("multigil"),
        "location": str(Path(multigil.__file__).parent),
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
    }
    statistics = _core.statistics()
    if options.json:
        print(json.dumps({**versions, "region": statistics}, indent=2))
    else:
        for name, value in versions.items():
            print(f"{name:12} {value}")
        print("region")
        for name, number in statistics.items():
            print(f"    {name:16} {number:15,}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Count the words and names in Python files; return 2 for a bad path, 1 for another failure."""
    try:
        demo.main(options.path, options.workers)
    except demo.BadPath as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    except (demo.WorkerFailed, demo.Disagreement) as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def run_bench(options: argparse.Namespace) -> int:
    """Run `make bench` in the checkout that this package is imported from."""
    checkout = Path(multigil.__file__).resolve().parents[2]
    if not ((checkout / "benches").is_dir() and shutil.which("make")):
        message = "they are not part of the installed package; type `make bench` in a checkout of multigil"
        print(f"{options.prog}: {message}", file=sys.stderr)
        return 1
    return subprocess.call(["make", "bench"], cwd=checkout)


def positive(text: str) -> int:
    """Read a number of workers."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 worker is needed")
    return number


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m multigil", description="Python's threading, with a GIL for every worker."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(run=run, prog=command.prog)
        return command

    command = add("demo", run_demo, "Count the words and names in Python files: interpreters against threads.")
    command.add_argument("path", nargs="?", help="a directory or a file (default: the standard library)")
    command.add_argument("--workers", type=positive, metavar="N", help="how many (default: one per CPU)")
    for name, run, description in (
        ("info", run_info, "Print versions and statistics."),
        ("doctor", run_doctor, "Tell what this machine and this Python can do, and why not."),
    ):
        add(name, run, description).add_argument("--json", action="store_true", help="print JSON")
    add("bench", run_bench, "Run the benchmarks of the checkout.")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # A path may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print(f"{options.prog}: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
