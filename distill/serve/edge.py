"""What surrounds every request: its id, the token, headers of security, the log, the counts."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
import secrets
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distill.serve.logs import LOGGER, log
from distill.serve.metrics import Metrics
from distill.serve.problems import MEDIA_TYPE, Problem, problem_body

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# To whoever has no token; the page has to ask for it.
OPEN = ("/healthz", "/readyz", "/", "/spec.json")
OPEN_BELOW = "/page/"
PATHS = ("/v1/predict", "/v1/models", "/metrics", "/openapi.json", *OPEN)
SECURITY = {  # where the answer does not say it itself
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
LINGER_BYTES, LINGER_S = 2**26, 2.0  # of a body that is refused and still being sent
CLIENT_GONE = 499


class ProblemResponse(Response):
    """A problem as an answer.

    A client that is still sending would see its connection reset, not the answer, if it were
    closed at once; so what it sends is thrown away for a while.
    """

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, scope: Scope) -> None:
        request_id = scope["state"].get("request_id", "")
        body = problem_body(problem, scope["path"], request_id)
        super().__init__(body, problem.status, problem.headers)
        self._unread = problem.unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        if not self._unread:
            await super().__call__(scope, receive, send)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await _discard(receive)
        await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def problem_response(request: Request, error: Exception) -> Response:
    """What FastAPI answers to a problem that was raised."""
    assert isinstance(error, Problem)
    return ProblemResponse(error, request.scope)


class Edge:
    """An ASGI application around another one.

    Args:
        token: What clients have to send as `Authorization: Bearer TOKEN`; None for no such thing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None = None) -> None:
        self._app, self._metrics = app, metrics
        # Unique as a random number is, without asking the system for one at every request.
        self._ids = map(f"{secrets.token_hex(8)}-{{:x}}".format, itertools.count())
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, given = time.perf_counter(), header(scope, b"x-request-id")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else next(self._ids)
        seen = _Seen(request_id, send)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        try:
            if self._is_stranger(scope):
                detail = "send the header Authorization: Bearer TOKEN"
                headers = {"WWW-Authenticate": 'Bearer realm="distill"'}
                problem = Problem("unauthorised", detail, headers, unread=True)
                await ProblemResponse(problem, scope)(scope, receive, seen.send)
            else:
                await self._app(scope, receive, seen.send)
        except Exception:
            LOGGER.exception("error", extra={"fields": {"request_id": request_id}})
        finally:
            status = CLIENT_GONE if state.get("gone") else seen.status
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            level = logging.ERROR if status == 500 else logging.INFO
            log(
                level,
                "request",
                request_id=request_id,
                method=scope["method"],
                path=path,
                status=status,
                ms=round(1e3 * (time.perf_counter() - start), 2),
                **state.get("log", {}),
            )

    def _is_stranger(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if self._token is None or path in OPEN or path.startswith(OPEN_BELOW):
            return False
        scheme, _, given = header(scope, b"authorization").partition(b" ")
        return scheme.lower() != b"bearer" or not hmac.compare_digest(given, self._token)


class _Seen:
    """What goes out in answer to a request, seen on its way."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id, self.status = request_id, 500
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message["headers"])
            names = {name.lower() for name, _ in headers}
            headers += [pair for pair in SECURITY.items() if pair[0] not in names]
            headers.append((b"x-request-id", self.request_id.encode()))
            message["headers"] = headers
        await self._send(message)


def header(scope: Scope, name: bytes) -> bytes:
    """A header of a request; empty where it has none."""
    return next((value for key, value in scope["headers"] if key == name), b"")
