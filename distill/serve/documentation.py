"""The OpenAPI document, written by hand: it has to say what is served, and costs no request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distill import __version__
from distill.serve.problems import KINDS, MEDIA_TYPE

Schema = dict[str, Any]
NUMBER, TEXT, BOOLEAN = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def _object(required: Iterable[str] = (), **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


ANSWER = {
    "labels": _list(TEXT),
    "prob": PROBABILITY,
    "probs": {"type": "object", "additionalProperties": PROBABILITY},
    "abstained": BOOLEAN,
    "outlier": BOOLEAN,
    "map": _reference("Map"),
}
ANSWERED = ("labels", "prob", "probs", "abstained")
SIZE = _list({"type": "integer"}, minItems=2, maxItems=2)
BOX = _list({"type": "integer"}, minItems=4, maxItems=4)
PATH = {"type": ["string", "null"], "description": "The file's name in the form."}
SCHEMAS: dict[str, Schema] = {
    "Map": _object(
        ("label", "shape", "values"),
        label=TEXT,
        shape=_list({"type": "integer"}),
        values=_list(NUMBER, description="Row by row."),
    ),
    "Face": _object(
        ("box", *ANSWERED),
        box={**BOX, "description": "x, y, width, height in pixels of the upright picture."},
        **ANSWER,
    ),
    "Picture": _object(("path", "size", *ANSWERED), path=PATH, size=SIZE, **ANSWER),
    "PictureOfFaces": _object(
        ("path", "size", "faces"), path=PATH, size=SIZE, faces=_list(_reference("Face"))
    ),
    "Predictions": _object(
        ("model", "predictions", "timing_ms"),
        model=TEXT,
        predictions=_list({"anyOf": [_reference("Picture"), _reference("PictureOfFaces")]}),
        timing_ms=_object((), decode=NUMBER, queue=NUMBER, model=NUMBER, total=NUMBER),
    ),
    "Models": _object(
        ("models",),
        models=_list(
            _object(
                ("name", "sha256", "size_bytes", "outputs", "metadata"),
                name=TEXT,
                sha256=TEXT,
                size_bytes={"type": "integer"},
                outputs=_list(TEXT),
                metadata={"type": "object"},
            )
        ),
    ),
    "Status": _object(("status",), status=TEXT),
    "Problem": _object(
        ("type", "title", "status", "detail", "instance", "request_id"),
        type=TEXT,
        title=TEXT,
        status={"type": "integer"},
        detail=TEXT,
        instance=TEXT,
        request_id=TEXT,
        image=_object(("index", "path"), index={"type": "integer"}, path=PATH),
    ),
}


def openapi_of(models: Iterable[str]) -> Schema:
    """The document of a service with these models."""
    names, files = list(models), {"type": "string", "contentMediaType": "application/octet-stream"}
    form = _object((), image=_list(files, description="One or more files."), images=_list(files))
    predict: Schema = {
        "summary": "Labels of one picture, or of several",
        "operationId": "predict",
        "parameters": [
            _parameter("model", {"enum": names, "default": names[0]}, "Which model is asked."),
            _parameter("faces", {**BOOLEAN, "default": False}, "Each face on its own."),
            _parameter("explain", {**BOOLEAN, "default": False}, "Add the activation map."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": files},
                "application/octet-stream": {"schema": files},
            },
        },
        "responses": {"200": _answer("The answers, in the order of the pictures.", "Predictions")},
        "security": [{}, {"token": []}],
    }
    for status in sorted({status for status, _ in KINDS.values()}):
        titles = "; ".join(title for code, title in KINDS.values() if code == status)
        predict["responses"][str(status)] = {
            "description": titles,
            "content": {MEDIA_TYPE: {"schema": _reference("Problem")}},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Distillate", "version": __version__},
        "paths": {
            "/v1/predict": {"post": predict},
            "/v1/models": {"get": _get("What is inside the models", "Models")},
            "/healthz": {"get": _get("Whether the process lives", "Status")},
            "/readyz": {"get": _get("Whether requests are answered", "Status")},
            "/metrics": {
                "get": {
                    "summary": "Figures for Prometheus",
                    "responses": {"200": {"description": "All workers' figures, in text."}},
                }
            },
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _answer(description: str, schema: str) -> Schema:
    return {
        "description": description,
        "content": {"application/json": {"schema": _reference(schema)}},
    }


def _get(summary: str, schema: str) -> Schema:
    return {"summary": summary, "responses": {"200": _answer(summary, schema)}}
