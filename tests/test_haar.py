"""The baseline of Haar cascades: a table of what was found, filled by the training split alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from distill.config import Recipe
from distill.data.store import Split
from distill.errors import UserError, install_command
from distill.pipeline.plan import check_plugins
from distill.pipeline.report import _baseline_rows
from distill.recipe import load_recipe
from distill.scoring import haar
from distill.scoring.baselines import small_pixels

pytest.importorskip("cv2")
ONLY_HAAR = {"random_forest": {"trees": 0}}


@pytest.fixture
def found(monkeypatch) -> dict[str, list[tuple[int, ...]]]:
    """What the cascades find in each image, by the name of its split."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    monkeypatch.setattr(
        haar.Cascades, "seen", lambda self, split, ids: np.array(seen[split.name])[ids]
    )
    return seen


def split(name: str, labels: list) -> Split:
    names = tuple(f"{name}/{i}" for i in range(len(labels)))
    return Split(name, np.zeros((len(labels), 8, 8, 3), np.uint8), np.array(labels), names)


def test_shares_of_the_classes_where_the_same_was_found(data, found):
    """Of 5 training images 3 and 2 have the classes, so the one more image counts 0.6 and 0.4.

    A mouth was found in two of class 0 and one of class 1: (2 + 0.6) / 4 and (1 + 0.4) / 4.
    Nothing in one of each: (1 + 0.6) / 3 and (1 + 0.4) / 3. Two eyes in none: the usual shares.
    """
    mouth, nothing, eyes = (1, 0, 0, 1), (0, 0, 0, 0), (1, 0, 2, 0)
    found["train"] = [mouth, mouth, mouth, nothing, nothing]
    found["test"] = [nothing, mouth, eyes]
    splits = {"train": split("train", [0, 0, 1, 0, 1]), "test": split("test", [1, 1, 1])}
    few = replace(data, splits=splits, classes=("a", "b"))
    expected = [[1.6 / 3, 1.4 / 3], [2.6 / 4, 1.4 / 4], [0.6, 0.4]]
    np.testing.assert_allclose(haar.haar_probs(few), expected)


def test_of_several_labels_each_has_a_share_of_its_own(data, found):
    """Of 2 training images both have label 0 and one has label 1, the usual shares are 1 and 0.5.

    Where a face was found in the one with both: (1 + 1) / 2 and (1 + 0.5) / 2.
    """
    face, nothing = (1, 0, 0, 0), (0, 0, 0, 0)
    found["train"], found["test"] = [face, nothing], [face, nothing]
    splits = {"train": split("train", [[1, 1], [1, 0]]), "test": split("test", [[0, 0], [0, 0]])}
    few = replace(data, splits=splits, classes=("a", "b"), task="multi")
    np.testing.assert_allclose(haar.haar_probs(few), [[1.0, 0.75], [1.0, 0.25]])


def test_images_are_decoded_once_each_and_some_at_a_time():
    class Decoded:
        shape, asked = (600, 8, 8, 3), []

        def take(self, ids):
            self.asked.append(len(ids))
            return np.zeros((len(ids), 8, 8, 3), np.uint8)

    streamed = replace(split("train", [0] * 600), stored=Decoded())
    assert not haar.shows_faces(streamed)
    assert Decoded.asked == [1] * haar.SAMPLE
    Decoded.asked.clear()
    assert haar.Cascades().seen(streamed, np.arange(5)).shape == (5, 4)
    assert Decoded.asked == [1] * 5
    Decoded.asked.clear()
    assert small_pixels(streamed, 4).shape == (600, 48)
    assert sum(Decoded.asked) == 600
    assert max(Decoded.asked) < 600


def test_faces_are_told_from_what_is_none(data, make_experiment, tmp_path):
    colours = make_experiment(tmp_path, "single").data
    assert haar.is_wanted(data, "auto")
    assert not haar.is_wanted(colours, "auto")
    assert haar.is_wanted(colours, "on")
    assert not haar.is_wanted(data, "off")


def test_the_labels_of_the_test_split_change_nothing(data):
    test = replace(data.test, labels=np.roll(data.test.labels, 5))
    probs = haar.haar_probs(data)
    moved = haar.haar_probs(replace(data, splits={**data.splits, "test": test}))
    np.testing.assert_array_equal(probs, moved)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)
    assert len(np.unique(probs, axis=0)) > 1


def test_it_is_a_row_beside_the_forest(data):
    (row,) = _baseline_rows(data, Recipe(**ONLY_HAAR))
    assert (row.name, row.kind, row.seed) == ("haar_cascades", "control", None)
    assert row.test["n"] == len(data.test.labels)
    assert list(_baseline_rows(data, Recipe(**ONLY_HAAR, haar="off"))) == []


def test_without_opencv_nobody_is_promised_it(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert list(_baseline_rows(data, Recipe(**ONLY_HAAR))) == []
    with pytest.raises(UserError, match=re.escape(install_command("haar"))):
        check_plugins(Recipe(**ONLY_HAAR, haar="on"))


def test_a_smoke_test_does_without_it(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text("[[students]]\nmodel.name = 'compact'\n")
    assert load_recipe(str(file)).haar == "auto"
    assert load_recipe(str(file), smoke=True).haar == "off"
    assert load_recipe(str(file), ["haar=on"], smoke=True).haar == "on"
