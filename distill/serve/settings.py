"""What a service is told when it starts: its models, where it listens, and its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distill.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_CONNECTIONS = 1000  # of a worker; most systems give a process 1,024 files
BODIES = 16  # of the largest size that a worker holds at the same time
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how much may wait; of each worker.

    Attributes:
        max_bytes: Of a request's body.
        max_pixels: Of a picture, before any scaling.
        max_images: Of a request.
        queue: Pictures of a model that are accepted and not yet answered.
        batch_size: Pictures that the model sees at a time.
        batch_wait_ms: How long a batch waits for pictures that are being decoded.
        timeout_s: From a body that has arrived to its answer.
        body_timeout_s: For a body to arrive.
        header_timeout_s: For a request's line and headers to arrive.
        keep_alive_s: A connection stays open without a request; proxies want it above theirs.
        grace_s: For what was accepted to be finished, when the service is told to end.
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 64_000_000
    max_images: int = 32
    queue: int = 128
    batch_size: int = 32
    batch_wait_ms: float = 1.0
    timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    keep_alive_s: int = 75
    grace_s: int = 30


@dataclass(frozen=True)
class Settings:
    """All that a worker needs.

    Attributes:
        models: Files or experiments by the name they are asked for; the first is the default.
        port: 0 takes any that is free.
        decode_threads: Of each worker.
        threads: Of each model within an operator.
        token: What a client has to know; None lets everybody ask.
        faces: `faces=true` may be asked for.
        face_model: A file for the face detector instead of the cascade that OpenCV brings.
        draft: JPEGs are decoded to this many times the model's size; 0 decodes all of them.
    """

    models: dict[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    decode_threads: int = 2
    threads: int = 1
    token: str | None = field(default=None, repr=False)
    faces: bool = False
    face_model: Path | None = None
    draft: int = 2
    limits: Limits = field(default_factory=Limits)


def named_models(arguments: Iterable[str]) -> dict[str, Path]:
    """Paths by name: `NAME=PATH`, or a path alone, which is called as its file or folder is.

    Raises:
        UserError: Two have the same name, or one has a name that no address can have.
    """
    models: dict[str, Path] = {}
    for argument in arguments:
        name, is_named, place = argument.partition("=")
        path = Path(place)
        if not is_named or Path(argument).exists() or "/" in name:
            path = Path(argument)
            name = path.resolve().name.removesuffix(".onnx")
        hint = "name it: NAME=PATH"
        if not NAME.fullmatch(name):
            what = f"{name!r} is no name of a model, letters, digits, dots and dashes are"
            raise UserError(what, argument, hint)
        if name in models:
            raise UserError(f"two models are called {name!r}", argument, hint)
        models[name] = path
    return models


def read_token(file: Path | None, given: str | None) -> str | None:
    """The bearer token of a file or, without one, of the environment.

    Raises:
        UserError: It is empty, or no header could carry it.
    """
    if file is None and given is None:
        return None
    where = str(file) if file else "DISTILL_TOKEN"
    try:
        token = (file.read_text("utf-8") if file else str(given)).strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        hint = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        raise UserError("no token of printable ASCII without spaces", where, hint)
    return token


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
