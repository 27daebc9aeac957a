"""`distill cache` as a user meets it, and students that read what it wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

RECIPE = """
random_forest.trees = 0
[data]
size = 32
[teacher]
name = "teacher"
model = {name = "baseline_cnn", options = {width = [8, 8], hidden = 8}}
train = {epochs = 1, batch_size = 16}
[student]
model = {name = "compact", options = {width = [8], depth = [1], head_width = 0}}
train = {epochs = 3, batch_size = 16}
cache.views = 2
[[students]]
name = "one"
strategy.name = "vanilla"
[[students]]
name = "two"
strategy.name = "noisy_teacher"
"""


@pytest.fixture
def distill_json(distill):
    """Runs a command line; returns exit status, the last line of stdout as JSON, and stderr."""

    def call(*arguments: object) -> tuple[int, dict, str]:
        status, out, err = distill(*arguments, "--json")
        return status, json.loads(out.splitlines()[-1]) if out else {}, err

    return call


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


@pytest.fixture
def trained(distill_json, recipe, tmp_path) -> Path:
    """An experiment directory with its teacher trained."""
    out = tmp_path / "out"
    status, _, err = distill_json("teacher", recipe, "--data", "demo:60", "--out", out)
    assert status == 0, err
    return out


def build(distill_json, recipe, out, *more):
    return distill_json("cache", "build", recipe, "--data", "demo:60", "--out", out, *more)


def test_build_info_verify_and_then_the_students(distill_json, recipe, trained):
    """The two students share a cache: the logits do not depend on what is done with them."""
    status, found, err = build(distill_json, recipe, trained, "--part", "2/2")
    assert status == 0, err
    assert [row["views"] for row in found["caches"]] == [1]
    status, found, _ = build(distill_json, recipe, trained)
    (row,) = found["caches"]
    assert (row["teacher"], row["views"], row["shards"]) == ("teacher", 2, 2)
    assert row["size_bytes"] == sum(f.stat().st_size for f in Path(row["folder"]).glob("*.npy"))
    status, found, _ = distill_json("cache", "verify", trained)
    assert (status, found["caches"][0]["views"]) == (0, 2)
    before = {f: f.stat().st_mtime_ns for f in Path(row["folder"]).glob("*.npy")}
    status, _, err = distill_json("student", recipe, "--data", "demo:60", "--out", trained)
    assert status == 0, err
    assert {f: f.stat().st_mtime_ns for f in Path(row["folder"]).glob("*.npy")} == before
    status, found, _ = distill_json("cache", "info", trained)
    assert (status, len(found["caches"])) == (0, 1)


def test_what_it_will_take_is_told_before(distill_json, recipe, trained, distill):
    """60 images are 42 of training; two views, three float16 logits each: 504 bytes."""
    command = ("cache", "plan", recipe, "--data", "demo:60", "--out", trained)
    status, told, err = distill_json(*command, "--price-per-hour", 2)
    assert status == 0, err
    (row,) = told["caches"]
    assert (row["images"], row["views"], row["shards"], row["missing_shards"]) == (42, 2, 2, 2)
    assert row["size_bytes"] == 42 * 2 * 3 * 2
    assert row["hours"] * 1e6 == pytest.approx(row["hours_per_million"] * 84)
    assert row["price_per_million"] == pytest.approx(2 * row["hours_per_million"])
    assert build(distill_json, recipe, trained, "--claim")[0] == 0
    row = distill_json(*command)[1]["caches"][0]
    assert (row["missing_shards"], row["hours_left"], "price" in row) == (0, 0, False)
    assert "0 of 2 shards to do" in distill(*command)[1]
    assert not list((trained / "cache" / "claims").iterdir())


def test_verify_refuses_what_the_teacher_did_not_say(distill_json, recipe, trained):
    _, found, _ = build(distill_json, recipe, trained)
    file = sorted(Path(found["caches"][0]["folder"]).glob("view-0001-*.npy"))[0]
    np.save(file, np.load(file)[::-1] + np.float16(1))
    status, _, err = distill_json("cache", "verify", trained)
    assert status == 2
    assert "view-0001" in err


def test_other_views_get_a_cache_of_their_own(distill_json, recipe, trained, tmp_path):
    build(distill_json, recipe, trained)
    with recipe.open("a") as file:
        file.write("[views]\nflip = 0.25\n")
    other = tmp_path / "other"
    distill_json("teacher", recipe, "--data", "demo:60", "--out", other)
    (trained / "cache").rename(other / "old")
    for folder in (other / "old").glob("logits-*"):
        folder.rename(other / "cache" / folder.name)
    status, found, err = build(distill_json, recipe, other)
    assert status == 0
    assert len(found["caches"]) == 2
    assert "views.flip" in err  # why the one that is there is not used


@pytest.mark.parametrize("part", ["3/2", "0/2", "2", "a/b", "1/0"])
def test_a_part_that_is_none_is_an_error(distill_json, recipe, tmp_path, part):
    status, _, err = build(distill_json, recipe, tmp_path / "out", "--part", part)
    assert status == 2
    assert "--part" in err


def test_without_a_teacher_the_missing_command_is_named(distill_json, recipe, tmp_path):
    status, _, err = build(distill_json, recipe, tmp_path / "out")
    assert status == 2
    assert "distill teacher" in err


def test_students_without_a_cache_have_nothing_to_build(distill_json, recipe, trained):
    status, _, err = build(distill_json, recipe, trained, "student.cache.use=false")
    assert status == 2
    assert "cache.use" in err


def begun(out: Path, place: Path, **changes: object) -> None:
    """Has another worker begin a cache that differs from the one in a place."""
    described = json.loads((place / "cache.json").read_text())
    described["identity"] |= changes
    other = out / "cache" / "logits-of-another"
    other.mkdir(exist_ok=True)
    (other / "cache.json").write_text(json.dumps(described))


def test_workers_of_another_version_or_other_options_are_told(recipe, trained, distill_json):
    """Each filled a cache of its own in silence."""
    _, told, _ = build(distill_json, recipe, trained)
    place = Path(told["caches"][0]["folder"])
    workers = [("--claim",), ("--part", "1/2"), ("--launcher", "slurm"), ("--launcher", "ray")]
    begun(trained, place, versions={"decoding": 2, "views": 1})
    for options in workers:
        status, _, err = build(distill_json, recipe, trained, *options)
        assert (status, err.count("\n")) == (2, 1), err
        assert "another version's: versions.views is 1, here 2" in err
        assert "install that version, or remove this folder" in err
    status, _, err = build(distill_json, recipe, trained)  # alone it does harm to nobody
    assert status == 0, err
    begun(trained, place, top_k=2)
    assert build(distill_json, recipe, trained, "--claim")[0] == 0  # ours is begun as well
    for file in place.iterdir():
        file.unlink()
    for options in workers[:2]:
        status, _, err = build(distill_json, recipe, trained, *options)
        assert (status, "others began this cache of teacher with other top_k" in err) == (2, True)
        assert list(place.iterdir()) == []
    assert not list(trained.rglob("*.sbatch"))


def test_info_of_nothing(distill_json, tmp_path):
    assert distill_json("cache", "info", tmp_path)[:2] == (0, {"caches": []})
    assert distill_json("cache", "info", tmp_path / "nowhere")[0] == 2


def test_no_views_is_an_error_that_names_the_option(distill_json, recipe, tmp_path):
    status, _, err = build(distill_json, recipe, tmp_path / "out", "student.cache.views=0")
    assert status == 2
    assert "students.one.cache.views: " in err  # once followed by pydantic's name of a type
    assert not (tmp_path / "out").exists()


def test_unlabelled_images_are_seen_by_the_students_alone(distill_json, recipe, trained):
    common = ("--data", "demo:60", "--out", trained)
    status, _, err = distill_json("student", recipe, *common, "--unlabelled", "demo:90")
    assert status == 0, err
    described = json.loads((trained / "data.json").read_text())
    # The first 60 of its 90 pictures are the labelled ones.
    assert described["unlabelled"]["count"] == 30
    assert described["unlabelled"]["left_out_as_known"] == 60
    _, found, _ = distill_json("cache", "info", trained)
    assert found["caches"][0]["images"] == sum(described["counts"]["train"].values()) + 30
    teacher = json.loads((trained / "teachers" / "teacher" / "config.json").read_text())
    assert "unlabelled_sha256" not in teacher["inputs"]
    status, _, err = distill_json("student", recipe, *common)
    assert status == 2
    assert "unlabelled" in err
