"""Explained pictures: where the map lies, what is dimmed, and what the files are called."""

import json

import numpy as np
import pytest
from PIL import Image

from distill.data.decode import InputSpec, resize_image, seen_box
from distill.errors import UserError
from distill.runtime.explain import ExplainedPictures, explained, safe_stem
from distill.runtime.predict import ActivationMap, Prediction, Predictor

WIDTH, HEIGHT = 640, 320


def prediction(values, label="red", **changes):
    fields = {"labels": (label,), "prob": 0.9, "probs": {label: 0.9}, "abstained": False}
    shown = ActivationMap(label, np.asarray(values, np.float32))
    return Prediction(**{"path": None, "map": shown, **fields, **changes})


@pytest.mark.parametrize(
    ("spec", "box"),
    [
        (InputSpec(height=8, width=8, resize="squash"), (0, 0, 640, 320)),
        (InputSpec(height=8, width=8), (160, 0, 480, 320)),
        # 8 / 0.5 = 16 px of the shorter side, 8 of which are kept.
        (InputSpec(height=8, width=8, crop_pct=0.5), (240, 80, 400, 240)),
    ],
)
def test_what_the_model_sees_of_a_picture(spec, box):
    assert seen_box((WIDTH, HEIGHT), spec) == pytest.approx(box)
    left, top, right, bottom = box
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[top:bottom, left:right] = 200
    # Resizing blurs an edge by a pixel of the model's.
    assert (resize_image(Image.fromarray(picture), spec)[1:-1, 1:-1] > 195).all()


def test_the_map_lies_where_the_model_looked_and_the_rest_is_dimmed():
    picture = Image.new("RGB", (WIDTH, HEIGHT), (100, 100, 100))
    spec = InputSpec(height=8, width=8)
    shown = np.asarray(explained(picture, prediction([[0, 1], [0, 0]]), spec)).astype(int)
    assert shown.shape[1] == WIDTH
    for x in (80, 560):  # beside the square in the middle: 0.35 of 100
        assert shown[160, x].tolist() == [35, 35, 35]
    # Upper right of the square: 0.6 of the brightest colour, (252, 255, 164), over 0.4 of 100.
    assert shown[5, 475].tolist() == pytest.approx([191, 193, 138], abs=3)
    # Lower left: 0.25 of the darkest, (0, 0, 4), over 0.75 of 100.
    assert shown[315, 165].tolist() == pytest.approx([75, 75, 76], abs=3)


def test_an_even_map_is_dark_everywhere():
    picture = Image.new("RGB", (WIDTH, HEIGHT), (100, 100, 100))
    spec = InputSpec(height=8, width=8, resize="squash")
    shown = np.asarray(explained(picture, prediction(np.ones((3, 3))), spec))
    assert (shown[:HEIGHT] == (75, 75, 76)).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (900, 2), (20, 16), (1600, 1000)])
def test_pictures_of_all_sizes_have_room_for_the_answer(size):
    picture = Image.new("RGB", size, (90, 120, 150))
    said = prediction([[0, 1], [1, 0]], label="a class with a name of many words " * 5)
    shown = explained(picture, said, InputSpec(height=8, width=8))
    assert 320 <= shown.width <= 1280
    scale = min(max(max(size), 320), 1280) / max(size)
    caption = np.asarray(shown)[max(1, round(size[1] * scale)) :]
    assert (caption == 255).all(axis=2).any()  # letters
    assert not (caption[:, -2:] == 255).any()  # which end before the edge


def test_names_are_made_safe():
    assert safe_stem("a/b/photo.one.jpg") == "photo.one"
    assert safe_stem("a/..\u202e <b>|?*.png") == "b"
    assert safe_stem("日本.png") == "日本"
    assert (safe_stem(None), safe_stem("/???.jpg")) == ("picture", "picture")
    assert len(safe_stem("x" * 500)) == 80


def test_nothing_is_written_over(tmp_path, distill, write_colour_model):
    model, out = write_colour_model(tmp_path / "m.onnx"), tmp_path / "why"
    pictures = [tmp_path / "a" / "p.png", tmp_path / "b" / "P.jpg"]
    for picture in pictures:
        picture.parent.mkdir()
        Image.new("RGB", (6, 4), (255, 0, 0)).save(picture)
    out.mkdir()
    (out / "p.png").write_bytes(b"somebody's")
    status, said, _ = distill("predict", model, *pictures, "--explain", out, "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert status == 0
    assert [row["explained"] for row in rows] == [str(out / "p-2.png"), str(out / "P-3.png")]
    keys = ["path", "labels", "prob", "probs", "abstained", "outlier", "explained"]
    assert [*rows[0]] == keys
    assert (out / "p.png").read_bytes() == b"somebody's"
    assert sorted(file.name for file in out.iterdir()) == ["P-3.png", "p-2.png", "p.png"]
    status, said, _ = distill("predict", model, pictures[0], "--explain", tmp_path / "new" / "one")
    assert (status, said) == (0, f"{pictures[0]}: red 100.0 %\n")
    assert Image.open(tmp_path / "new" / "one" / "p.png").size[0] == 320


def test_it_explains_upright_pictures_with_the_map_of_the_file(tmp_path, write_colour_model):
    turned = Image.new("RGB", (4, 6), (0, 0, 0))
    turned.paste((0, 255, 0), (0, 0, 4, 3))  # upper half, which orientation 6 turns to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = tmp_path / "p.png"
    turned.save(picture, exif=exif)
    pictures = ExplainedPictures(
        tmp_path / "why", Predictor(write_colour_model(tmp_path / "m.onnx"))
    )
    found, file = pictures.answer(picture)
    assert (found.labels, found.map) == (("green",), None)
    shown = np.asarray(Image.open(file)).astype(int)  # 6 x 4, so 320 x 213
    assert shown[100, 310].tolist() == pytest.approx([151, 255, 98], abs=4)
    assert shown[100, 10].tolist() == pytest.approx([0, 0, 1], abs=4)


def test_a_file_without_maps_says_so_before_anything_is_read(tmp_path, distill, write_colour_model):
    model, missing = write_colour_model(tmp_path / "m.onnx", ("prob",)), tmp_path / "none.png"
    status, _, err = distill("predict", model, missing, "--explain", tmp_path / "why")
    assert (status, err.count("\n"), "no class activation map" in err) == (2, 1, True)
    assert not (tmp_path / "why").exists()


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path, write_colour_model):
    (tmp_path / "file").write_text("")
    predictor = Predictor(write_colour_model(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match="no folder"):
        ExplainedPictures(tmp_path / "file", predictor)
