"""The demo data set: determinism, balance, and labels that geometry, not colour, tells apart."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill.data.demo import CLASSES, SIZE, paint
from distill.data.demo.brush import OVERSAMPLING, Brush
from distill.data.demo.face import CHIN, MOUTH, NOSE_TIP
from distill.data.demo.looks import Look
from distill.data.demo.painter import describe, render

NUM_TRAIN, NUM_TEST = 500, 200


@pytest.fixture(scope="module")
def painted() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures, labels = zip(*(paint(index) for index in range(NUM_TRAIN + NUM_TEST)), strict=True)
    return np.stack(pictures), np.array(labels)


def test_another_process_paints_the_same_bytes() -> None:
    """PYTHONHASHSEED differs between the two, so nothing may depend on hash()."""
    script = (
        "import hashlib; from distill.data.demo import paint; "
        "print(hashlib.sha256(b''.join(paint(i, 7)[0].tobytes() for i in range(8))).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = hashlib.sha256(b"".join(paint(i, 7)[0].tobytes() for i in range(8))).hexdigest()
    assert result.stdout.strip() == here


def test_a_picture_does_not_depend_on_those_painted_before(
    painted: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """None is painted twice, and each has a label of its own."""
    pictures, labels = painted
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    for index in (301, 17, 123, 0):
        picture, label = paint(index)
        assert picture.shape == (SIZE, SIZE, 3) == (128, 128, 3)
        assert picture.dtype == np.uint8
        assert type(label) is int
        assert CLASSES[label] in ("mask_correct", "mask_incorrect", "no_mask")
        assert np.array_equal(picture, pictures[index])
        assert label == labels[index]


def test_seeds_name_different_data_sets() -> None:
    assert not any(np.array_equal(paint(i, 0)[0], paint(i, 1)[0]) for i in range(10))
    assert [describe(i, 0)[1] for i in range(30)] != [describe(i, 1)[1] for i in range(30)]
    for index, seed in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="non-negative"):
            paint(index, seed)


def test_labels_are_balanced_but_not_periodic() -> None:
    labels = np.array([describe(index)[1] for index in range(300)])
    assert (np.sort(labels.reshape(-1, 3), axis=1) == [0, 1, 2]).all()
    # With orders drawn at random, a label recurs 3 places on with probability 1/3.
    for period in (3, 6, 9):
        assert 0.2 < (labels[period:] == labels[:-period]).mean() < 0.5


def test_the_mask_covers_what_the_label_says() -> None:
    """Paints each face with and without its mask: what changes is what the mask covers."""
    exposures = set()
    for index in range(120):
        look, label, _ = describe(index)
        if CLASSES[label] == "no_mask":
            assert look.outfit.mask is None, index
        elif CLASSES[label] == "mask_correct":
            assert _covered(look) == (True, True, True), index
        else:
            exposures.add(_covered(look))
    # nose out; nose and mouth out; chin out
    assert exposures == {(False, True, True), (False, False, True), (True, True, False)}


def _covered(look: Look) -> tuple[bool, bool, bool]:
    """Whether a magenta mask, worn the same way, changes the picture at nose, mouth and chin."""
    assert look.outfit.mask is not None
    setting = replace(look.setting, blur=0.0, noise=0.0)
    magenta = replace(look.outfit.mask, colour=(255, 0, 255))
    masked = replace(look, outfit=replace(look.outfit, mask=magenta), setting=setting)
    bare = replace(masked, outfit=replace(look.outfit, mask=None))
    rng = np.random.default_rng(0)
    difference = np.abs(render(masked, rng).astype(int) - render(bare, rng)).sum(axis=2)
    places = Brush([], look.pose, look.skull).place(np.array([NOSE_TIP, MOUTH, CHIN]))
    nose, mouth, chin = (difference[int(y), int(x)] > 60 for x, y in places / OVERSAMPLING)
    return bool(nose), bool(mouth), bool(chin)


def test_pixels_alone_do_not_solve_it(
    painted: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """A linear model on colours learns something, and far from everything."""
    pictures, labels = painted
    small = pictures.reshape(-1, 16, 8, 16, 8, 3).mean(axis=(2, 4)).reshape(len(pictures), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    model.fit(small[:NUM_TRAIN], labels[:NUM_TRAIN])
    top1 = model.score(small[NUM_TRAIN:], labels[NUM_TRAIN:])
    assert 0.45 < top1 < 0.85
