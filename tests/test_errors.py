"""What errors owe to whoever reads them."""

import ast
import json

import pytest

from distill.errors import install_command

FOLDERS = ("distill", "students", "teachers", "benchmarks")
ERRORS = {"UserError", "RunStopped", "NoSpace", "NotFinite"}
ASKS = "return UserError(what) if what else None"  # of an error that ends in "Did you mean …?"


def test_every_error_says_what_to_do(repository):
    """Twenty of them said what was wrong, and left it there."""
    silent = []
    for file in (file for folder in FOLDERS for file in (repository / folder).rglob("*.py")):
        text = file.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                hinted = node.args[2:] or any(k.arg == "hint" for k in node.keywords)
                line = text.splitlines()[node.lineno - 1].strip()
                if not hinted and line != ASKS:
                    silent.append(f"{file.relative_to(repository)}:{node.lineno}")
    assert silent == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///home/a%20b/clone", "pip install '/home/a b/clone[serve]'"),
        ("file:///tmp/x-1.whl", "pip install '/tmp/x-1.whl[serve]'"),
        ("https://example.com/x-1.whl", "in the clone, pip install '.[serve]'"),
        (None, "in the clone, pip install '.[serve]'"),
    ],
)
def test_extras_come_from_where_the_package_came_from(monkeypatch, url, said):
    """PyPI has another project of that name."""

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return json.dumps({"url": url}) if url else None

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())
    assert install_command("serve") == said
