"""A request's body as pictures, read no further than its limits: raw bytes, or a form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from distill.serve.problems import Problem, busy
from distill.serve.settings import BODIES, Limits

FIELDS = (b"image", b"images")
RAW = (b"application/octet-stream",)
MAX_PART_HEADERS, MAX_PART_HEADER = 8, 4096
MAX_NAME = 255  # characters of a file's name


class ClientGone(Exception):
    """The connection ended before the body did: nobody waits for an answer."""


@dataclass
class Upload:
    """One picture of a request, as it came.

    Attributes:
        name: What the client calls it, which goes back to it and nowhere else.
    """

    content: bytes
    name: str | None = None


@dataclass
class Reader:
    """Reads bodies, and keeps count of what a worker holds of them.

    Attributes:
        held: Bytes of bodies that are being read or answered.
    """

    limits: Limits
    held: int = 0

    async def read(self, scope: Scope, receive: Receive) -> tuple[list[Upload], int]:
        """The pictures of a request, and the bytes of its body, which `free` gives back.

        Raises:
            Problem: It is too large, too slow, of another kind, or no form.
            ClientGone: The client has gone.
        """
        headers = dict(scope["headers"])
        kind, options = parse_options_header(headers.get(b"content-type", b""))
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.limits.max_bytes:
            raise self._too_large()
        parse: _Form | _Raw
        if kind == b"multipart/form-data":
            if not (boundary := options.get(b"boundary")):
                raise Problem("malformed-body", "the form has no boundary", unread=True)
            parse = _Form(boundary, self.limits)
        elif kind.startswith(b"image/") or kind in RAW:
            parse = _Raw()
        else:
            accepted = {"Accept": "image/*, application/octet-stream, multipart/form-data"}
            detail = "send an image with its content type, or a form with parts called image"
            raise Problem("unsupported-media-type", detail, accepted, unread=True)
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                async for chunk in _chunks(receive):
                    size += len(chunk)
                    self.held += len(chunk)
                    if size > self.limits.max_bytes:
                        raise self._too_large()
                    if self.held > BODIES * self.limits.max_bytes:
                        raise busy("too much is being sent at the same time", unread=True)
                    parse.write(chunk)
            return parse.uploads(), size
        except BaseException as error:
            self.free(size)
            if isinstance(error, TimeoutError):
                detail = f"the body took more than {self.limits.body_timeout_s:g} s"
                raise Problem("slow-request", detail, unread=True) from None
            raise

    def free(self, size: int) -> None:
        """Gives back what a body took."""
        self.held -= size

    def _too_large(self) -> Problem:
        detail = f"a body has at most {self.limits.max_bytes:,} bytes here"
        return Problem("too-large", detail, unread=True)


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if body := message.get("body", b""):
            yield body
        if not message.get("more_body"):
            return


@dataclass
class _Raw:
    """A body that is one picture."""

    chunks: list[bytes] = field(default_factory=list)

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def uploads(self) -> list[Upload]:
        if not self.chunks:
            raise Problem("no-image", "the body is empty")
        return [Upload(self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks))]


class _Form:
    """A body of several parts, of which each is a picture."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._limits = limits
        self._names: list[str | None] = []
        self._parts: list[list[bytes]] = []
        self._header, self._value, self._disposition = b"", b"", b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER,
            )
        except FormParserError as error:
            raise Problem("malformed-body", str(error), unread=True) from None

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Problem("malformed-body", f"no form: {error}", unread=True) from None

    def uploads(self) -> list[Upload]:
        if not self._ended:
            raise Problem("malformed-body", "the form ends before its last boundary")
        if not self._parts:
            raise Problem("no-image", "the form is empty: send parts called image")
        return [
            Upload(b"".join(chunks), name)
            for chunks, name in zip(self._parts, self._names, strict=True)
        ]

    def _begin(self) -> None:
        if len(self._parts) == self._limits.max_images:
            detail = f"a request has at most {self._limits.max_images} images here"
            raise Problem("too-many-images", detail, unread=True)
        self._parts.append([])
        self._header, self._value, self._disposition = b"", b"", b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if (name := options.get(b"name", b"")) not in FIELDS:
            shown = name[:80].decode("utf-8", "replace")
            detail = f"a part is called {shown!r}: call each image, or images"
            raise Problem("wrong-field", detail, unread=True)
        file = options.get(b"filename")
        self._names.append(None if file is None else file.decode("utf-8", "replace")[:MAX_NAME])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._parts[-1].append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True
