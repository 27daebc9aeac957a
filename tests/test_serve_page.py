"""The page's files, policy and routes; what it does in a browser: tests/test_web_page.py."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.runtime import page
from distill.runtime.page import ASSETS, asset, content_policy, describe_model, index_page

FOLDER = Path(page.__file__).parent


@pytest.fixture(scope="module")
def predictor() -> Any:
    """What the page asks of a `Predictor`."""
    names, spec = ["red", "green", "blue"], {"height": 16, "width": 16, "resize": "squash"}
    metadata = {"names": names, "task": "single", "input_spec": spec, "thresholds": {}}
    return SimpleNamespace(metadata=metadata, outputs=("prob", "cam"))


@pytest.fixture(scope="module")
def client(predictor):
    pytest.importorskip("httpx")
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from distill.serve.page import router_of

    app = fastapi.FastAPI()
    app.include_router(router_of({"first": predictor, "second": predictor}, faces=True))
    return TestClient(app)


class Reader(HTMLParser):
    """What a page loads, and what of it a strict policy would stop."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag in ("script", "img", "link"):
            self.loads.append(str(given.get("src") or given.get("href")))


def test_all_files_of_the_page_are_listed_and_none_is_inline() -> None:
    kinds = (".js", ".css")
    assert sorted(ASSETS) == sorted(f.name for f in FOLDER.iterdir() if f.suffix in kinds)
    reader = Reader()
    reader.feed(index_page())
    assert reader.inline == []
    assert reader.loads == ["data:,", "page/style.css", "page/app.js"]


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_scripts_import_each_other_alone_and_name_no_address(name) -> None:
    source = asset(name)
    imported = re.findall(r'^import .* from "(.*)";$', source, re.MULTILINE)
    assert {file.removeprefix("./") for file in imported} <= set(ASSETS)
    assert not re.search(r"https?://\w", source)
    assert not re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML", source)


@pytest.mark.parametrize(
    ("runtime", "origin"),
    [
        ("ort/", ""),
        ("https://cdn.example.org/npm/x@1/dist/", "https://cdn.example.org"),
        ("//cdn.example.org/dist/", "cdn.example.org"),
    ],
)
def test_the_policy_lets_in_where_the_runtime_is_and_nobody_else(runtime, origin) -> None:
    policy = dict(part.split(" ", 1) for part in content_policy(runtime).split("; "))
    own = ["'self'", "'wasm-unsafe-eval'", *([origin, "blob:"] if origin else [])]
    assert policy["script-src"].split() == own
    assert policy["connect-src"].split() == ["'self'", "data:", *([origin] if origin else [])]
    assert policy["default-src"] == "'none'"
    assert content_policy(runtime) in index_page(runtime)


def test_the_service_shows_the_page_with_a_strict_policy(client, predictor) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.text == index_page()
    spec = client.get("/spec.json").json()
    names = ("first", "second")
    models = [describe_model(predictor, name) for name in names]
    assert spec == {"engine": "server", "faces": True, "models": models}
    assert models[0]["names"] == ["red", "green", "blue"]
    assert models[0]["metrics"] is None  # which a file need not have
    for name in ASSETS:
        answer = client.get(f"/page/{name}")
        assert answer.text == asset(name)
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "__init__.py", "..%2F__init__.py", "nothing.js"])
def test_no_other_file_is_given_away(name, client) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_no_part_of_the_api(client) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}
