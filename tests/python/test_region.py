"""Regions that programs open by name."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import multigil
from multigil import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

AMPLE = 60

CLASSES = [
    *("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue", "Lock", "RLock", "Event", "Condition", "Semaphore"),
    *("BoundedSemaphore", "Barrier", "Value", "Array"),
]
ARGUMENTS: dict[str, tuple[Any, ...]] = {"Barrier": (2,), "Value": ("i", 7), "Array": ("i", [1, 2, 3])}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"test-{os.getpid()}-{abs(hash(request.node.name))}"


@pytest.fixture
def region(name: str) -> Iterator[Region]:
    with Region(name) as region:
        yield region


def path_of(name: str) -> Path:
    return Path(f"/dev/shm/multigil-{os.geteuid()}/{name}")


class Program:
    """A program beside this one. It is given `region` and runs source text, line by line if asked to."""

    def __init__(self, source: str, *arguments: str) -> None:
        code = "import sys, multigil\nfrom multigil import Region\n" + textwrap.dedent(source)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def output(self) -> str:
        output, _ = self.process.communicate(timeout=AMPLE)
        assert self.process.returncode == 0
        return output


def in_other_program(source: str, *arguments: str) -> str:
    return Program(source, *arguments).output()


class TestObjects:
    @pytest.mark.parametrize("kind", CLASSES)
    def test_by_name_it_is_the_same_object(self, region: Region, kind: str) -> None:
        make = getattr(region, kind)
        first = make("a name", *ARGUMENTS.get(kind, ()))
        assert type(first) is getattr(multigil, kind)
        assert make("a name") is first
        assert make("another name", *ARGUMENTS.get(kind, ())) is not first
        assert region.names() == [(kind, "a name"), (kind, "another name")]

    @pytest.mark.parametrize("kind", CLASSES)
    def test_without_a_name_it_is_a_new_one(self, region: Region, kind: str) -> None:
        make = getattr(region, kind)
        first, second = (make(None, *ARGUMENTS.get(kind, ())) for _ in range(2))
        assert first is not second
        assert region.names() == []
        assert pickle.loads(pickle.dumps(first)) is first

    def test_a_name_keeps_its_object_until_it_is_unlinked(self, region: Region) -> None:
        region.Queue("inbox").put("kept")
        gc.collect()
        q = region.Queue("inbox")
        assert q.get() == "kept"
        region.unlink(multigil.Queue, "inbox")
        assert region.names() == []
        assert region.Queue("inbox") is not q
        region.unlink("Queue", "inbox")
        region.Lock("inbox")
        region.unlink(region.Lock("inbox"), "inbox")
        with pytest.raises(FileNotFoundError, match="inbox"):
            region.unlink("Queue", "inbox")

    def test_the_arguments_are_those_of_the_first(self, region: Region) -> None:
        region.Queue("q", maxsize=3)
        assert region.Queue("q", maxsize=5).maxsize == 3
        region.Value("v", "d", 1.5)
        assert region.Value("v").value == 1.5
        with pytest.raises(TypeError):
            region.Value("none")
        assert region.names() == [("Queue", "q"), ("Value", "v")]

    def test_a_condition_has_its_lock_with_it(self, name: str, region: Region) -> None:
        lock = region.Lock()
        condition = region.Condition("c", lock)
        program = Program(
            """
            region = Region(sys.argv[1])
            condition = region.Condition("c")
            with condition:
                region.Event("there").set()
                print(condition.wait(60))
            """,
            name,
        )
        assert region.Event("there").wait(AMPLE)
        with lock:
            condition.notify()
        assert program.output() == "True\n"

    def test_what_cannot_be_found_again_cannot_have_a_name(self, region: Region) -> None:
        with pytest.raises(TypeError, match="action"):
            region.Barrier("b", 2, print)
        with pytest.raises(TypeError, match="same region"):
            region.Condition("c", multigil.Lock())
        with pytest.raises(TypeError, match="same region"):
            region.Value("v", "i", lock=multigil.Lock())
        assert region.names() == []
        assert region.Value("v", "i", lock=False).value == 0

    def test_shared_memory(self, name: str, region: Region) -> None:
        memory = region.SharedMemory("block", create=True, size=100)
        memory.buf[:5] = b"hello"
        with pytest.raises(FileExistsError):
            region.SharedMemory("block", create=True, size=100)
        with pytest.raises(FileNotFoundError):
            multigil.SharedMemory("block")
        assert region.names() == [("SharedMemory", "block")]
        source = """
            memory = Region(sys.argv[1]).SharedMemory("block")
            print(bytes(memory.buf[:5]))
            memory.unlink()
        """
        assert in_other_program(source, name) == "b'hello'\n"
        with pytest.raises(FileNotFoundError):
            region.SharedMemory("block")
        memory.close()

    def test_a_name_that_is_too_long(self, region: Region) -> None:
        region.Lock("x" * 256)
        with pytest.raises(ValueError, match="256 bytes"):
            region.Lock("x" * 257)


class TestBetweenPrograms:
    def test_two_programs_find_each_other(self, name: str, region: Region) -> None:
        source = """
            region = Region(sys.argv[1])
            there, back = region.Queue("there"), region.Queue("back")
            for item in iter(there.get, None):
                back.put(item * 2)
            region.Value("done", "i").value = 1
        """
        program = Program(source, name)
        there, back = region.Queue("there"), region.Queue("back")
        for item in (1, "text", [1, 2]):
            there.put(item)
        there.put(None)
        assert [back.get(timeout=AMPLE) for _ in range(3)] == [2, "texttext", [1, 2, 1, 2]]
        assert program.output() == ""
        assert region.Value("done", "i").value == 1

    def test_many_at_once_get_the_same_objects(self, name: str, region: Region) -> None:
        source = """
            region = Region(sys.argv[1])
            region.Barrier("all", 8).wait(60)
            for number in range(200):
                region.Value(f"v{number}", "i").fetch_add(1)
        """
        programs = [Program(source, name) for _ in range(8)]
        assert [program.output() for program in programs] == [""] * 8
        assert {region.Value(f"v{number}").value for number in range(200)} == {8}

    def test_an_object_of_another_region_may_be_sent(self, name: str, region: Region) -> None:
        mine = multigil.Queue()
        region.Queue("there").put((mine, region))
        source = """
            q, region = Region(sys.argv[1]).Queue("there").get()
            lock = region.Lock()  # the message is in another region, and does not keep it alive
            q.put((region.name, lock))
            region.Event("got").wait(60)
        """
        program = Program(source, name)
        sent, lock = mine.get(timeout=AMPLE)
        assert sent == name
        assert lock.acquire(blocking=False)
        region.Event("got").set()
        assert program.output() == ""

    def test_wait_any_over_regions(self, name: str, region: Region) -> None:
        mine, theirs = multigil.Event(), region.Queue("q")
        other = Region()
        third = other.Semaphore(value=0)
        assert multigil.wait_any(mine, theirs, third, timeout=0) is None
        assert multigil.wait_any(mine, theirs, third, timeout=0.05) is None
        program = Program("sys.stdin.readline(); Region(sys.argv[1]).Queue('q').put(1)", name)
        program.process.stdin.write("\n")  # type: ignore[union-attr]
        program.process.stdin.flush()  # type: ignore[union-attr]
        assert multigil.wait_any(mine, theirs, third, timeout=AMPLE) is theirs
        program.output()
        theirs.get()
        third.release()
        assert multigil.wait_any(mine, theirs, third, timeout=AMPLE) is third
        assert multigil.wait_any(third, timeout=AMPLE) is third

    def test_a_region_stays_open_while_somebody_looks_out_there(self, region: Region) -> None:
        other = Region()
        q, mine = other.Queue(), multigil.Event()
        waiting = threading.Thread(target=multigil.wait_any, args=(mine, region.Event()))
        waiting.start()
        time.sleep(0.1)
        del q, other  # the last that was in it
        gc.collect()
        time.sleep(0.2)
        mine.set()
        waiting.join(AMPLE)
        assert not waiting.is_alive()

    def test_a_program_that_is_killed_with_a_lock(self, name: str, region: Region) -> None:
        source = """
            import os, signal
            region = Region(sys.argv[1])
            region.Lock("l").acquire()
            region.Event("held").set()
            signal.pause()
        """
        program = Program(source, name)
        assert region.Event("held").wait(AMPLE)
        program.process.kill()
        program.process.communicate()
        with pytest.raises(multigil.OwnerDied):
            region.Lock("l").acquire(timeout=AMPLE)
        assert region.Lock("l").acquire(timeout=AMPLE)


class TestItself:
    def test_creating_and_finding(self, name: str) -> None:
        with pytest.raises(FileNotFoundError, match=name):
            Region(name, create=False)
        with Region(name, create=True) as region:
            assert name in Region.list()
            with pytest.raises(FileExistsError, match=name):
                Region(name, create=True)
            with Region(name, create=False) as again, Region(name) as third:
                assert region.number == again.number == third.number
        assert name not in Region.list()
        assert not path_of(name).exists()

    def test_it_has_a_file_of_its_user_alone(self, name: str, region: Region) -> None:
        assert path_of(name).stat().st_mode & 0o777 == 0o600
        assert path_of(name).parent.stat().st_mode & 0o777 == 0o700
        assert region.name == name

    def test_an_object_keeps_it(self, name: str) -> None:
        region = Region(name)
        q = region.Queue("q")
        region.close()
        region.close()
        with pytest.raises(ValueError, match="closed"):
            region.Queue("q")
        q.put("still there")
        assert q.get() == "still there"
        assert name in Region.list()
        del q
        gc.collect()
        assert name not in Region.list()
        assert repr(region) == f"Region({name!r}) (closed)"

    def test_closing_it_gives_the_memory_back(self, name: str) -> None:
        def mapped() -> int:
            gc.collect()
            return Path("/proc/self/maps").read_text().count(name), len(os.listdir("/proc/self/fd"))

        before = mapped()
        for _ in range(10):
            with Region(name) as region:
                region.Queue("q").put(region.Lock("l"))
                assert mapped() > before
        assert mapped() == before

    def test_the_end_of_a_program_takes_the_name_away(self, name: str) -> None:
        source = "region = Region(sys.argv[1]); q = region.Queue('q'); cycle = [region, q]; cycle.append(cycle)"
        in_other_program(source, name)
        assert not path_of(name).exists()

    def test_what_the_killed_left_is_taken_away(self, name: str) -> None:
        program = Program("import signal; r = Region(sys.argv[1]); print('there', flush=True); signal.pause()", name)
        program.process.stdout.readline()  # type: ignore[union-attr]
        os.kill(program.process.pid, signal.SIGKILL)
        program.process.communicate()
        assert path_of(name).exists()
        assert name not in Region.list()
        assert not path_of(name).exists()

    def test_without_a_name_it_is_a_new_one(self) -> None:
        one, other = Region(), Region()
        assert one.number != other.number
        assert one.name is None
        assert repr(one) == "Region()"
        one.Queue("q").put(1)
        assert other.Queue("q").empty()
        assert one.number not in {multigil.Queue().__reduce__()[1][1], other.number}  # type: ignore[index]

    def test_pickling(self, name: str, region: Region) -> None:
        again = pickle.loads(pickle.dumps(region))
        assert (again, again.name, again.number) == (region, name, region.number)
        pickled = pickle.dumps(Region())
        gc.collect()
        with pytest.raises(multigil.StaleHandle):
            pickle.loads(pickled)

    @pytest.mark.parametrize("bad", ["", "a/b", ".hidden", "a\0b", "x" * 201])
    def test_names_that_are_refused(self, bad: str) -> None:
        with pytest.raises(ValueError, match="name has"):
            Region(bad)

    def test_it_works_in_interpreters(self, region: Region) -> None:
        with multigil.Interpreter() as interpreter:
            interpreter.call(region.Queue("q").put, "from there")
            number = interpreter.call(getattr, region, "number")
        assert (number, region.Queue("q").get()) == (region.number, "from there")


class TestBadFiles:
    @pytest.fixture
    def path(self, name: str) -> Iterator[Path]:
        with Region(f"{name}-other"):  # makes the directory
            pass
        path = path_of(name)
        yield path
        path.unlink(missing_ok=True)

    @staticmethod
    def used(path: Path) -> Any:
        """Lock the file as its users do: one that nobody uses would be removed."""
        import fcntl
        import struct

        file = path.open("r+b")
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK
        return file

    @pytest.mark.parametrize("content", [b"", b"x", b"\0" * 100_000, b"\xff" * 10_000_000])
    def test_a_file_that_is_none(self, name: str, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        path.chmod(0o600)
        with self.used(path), pytest.raises(multigil.RegionCorrupt):
            Region(name)

    def test_one_that_was_truncated(self, name: str) -> None:
        with Region(name):
            os.truncate(path_of(name), 1 << 20)
            program = "try: Region(sys.argv[1])\nexcept multigil.RegionCorrupt as error: print(error)"
            assert "length" in in_other_program(program, name)

    def test_one_of_another_version(self, name: str) -> None:
        with Region(name):
            with path_of(name).open("r+b") as file:
                file.seek(8)
                file.write(b"another!")
            program = "try: Region(sys.argv[1])\nexcept ValueError as error: print(error)"
            assert "another version" in in_other_program(program, name)

    def test_one_that_others_may_write_to(self, name: str, path: Path) -> None:
        path.write_bytes(b"\0" * 100)
        path.chmod(0o666)
        with self.used(path), pytest.raises(multigil.RegionCorrupt, match="0600"):
            Region(name)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_one_of_another_user(self, name: str, path: Path) -> None:
        path.write_bytes(b"\0" * 100)
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        with self.used(path), pytest.raises(PermissionError, match="65534"):
            Region(name)

    def test_no_room(self, name: str) -> None:
        source = """
            import resource
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
            try:
                Region(sys.argv[1])
            except OSError as error:
                print(error.strerror, Region.list().count(sys.argv[1]))
        """
        assert in_other_program(source, name) == "No space left on device 0\n"

    def test_a_link(self, name: str, path: Path) -> None:
        path.symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="symbolic links"):
            Region(name)


class TestKey:
    ITEMS = (None, True, False, 0, -5, 2**63, 1.5, "text", "ä", "€", "\U0001f600", b"", b"bytes", [1, {"a": 2}])

    @pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "SimpleQueue"])
    def test_everything_arrives(self, name: str, kind: str) -> None:
        with Region(name, key=b"a key") as region:
            q = getattr(region, kind)("q")
            for item in (*self.ITEMS, bytes(10**6), "x" * 10**6):
                q.put(item)
                assert q.peek() == item
                assert q.get() == item
            q.put_many(self.ITEMS)
            assert len(q.get_many()) == len(self.ITEMS)
            q.put(region.Lock())
            gc.collect()
            assert q.get().acquire()  # the message has kept it

    def test_a_priority_queue_compares(self, name: str) -> None:
        with Region(name, key=b"a key") as region:
            q = region.PriorityQueue("q")
            for item in [(3, "c"), (1, "b" * 100), (2**70, "d")]:
                q.put(item)
            assert [q.get() for _ in range(3)] == [(1, "b" * 100), (3, "c"), (2**70, "d")]

    def test_between_programs_with_the_same_key(self, name: str) -> None:
        with Region(name, key=b"a key") as region:
            region.Queue("there").put("hello")
            source = "r = Region(sys.argv[1], key=b'a key'); r.Queue('back').put(r.Queue('there').get() + '!')"
            in_other_program(source, name)
            assert region.Queue("back").get() == "hello!"

    @pytest.mark.parametrize("other", ["Region(sys.argv[1])", "Region(sys.argv[1], key=b'another')"])
    def test_a_forged_message_is_refused_and_gone(self, name: str, other: str) -> None:
        with Region(name, key=b"a key") as region:
            q = region.Queue("q")
            in_other_program(f"q = {other}.Queue('q'); q.put('forged'); q.put(5); q.put([1])", name)
            for _ in range(3):
                with pytest.raises(multigil.AuthenticationError, match="seal"):
                    q.get()
            q.put("genuine")
            assert q.get() == "genuine"
            q.put("secret")
            source = f"""
                q = {other}.Queue("q")
                try:
                    q.get()
                except multigil.AuthenticationError:
                    print(q.empty())
            """
            assert in_other_program(source, name) == "True\n"

    @pytest.mark.parametrize("length", [20, 200, 200_000])
    def test_a_changed_message_is_refused(self, name: str, length: int) -> None:
        with Region(name, key=b"a key") as region:
            q = region.Queue("q")
            payload = os.urandom(length)
            q.put(payload)
            with path_of(name).open("r+b") as file:
                content = file.read(32 << 20)
                for found in re.finditer(re.escape(payload), content):  # what was not sealed yet may still lie there
                    file.seek(found.start() + length // 2)
                    file.write(bytes([payload[length // 2] ^ 1]))
            with pytest.raises(multigil.AuthenticationError, match="wrong"):
                q.get()
            assert q.empty()

    def test_a_message_of_another_queue_is_refused(self, name: str) -> None:
        with Region(name, key=b"a key") as region:
            one, other = region.Queue("one"), region.Queue("other")
            first, second = bytes(16) + b"one" * 30, bytes(16) + b"two" * 30
            one.put(first)
            other.put(second)
            with path_of(name).open("r+b") as file:
                content = file.read(32 << 20)
                here, there = content.find(first), content.find(second)
                length = len(first) + 16  # with the seal
                file.seek(here)
                file.write(content[there : there + length])
            with pytest.raises(multigil.AuthenticationError, match="wrong"):
                one.get()
            assert other.get() == second

    def test_a_key_has_to_be_bytes(self, name: str) -> None:
        with pytest.raises(ValueError, match="at least one byte"):
            Region(name, key=b"")
        with pytest.raises(TypeError):
            Region(name, key="text")  # type: ignore[arg-type]
        assert name not in Region.list()


def test_two_programs_exchange_a_million_messages(name: str, tmp_path: Path) -> None:
    """They know a name and nothing of each other, and a shell starts them."""
    sender = tmp_path / "sender.py"
    sender.write_text(
        textwrap.dedent("""
            import sys
            from multigil import Region

            with Region(sys.argv[1]) as region:
                inbox, outbox = region.Queue("numbers", 10_000), region.Queue("sums")
                for number in range(500_000):
                    inbox.put(number)
                print(sum(outbox.get() for _ in range(500_000)))
        """)
    )
    receiver = tmp_path / "receiver.py"
    receiver.write_text(
        textwrap.dedent("""
            import sys
            from multigil import Region

            with Region(sys.argv[1]) as region:
                inbox, outbox = region.Queue("numbers", 10_000), region.Queue("sums")
                for expected in range(500_000):
                    number = inbox.get()
                    assert number == expected
                    outbox.put(2 * number)
        """)
    )
    command = 'python="$1"; "$python" "$2" "$4" & "$python" "$3" "$4"; wait'
    arguments = [sys.executable, str(receiver), str(sender), name]
    done = subprocess.run(
        ["sh", "-c", command, "sh", *arguments], check=False, capture_output=True, text=True, timeout=AMPLE
    )
    assert (done.stdout, done.stderr) == (f"{500_000 * 499_999}\n", "")
    assert not path_of(name).exists()
