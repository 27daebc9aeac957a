"""What an option means stands beside it, and is printed from there."""

import json
from pathlib import Path

import pytest

from distill.config import Recipe
from distill.report.options import find_options, options_page, plugin_options, recipe_options


def test_every_option_says_what_it_means() -> None:
    options = [*recipe_options(), *plugin_options()]
    assert len(options) > 100
    assert [one.key for one in options if not one.text or not one.values] == []


def test_the_reference_page_is_made_from_the_options(repository: Path) -> None:
    """Repeat `distill options --markdown > docs/options.md` after a change."""
    assert (repository / "docs" / "options.md").read_text("utf-8") == options_page()


def test_every_key_of_a_recipe_is_there() -> None:
    known = {one.key for one in recipe_options()}
    for group, table in Recipe().model_dump(mode="json").items():
        keys = table if isinstance(table, dict) else ()
        assert {f"{group}.{key}" for key in keys} <= known
    assert {"seed", "student.train.lr", "student.cache.views", "views.per_class"} <= known


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("student.train.lr", ["student.train.lr"]),
        ("students.first.train.lr", ["student.train.lr"]),
        ("students.train.lr", ["student.train.lr"]),
        ("student.transfer.mode", ["student.transfer.mode"]),
        ("teacher.train.lr", ["student.train.lr"]),
        ("train.lr", ["student.train.lr"]),
        ("student.cache", ["student.cache.use", "student.cache.views", "student.cache.top_k"]),
        ("student.strategy.noise_std", ["student.strategy.noise_std"]),
    ],
)
def test_an_option_is_found_as_it_is_typed(key: str, found: list[str]) -> None:
    assert [one.key for one in find_options(key)] == found


def test_the_command_prints_one_and_says_what_was_meant(distill) -> None:
    status, out, _ = distill("options", "student.train.patience", "--json")
    assert status == 0
    (option,) = json.loads(out.splitlines()[-1])["options"]
    assert option["default"] == "0"
    assert "alidations" in out.splitlines()[2]
    for typed, meant in (("temprature", "strategy.temperature"), ("train.epocs", "train.epochs")):
        status, _, err = distill("options", typed)
        assert status == 2
        assert meant in err
