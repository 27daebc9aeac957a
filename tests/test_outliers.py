"""Pictures that are unlike those of training: distances by hand, thresholds, and files."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from distill.errors import UserError
from distill.runtime.predict import Predictor
from distill.scoring.outliers import FEWEST, Outliers

TWO = np.tile([[1.0, 0.0], [0.0, 1.0]], (40, 1))  # 80 embeddings of length 1


def test_a_distance_by_hand():
    known = Outliers.fit(TWO, TWO)
    # Offsets from the mean (0.5, 0.5) are +-(0.5, -0.5): 0.5 along (1, -1) / sqrt 2, of which the
    # unbiased variance is 0.5 * 80 / 79; nothing along (1, 1), so the least variance there.
    assert known.variances == pytest.approx((0.5 * 80 / 79,), abs=1e-4)
    assert (known.length, known.rest) == (1.0, 1e-6)
    near, away, faint, long = known.distances(np.array([[1, 0], [-1, 0], [0.1, 0], [3, 0.0]]))
    assert near == pytest.approx(79 / 80, abs=0.05)
    # (-1.5, -0.5): 0.5 along, squared, and 2 beyond.
    assert away == pytest.approx(79 / 80 + 2 / 1e-6, rel=1e-3)
    assert faint == pytest.approx(near)  # stretched to the usual length
    # (2.5, -0.5): 4.5 along, squared, and 2 beyond.
    assert long == pytest.approx(9 * 79 / 80 + 2 / 1e-6, rel=1e-3)
    odd = np.array([[1, 0], [-1, 0], [np.nan, 0], [np.inf, 1]])
    assert known.told(odd).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("count", "beyond", "kept"),
    # Of 200 and one more the 199th, as 199 / 201 >= 0.99 > 198 / 201; of 50 the last, 50 / 51.
    [(200, 1, 99.0), (50, 0, 100 * 50 / 51)],
)
def test_the_threshold_keeps_what_it_says(count, beyond, kept):
    rng = np.random.default_rng(0)
    train, val = rng.normal(1, 0.2, (300, 20)), rng.normal(1, 0.2, (count, 20))
    known = Outliers.fit(train, val)
    assert known.told(val).sum() == beyond
    assert known.kept == pytest.approx(kept)
    others = rng.normal(1, 0.2, (4000, 20))
    assert known.told(others).mean() == pytest.approx(1 - kept / 100, abs=0.02)
    assert known.told(rng.normal(0, 1.0, (100, 20))).all()


def test_wide_embeddings_stay_small_in_json():
    rng = np.random.default_rng(0)
    known = Outliers.fit(rng.normal(size=(100, 3000)), rng.normal(size=(100, 3000)))
    assert len(known.variances) == 4  # and the mean: 5 * 3,000 numbers, at most 16,384
    text = json.dumps(known.to_json())
    assert len(text) < 45_000
    again = Outliers.model_validate_json(text)
    assert again.distances(np.ones((1, 3000))) == known.distances(np.ones((1, 3000)))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (TWO[: FEWEST - 1], TWO),
        (TWO, TWO[: FEWEST - 1]),
        (0 * TWO, TWO),
        (TWO, np.nan * TWO),
        (np.zeros((40, 20_000)), np.zeros((40, 20_000))),
    ],
)
def test_nothing_is_made_up_of_too_little(train, val):
    assert Outliers.fit(train, val) is None


def solid(*colour: int) -> Image.Image:
    return Image.new("RGB", (6, 4), colour)


def test_an_outlier_is_told_and_rejected_only_where_that_is_asked(tmp_path, write_colour_model):
    file, yellow = write_colour_model(tmp_path / "m.onnx"), solid(255, 250, 0)
    red, odd = Predictor(file).predict([solid(255, 0, 0), yellow])
    assert (red.outlier, red.abstained, str(red)) == (False, False, "red 100.0 %")
    assert (odd.outlier, odd.labels) == (True, ("red",))
    assert str(odd) == "red 100.0 % (unlike the training pictures)"
    strict = pickle.loads(pickle.dumps(Predictor(file, reject_outliers=True)))
    red, odd = strict.predict([solid(255, 0, 0), yellow])
    assert (red.labels, red.abstained) == (("red",), False)
    assert (odd.labels, odd.abstained, odd.outlier) == ((), True, True)
    assert str(odd) == "unlike the training pictures, likeliest red 100.0 %"


def test_the_command_adds_it_to_its_json_where_the_file_can_tell(
    tmp_path, distill, write_colour_model
):
    picture = tmp_path / "p.png"
    solid(255, 250, 0).save(picture)
    plain = ["path", "labels", "prob", "probs", "abstained"]
    known, older = (
        write_colour_model(tmp_path / "m.onnx"),
        write_colour_model(tmp_path / "o.onnx", outliers=None),
    )
    _, out, _ = distill("predict", known, picture, "--json")
    assert [*json.loads(out)] == [*plain, "outlier"]
    _, out, _ = distill("predict", known, picture, "--json", "--reject-outliers")
    assert (json.loads(out)["abstained"], json.loads(out)["outlier"]) == (True, True)
    _, out, _ = distill("predict", older, picture, "--json")
    assert [*json.loads(out)] == plain
    status, out, err = distill("predict", older, picture, "--reject-outliers")
    assert (status, out, "cannot tell pictures that are unlike" in err) == (2, "", True)
    _, out, _ = distill("inspect", known)
    assert "told beyond a distance of" in out


def test_an_older_file_answers_as_before(tmp_path, write_colour_model):
    file = write_colour_model(tmp_path / "old.onnx", ("prob", "cam"), outliers=None)
    predictor = Predictor(file)
    (found,) = predictor.predict(solid(255, 250, 0))
    assert (predictor.outliers, found.outlier, found.labels) == (None, None, ("red",))
    assert "outlier" not in found.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": "no base64"},
        {"mean": ""},
        {"variances": []},
        {"directions": "AAAA"},
        {"rest": 0.0},
        {"threshold": "far"},
    ],
)
def test_statistics_that_make_no_sense_are_one_line(tmp_path, change, write_colour_model):
    outliers = {**Outliers.fit(TWO, TWO).to_json(), **change}
    with pytest.raises(UserError, match=r"its metadata makes no sense"):
        Predictor(write_colour_model(tmp_path / "m.onnx", outliers=outliers))


def test_statistics_of_another_width_are_refused(tmp_path, write_colour_model):
    wide = Outliers.fit(np.tile(np.eye(3), (20, 1)), np.tile(np.eye(3), (20, 1)))
    with pytest.raises(UserError, match="its metadata says 3"):
        Predictor(write_colour_model(tmp_path / "m.onnx", outliers=wide.to_json()))


def test_evaluate_says_how_many_pictures_are_told(tmp_path, distill, write_colour_model):
    colours = {"red": [(255, 0, 0), (250, 0, 0), (255, 250, 0)], "green": [(0, 255, 0)]}
    for name, shades in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, shade in enumerate(shades):
            solid(*shade).save(tmp_path / "data" / name / f"{number}.png")
    file = write_colour_model(tmp_path / "m.onnx")
    _, out, _ = distill("evaluate", file, tmp_path / "data", "--json")
    assert "1 of them (25.0 %) are unlike those that it was trained on" in out
    assert json.loads(out.splitlines()[-1])["outliers"] == {"count": 1, "share": 25.0}
    older = write_colour_model(tmp_path / "o.onnx", outliers=None)
    _, out, _ = distill("evaluate", older, tmp_path / "data", "--json")
    assert "outliers" not in json.loads(out.splitlines()[-1])
