"""Applications for `serve.py`. Each answer says which interpreter it comes from, and which request it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def work(n: int) -> int:
    """Keep a GIL busy."""
    return sum(i * i for i in range(n))


def answer(state: dict[str, Any], query: str) -> bytes:
    words = {
        "interpreter": state["multigil.interpreter"],
        "request": state["multigil.request"],
        "hits": state["multigil.hits"].value,
        "work": work(int(query or 0)),
    }
    return json.dumps(words).encode()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    body = answer(environ, environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = answer(scope["state"], scope["query_string"].decode())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
