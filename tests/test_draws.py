"""Draws are a pure function of (seed, stream, sample, step), and look random."""

import subprocess
import sys

import numpy as np
import pytest

from distill.data.views.draws import Draws, permutation

IDS = np.arange(1000)


def test_a_draw_is_a_pure_function() -> None:
    """Neither order nor company matters, and more columns leave the first ones as they are."""
    chosen = np.array([17, 3, 999, 3])
    for kind in ("uniform", "normal"):
        first = getattr(Draws(1, IDS, 2), kind)("crop", 3)
        assert first.shape == (1000, 3)
        assert first.dtype == np.float64
        Draws(9, IDS, 9).uniform("other", 5)
        assert np.array_equal(getattr(Draws(1, IDS, 2), kind)("crop", 3), first)
        assert np.array_equal(getattr(Draws(1, chosen, 2), kind)("crop", 3), first[chosen])
    narrow, wide = (Draws(1, IDS, 2).uniform("crop", n) for n in (2, 6))
    assert np.array_equal(wide[:, :2], narrow)


def test_another_process_draws_the_same() -> None:
    script = (
        "import numpy as np; from distill.data.views.draws import Draws; "
        "print(Draws(7, np.array([3, 5]), 11).normal('noise', 2).tolist())"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == str(Draws(7, np.array([3, 5]), 11).normal("noise", 2).tolist())


def test_every_argument_changes_every_number() -> None:
    base = Draws(1, IDS, 2).uniform("crop", 3)
    for other in (
        Draws(2, IDS, 2).uniform("crop", 3),
        Draws(1, IDS, 3).uniform("crop", 3),
        Draws(1, IDS + 1000, 2).uniform("crop", 3),
        Draws(1, IDS, 2).uniform("colour", 3),
    ):
        assert not (base == other).any()
        # Correlation of 3,000 independent pairs: standard error 1 / sqrt(3000) = 0.018.
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.075


def test_no_two_of_many_cells_are_equal() -> None:
    """Neither (id, column) nor (step, id) nor (seed, step) run into each other."""
    cells = [
        Draws(seed, np.arange(50), step).uniform("crop", 8)
        for seed in range(8)
        for step in range(8)
    ]
    assert len(np.unique(np.stack(cells))) == 8 * 8 * 50 * 8


def test_uniform_numbers_are_uniform() -> None:
    u = Draws(0, np.arange(20_000), 0).uniform("test", 5)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    # 100,000 numbers: the mean's standard error is 0.2887 / 316 = 0.0009, the variance's 0.00024.
    assert abs(u.mean() - 0.5) < 0.004
    assert abs(u.var() - 1 / 12) < 0.001
    # Kolmogorov-Smirnov: the greatest gap to the diagonal exceeds 1.95 / sqrt(n) once in 1,000.
    ranks = np.arange(1, u.size + 1) / u.size
    assert np.abs(np.sort(u.ravel()) - ranks).max() < 1.95 / np.sqrt(u.size)


def test_neighbouring_columns_samples_and_steps_are_independent() -> None:
    u = np.stack([Draws(0, np.arange(2000), step).uniform("test", 4) for step in range(4)])
    pairs = [(u[:, :, 1:], u[:, :, :-1]), (u[:, 1:], u[:, :-1]), (u[1:], u[:-1])]
    for a, b in pairs:
        # 8 x 8 cells of about 24,000 to 32,000 pairs: chi-squared with 63 degrees of freedom has
        # mean 63 and standard deviation 11.2.
        cells = np.histogram2d(a.ravel(), b.ravel(), bins=8, range=[[0, 1], [0, 1]])[0]
        expected = a.size / 64
        assert ((cells - expected) ** 2 / expected).sum() < 63 + 5 * 11.2


def test_normal_numbers_are_normal() -> None:
    z = Draws(0, np.arange(20_000), 0).normal("test", 5)
    assert z.shape == (20_000, 5)
    assert np.isfinite(z).all()
    # 100,000 numbers: standard errors 0.0032 of the mean and 0.0022 of the deviation.
    assert abs(z.mean()) < 0.015
    assert abs(z.std() - 1.0) < 0.01
    # P(|z| > 1) = 0.3173, P(|z| > 2) = 0.0455, P(|z| > 3) = 0.0027
    tails = [(np.abs(z) > limit).mean() for limit in (1, 2, 3)]
    assert tails == pytest.approx([0.3173, 0.0455, 0.0027], abs=0.006, rel=0.25)
    assert np.abs(z).max() > 3.5
    correlation = np.corrcoef(z.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.035  # standard error 1 / sqrt(20000) = 0.007


def test_a_permutation_is_a_permutation() -> None:
    for count in (0, 1, 2, 7, 1000):
        order = permutation(3, "shuffle", 5, count)
        assert order.dtype == np.int64
        assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(permutation(3, "shuffle", 5, 1000), permutation(3, "shuffle", 5, 1000))


def test_permutations_differ_and_leave_little_in_place() -> None:
    orders = [permutation(s, name, e, 1000) for s in (0, 1) for name in "ab" for e in (0, 1)]
    orders.append(np.arange(1000))
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 8  # Poisson with mean 1


def test_every_place_is_equally_likely_first() -> None:
    firsts = [int(permutation(0, "shuffle", epoch, 5)[0]) for epoch in range(2000)]
    # 400 expected of each, standard deviation sqrt(2000 * 0.2 * 0.8) = 18.
    assert all(abs(firsts.count(i) - 400) < 90 for i in range(5))
