"""Whether workers that share an experiment mean the same caches."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.teaching.cache import TeacherCache
from distill.teaching.cache_build import describe_cache
from distill.teaching.cache_check import check_alike, check_version, code_versions

VIEWS = 3
ANOTHER = {"weights_sha256": "another"}


def make_cache(folder: Path, **changes: Any) -> TeacherCache:
    """Of 5,000 images, which are two shards a view."""
    teacher = {"weights_sha256": "one", "answers": [0.5]} | changes.pop("teacher", {})
    identity = code_versions() | {"top_k": 0, "seed": 0, "teacher": teacher} | changes
    return TeacherCache(folder, identity, "teacher", 5000, 3, 0)


def begin(cache: TeacherCache, shards: int = 0) -> None:
    cache.folder.mkdir(parents=True)
    describe_cache(cache)
    for shard in list(cache.shards(range(VIEWS)))[:shards]:
        (cache.folder / shard.file_name).touch()


@pytest.mark.parametrize(
    ("changes", "is_begun", "shards", "is_told"),
    [
        ({"top_k": 2}, False, 0, True),
        ({"top_k": 2}, False, 6, False),  # complete: from earlier
        ({"top_k": 2}, True, 0, False),  # so is ours: both are meant
        ({"seed": 9}, False, 5, True),
        ({"teacher": {"answers": [1.0]}}, False, 6, True),  # other code or kernels: not meant
        ({"teacher": ANOTHER}, False, 0, False),  # trained again
        ({"teacher": ANOTHER, "seed": 9}, False, 0, False),
    ],
)
def test_others_at_work_on_another_cache_are_noticed(tmp_path, changes, is_begun, shards, is_told):
    ours = make_cache(tmp_path / "logits-ours")
    begin(make_cache(tmp_path / "logits-theirs", **changes), shards)
    if is_begun:
        begin(ours)
    with pytest.raises(UserError, match="others began") if is_told else nullcontext():
        check_alike([ours], VIEWS)


def test_caches_that_one_recipe_asks_for_are_no_others(tmp_path):
    whole, short = (make_cache(tmp_path / f"logits-{k}", top_k=k) for k in (0, 2))
    begin(whole)
    check_alike([whole, short], VIEWS)
    check_alike([replace(short, name="somebody else")], VIEWS)
    with pytest.raises(UserError, match="this cache of teacher with other top_k"):
        check_alike([short], VIEWS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"top_k": 9, "teacher": ANOTHER}, None),
        ({"format": 2}, "format is 2, here "),
        ({"shard_rows": None}, "shard_rows is None, here 4096"),
        ({"versions": {"decoding": 1}}, "versions.decoding is 1, here .*, versions.views is None"),
    ],
)
def test_caches_of_another_version_are_refused(tmp_path, changes, words):
    check_version(tmp_path / "none yet")
    begin(make_cache(tmp_path / "logits-theirs", **changes))
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_version(tmp_path)
