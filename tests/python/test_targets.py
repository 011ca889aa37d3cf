"""Targets, arguments and results may be of `__main__`, however the program was started."""

from __future__ import annotations

import pytest

from harness import ProgramRunner

# Blank lines only where the interactive console wants them.
DEFINITIONS = """
import dataclasses, enum, functools, multigil
import beside
print("the body runs")
factor = 10
inbox = multigil.Queue()
def scale(x):
    return beside.identity(x) * factor

def factorial(n):
    return n * factorial(n - 1) if n else 1

def adder(addend):
    return lambda x: x + addend

class Base:
    def describe(self):
        return f"{type(self).__name__} {self.x}"

class Point(Base):
    origin = 0
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)
    @classmethod
    def at_origin(cls):
        return cls(cls.origin)
    @staticmethod
    def double(x):
        return 2 * x
    def __call__(self, x):
        return self.x * x

@dataclasses.dataclass(frozen=True)
class Pair:
    left: int
    right: "Pair | None" = None

class Colour(enum.Enum):
    RED = 1

class OwnError(LookupError):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

def fail():
    raise OwnError(5, "own")

def put_point():
    inbox.put(Point(7))

def nested(x):
    interpreter = multigil.Interpreter(target=scale, args=(x,))
    interpreter.start()
    return interpreter.result()

def result(target, *args, **kwargs):
    interpreter = multigil.Interpreter(target=target, args=args, kwargs=kwargs)
    interpreter.start()
    return interpreter.result()

class Overriding(multigil.Interpreter):
    def __init__(self, number):
        super().__init__()
        self.number = number
    def run(self):
        return scale(self.number)

"""

USES = """
print("function", result(scale, 2))
print("recursive function", result(factorial, 20))
print("function that starts an interpreter", result(nested, 3))
print("lambda", result(lambda x: x + factor, 1))
print("closure", result(adder(5), 1))
print("partial", result(functools.partial(scale, x=3)))
print("bound method", result(Point(1).moved, 2).x)
print("inherited method", result(Point(1).describe))
print("class method", result(Point.at_origin).x)
print("static method", result(Point.double, 4))
print("class", result(Point, 5).x)
print("callable object", result(Point(6), 7))
print("class of the result", type(result(Point, 5)) is Point)
print("dataclass", result(beside.identity, Pair(1, Pair(2))) == Pair(1, Pair(2)))
print("enumeration", result(beside.identity, Colour.RED) is Colour.RED)
print("imported function", result(beside.identity, 8))
print("built-in function", result(len, "four"))
print("item of a queue", result(put_point), type(inbox.get()) is Point)
try:
    result(fail)
except OwnError as error:
    print("exception", error, error.code)

overriding = Overriding(9)
overriding.start()
print("overridden run", overriding.result())
with multigil.Interpreter() as service:
    print("call", service.call(scale, 4), service.submit(scale, 5).result())

"""

EXPECTED = """\
the body runs
function 20
recursive function 2432902008176640000
function that starts an interpreter 30
lambda 11
closure 6
partial 30
bound method 3
inherited method Point 1
class method 0
static method 8
class 5
callable object 42
class of the result True
dataclass True
enumeration True
imported function 8
built-in function 4
item of a queue None True
exception own 5
overridden run 90
call 40 50
"""


@pytest.fixture
def run_program(run_program: ProgramRunner) -> ProgramRunner:
    (run_program.folder / "beside.py").write_text("def identity(x):\n    return x\n")
    return run_program


@pytest.mark.parametrize("worker", ["Interpreter", "Process"])
@pytest.mark.parametrize("how", ["script", "-m", "-c", "stdin", "repl"])
def test_every_kind_of_target_runs(run_program: ProgramRunner, how: str, worker: str) -> None:
    program = (DEFINITIONS + USES).replace("multigil.Interpreter", f"multigil.{worker}")
    outcome = run_program(program, how=how)  # type: ignore[arg-type]
    assert outcome.stdout == EXPECTED, outcome.stderr
    assert outcome.status == 0


def test_every_kind_of_target_runs_behind_a_guard(run_program: ProgramRunner) -> None:
    guarded = 'if __name__ == "__main__":' + USES.replace("\n", "\n    ")
    outcome = run_program(DEFINITIONS + guarded)
    assert outcome.stdout == EXPECTED, outcome.stderr
    assert outcome.status == 0


def test_a_function_sees_the_globals_as_they_are_when_it_is_sent(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        number = 1
        def see():
            return number
        def change():
            global number
            number = 100
        with multigil.Interpreter() as interpreter:
            print(interpreter.call(see))
            number = 2
            print(interpreter.call(see))
            interpreter.call(change)
            print(number)
    """)
    assert output == "1\n2\n2\n"


def test_a_queue_among_the_globals_is_shared(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        inbox, outbox, lock = multigil.Queue(), multigil.Queue(), multigil.Lock()
        def work():
            while (item := inbox.get()) is not None:
                with lock:
                    outbox.put(item * 2)
        interpreters = [multigil.Interpreter(target=work) for _ in range(3)]
        for interpreter in interpreters:
            interpreter.start()
        for item in [*range(100), None, None, None]:
            inbox.put(item)
        for interpreter in interpreters:
            interpreter.join()
        print(sorted(outbox.get() for _ in range(100)) == list(range(0, 200, 2)))
    """)
    assert output == "True\n"


def test_an_import_that_was_made_inside_of_a_function_works_there(run_program: ProgramRunner) -> None:
    output = run_program.output("""
        import multigil
        def work():
            from beside import identity
            import json
            return json.dumps(identity([1]))
        interpreter = multigil.Interpreter(target=work)
        interpreter.start()
        print(interpreter.result())
    """)
    assert output == "[1]\n"
