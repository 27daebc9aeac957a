"""`distill serve`: shipped files behind HTTP, without torch."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from distill.cli import INTERRUPTED
from distill.cli.options import model_path
from distill.errors import UserError, install_command
from distill.storage import is_address

PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client", "python_multipart")
MIB = 2**20
LIMITS = "Limits"

ModelsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]MODEL...", help="Shipped ONNX files or experiments; the first is default."
    ),
]


def fetched(argument: str) -> str:
    """A model as it was named, but with what is behind an address fetched."""
    name, is_named, place = argument.partition("=")
    if is_named and is_address(place):
        return f"{name}={model_path(place)}"
    return str(model_path(argument))


def serve_command(
    models: ModelsArg,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    decode_threads: Annotated[
        int | None, typer.Option(min=1, help="Of each worker; by default as many as processors.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each model, within an operator.")] = 1,
    token_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file with the token that clients send; or the variable DISTILL_TOKEN.",
        ),
    ] = None,
    faces: Annotated[bool, typer.Option("--faces", help="Offer faces=true; needs OpenCV.")] = False,
    face_model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YuNet's file, instead of the cascade."),
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft/--no-draft", help="Decode large JPEGs scaled down, by the DCT.")
    ] = True,
    max_mb: Annotated[
        float, typer.Option(min=0.01, max=1024, help="Of a body, MiB.", rich_help_panel=LIMITS)
    ] = 16,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, max=178, help="Of a picture.", rich_help_panel=LIMITS)
    ] = 64,
    max_images: Annotated[
        int, typer.Option(min=1, max=1000, help="Of a request.", rich_help_panel=LIMITS)
    ] = 32,
    queue: Annotated[
        int, typer.Option(min=1, help="Images of a model that wait.", rich_help_panel=LIMITS)
    ] = 128,
    batch_size: Annotated[
        int, typer.Option(min=1, max=4096, help="Most in a batch.", rich_help_panel=LIMITS)
    ] = 32,
    batch_wait_ms: Annotated[
        float,
        typer.Option(min=0, max=1000, help="Longest that a batch waits.", rich_help_panel=LIMITS),
    ] = 1.0,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="For an answer.", rich_help_panel=LIMITS)
    ] = 10,
    body_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="For a body to arrive.", rich_help_panel=LIMITS)
    ] = 30,
    header_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="For headers to arrive.", rich_help_panel=LIMITS)
    ] = 10,
    keep_alive_s: Annotated[
        int,
        typer.Option(min=1, help="For which idle connections stay.", rich_help_panel=LIMITS),
    ] = 75,
    grace_s: Annotated[
        int, typer.Option(min=1, help="To finish when told to end.", rich_help_panel=LIMITS)
    ] = 30,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Answer over HTTP with shipped files; needs no torch, but the extra serve."""
    check_packages()
    from distill.serve.logs import LEVELS, start_logs
    from distill.serve.server import serve
    from distill.serve.settings import Limits, Settings, named_models, processors, read_token

    if log_level not in LEVELS:
        hint = f"choose one of {', '.join(LEVELS)}"
        raise UserError(f"no level {log_level!r}", "--log-level", hint)
    if max_images > queue:
        what = f"a request of {max_images} images never fits a queue of {queue}"
        raise UserError(what, "--queue", "raise it, or lower --max-images")
    if workers > 1 and not hasattr(os, "fork"):
        hint = "start one, or several at ports of their own"
        raise UserError("this system cannot fork workers", "--workers", hint)
    settings = Settings(
        models=named_models(map(fetched, models)),
        host=host,
        port=port,
        workers=workers,
        decode_threads=decode_threads or processors(),
        threads=threads,
        token=read_token(token_file, os.environ.get("DISTILL_TOKEN")),
        faces=faces or face_model is not None,
        face_model=face_model,
        draft=2 if draft else 0,
        limits=Limits(
            max_bytes=round(max_mb * MIB),
            max_pixels=round(max_megapixels * 1e6),
            max_images=max_images,
            queue=queue,
            batch_size=batch_size,
            batch_wait_ms=batch_wait_ms,
            timeout_s=timeout_s,
            body_timeout_s=body_timeout_s,
            header_timeout_s=header_timeout_s,
            keep_alive_s=keep_alive_s,
            grace_s=grace_s,
        ),
    )
    start_logs(log_level)
    if serve(settings) == signal.SIGINT:
        sys.exit(INTERRUPTED)


def check_packages() -> None:
    """Raises `UserError` where the extra is not installed."""
    for package in PACKAGES:
        if find_spec(package) is None:
            hint = install_command("serve")
            raise UserError(f"this command needs {package}", hint=hint)
