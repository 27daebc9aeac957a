"""The page that shows what a model answers: its files, and what it has to know of a model.

One page for both places: the service answers it over HTTP, an exported folder has the model run in
the browser. `spec.json` beside `index.html` tells the page which of the two it is.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from distill.runtime.predict import Predictor

# In the folder `page/` beside `index.html`.
ASSETS = (
    "answer.js",
    "app.js",
    "camera.js",
    "local.js",
    "outliers.js",
    "picture.js",
    "pictures.js",
    "remote.js",
    "style.css",
    "view.js",
)
SHOWN = ("names", "task", "input_spec", "thresholds", "metrics", "precision", "license", "outliers")


def index_page(runtime: str | None = None) -> str:
    """`index.html`, which says itself what it may load.

    Args:
        runtime: Where onnxruntime-web comes from, if the model runs in the browser.
    """
    return _read("index.html").replace("CONTENT_SECURITY_POLICY", content_policy(runtime))


def asset(name: str) -> str:
    """One of `ASSETS`."""
    return _read(name)


def content_policy(runtime: str | None = None) -> str:
    """The page's Content-Security-Policy: its own files, and nobody else's.

    Args:
        runtime: As in `index_page`; another origin than the page's own is let in.
    """
    scripts = ["'self'"]
    connections = ["'self'"]
    if runtime is not None:
        scripts.append("'wasm-unsafe-eval'")
        connections.append("data:")  # which golden pictures are
        if origin := _origin(runtime):
            scripts += [origin, "blob:"]  # as which onnxruntime-web loads scripts of another origin
            connections.append(origin)
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(scripts),
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "connect-src": " ".join(connections),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{what} {whence}" for what, whence in allowed.items())


def describe_model(predictor: Predictor, name: str) -> dict[str, Any]:
    """What the page has to know of a model, as JSON."""
    shown = {key: predictor.metadata.get(key) for key in SHOWN}
    return {"name": name, "outputs": list(predictor.outputs), **shown}


def _origin(runtime: str) -> str:
    """`https://host` of a URL, nothing of a path."""
    parts = urlsplit(runtime)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc and parts.scheme else parts.netloc


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")
