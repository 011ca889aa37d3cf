"""An interpreter finds what the program finds: its modules, arguments, folder, environment and output."""

from __future__ import annotations

import sys

import pytest

from harness import ProgramRunner


def test_path_arguments_folder_and_environment_are_those_of_the_program(run_program: ProgramRunner) -> None:
    output = run_program.output(
        """
        import multigil, os, sys
        def see():
            import os, sys
            return sys.path, sys.argv, os.getcwd(), dict(os.environ), sys.flags.dev_mode
        with multigil.Interpreter() as interpreter:
            assert interpreter.call(see) == see()
            sys.path.append("/added/later")
            sys.argv.append("--added-later")
            os.environ["ADDED_LATER"] = "yes"
            os.chdir("/")
            assert interpreter.call(see) == see()
        new = multigil.Interpreter(target=see)
        new.start()
        assert new.result() == see()
        print(sys.argv[1:])
        """,
        args=["one", "two words"],
    )
    assert output == "['one', 'two words', '--added-later']\n"


def test_prints_come_out_in_order(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        def say(text):
            print(text, "there")
        for number in range(3):
            print(number, "before")
            interpreter = multigil.Interpreter(target=say, args=(number,))
            interpreter.start()
            interpreter.join()
            print(number, "after")
        with multigil.Interpreter() as interpreter:
            print("call before")
            interpreter.call(say, "call")
            print("call after")
    """)
    numbered = [f"{number} {where}\n" for number in range(3) for where in ("before", "there", "after")]
    assert output == "".join([*numbered, "call before\n", "call there\n", "call after\n"])


def test_lines_of_interpreters_that_print_at_once_stay_whole(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        def say(letter):
            for _ in range(500):
                print(letter * 100)
        interpreters = [multigil.Interpreter(target=say, args=(letter,)) for letter in "abcd"]
        for interpreter in interpreters:
            interpreter.start()
        for interpreter in interpreters:
            interpreter.join()
    """)
    assert sorted(output.splitlines()) == [letter * 100 for letter in "abcd" for _ in range(500)]


def test_text_without_an_end_of_line_comes_out_too(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        interpreter = multigil.Interpreter(target=print, args=("no end of line",), kwargs={"end": ""})
        interpreter.start()
        interpreter.join()
        print(".")
    """)
    assert output == "no end of line.\n"


def test_what_is_written_to_stderr_comes_out_there(run_program: ProgramRunner) -> None:
    outcome = run_program("""
        import multigil
        def complain():
            import sys
            print("complaint", file=sys.stderr)
        interpreter = multigil.Interpreter(target=complain)
        interpreter.start()
        interpreter.join()
    """)
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("", "complaint\n", 0)


def test_a_program_whose_output_was_closed_ends_well(run_program: ProgramRunner) -> None:
    run_program.output("""
        import sys
        sys.stdout.close()
        sys.stdout = None
        import multigil
        interpreter = multigil.Interpreter(target=int)
        interpreter.start()
        assert interpreter.result() == 0
    """)


def test_threads_work_in_an_interpreter_and_it_waits_for_them(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        def start_thread():
            import threading, time
            def late():
                time.sleep(0.1)
                print("late")
            thread = threading.Thread(target=late)
            thread.start()
        interpreter = multigil.Interpreter(target=start_thread)
        interpreter.start()
        interpreter.join()
        print("joined")
    """)
    assert output == "late\njoined\n"


USES_OF_C_MODULES = {
    "datetime": "import datetime; datetime.datetime.fromisoformat('2026-01-02').timestamp()",
    "zoneinfo": "import zoneinfo; zoneinfo.TZPATH",
    "sqlite3": "import sqlite3; sqlite3.connect(':memory:').execute('select 1').fetchall()",
    "decimal": "import decimal; decimal.Decimal(1) / 3",
    "json": "import json; json.loads(json.dumps({'a': [1.5, None]}))",
    "re": "import re; re.findall('a+', 'caat')",
    "hashlib": "import hashlib; hashlib.sha256(b'').digest()",
    "ssl": "import ssl; ssl.create_default_context()",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0.001))",
    "xml": "import xml.etree.ElementTree as tree; tree.fromstring('<a><b/></a>')",
    "concurrent.futures": "import concurrent.futures as f; list(f.ThreadPoolExecutor(2).map(int, '12'))",
    "tempfile": "import tempfile; tempfile.TemporaryFile().close()",
    "subprocess": "import subprocess; subprocess.run(['true'], check=True)",
    "ctypes": "import ctypes; ctypes.CDLL(None).getpid()",
}
# CPython's own limits (python-facts: row 2 and row 17).
NEEDS = {
    "asyncio": (3, 12, 4),
    "ssl": (3, 12, 4),
    "decimal": (3, 12, 4),
    "ctypes": (3, 13),
    "xml": (3, 13),
    "zoneinfo": (3, 13),
}


@pytest.mark.parametrize("module", USES_OF_C_MODULES)
def test_a_module_of_the_standard_library_that_is_first_used_in_interpreters_works_and_the_program_ends_well(
    run_program: ProgramRunner, module: str
) -> None:
    if sys.version_info < NEEDS.get(module, ()):
        pytest.skip(f"CPython before {NEEDS[module]} cannot")
    output = run_program.output(f"""
        import multigil
        use = {USES_OF_C_MODULES[module]!r}
        interpreters = [multigil.Interpreter(target=exec, args=(use,)) for _ in range(4)]
        for interpreter in interpreters[:3]:
            interpreter.start()
        for interpreter in interpreters[:3]:
            interpreter.result()
        exec(use)
        interpreters[3].start()
        interpreters[3].result()
        print("done")
    """)
    assert output == "done\n"
