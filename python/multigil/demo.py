"""The main job on real input: count the words and names in Python files, in parallel.

    feed ──file names──▶ Queue ──▶ work, N times ──results──▶ Queue ──▶ collect
                                     └── under a Lock ──▶ one file that all of them write

`run` builds this pipeline as one writes it for threads. The modules that the threads and the queues
come from are parameters, so the very same code runs as `run(threading, queue, …)`, with threads
that share one GIL, and as `run(multigil, multigil, …)`, with a GIL for each of them.

Every worker imports this module: what only the main program needs is imported where it is used.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import tokenize
from binascii import crc32
from collections import Counter
from contextlib import contextmanager, suppress
from keyword import kwlist
from time import monotonic, perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import ModuleType

    import multigil

    type AnyQueue[T] = queue.Queue[T] | multigil.Queue[T]
    type AnyLock = threading.Lock | multigil.Lock
    # The path of a file that is done, all that one worker counted, a failure, or None: no more.
    type Message = str | Tally | WorkerFailed | None

KEYWORDS = frozenset(kwlist)
# At least two letters, not behind a backslash: `\n` in a literal is no word.
WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
# One line of the shared file: the path, then what was counted or why it was not.
LINE = re.compile(r"(?P<path>(['\"]).*\2)\t(?:\d+\t\d+\t\d+\t[0-9a-f]{8}|skipped: \w+)\n")
# After an error or Ctrl-C, the seconds that the workers get to end.
GRACE = 1.0


class WorkerFailed(RuntimeError):
    """A worker or the reader ended with an exception, whose traceback is the message, or too early."""


class BadPath(ValueError):
    """There is no Python file to count at a path."""


class Disagreement(RuntimeError):
    """Two runs over the same files did not count the same, or the shared file is damaged."""


class Tally:
    """What one worker counted, or several together.

    `names` counts the identifiers; `words` those of comments and strings, in lower case; `skipped`
    maps the path of each file that is not valid Python to the name of the exception.
    """

    __slots__ = ("files", "names", "skipped", "tokens", "words")

    def __init__(self) -> None:
        self.files = 0
        self.tokens = 0
        self.names: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}

    def add(self, other: Tally) -> None:
        """Add what another one counted."""
        self.files += other.files
        self.tokens += other.tokens
        self.names.update(other.names)
        self.words.update(other.words)
        self.skipped.update(other.skipped)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def count(self, path: str) -> str:
        """Count one file; return its line for the shared file."""
        tokens = 0
        names: list[str] = []
        words: list[str] = []
        try:
            with tokenize.open(path) as source:
                for kind, text, *_ in tokenize.generate_tokens(source.readline):
                    tokens += 1
                    if kind == tokenize.NAME:
                        if text not in KEYWORDS:
                            names.append(text)
                    elif kind in (tokenize.COMMENT, tokenize.STRING, tokenize.FSTRING_MIDDLE):
                        words += WORD.findall(text.lower())
        except (OSError, SyntaxError, UnicodeError, tokenize.TokenError) as error:
            self.skipped[path] = type(error).__name__
            return f"{path!a}\tskipped: {type(error).__name__}\n"
        self.files += 1
        self.tokens += tokens
        self.names.update(names)
        self.words.update(words)
        checksum = crc32("\n".join(names).encode())
        return f"{path!a}\t{tokens}\t{len(names)}\t{len(words)}\t{checksum:08x}\n"


def feed(paths: Iterable[str], names: AnyQueue[str | None]) -> None:
    """Name the files that are to be counted; this is what the reader runs."""
    for path in paths:
        names.put(path)


def work(names: AnyQueue[str | None], results: AnyQueue[Message], lock: AnyLock, output: str) -> None:
    """Count the files named in `names` until a None comes; this is what each worker runs.

    Each file's line is added to the file `output`, and its path goes into `results`; at the end
    the tally does. A Counter for each file would be more to send than it is to make.
    """
    tally = Tally()
    # Not in append mode, where the kernel keeps apart what several write: here only the lock does.
    with open(output, "r+b", buffering=0) as shared:
        for path in iter(names.get, None):
            line = tally.count(path).encode()
            with lock:
                shared.seek(0, os.SEEK_END)
                shared.write(line)
            results.put(path)
    results.put(tally)


def report(results: AnyQueue[Message], stage: Callable[..., None], *arguments: object) -> None:
    """Run a stage of the pipeline; send its exception as a result."""
    try:
        stage(*arguments)
    except Exception:
        import traceback

        # As text, which can travel whatever the exception holds.
        results.put(WorkerFailed(traceback.format_exc()))


def close(
    reader: threading.Thread,
    crew: Sequence[threading.Thread],
    names: AnyQueue[str | None],
    results: AnyQueue[Message],
) -> None:
    """End `names` when the reader has ended, and `results` when the workers have."""
    reader.join()
    for _ in crew:
        names.put(None)
    for worker in crew:
        worker.join()
    results.put(None)


def abandon(
    reader: threading.Thread,
    crew: Sequence[threading.Thread],
    names: AnyQueue[str | None],
    empty: type[Exception],
) -> None:
    """Let the workers end after the file that they are at; wait for them, but not for long."""
    deadline = monotonic() + GRACE
    if reader.is_alive():
        reader.join(GRACE)
    with suppress(empty):
        while True:
            names.get_nowait()
    for _ in crew:
        names.put(None)
    for worker in crew:
        if worker.is_alive():
            worker.join(max(0.0, deadline - monotonic()))


def run(
    threads: ModuleType,
    queues: ModuleType,
    paths: Sequence[str],
    workers: int,
    output: str,
    on_file: Callable[[], object] = lambda: None,
) -> Tally:
    """Count the words and names of the files `paths` with so many workers; return the total.

    `threads` gives `Thread` and `Lock`, `queues` gives `Queue` and `Empty`. `output` is the file
    that all workers write; `on_file` is called after each file.

    Raises WorkerFailed with the traceback of a worker's or the reader's exception. After that, or
    a Ctrl-C, the workers end when they are done with the file that they are at.
    """
    names: AnyQueue[str | None] = queues.Queue()
    results: AnyQueue[Message] = queues.Queue()
    lock: AnyLock = threads.Lock()

    def prepare(stage: Callable[..., None], *arguments: object) -> threading.Thread:
        thread: threading.Thread = threads.Thread(target=report, args=(results, stage, *arguments), daemon=True)
        return thread

    reader = prepare(feed, paths, names)
    crew = [prepare(work, names, results, lock, output) for _ in range(workers)]
    # A thread of this interpreter in any case, which alone can wait for the others.
    closer = threading.Thread(target=close, args=(reader, crew, names, results), daemon=True)
    try:
        for thread in (reader, *crew, closer):
            thread.start()
        total = collect(results, workers, on_file)
    except BaseException:
        abandon(reader, crew, names, queues.Empty)
        raise
    counted = total.files + len(total.skipped)
    if counted < len(paths):
        raise WorkerFailed(f"the reader ended after {counted} of {len(paths)} files")
    return total


def collect(results: AnyQueue[Message], workers: int, on_file: Callable[[], object]) -> Tally:
    """Add up what the workers send."""
    total = Tally()
    ended = 0
    for message in iter(results.get, None):
        match message:
            case str():
                on_file()
            case Tally():
                total.add(message)
                ended += 1
            case WorkerFailed():
                raise message
    if ended < workers:
        raise WorkerFailed(f"{workers - ended} of {workers} workers ended without a result")
    return total


def find(path: str | None = None) -> list[str]:
    """List the Python files under a directory, or the one file `path`, in the order of their names.

    By default all of the standard library, its tests included and installed packages left out.

    Raises BadPath if there is none.
    """
    if path is None:
        import sysconfig

        path = sysconfig.get_path("stdlib")
        left_out = {"site-packages", "dist-packages"}
    else:
        left_out = set()
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise BadPath(f"no such file or directory: {path!r}")
    paths = []
    for directory, subdirectories, files in os.walk(path):
        subdirectories[:] = sorted(set(subdirectories) - left_out)
        candidates = (os.path.join(directory, name) for name in sorted(files) if name.endswith(".py"))
        paths += [candidate for candidate in candidates if os.path.isfile(candidate)]
    if not paths:
        raise BadPath(f"no Python file in {path!r}")
    return paths


def check(output: str, paths: Iterable[str]) -> str:
    """Check that the shared file holds one whole line for each path; return a digest of it.

    The digest does not depend on the order of the lines, which is that of the workers.

    Raises Disagreement if a line is torn, missing or doubled.
    """
    from hashlib import sha256

    with open(output, encoding="ascii", errors="replace") as shared:
        lines = sorted(shared)
    matches = [LINE.fullmatch(line) for line in lines]
    if sorted(match["path"] for match in matches if match) != sorted(map(ascii, paths)) or None in matches:
        raise Disagreement(f"the file that the workers share, of {len(lines)} lines, is damaged")
    return sha256("".join(lines).encode()).hexdigest()


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal, if tqdm is installed; gives what to call for each file."""
    if sys.stdout.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            # tqdm's own lock is also one of multiprocessing, which costs a helper process.
            tqdm.set_lock(threading.RLock())
            with tqdm(total=total, desc=label, unit=" files", leave=False, file=sys.stdout) as bar:
                yield bar.update
            return
    yield lambda: None


def main(path: str | None = None, workers: int | None = None) -> None:
    """Run the pipeline in interpreters, in threads and in one interpreter; print how they compare.

    Raises BadPath, WorkerFailed or Disagreement.
    """
    import queue
    from tempfile import TemporaryDirectory

    import multigil

    paths = find(path)
    size = 0
    for name in paths:  # Now, so that each of the runs finds all files in the cache of the kernel.
        try:
            with open(name, "rb") as source:
                size += len(source.read())
        except OSError:
            pass  # It will be among those skipped.
    workers = min(workers or available_cpus(), len(paths))
    what = "the standard library, tests included, site-packages not" if path is None else path
    print(f"Python {sys.version.split()[0]}: the words and names in {len(paths):,} files, {size / 1e6:.1f} MB")
    print(f"({what})\n")
    print(f"{'':26}{'files':>8}{'tokens':>13}{'seconds':>10}", flush=True)

    seconds: dict[str, float] = {}
    outcomes: list[tuple[Tally, str]] = []
    backends = {
        f"multigil, {of(workers, 'interpreter')}": (multigil, multigil, workers),
        f"threading, {of(workers, 'thread')}": (threading, queue, workers),
        "multigil, 1 interpreter": (multigil, multigil, 1),
    }
    for label, (threads, queues, count) in backends.items():
        with TemporaryDirectory(prefix="multigil-") as directory, progress(len(paths), label) as on_file:
            output = os.path.join(directory, "counts")
            open(output, "x").close()
            start = perf_counter()
            total = run(threads, queues, paths, count, output, on_file)
            seconds[label] = perf_counter() - start
            outcomes.append((total, check(output, paths)))
        print(f"{label:26}{total.files:8,}{total.tokens:13,}{seconds[label]:10.2f}", flush=True)
        if not total.files:
            raise BadPath(f"none of the {len(paths)} files is valid Python")

    total, digest = outcomes[0]
    if any(outcome != (total, digest) for outcome in outcomes):
        raise Disagreement("the runs did not count the same; has a file been changed meanwhile?")
    print(f"\nAll runs agree (digest {digest[:12]}); no line of the file that the workers share is damaged.")
    for what, counter in (("names", total.names), ("words", total.words)):
        most = ", ".join(f"{text} {times:,}" for text, times in ranking(counter))
        print(f"{counter.total():,} {what}, {len(counter):,} different: {most}")
    if total.skipped:
        print(f"{of(len(total.skipped), 'file')} skipped, not valid Python:")
        for name, reason in sorted(total.skipped.items()):
            print(f"    {name} ({reason})")
    ours, *others = seconds
    for other in others:
        print(f"Speed-up over {other}: {seconds[other] / seconds[ours]:.2f}")


def ranking(counter: Counter[str], length: int = 5) -> list[tuple[str, int]]:
    """Return the most common entries; those of equal count in alphabetical order."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))[:length]


def of(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0))
