"""Verdicts: known truths, simulated experiments, and what the words mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distill.errors import UserError
from distill.scoring import comparison
from distill.scoring.comparison import (
    Difference,
    check_groups,
    holm,
    images_needed,
    judge,
    mcnemar_power,
    seeds_needed,
)
from distill.scoring.metrics_multi import map_parts


def experiment(rng, seeds, groups, of_seeds, gain=0.0, copies=0.3):
    """A difference whose truth is known: images are easy or hard, seeds lucky or not."""
    easy, leaning = rng.normal(1.5, 1.2, groups), rng.normal(0.0, 0.3, groups)
    luck = rng.normal(0.0, of_seeds, (2, seeds, 1))
    noise = rng.normal(0.0, 0.5, (2, seeds, groups))
    sizes = 1 + rng.poisson(copies, groups)
    names = np.repeat(np.arange(groups), sizes)
    first = (easy + (leaning + gain) / 2 + luck[0] + noise[0] > 0)[:, names]
    second = (easy - (leaning + gain) / 2 + luck[1] + noise[1] > 0)[:, names]
    deviation = np.sqrt(1.2**2 + 0.15**2 + of_seeds**2 + 0.5**2)
    ends = stats.norm.cdf((1.5 + np.array([gain, -gain]) / 2) / deviation)
    return Difference(first, second, names), 100.0 * (ends[0] - ends[1])


@pytest.mark.parametrize(
    ("seeds", "groups", "of_seeds", "gain"),
    [(5, 400, 0.05, 0.0), (3, 400, 0.05, 0.0), (1, 400, 0.0, 0.0), (5, 400, 0.05, 0.15)],
)
def test_intervals_hold_what_they_promise(seeds, groups, of_seeds, gain, monkeypatch):
    """Over 1,000 experiments."""
    monkeypatch.setattr(comparison, "DRAWS", 200)
    rng, covered, helps = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        difference, truth = experiment(rng, seeds, groups, of_seeds, gain)
        low, high = difference.interval
        covered += low <= truth <= high
        helps += low > 0.0
    assert 930 <= covered <= 980
    if gain == 0.0:
        assert helps <= 25 + 2 * np.sqrt(25)


@pytest.mark.parametrize(
    ("discordant", "gain", "images"), [(2.0, 0.5, 8000), (3.0, 1.0, 3000), (8.0, 2.0, 1700)]
)
def test_images_that_are_needed(discordant, gain, images):
    """600 images, of which two in a hundred differ, hardly ever show a gain of half a point."""
    assert mcnemar_power(600, 2.0, 0.5) == pytest.approx(0.08, abs=0.005)
    assert images_needed(discordant, gain) == images
    assert images_needed(discordant, 1e-4) is None


@pytest.mark.parametrize(("gain", "seeds"), [(0.3, 13), (0.5, 7), (1.0, 4)])
def test_seeds_that_are_needed(gain, seeds):
    assert seeds_needed(0.35, gain) == seeds
    assert seeds_needed(0.35, 1e-3) is None


def flags(*rows: str) -> np.ndarray:
    return np.array([[mark == "1" for mark in row] for row in rows])


def verdict(first, second, groups=None, **options):
    names = np.arange(first.shape[1]) if groups is None else groups
    return judge([("a over b", Difference(first, second, names))], **options)[0]


def test_words():
    rng = np.random.default_rng(0)
    base = rng.random((5, 4000)) < 0.8
    better = base | (rng.random(base.shape) < 0.2)
    assert verdict(better, base).word == "helps"
    assert verdict(base, better).word == "hurts"
    assert verdict(base, base).word == "no effect"
    other = np.roll(base, 7, axis=1)
    found = verdict(base, other)
    assert found.word == "inconclusive"
    assert found.needs
    assert verdict(base, other, margin=20.0).word == "no effect"


def test_a_difference_turns_its_sign_with_its_sides():
    rng = np.random.default_rng(1)
    one, other = rng.random((2, 3, 300)) < 0.8
    a, b = verdict(one, other), verdict(other, one)
    assert a.difference_points == pytest.approx(-b.difference_points)
    turned = [-end for end in reversed(b.interval_points)]
    assert a.interval_points == pytest.approx(turned, abs=0.3)
    assert a.p == pytest.approx(b.p)
    assert a.mcnemar_p == pytest.approx(b.mcnemar_p)
    assert a.better_share == pytest.approx(1.0 - b.better_share)


def test_the_same_answers_twice_are_the_same_verdict():
    rng = np.random.default_rng(2)
    one, other = rng.random((2, 3, 300)) < 0.8
    assert verdict(one, other) == verdict(one.copy(), other.copy())


def test_copies_of_images_are_no_further_questions():
    rng = np.random.default_rng(3)
    one, other = rng.random((2, 1, 200)) < 0.8
    once = verdict(one, other)
    copied = verdict(np.repeat(one, 5, 1), np.repeat(other, 5, 1), np.repeat(np.arange(200), 5))
    assert copied.test_images == 1000
    assert copied.groups == 200
    width = np.diff(copied.interval_points)[0] / np.diff(once.interval_points)[0]
    assert 0.9 < width < 1.1
    blind = verdict(np.repeat(one, 5, 1), np.repeat(other, 5, 1))
    assert np.diff(blind.interval_points)[0] < 0.7 * np.diff(once.interval_points)[0]


def test_no_difference_on_few_images_is_none_that_is_known():
    right = np.ones((1, 20), bool)
    found = verdict(right, right)
    assert found.word == "inconclusive"
    assert found.interval_points[1] > 5.0
    assert verdict(np.ones((1, 2000), bool), np.ones((1, 2000), bool)).word == "no effect"


def test_one_pair_of_runs_tells_nothing_of_seeds():
    one, other = np.random.default_rng(4).random((2, 1, 400)) < 0.8
    found = verdict(one, other)
    assert found.needs is not None
    assert "seeds" not in found.needs


def test_what_varies_by_seed_no_image_decides():
    rng = np.random.default_rng(5)
    right = rng.random(3000)
    one, other = (np.stack([right < level for level in rng.normal(0.8, 0.03, 4)]) for _ in range(2))
    found = verdict(one, other)
    assert found.word == "inconclusive"
    assert "images" not in (found.needs or {})


def test_mcnemar_is_exact():
    one, other = flags("1111110000"), flags("0000001000")
    assert Difference(one, other, np.arange(10)).mcnemar == (pytest.approx(0.125),)
    assert Difference(one * 1.0, other * 1.0, np.arange(10)).mcnemar is None


def several_labels(rng, images, labels, positives, levels):
    """Truth, and the probabilities of models that tell it apart by so many standard deviations."""
    truth = rng.random((images, labels)) < positives
    hard = rng.normal(size=truth.shape)
    scores = (truth * level + hard + rng.normal(0.0, 0.6, truth.shape) for level in levels)
    return truth, [1.0 / (1.0 + np.exp(4.0 - s)) for s in scores]


def test_a_model_that_answers_nothing_is_worse_where_labels_are_rare():
    """By the share of labels that are right it was as good: mAP 2 against 27."""
    truth, probs = several_labels(np.random.default_rng(6), 500, 20, 0.02, (0.0, 2.0))
    silent, good = ([map_parts(p, truth)] for p in (np.minimum(probs[0], 0.4), probs[1]))
    found = verdict(np.array(silent), np.array(good))
    assert found.word == "hurts"
    assert found.difference_points < -10
    assert (found.unit, found.discordant_percent, found.mcnemar_p) == ("map", None, None)


def test_intervals_of_mean_average_precision_hold_what_they_promise(monkeypatch):
    """200 images, 5 labels of 40 each: the truth is the mean of all experiments."""
    monkeypatch.setattr(comparison, "DRAWS", 200)
    rng, found = np.random.default_rng(2), []
    for _ in range(200):
        truth, probs = several_labels(rng, 200, 5, 0.2, (2.0, 2.1))
        second, first = (np.array([map_parts(p, truth)]) for p in probs)
        difference = Difference(first, second, np.arange(200))
        found.append((difference.points, *difference.interval))
    points, low, high = np.array(found).T
    assert points.mean() > 1.0
    assert 184 <= ((low <= points.mean()) & (points.mean() <= high)).sum() <= 199


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_of_many_questions_one_that_just_helps_is_not_enough(monkeypatch):
    """The best of ten strategies without an effect looks like one that has one."""
    monkeypatch.setattr(comparison, "DRAWS", 1000)
    rng = np.random.default_rng(7)
    base = rng.random((1, 2000)) < 0.8
    better = base.copy()
    better[0, np.flatnonzero(~base[0])[:60]] = True
    better[0, np.flatnonzero(base[0])[:34]] = False
    groups = np.arange(2000)
    alone = judge([("a", Difference(better, base, groups))])[0]
    assert (alone.word, alone.p_holm) == ("helps", None)
    same = [("b", Difference(base, np.roll(base, k, 1), groups)) for k in range(1, 10)]
    among = judge([("a", Difference(better, base, groups)), *same])[0]
    assert among.word == "inconclusive"
    assert among.p_holm == pytest.approx(10 * among.p)


def test_a_word_needs_what_its_p_says_too():
    """Of 599 answers 4 differ: the interval once lay below 0, with a p of 0.07."""
    right = np.ones((1, 599), bool)
    worse = right.copy()
    worse[0, :4] = False
    found = verdict(worse, right)
    assert found.p > 0.05
    assert found.word == "inconclusive"


def test_no_interval_ends_where_nothing_can_be():
    found = verdict(np.ones((1, 10), bool), np.zeros((1, 10), bool))
    assert found.word == "helps"
    assert found.interval_points[1] == 100.0


def test_ties_of_shares_are_ties():
    thirds = np.array([[0.1, 0.2, 0.3]])
    of = Difference(thirds, thirds[:, ::-1], np.arange(3))
    assert (of.points, of.better) == (0.0, 0.5)


def test_what_points_are_of_is_said():
    rng = np.random.default_rng(8)
    one, other = rng.random((2, 1, 50))
    assert verdict(one, other).unit == "map"
    assert verdict(one > 0.5, other > 0.5).unit == "images"


def test_more_is_needed_than_there_is():
    """ "about 500 test images would decide" was said of 600."""
    rng, told = np.random.default_rng(9), 0
    for _ in range(150):
        seeds, images = int(rng.integers(2, 5)), int(rng.integers(60, 700))
        easy = rng.random(images)
        luck = rng.normal(0.8, 0.02, (2, seeds, 1))
        one, other = (easy + rng.normal(0.0, 0.05, (seeds, images)) < level for level in luck)
        needs = verdict(one, other).needs or {}
        assert needs.get("images", images + 1) > images
        assert needs.get("seeds", seeds + 1) > seeds
        told += len(needs)
    assert told > 100


def test_among_several_questions_more_is_needed():
    rng = np.random.default_rng(10)
    base = rng.random((1, 1000)) < 0.8
    better = base.copy()
    better[0, np.flatnonzero(~base[0])[:26]] = True
    better[0, np.flatnonzero(base[0])[:14]] = False
    groups = np.arange(1000)
    mine = ("a", Difference(better, base, groups))
    others = [("b", Difference(base, np.roll(base, k, 1), groups)) for k in range(1, 10)]
    alone, among = judge([mine])[0], judge([mine, *others])[0]
    assert alone.word == among.word == "inconclusive"
    assert among.needs["images"] > alone.needs["images"]


def test_one_group_is_nothing_to_compare_on():
    with pytest.raises(UserError, match="all images of val are one group"):
        check_groups(np.array(["site", "site"]), "val")
    check_groups(np.array(["one", "other"]), "val")
