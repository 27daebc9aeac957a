"""An S3 server on loopback (moto's) that can be told to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[..., Any]
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class ObjectStore:
    """A server at `url`.

    Attributes:
        fault: Is asked before each request, `METHOD /path?query`, what is to go wrong: `busy`
            (503), `slow`, `cut` (half of the answer), `lost` (done, and 503), `denied`, or
            nothing.
        seen: The requests so far.
    """

    url: str = ""
    fault: Callable[[str], str | None] = lambda request: None
    seen: list[str] = field(default_factory=list)

    def once(self, kind: str, part: str, times: int = 1) -> list[str]:
        """Has the next requests with `part` in them go wrong; returns those that did."""
        struck: list[str] = []

        def fault(request: str) -> str | None:
            if part in request and len(struck) < times:
                struck.append(request)
                return kind
            return None

        self.fault = fault
        return struck


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """A server as long as the context lasts."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    inner, store = DomainDispatcherApplication(create_backend_app), ObjectStore()

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    def answer(environ: dict[str, Any], start: Answer) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{query}"
        store.seen.append(request)
        kind = store.fault(request)
        if kind in ("busy", "denied", "lost"):
            if kind == "lost":
                b"".join(inner(environ, lambda *args: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status = "503 Slow Down" if kind != "denied" else "403 Forbidden"
            content = BUSY if kind != "denied" else b"<Error><Code>AccessDenied</Code></Error>"
            start(
                status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
            )
            return [content]
        if kind == "slow":
            time.sleep(1.0)
        content = b"".join(inner(environ, start))
        return _half(content) if kind == "cut" else [content]

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    yield store
    server.shutdown()
    thread.join()


def _half(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise ConnectionAbortedError
