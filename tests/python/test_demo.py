"""The demo's pipeline in threads and in interpreters, and the command line."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

import multigil
from multigil import demo

pytestmark = pytest.mark.timeout(60)

BACKENDS = [
    pytest.param(threading, queue, id="threading"),
    pytest.param(multigil, multigil, id="multigil"),
]
GOOD = {
    "one.py": "# Two words\nspam = eggs = 1\n",
    "package/two.py": "def spam():\n    '''A word\\nlost.'''\n    return print(f'more {spam} words')\n",
    "package/empty.py": "",
    "déjà'vu\n\t.py": "été = 'été'\n",
}
BAD = {
    "bad_encoding.py": (b"# coding: no-such-coding\n", "SyntaxError"),
    "bad_bytes.py": (b"name = '\xff'\n", "SyntaxError"),
    "bad_late_bytes.py": (b"name = 1\n" * 10_000 + b"# \xff\n", "UnicodeDecodeError"),
    "bad_indent.py": (b"if 1:\n        a\n    b\n", "IndentationError"),
    "bad_end.py": (b"call(\n", "TokenError"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with good and bad files, and with some that are no Python files."""
    root = tmp_path / "tree"
    (root / "package" / "directory.py").mkdir(parents=True)
    for name, text in GOOD.items():
        (root / name).write_text(text, encoding="utf-8")
    for name, (content, _) in BAD.items():
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("spam", encoding="utf-8")
    (root / "dangling.py").symlink_to("nowhere")
    os.mkfifo(root / "pipe.py")
    return root


@pytest.fixture
def output(tmp_path: Path) -> str:
    """The empty file that the workers share."""
    path = tmp_path / "counts"
    path.touch()
    return str(path)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m multigil` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "multigil", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("threads", "queues"), BACKENDS)
def test_counts(threads: ModuleType, queues: ModuleType, workers: int, tree: Path, output: str) -> None:
    paths = demo.find(str(tree))
    done = []
    total = demo.run(threads, queues, paths, workers, output, lambda: done.append(1))
    assert len(done) == len(paths) == len(GOOD) + len(BAD)
    assert total.files == len(GOOD)
    assert total.names == {"spam": 3, "eggs": 1, "print": 1, "été": 1}
    assert total.words == {"two": 1, "words": 2, "word": 1, "more": 1, "été": 1}
    assert total.skipped == {str(tree / name): reason for name, (_, reason) in BAD.items()}
    assert len(demo.check(output, paths)) == 64


def test_backends_agree_on_many_files(tmp_path: Path) -> None:
    paths = []
    for number in range(200):
        path = tmp_path / f"{number}.py"
        path.write_text("".join(f"name_{n % 17} = {n}  # comment\n" for n in range(number)), encoding="utf-8")
        paths.append(str(path))
    outcomes = []
    for threads, queues, workers in ((threading, queue, 1), (threading, queue, 4), (multigil, multigil, 4)):
        output = tmp_path / "counts"
        output.write_bytes(b"")
        total = demo.run(threads, queues, paths, workers, str(output))
        outcomes.append((total, demo.check(str(output), paths)))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][0].words == {"comment": sum(range(200))}
    assert outcomes[0][0] != demo.Tally()


@pytest.mark.parametrize(("threads", "queues"), BACKENDS)
def test_error_of_a_worker_surfaces(threads: ModuleType, queues: ModuleType, tree: Path) -> None:
    with pytest.raises(demo.WorkerFailed, match=r"(?s)Traceback.*FileNotFoundError.*no-such-file"):
        demo.run(threads, queues, demo.find(str(tree)), 2, str(tree / "no-such-file"))


@pytest.mark.parametrize(("threads", "queues"), BACKENDS)
def test_worker_that_ends_without_a_word(threads: ModuleType, queues: ModuleType, tree: Path, output: str) -> None:
    def thread(daemon: bool, **_: object) -> threading.Thread:
        return cast("threading.Thread", threads.Thread(target=int, daemon=daemon))

    silent = cast("ModuleType", SimpleNamespace(Lock=threads.Lock, Thread=thread))
    with pytest.raises(demo.WorkerFailed, match="2 of 2 workers ended without a result"):
        demo.run(silent, queues, demo.find(str(tree)), 2, output)


@pytest.mark.parametrize(("threads", "queues"), BACKENDS)
def test_error_of_the_caller_ends_the_workers(threads: ModuleType, queues: ModuleType, tree: Path, output: str) -> None:
    crew = []

    def thread(**keywords: object) -> threading.Thread:
        crew.append(threads.Thread(**keywords))
        return cast("threading.Thread", crew[-1])

    def fail() -> None:
        raise ZeroDivisionError

    watched = cast("ModuleType", SimpleNamespace(Lock=threads.Lock, Thread=thread))
    with pytest.raises(ZeroDivisionError):
        demo.run(watched, queues, demo.find(str(tree)) * 10, 2, output, fail)
    assert [member.is_alive() for member in crew] == [False, False, False]


@pytest.mark.parametrize(("threads", "queues"), BACKENDS)
def test_reader_that_ends_too_early(
    threads: ModuleType, queues: ModuleType, tree: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "feed", print)
    with pytest.raises(demo.WorkerFailed, match="the reader ended after 0 of 9 files"):
        demo.run(threads, queues, demo.find(str(tree)), 2, output)


def test_check_finds_damage(tree: Path, output: str) -> None:
    paths = demo.find(str(tree))
    demo.run(threading, queue, paths, 2, output)
    whole = Path(output).read_bytes()
    lines = whole.splitlines(keepends=True)
    digest = demo.check(output, paths)
    Path(output).write_bytes(b"".join(reversed(lines)))
    assert demo.check(output, paths) == digest
    torn = lines[0][:9] + lines[1] + lines[0][9:]
    for damaged in (whole[:-1], whole[1:], whole + lines[0], whole + b"\n", torn + b"".join(lines[2:]), b""):
        Path(output).write_bytes(damaged)
        with pytest.raises(demo.Disagreement):
            demo.check(output, paths)


def test_find(tree: Path, tmp_path: Path) -> None:
    found = demo.find(str(tree))
    assert sorted(found) == sorted(str(tree / name) for name in (*GOOD, *BAD))
    assert demo.find(str(tree / "notes.txt")) == [str(tree / "notes.txt")]
    library = demo.find()
    assert os.__file__ in library
    assert not any("site-packages" in path for path in library)
    (tmp_path / "empty").mkdir()
    with pytest.raises(demo.BadPath, match="no Python file"):
        demo.find(str(tmp_path / "empty"))
    with pytest.raises(demo.BadPath, match="no such file or directory"):
        demo.find(str(tmp_path / "missing"))


def test_demo_command(tree: Path) -> None:
    done = command("demo", str(tree), "--workers", "2", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("multigil", "threading"))]
    assert [row[1:3] for row in rows] == [["2", "interpreters"], ["2", "threads"], ["1", "interpreter"]]
    assert len({tuple(row[3:5]) for row in rows}) == 1
    assert "\nAll runs agree" in done.stdout
    assert f"{len(BAD)} files skipped" in done.stdout
    assert done.stdout.count("Speed-up over") == 2


def test_demo_command_with_one_file(tree: Path) -> None:
    done = command("demo", str(tree / "one.py"), "--workers", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Speed-up over") == 1


@pytest.mark.parametrize("arguments", [["missing"], ["empty"], ["bad.py"], [".", "--workers", "0"]])
def test_demo_command_refuses(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.py").write_bytes(b"\xff")
    done = command("demo", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("python -m multigil demo: ")
    assert "Traceback" not in done.stderr


def test_demo_command_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "multigil", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        while not running.stdout.readline().endswith("seconds\n"):  # The first run begins after this line.
            pass
        running.send_signal(signal.SIGINT)
        try:
            _, errors = running.communicate(timeout=30)
        finally:
            running.kill()
    assert (running.returncode, errors) == (130, "python -m multigil demo: interrupted\n")


def test_info_command() -> None:
    done = command("info", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    info = json.loads(done.stdout)
    assert info["python"] == sys.version
    assert all(type(number) is int for number in info["region"].values())
    assert info["multigil"] in command("info").stdout


def test_doctor_command() -> None:
    done = command("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    diagnosis = json.loads(done.stdout)
    assert diagnosis["works"] is True
    assert {check["status"] for check in diagnosis["checks"].values()} <= {"ok", "warning"}
    assert any("NumPy" in limit for limit in diagnosis["limits"])
    assert "interpreter" in command("doctor").stdout


def test_doctor_sees_tracemalloc() -> None:
    done = command("doctor", "--json", env={**os.environ, "PYTHONTRACEMALLOC": "1"})
    assert json.loads(done.stdout)["checks"]["tracemalloc"]["status"] == "warning"


def test_no_command() -> None:
    assert command().returncode == 2
