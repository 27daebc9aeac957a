"""Splits: stratified, seeded, stable under additions, and never without a class."""

from collections import Counter

import numpy as np
import pytest

from distill.config import DataConfig
from distill.data.audit.splits import (
    assign_splits,
    check_no_class_is_empty,
    limit_per_class,
    repair_splits,
)
from distill.data.sources import Item
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
    config = DataConfig(val_fraction=0.1, test_fraction=0.3)
    found = Counter(assign_splits(make_items((100, 100, 100)), CLASSES, config, 0))
    assert found == {"train": 180, "val": 30, "test": 90}


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
        grown = [*items, Item(f"eel/new{number}.jpg", 2)]
        after = assign_splits(grown, CLASSES, DEFAULT, 0)
        # At most one leaves test for val and one val for train, or the other way round.
        assert sum(a != b for a, b in zip(before, after, strict=False)) <= 2
        assert before[:200] == after[:200]  # other classes


def test_given_splits_stay() -> None:
    items = [
        item
        for split in ("train", "val", "test")
        for item in make_items((2, 3, 1), split, f"{split}/")
    ]
    assert assign_splits(items, CLASSES, DEFAULT, 0) == [item.split for item in items]


def test_a_missing_split_is_taken_out_of_train() -> None:
    for given, missing in (("val", "test"), ("test", "val")):
        items = make_items((20, 20, 20), "train", "train/") + make_items((5, 5, 5), given, "given/")
        splits = assign_splits(items, CLASSES, DEFAULT, 0)
        assert splits[60:] == [given] * 15
        # 15 % of the 20 training images of each class
        assert Counter(splits[:60]) == {"train": 51, missing: 9}
        assert all(count(splits, items)[missing, label] == 3 for label in range(3))


def test_one_image_per_split_is_enough_and_two_images_are_too_few() -> None:
    items = make_items((3, 3, 3))
    counts = count(assign_splits(items, CLASSES, DEFAULT, 0), items)
    assert set(counts.values()) == {1}
    assert len(counts) == 9
    with pytest.raises(UserError, match="'dog' has 2"):
        assign_splits(make_items((9, 2, 9)), CLASSES, DEFAULT, 0)
    with pytest.raises(UserError, match="'eel' has no readable image in train"):
        assign_splits(make_items((9, 9, 0)), CLASSES, DEFAULT, 0)


def test_a_split_that_lacks_a_class() -> None:
    items = make_items((9, 9, 9), "train") + make_items((2, 0, 2), "val", "val/")
    assert "val" in assign_splits(items, CLASSES, DEFAULT, 0)  # a finding says so
    items = make_items((9, 0, 9), "train") + make_items((4, 4, 4), "val", "val/")
    with pytest.raises(UserError, match=r"'dog' has no readable image in train.*split=grouped"):
        assign_splits(items, CLASSES, DEFAULT, 0)
    assert assign_splits(items, CLASSES, DataConfig(split="grouped"), 0)
    check_no_class_is_empty(["train", "val", "test"], [0, 0, 0], ("cat",))
    with pytest.raises(UserError, match="no readable image in test"):
        check_no_class_is_empty(["train", "val"], [0, 0], ("cat",))
    for other in ("Cat", "catt"):
        with pytest.raises(UserError, match="if it is 'cat', name both alike"):
            check_no_class_is_empty(["train", "val", "test"], [0, 1, 0], ("cat", other))
    with pytest.raises(UserError, match="no image of test has a label"):
        check_no_class_is_empty(["train", "val", "test"], [(0,), (0,), ()], ("cat",))
    check_no_class_is_empty(["train", "train", "val", "test"], [(0,), (), (0,), (0,)], ("cat",))


def test_every_split_has_every_class_at_any_size_and_fraction() -> None:
    rng = np.random.default_rng(0)
    for trial in range(100):
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


def straddling(splits: list[str], groups: list[str]) -> set[str]:
    """Groups that are in more than one split."""
    pairs = set(zip(groups, splits, strict=True))
    return {g for g, n in Counter(group for group, _ in pairs).items() if n > 1}


def random_groups(rng: np.random.Generator, items: list[Item]) -> list[str]:
    """Groups of 1 to 5 images, whatever their classes."""
    order, groups, start = rng.permutation(len(items)), [""] * len(items), 0
    while start < len(items):
        size = int(rng.integers(1, 6))
        for index in order[start : start + size]:
            groups[index] = f"group {start}"
        start += size
    return groups


def test_groups_stay_together_and_shares_are_kept() -> None:
    rng = np.random.default_rng(0)
    for trial in range(50):
        items = make_items((200, 100, 60))
        groups = random_groups(rng, items)
        splits = assign_splits(items, CLASSES, DEFAULT, trial, groups)
        assert not straddling(splits, groups)
        counts = count(splits, items)
        for label, total in enumerate((200, 100, 60)):
            for split in ("test", "val"):
                # 15 %, and a few more of a rare class that came along with a frequent one
                assert 0.10 * total <= counts[split, label] <= 0.25 * total, (trial, counts)


def test_groups_of_one_split_as_images_do() -> None:
    items = make_items((50, 30, 20))
    alone = [item.name for item in items]
    without = assign_splits(items, CLASSES, DEFAULT, 5)
    assert assign_splits(items, CLASSES, DEFAULT, 5, alone) == without


def test_a_large_group_stays_in_train() -> None:
    items = make_items((40, 40, 40))
    groups = ["copies" if item.label == 0 and i < 20 else item.name for i, item in enumerate(items)]
    splits = assign_splits(items, CLASSES, DEFAULT, 0, groups)
    assert {s for s, g in zip(splits, groups, strict=True) if g == "copies"} == {"train"}
    assert count(splits, items)["test", 0] == 6  # 15 % of 40, out of the other 20


def test_too_few_groups_to_split() -> None:
    items = make_items((9, 9, 9))
    groups = ["twin" if item.label == 1 else item.name for item in items]
    with pytest.raises(UserError, match=r"'dog'.*1 groups"):
        assign_splits(items, CLASSES, DEFAULT, 0, groups)


def test_a_group_in_a_given_split_is_the_last_to_be_taken_into_another() -> None:
    items = make_items((20, 20, 20), "train", "train/") + make_items((5, 5, 5), "val", "val/")
    shared = {f"train/cat/{i}.jpg" for i in range(10)}
    groups = ["leak" if i.name in shared or i.name == "val/cat/0.jpg" else i.name for i in items]
    splits = assign_splits(items, CLASSES, DEFAULT, 0, groups)
    leaked = {s for s, i in zip(splits, items, strict=True) if i.name in shared}
    assert leaked == {"train"}
    assert count(splits, items)["test", 0] == 3  # 15 % of 20, out of the 10 without a copy in val


def test_grouped_ignores_given_splits() -> None:
    items = make_items((20, 20, 20), "train", "train/") + make_items((20, 20, 20), "test", "test/")
    groups = [item.name.removeprefix("train/").removeprefix("test/") for item in items]
    given = assign_splits(items, CLASSES, DEFAULT, 0, groups)
    assert len(straddling(given, groups)) == 60

    anew = assign_splits(items, CLASSES, DataConfig(split="grouped"), 0, groups)
    assert not straddling(anew, groups)
    assert set(anew) == {"train", "val", "test"}


def test_images_of_several_labels_are_split_by_every_label() -> None:
    rng = np.random.default_rng(0)
    labels = [tuple(np.flatnonzero(row).tolist()) for row in rng.random((400, 3)) < (0.6, 0.3, 0.1)]
    items = [Item(f"{i}.jpg", label) for i, label in enumerate(labels)]
    splits = assign_splits(items, CLASSES, DEFAULT, 0)
    for number in (0, 1, 2, None):  # None: images without any label
        hits = [
            s for s, k in zip(splits, labels, strict=True) if (number in k if k else number is None)
        ]
        share = Counter(hits)["test"] / len(hits)
        assert 0.1 < share < 0.2, (number, share)


def test_repair_moves_what_straddles_and_nothing_else() -> None:
    # cat/0 is in train and, as a copy, in test; cat/1 in train, val and test; the rest is apart.
    items = [
        *(Item(f"train/{n}", 0, "train") for n in range(10)),
        *(Item(f"val/{n}", 0, "val") for n in range(5)),
        *(Item(f"test/{n}", 0, "test") for n in range(5)),
    ]
    groups = [item.name for item in items]
    groups[0] = groups[15] = "a"  # train/0, test/0
    groups[1] = groups[10] = groups[16] = "b"  # train/1, val/0, test/1
    given = [item.split or "" for item in items]
    fixed = repair_splits(items, given, groups)
    assert not straddling(fixed, groups)
    moved = {i for i, (a, b) in enumerate(zip(given, fixed, strict=True)) if a != b}
    assert moved <= {0, 1, 10, 15, 16}
    # Without both groups: train 8 of 10, val 4 of 5, test 3 of 5. The larger group, b, goes to
    # test, which lacks the largest share (2/5); test then has 6 of 5, so a goes to train (2/10).
    assert {fixed[i] for i in (1, 10, 16)} == {"test"}
    assert {fixed[i] for i in (0, 15)} == {"train"}
    assert repair_splits(items, fixed, groups) == fixed  # without leaks nothing moves
