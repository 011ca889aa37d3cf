"""The scripts that choose a Python and make a virtual environment by it, with false Pythons in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# A false Python: the real one, which says that it is another. The program that it is asked to run comes last.
FALSE_PYTHON = """#!{python} -I
import importlib.util, sys, types

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {lacks!r} else find_spec(name)
sys.version_info = {version!r}
sys.version = ".".join(map(str, sys.version_info[:3])) + " (false)"
sys.implementation = types.SimpleNamespace(name={implementation!r})
sys.abiflags = {abiflags!r}
sys.executable = {executable!r}
exec(sys.argv[-1])
"""


def make_python(
    path: Path,
    version: str,
    *,
    implementation: str = "cpython",
    free_threaded: bool = False,
    lacks: tuple[str, ...] = (),
) -> Path:
    """Make a program that takes itself for `version`, such as 3.14.8 or 3.15.0-candidate-1."""
    number, _, rest = version.partition("-")
    level, _, serial = rest.partition("-")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        FALSE_PYTHON.format(
            python=sys.executable,
            version=(*map(int, number.split(".")), level or "final", int(serial or 0)),
            implementation=implementation,
            abiflags="t" if free_threaded else "",
            executable=str(path),
            lacks=lacks,
        )
    )
    path.chmod(0o755)
    return path


class Machine:
    """A machine with nothing on it but what a test puts there; `bin` is the only folder on its PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.environment = {"HOME": f"{root}/home", "PATH": str(self.bin), "PYTHON_PREFIXES": f"{root}/opt"}

    def find_python(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("find-python", **environment)

    def make_venv(self, venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.bin}:{os.defpath}"
        return self.run("make-venv", str(venv), **{"PATH": path} | environment)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", SCRIPTS / script, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_old_python3_first_on_path_is_passed_over(machine: Machine) -> None:
    make_python(machine.bin / "python3", "3.11.2")
    newer = make_python(machine.bin / "python3.13", "3.13.0")
    found = machine.find_python()
    assert found.stdout == f"{newer}\n"
    assert found.stderr == f"Python: {newer} (CPython 3.13.0)\n"


@pytest.mark.parametrize(
    "place",
    [
        "home/.pythons/bin/python3.14",
        "home/.pythons/3.14/bin/python3",
        "home/.pyenv/versions/3.14.8/bin/python3",
        "home/.local/share/uv/python/cpython-3.14-linux-x86_64-gnu/bin/python3",
        "opt/bin/python3.14",
        "opt/python3.14/bin/python3",
        "opt/python/cp314-cp314/bin/python3",
    ],
)
def test_a_newer_one_is_found_off_the_path(machine: Machine, place: str) -> None:
    make_python(machine.bin / "python3", "3.12.1")
    newer = make_python(machine.root / place, "3.14.8")
    assert machine.find_python().stdout == f"{newer}\n"


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("PYENV_ROOT", "versions/3.14.8/bin/python3"),
        ("UV_PYTHON_INSTALL_DIR", "cpython-3.14.8/bin/python3"),
        ("XDG_DATA_HOME", "uv/python/cpython-3.14.8/bin/python3"),
    ],
)
def test_pyenv_and_uv_may_be_elsewhere(machine: Machine, variable: str, place: str) -> None:
    elsewhere = machine.root / "else where"
    newer = make_python(elsewhere / place, "3.14.8")
    assert machine.find_python(**{variable: str(elsewhere)}).stdout == f"{newer}\n"


def test_versions_are_compared_as_numbers(machine: Machine) -> None:
    make_python(machine.bin / "python3", "3.14.9")
    newest = make_python(machine.root / "home/.pyenv/versions/3.14.10/bin/python3", "3.14.10")
    make_python(machine.root / "opt/bin/python3", "3.13.99")
    assert machine.find_python().stdout == f"{newest}\n"


def test_the_release_and_the_build_with_a_gil_are_preferred(machine: Machine) -> None:
    make_python(machine.bin / "python3.14t", "3.14.0", free_threaded=True)
    best = make_python(machine.bin / "python3.14", "3.14.0")
    make_python(machine.bin / "python3", "3.14.0-candidate-3")
    assert machine.find_python().stdout == f"{best}\n"


@pytest.mark.parametrize(
    ("version", "features", "reason"),
    [
        ("3.11.9", {}, "CPython 3.11.9 is older than 3.12"),
        ("3.16.0-alpha-2", {}, "CPython 3.16.0alpha2 is not released yet"),
        ("3.16.0-beta-1", {}, "CPython 3.16.0beta1 is not released yet"),
        ("3.12.0", {"implementation": "pypy"}, "pypy 3.12.0 is not CPython"),
        ("3.13.0", {"free_threaded": True}, "CPython 3.13.0 (free-threaded) is not supported"),
        ("3.13.0", {"lacks": ("venv",)}, "apt install python3.13-venv"),
        ("3.13.0", {"lacks": ("ensurepip", "pip")}, "apt install python3.13-venv"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(
    machine: Machine, version: str, features: dict[str, Any], reason: str
) -> None:
    python = make_python(machine.bin / "python3", version, **features)
    found = machine.find_python()
    assert found.returncode == 1
    assert found.stdout == ""
    assert f"  {python}: " in found.stderr
    assert reason in found.stderr
    assert "uv python install" in found.stderr

    usable = make_python(machine.root / "opt/bin/python3", "3.12.0")
    assert machine.find_python().stdout == f"{usable}\n"

    asked_for = machine.find_python(PYTHON=str(python))
    assert asked_for.returncode == 1
    assert asked_for.stdout == ""
    assert f"PYTHON={python} cannot be used: " in asked_for.stderr
    assert reason in asked_for.stderr


def test_pip_stands_in_for_ensurepip(machine: Machine) -> None:
    python = make_python(machine.bin / "python3", "3.13.0", lacks=("ensurepip",))
    assert machine.find_python().stdout == f"{python}\n"


def test_a_machine_without_any(machine: Machine) -> None:
    found = machine.find_python()
    assert found.returncode == 1
    assert "there is none that it can use" in found.stderr
    assert "apt install" in found.stderr


def test_shims_and_broken_programs_are_passed_over(machine: Machine) -> None:
    make_python(machine.root / "home/.pyenv/shims/python3", "3.15.0")
    broken = machine.bin / "python3.15"
    broken.write_text("#!/bin/sh\necho ok 9999999999999 /nowhere\nexit 127\n")
    broken.chmod(0o755)
    usable = make_python(machine.bin / "python3", "3.12.1")
    assert machine.find_python(PATH=f"{machine.root}/home/.pyenv/shims:{machine.bin}").stdout == f"{usable}\n"


def test_the_one_asked_for_is_taken_though_there_is_a_newer_one(machine: Machine) -> None:
    make_python(machine.bin / "python3", "3.15.0")
    older = make_python(machine.bin / "python3.12", "3.12.1")
    for name in ("python3.12", str(older)):
        assert machine.find_python(PYTHON=name).stdout == f"{older}\n"


def test_the_one_asked_for_is_not_there(machine: Machine) -> None:
    make_python(machine.bin / "python3", "3.15.0")
    found = machine.find_python(PYTHON="python3.14")
    assert found.returncode == 1
    assert "PYTHON=python3.14: there is no such program." in found.stderr


def test_a_venv_is_made_and_kept_and_made_anew_by_another_python(machine: Machine) -> None:
    venv = machine.root / "venv"
    made = machine.make_venv(venv, PYTHON=sys.executable)
    assert made.returncode == 0, made.stderr
    subprocess.run([venv / "bin/python", "-m", "pip", "--version"], check=True, capture_output=True)

    mark = venv / "mark"
    mark.touch()
    for environment in ({}, {"PYTHON": sys.executable}):
        kept = machine.make_venv(venv, **environment)
        assert kept.returncode == 0, kept.stderr
        assert mark.exists()

    (venv / ".made-by").write_text("3.12.0 (gone since)\n")
    made = machine.make_venv(venv, PYTHON=sys.executable)
    assert made.returncode == 0, made.stderr
    assert "is made anew" in made.stderr
    assert not mark.exists()


def test_what_somebody_else_made_is_left_alone(machine: Machine) -> None:
    folder = machine.root / "folder"
    folder.mkdir()
    (folder / "letters").touch()
    refused = machine.make_venv(folder, PYTHON=sys.executable)
    assert refused.returncode == 1
    assert "is not a virtual environment" in refused.stderr
    assert os.listdir(folder) == ["letters"]

    venv = machine.root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    before = sorted(venv.rglob("*"))
    refused = machine.make_venv(venv, PYTHON=str(make_python(machine.bin / "python3", "3.12.99")))
    assert refused.returncode == 1
    assert "and PYTHON=" in refused.stderr
    assert "is 3.12.99" in refused.stderr
    assert sorted(venv.rglob("*")) == before
