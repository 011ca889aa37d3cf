"""Serve a WSGI or ASGI application by several interpreters, each with a GIL of its own, at one address.

    python examples/serve.py hello:application --workers 2 --port 8000
    python examples/serve.py hello:asgi_application --asgi

Any application will do whose modules load in an interpreter: `mysite.wsgi:application` of Django, `app:app` of Flask or
Starlette. (FastAPI's do not: it needs pydantic_core, which refuses.) ASGI needs uvicorn. SIGTERM and Ctrl-C end it when
the requests that were accepted are answered.

With WSGI all wait at one socket, and who is free takes the next connection; each answers one request at a time. With
ASGI each has an event loop and a socket of its own, and the kernel deals out the connections (SO_REUSEPORT).

What they share: a `multigil.Value`, from which every request has its number, and a `multigil.Queue`, through which the
main interpreter gets a line for each. Applications find these in the environment (WSGI) or in the scope's "state"
(ASGI): "multigil.interpreter", "multigil.request" and "multigil.hits".
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import signal
import socket
import sys
import threading
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import multigil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Shared(NamedTuple):
    """What every interpreter gets: a descriptor, which belongs to the process, and objects of multigil's."""

    stopping: int  # a pipe, which is at its end when no more connections are to be accepted
    hits: multigil.Value
    log: multigil.Queue[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("application", help="module:name")
    parser.add_argument("--asgi", action="store_true", help="it is an ASGI application; needs uvicorn")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    arguments = parser.parse_args()
    sys.path.insert(0, os.getcwd())

    count = arguments.workers if arguments.asgi else 1
    listeners = [socket.create_server((arguments.host, arguments.port), reuse_port=count > 1)]
    host, port = listeners[0].getsockname()[:2]
    listeners += [socket.create_server((host, port), reuse_port=True) for _ in range(1, count)]
    stopping, stop = os.pipe()
    stopped = threading.Event()

    def end(*_: object) -> None:
        if not stopped.is_set():
            stopped.set()
            os.close(stop)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    shared = Shared(stopping, multigil.Value("q"), multigil.Queue())
    printer = threading.Thread(target=print_all, args=(shared.log,))
    printer.start()
    serve = serve_asgi if arguments.asgi else serve_wsgi
    workers = [
        multigil.Interpreter(target=serve, args=(arguments.application, number, listener.fileno(), shared))
        for number, listener in zip(range(1, arguments.workers + 1), itertools.cycle(listeners), strict=False)
    ]
    for worker in workers:
        worker.start()
    shared.log.put(f"{len(workers)} interpreters serve http://{host}:{port}")

    multigil.wait_any(*workers)  # all end with the pipe; one that fails before ends the others
    end()
    for worker in workers:
        worker.join()
    shared.log.shutdown()
    printer.join()
    for worker in workers:
        worker.result()  # raises what it raised
    print(f"{shared.hits.value} requests were answered", flush=True)


def print_all(log: multigil.Queue[str]) -> None:
    for line in log:
        print(line, flush=True)


def load(application: str) -> Any:
    module, _, name = application.partition(":")
    return attrgetter(name or "application")(import_module(module))


# --- WSGI, by the standard library ------------------------------------------------------------------------------


def serve_wsgi(application: str, number: int, listening: int, shared: Shared) -> None:
    """Run in an interpreter: accept connections, one after another, until the pipe is at its end."""
    server = Server(load(application), number, listening, shared)
    ready = select.epoll()
    ready.register(server.socket, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    ready.register(shared.stopping, select.EPOLLHUP)
    with contextlib.closing(ready), server:
        while shared.stopping not in [descriptor for descriptor, _ in ready.poll()]:
            server.handle_request_if_any()


class Server(WSGIServer):
    """wsgiref's, over the socket that all share."""

    def __init__(
        self, application: Callable[..., Iterable[bytes]], number: int, listening: int, shared: Shared
    ) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=os.dup(listening))
        self.socket.setblocking(False)  # several may wake for one connection
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()
        self.set_app(application)
        self.base_environ.update({"multigil.interpreter": number, "multigil.hits": shared.hits})
        self.shared = shared

    def handle_request_if_any(self) -> None:
        try:
            connection, address = self.get_request()
        except BlockingIOError:  # another one has it
            return
        connection.setblocking(True)
        self.process_request(connection, address)


class Handler(WSGIRequestHandler):
    server: Server
    timeout = 5.0  # seconds for a client to say what it wants: nobody else is answered meanwhile

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "multigil.request": self.server.shared.hits.fetch_add(1) + 1}

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        number = self.server.base_environ["multigil.interpreter"]
        self.server.shared.log.put(f"[{number}] {self.address_string()} {format % args}")

    def handle(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            super().handle()


# --- ASGI, by uvicorn -------------------------------------------------------------------------------------------


def serve_asgi(application: str, number: int, listening: int, shared: Shared) -> None:
    """Run in an interpreter: uvicorn's server in an event loop of its own, until the pipe is at its end."""
    import asyncio

    import uvicorn

    async def count(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            request = shared.hits.fetch_add(1) + 1
            state = {"multigil.interpreter": number, "multigil.request": request, "multigil.hits": shared.hits}
            scope["state"] = {**scope.get("state", {}), **state}
            shared.log.put(f"[{number}] {scope['client'][0]} {scope['method']} {scope['path']}")
        await app(scope, receive, send)

    async def serve() -> None:
        server = uvicorn.Server(uvicorn.Config(count, http="h11", loop="asyncio", ws="none", log_config=None))
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # main has them

        def stop() -> None:
            loop.remove_reader(shared.stopping)
            server.should_exit = True

        loop = asyncio.get_running_loop()
        loop.add_reader(shared.stopping, stop)
        await server.serve([socket.socket(fileno=os.dup(listening))])

    app = load(application)
    asyncio.run(serve())


if __name__ == "__main__":
    main()
