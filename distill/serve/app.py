"""The service as an ASGI application: its paths, and problems instead of tracebacks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from distill import __version__
from distill.runtime.predict import Predictor
from distill.serve import metrics as figures
from distill.serve.documentation import openapi_of
from distill.serve.edge import Edge, problem_response
from distill.serve.metrics import Metrics
from distill.serve.page import router_of
from distill.serve.pictures import FacesIn
from distill.serve.problems import MEDIA_TYPE, Problem, status_body
from distill.serve.service import Service
from distill.serve.settings import Settings


def application(
    settings: Settings,
    predictors: Mapping[str, Predictor],
    faces_in: FacesIn | None = None,
) -> ASGIApp:
    """All that a worker serves.

    Args:
        predictors: By the name they are asked for.
        faces_in: Finds faces, from any thread; None where they are not offered.
    """
    metrics = Metrics()
    service = Service(settings, predictors, metrics, faces_in)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Distillate",
        version=__version__,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            Problem: problem_response,
            HTTPException: _status_response,
            Exception: _failure_response,
        },
    )
    # An ASGI application of its own: what FastAPI does for functions is not needed on this path.
    app.router.routes.insert(0, Route("/v1/predict", service, methods=["POST"]))
    _add_paths(app, service)
    app.include_router(router_of(predictors, faces=faces_in is not None))
    app.openapi = lambda: openapi_of(service.models)  # type: ignore[method-assign]
    if settings.workers == 1:
        figures.of_this_process(metrics)
    return Edge(app, metrics, settings.token)


def _add_paths(app: FastAPI, service: Service) -> None:
    @app.api_route("/healthz", methods=["GET", "HEAD"])
    async def health() -> Response:
        if service.is_alive:
            return _said("ok")
        raise Problem("broken", "a model's thread has died: start the service anew")

    @app.api_route("/readyz", methods=["GET", "HEAD"])
    async def readiness() -> Response:
        if service.is_alive and not service.stopping:
            return _said("ready")
        raise Problem("stopping", "ask another one", {"Retry-After": "1"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=figures.MEDIA_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"models": service.descriptions}


def _said(word: str) -> Response:
    return Response(f'{{"status": "{word}"}}', media_type="application/json")


async def _status_response(request: Request, error: Exception) -> Response:
    """What is answered to a path that is not there, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    return _plain(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def _failure_response(request: Request, error: Exception) -> Response:
    """What is answered to a mistake of ours; what it was is in the log, under the request's id."""
    return _plain(request, 500, "see the log of the service", {})


def _plain(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    request_id = request.scope["state"].get("request_id", "")
    body = status_body(status, detail, request.scope["path"], request_id)
    return Response(body, status, headers, MEDIA_TYPE)
