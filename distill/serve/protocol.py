"""HTTP on a connection as uvicorn does it, with what it leaves open: limits before a request."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distill.serve.logs import log
from distill.serve.problems import MEDIA_TYPE, Problem, busy, problem_body, status_body
from distill.serve.settings import MAX_CONNECTIONS, Limits

MAX_HEAD = 32 * 1024  # bytes of a request's line and headers
UPGRADE = re.compile(rb"(\r\nupgrade)(?=:)", re.IGNORECASE)
END = b"\r\n\r\n"  # of a head


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed if a request's head is too slow or too large.

    Without this a client that never finishes its headers keeps a connection for good, and one that
    never ends them fills the memory.

    An offer to go on in another protocol is not taken up, and the request is answered (RFC 9110,
    7.8). httptools would end it at its head: clients such as Java's offer HTTP/2 with a picture.

    Attributes:
        limits: Of the process; set before the server starts.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: int | None = 0  # bytes of a head that has not ended; None in a body
        self._end_of_head = b""  # as much as may be of a header's name that has not come whole
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request, or refuses the connection."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(busy(f"{MAX_CONNECTIONS:,} connections are open"))
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless the head is too large already."""
        if self._head is not None:
            self._head += len(data)
            data = self._without_upgrade(data)
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head is not None and self._head > MAX_HEAD:
            detail = f"a request's head has at most {MAX_HEAD:,} bytes here"
            self._refuse(Problem("headers-too-large", detail))

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head has come."""
        self._head, self._end_of_head = None, b""
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request's body has come; what follows is the next one's head."""
        self._head = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        request_id = uuid.uuid4().hex
        self._write(400, status_body(400, msg, "", request_id), {}, request_id)

    def _without_upgrade(self, data: bytes) -> bytes:
        """Part of a head, and maybe a body, whose header `Upgrade` has a name that means nothing.

        What is put in stands before the colon, which has not been passed on yet.
        """
        known = self._end_of_head + data
        head, end, rest = known.partition(END)
        self._end_of_head = known[-len(b"\r\nupgrade") :]
        return (UPGRADE.sub(rb"\1-Ignored", head) + end + rest)[len(known) - len(data) :]

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(self.limits.header_timeout_s, self._on_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _on_late(self) -> None:
        detail = f"the headers took more than {self.limits.header_timeout_s:g} s"
        self._refuse(Problem("slow-request", detail))

    def _refuse(self, problem: Problem) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer to an earlier request is under way
            return
        request_id = uuid.uuid4().hex
        body = problem_body(problem, "", request_id)
        self._write(problem.status, body, problem.headers, request_id)

    def _write(self, status: int, body: bytes, headers: dict[str, str], request_id: str) -> None:
        if self.transport.is_closing():
            return
        fields = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
            "x-request-id": request_id,
            **headers,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        log(logging.INFO, "refused", request_id=request_id, status=status)
        self._stop_waiting()
        self.transport.close()
