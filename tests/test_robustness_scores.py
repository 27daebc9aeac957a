"""Pictures under stress: each change is moderate, real and repeatable."""

import numpy as np
import pytest

from distill.data.demo import paint
from distill.scoring.robustness import STRESSES, stressed


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([paint(number)[0][::2, ::2].repeat(2, 0).repeat(2, 1) for number in range(4)])


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_a_stress_changes_pictures_and_leaves_them_recognisable(stress, pictures):
    changed = stressed(pictures, stress)
    assert changed.shape == pictures.shape
    assert changed.dtype == np.uint8
    gap = np.abs(changed.astype(float) - pictures).mean(axis=(1, 2, 3))
    assert (gap > 0.3).all()
    for one, other in zip(changed, pictures, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.3
    assert (stressed(pictures, stress) == changed).all()


def test_a_shift_moves_down_and_right(pictures):
    (shift,) = [stress for stress in STRESSES if stress.name == "shift"]
    assert (stressed(pictures, shift)[:, 10:, 10:] == pictures[:, :-10, :-10]).all()


def test_other_seeds_make_other_noise(pictures):
    (noise,) = [stress for stress in STRESSES if stress.name == "noise"]
    assert (stressed(pictures, noise, 1) != stressed(pictures, noise, 2)).any()
