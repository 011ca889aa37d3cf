"""The examples: an event loop over interpreters, and a web server of several, driven by a real HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import AMPLE, in_thread, plain_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"


class Server:
    """A server in a process of its own, once it has said that it serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout = process.stdout
        self.host, _, self.port = self.stdout.readline().rpartition("http://")[2].strip().partition(":")

    def get(self, query: str = "") -> Any:
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=AMPLE)
        with contextlib.closing(connection):
            connection.request("GET", f"/?{query}")
            response = connection.getresponse()
            assert response.status == 200
            return json.loads(response.read())

    def terminate(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.rest()

    def rest(self) -> str:
        """What it still wrote until it ended."""
        rest, errors = self.process.communicate(timeout=AMPLE)
        assert (self.process.returncode, errors) == (0, "")
        return rest


@contextlib.contextmanager
def run(*arguments: str, folder: Path = EXAMPLES) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(EXAMPLES / "serve.py"), *arguments, "--workers", "2", "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=plain_environment(), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_several_interpreters_answer_and_share_a_counter(kind: str) -> None:
    arguments = ["hello:application"]
    if kind == "asgi":
        pytest.importorskip("uvicorn")
        if sys.version_info < (3, 12, 4):
            pytest.skip("an interpreter that ran asyncio crashes at its end (gh-119213)")
        arguments = ["hello:asgi_application", "--asgi"]
    with run(*arguments) as process, ThreadPoolExecutor(8) as clients:
        server = Server(process)
        answers = list(clients.map(server.get, ["100000"] * 60))
        assert sorted(answer["request"] for answer in answers) == list(range(1, 61))
        assert {answer["interpreter"] for answer in answers} == {1, 2}
        assert {answer["work"] for answer in answers} == {333328333350000}
        assert server.get()["hits"] == 61
        rest = server.terminate()
    assert rest.splitlines()[-1] == "61 requests were answered"
    assert sum(line.startswith(("[1] 127.0.0.1", "[2] 127.0.0.1")) for line in rest.splitlines()) == 61


def test_a_request_that_is_being_answered_is_answered(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    (tmp_path / "waiting.py").write_text("""
def application(environ, start_response):
    print("begun", flush=True)
    with open("go") as go:
        body = go.read().encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
""")
    with run("waiting", folder=tmp_path) as process:
        server = Server(process)
        answer = in_thread(server.get)
        assert server.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        (tmp_path / "go").write_text("42")
        assert answer.result(AMPLE) == 42
        assert "1 requests were answered" in server.rest()


def test_an_application_that_cannot_be_imported_ends_the_server() -> None:
    with run("hello:no_such_application") as process:
        _, errors = process.communicate(timeout=AMPLE)
        assert process.returncode == 1
        assert "no_such_application" in errors


def test_an_event_loop_over_a_pool_of_interpreters() -> None:
    command = [sys.executable, str(EXAMPLES / "event_loop.py"), "20000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=AMPLE, env=plain_environment(), check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "2262 primes below 20000"
    assert "counted by counter_" in ended.stdout
