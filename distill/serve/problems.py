"""What is answered when something is wrong: RFC 9457 bodies, whoever noticed it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
# What can be wrong: the last part of `type`, the status, and what is always said of it.
KINDS: dict[str, tuple[int, str]] = {
    "malformed-body": (400, "The body is not what its content type says"),
    "unauthorised": (401, "A bearer token is needed"),
    "unknown-model": (404, "No such model"),
    "slow-request": (408, "The request did not arrive in time"),
    "too-large": (413, "The request is too large"),
    "too-many-images": (413, "Too many images in one request"),
    "too-many-pixels": (413, "The image has too many pixels"),
    "unsupported-media-type": (415, "The body is neither an image nor a form with images"),
    "wrong-field": (422, "The form has a field that is not expected"),
    "wrong-parameter": (422, "The address has a parameter that is not expected"),
    "no-image": (422, "There is no image in the request"),
    "unreadable-image": (422, "The image cannot be read"),
    "faces-not-offered": (422, "Faces are not offered here"),
    "headers-too-large": (431, "The headers are too large"),
    "busy": (503, "More requests than can be answered"),
    "broken": (503, "The service cannot answer any more"),
    "stopping": (503, "The service is ending"),
    "slow-answer": (504, "The answer took too long"),
}


class Problem(Exception):
    """Something wrong that the client is told.

    Args:
        kind: One of `KINDS`.
        detail: What is wrong with this request, for people.
        headers: Of the answer.
        unread: The body has not been read to its end, so the connection cannot go on.
        more: Further members of the body.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        unread: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.title = KINDS[kind]
        self.kind, self.detail, self.unread, self.more = kind, detail, unread, more
        self.headers = dict(headers or {})
        if unread:
            self.headers["Connection"] = "close"


def busy(detail: str, unread: bool = False) -> Problem:
    """There is no room for a request now."""
    return Problem("busy", detail, {"Retry-After": "1"}, unread)


def problem_body(problem: Problem, instance: str, request_id: str) -> bytes:
    """The body that tells a client of a problem."""
    record = {
        "type": f"urn:distillate:{problem.kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "request_id": request_id,
        **problem.more,
    }
    return json.dumps(record).encode()


def status_body(status: int, detail: str, instance: str, request_id: str) -> bytes:
    """The same where the status says it all, as of a path that is not there."""
    title = HTTPStatus(status).phrase
    record = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps({**record, "instance": instance, "request_id": request_id}).encode()
