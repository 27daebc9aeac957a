"""The page at `/` of the service: files of `distill.runtime.page`, and a strict policy of content.

Nothing here asks for a token: the page is where one is entered. `spec.json` names the classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import JSONResponse

from distill.runtime.page import ASSETS, asset, content_policy, describe_model, index_page
from distill.runtime.predict import Predictor

TYPES = {".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    # A policy in a page cannot say who may frame it; a header can.
    "Content-Security-Policy": f"{content_policy()}; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def router_of(predictors: Mapping[str, Predictor], *, faces: bool = False) -> APIRouter:
    """Routes of the page, which are no part of the API's description.

    Args:
        predictors: The service's models by name, the default first.
        faces: The service finds faces, so the page may ask for them.
    """
    router = APIRouter(include_in_schema=False)
    models = [describe_model(predictor, name) for name, predictor in predictors.items()]
    spec = {"engine": "server", "faces": faces, "models": models}
    index, assets = index_page(), {name: asset(name) for name in ASSETS}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return Response(index, media_type="text/html", headers=HEADERS)

    @router.get("/spec.json")
    async def page_spec() -> Response:
        return JSONResponse(spec, headers=HEADERS)

    @router.get("/page/{name}")
    async def page_asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "no such file of the page")
        media_type = TYPES[name[name.rindex(".") :]]
        return Response(assets[name], media_type=media_type, headers=HEADERS)

    return router
