"""Splits: stratified, seeded, stable under additions, and never without a class."""

from collections import Counter

import numpy as np
import pytest

from distill.config import DataConfig
from distill.data.sources import Item
from distill.data.splits import assign_splits, check_no_class_is_empty, limit_per_class
from distill.errors import UserError

CLASSES = ("cat", "dog", "eel")
DEFAULT = DataConfig()  # 15 % validation, 15 % test


def make_items(counts: tuple[int, ...], split: str | None = None, prefix: str = "") -> list[Item]:
    return [
        Item(f"{prefix}{CLASSES[label]}/{i}.jpg", label, split)
        for label, count in enumerate(counts)
        for i in range(count)
    ]


def count(splits: list[str], items: list[Item]) -> Counter[tuple[str, int]]:
    return Counter((split, item.label) for split, item in zip(splits, items, strict=True))


def test_every_class_is_split_by_the_same_shares() -> None:
    items = make_items((100, 40, 10))
    counts = count(assign_splits(items, CLASSES, DEFAULT, 0), items)
    # 15 % of 100, 40 and 10 are 15, 6 and 1.5, which rounds to 2; the rest is train.
    assert [counts["test", label] for label in range(3)] == [15, 6, 2]
    assert [counts["val", label] for label in range(3)] == [15, 6, 2]
    assert [counts["train", label] for label in range(3)] == [70, 28, 6]


def test_the_fractions_are_those_of_the_options() -> None:
    items = make_items((100, 100, 100))
    config = DataConfig(val_fraction=0.1, test_fraction=0.3)
    counts = Counter(assign_splits(items, CLASSES, config, 0))
    assert counts == {"train": 180, "val": 30, "test": 90}


def test_a_seed_decides_and_nothing_else() -> None:
    items = make_items((30, 30, 30))
    splits = assign_splits(items, CLASSES, DEFAULT, 3)
    assert splits == assign_splits(list(items), CLASSES, DEFAULT, 3)
    assert splits != assign_splits(items, CLASSES, DEFAULT, 4)
    by_name = dict(zip([item.name for item in items], splits, strict=True))
    backwards = assign_splits(items[::-1], CLASSES, DEFAULT, 3)
    assert by_name == dict(zip([item.name for item in items[::-1]], backwards, strict=True))


def test_the_split_is_not_the_order_of_the_files() -> None:
    items = make_items((100, 100, 100))
    splits = assign_splits(items, CLASSES, DEFAULT, 0)
    places = [i % 100 for i, split in enumerate(splits) if split == "test"]
    assert 35 < np.mean(places) < 65  # 45 of them: standard error 29 / sqrt(45) = 4.3


def test_an_added_image_moves_few_others() -> None:
    items = make_items((100, 100, 100))
    before = assign_splits(items, CLASSES, DEFAULT, 0)
    for number in range(20):
        grown = [*items, Item(f"cat/new{number}.jpg", 0)]
        after = assign_splits(grown, CLASSES, DEFAULT, 0)
        # At most one leaves test for val and one val for train, or the other way round.
        assert sum(a != b for a, b in zip(before, after, strict=False)) <= 2


def test_an_added_image_leaves_other_classes_alone() -> None:
    items = make_items((50, 50, 50))
    before = assign_splits(items, CLASSES, DEFAULT, 0)
    after = assign_splits([*items, Item("eel/new.jpg", 2)], CLASSES, DEFAULT, 0)
    assert before[:100] == after[:100]


def test_given_splits_stay() -> None:
    items = [
        item
        for split in ("train", "val", "test")
        for item in make_items((2, 3, 1), split, f"{split}/")
    ]
    assert assign_splits(items, CLASSES, DEFAULT, 0) == [item.split for item in items]


@pytest.mark.parametrize(("given", "missing"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_taken_out_of_train(given: str, missing: str) -> None:
    items = make_items((20, 20, 20), "train", "train/") + make_items((5, 5, 5), given, "given/")
    splits = assign_splits(items, CLASSES, DEFAULT, 0)
    assert splits[60:] == [given] * 15
    # 15 % of the 20 training images of each class
    assert Counter(splits[:60]) == {"train": 51, missing: 9}
    assert all(count(splits, items)[missing, label] == 3 for label in range(3))


def test_too_few_images_to_split() -> None:
    with pytest.raises(UserError, match=r"'dog' has 2 training images.*at least 3"):
        assign_splits(make_items((9, 2, 9)), CLASSES, DEFAULT, 0)
    with pytest.raises(UserError, match=r"'eel' has 0 training images"):
        assign_splits(make_items((9, 9, 0)), CLASSES, DEFAULT, 0)


def test_one_image_per_split_is_enough() -> None:
    items = make_items((3, 3, 3))
    counts = count(assign_splits(items, CLASSES, DEFAULT, 0), items)
    assert set(counts.values()) == {1}
    assert len(counts) == 9


def test_a_given_split_that_lacks_a_class() -> None:
    items = make_items((9, 9, 9), "train") + make_items((2, 0, 2), "val", "val/")
    with pytest.raises(UserError, match="'dog' has no readable image in val"):
        assign_splits(items, CLASSES, DEFAULT, 0)


def test_check_names_class_and_split() -> None:
    check_no_class_is_empty(["train", "val", "test"], [0, 0, 0], ("cat",))
    with pytest.raises(UserError, match="'cat' has no readable image in test"):
        check_no_class_is_empty(["train", "val"], [0, 0], ("cat",))


def test_every_split_has_every_class_at_any_size_and_fraction() -> None:
    rng = np.random.default_rng(0)
    for trial in range(300):
        items = make_items(tuple(int(n) for n in rng.integers(3, 40, 3)))
        val, test = (float(f) for f in rng.uniform(0.001, 0.4999, 2))
        config = DataConfig(val_fraction=val, test_fraction=test)
        splits = assign_splits(items, CLASSES, config, trial)
        assert len(count(splits, items)) == 9, (trial, config)
        assert len(splits) == len(items)


def test_a_limit_keeps_the_same_images_of_each_class_and_split() -> None:
    items = make_items((9, 2, 9), "train") + make_items((9, 9, 9), "val", "val/")
    kept = limit_per_class(items, 4)
    counts = Counter((item.split, item.label) for item in kept)
    assert counts == {
        ("train", 0): 4,
        ("train", 1): 2,
        ("train", 2): 4,
        ("val", 0): 4,
        ("val", 1): 4,
        ("val", 2): 4,
    }
    assert kept == [item for item in items if item in set(kept)]  # in their order
    assert set(limit_per_class(items[::-1], 4)) == set(kept)
