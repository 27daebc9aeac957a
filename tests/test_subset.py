"""Some images of a split, as label errors and subsets of a class are looked at."""

import numpy as np

from distill.data.store import subset
from distill.scoring.baselines import small_pixels


def test_pixels_of_a_subset_are_those_of_its_rows(data):
    """`pixels` were all of the split's, in their order, whatever rows were asked for."""
    whole = data.train
    rows = np.array([5, 2, 30])
    some = subset(subset(whole, rows), np.array([2, 0]))
    expected = whole.pixels[[30, 5]]
    assert np.array_equal(some.pixels, expected)
    assert np.array_equal(some.take([0, 1]), expected)
    assert some.pixels.shape[0] == len(some.labels) == len(some.names)
    assert np.array_equal(small_pixels(some, 8), small_pixels(whole, 8)[[30, 5]])
