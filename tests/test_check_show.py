"""`distill check --show`: one picture of the views, from the command line to the pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config import DataConfig, ViewsConfig
from distill.data.prepare import ImageData, prepare_data
from distill.data.views.draws import Draws
from distill.data.views.pixels import make_views
from distill.data.workspace import Workspace
from distill.progress import Progress
from distill.report.contact_sheet import GAP, LINE, VIEWS, contact_sheet


@pytest.fixture
def check(distill, monkeypatch, tmp_path) -> Callable[..., tuple[int, list[str], str]]:
    """Runs `distill check` in an empty directory; returns exit status, lines of stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, list[str], str]:
        status, out, err = distill("check", *arguments)
        return status, out.splitlines(), err

    return call


def prepared(location: object, folder: Path, size: int = 32) -> ImageData:
    quiet = Progress(quiet=True)
    return prepare_data(
        str(location), DataConfig(size=size), ViewsConfig(), 0, Workspace(folder, 1, quiet)
    )


def test_show_draws_one_picture_and_says_where(check, tmp_path):
    """Not unless it is asked to, nor over an older one unless told so."""
    command, picture = ("demo:30", "data.size=32"), tmp_path / "views.png"
    assert check(*command)[0] == 0
    assert list(tmp_path.iterdir()) == []
    picture.write_bytes(b"mine")
    status, _, err = check(*command, "--show")
    assert status == 2
    assert "views.png" in err
    assert "--overwrite" in err
    assert picture.read_bytes() == b"mine"
    sheets = []
    for options in ([], ["views.per_class.no_mask.brightness=0.9"]):
        status, out, _ = check(*command, "--show", "--overwrite", *options)
        assert status == 0
        assert out[-1] == "views.png"
        with Image.open(picture) as sheet:
            # 7 columns of 32 + 4; a line of text, then per class a line and 3 rows of 32 + 4
            assert sheet.size == (7 * 36 + 4, 22 + 3 * (22 + 3 * 36) + 4)
            assert sheet.format == "PNG"
            sheets.append(np.asarray(sheet))
    assert list(tmp_path.iterdir()) == [picture]
    changed = (sheets[0] != sheets[1]).any(axis=(1, 2))
    block = LINE + 3 * (32 + GAP)
    assert not changed[: LINE + 2 * block].any()  # mask_correct and mask_incorrect
    assert changed[LINE + 2 * block :].any()


def test_the_picture_lies_in_out_and_json_still_ends_stdout(check, tmp_path):
    status, out, _ = check("demo:30", "data.size=32", "--show", "--out", "here", "--json")
    assert status == 0
    assert out[-2] == str(Path("here") / "views.png")
    assert json.loads(out[-1]) == json.loads((tmp_path / "here" / "data.json").read_text())
    assert (tmp_path / "here" / "views.png").is_file()
    assert not (tmp_path / "views.png").exists()


def test_a_class_that_does_not_exist_is_a_mistake_before_any_work(check, tmp_path):
    status, _, err = check("demo:30", "views.per_class.no_maks.blur=1.0", "--out", "here")
    assert status == 2
    assert err.startswith("error: ")
    assert "'no_maks'" in err
    assert not (tmp_path / "here").exists()


def test_the_picture_holds_the_views_of_training(tmp_path):
    data, config = prepared("demo:30", tmp_path), ViewsConfig()
    sheet = np.asarray(contact_sheet(data, config, 0))
    first = np.flatnonzero(data.train.labels == 0)[:1]
    top = 2 * LINE
    for view in (0, VIEWS - 1):
        draws = Draws(0, first, view)
        expected = make_views(data.train.pixels[first], draws, config, 32, torch.device("cpu"))
        left = GAP + (1 + view) * (32 + GAP)
        cell = sheet[top : top + 32, left : left + 32] / 255.0
        assert cell == pytest.approx(expected[0].permute(1, 2, 0).numpy(), abs=0.51 / 255)


def test_with_many_classes_every_class_has_a_row(tmp_path, write_images):
    names = [f"{label:02}/{i}.jpg" for label in range(40) for i in range(3)]
    data = prepared(write_images(tmp_path / "images", names), tmp_path, size=64)
    sheet = contact_sheet(data, ViewsConfig(), 0)
    assert sheet.size == (7 * (48 + 4) + 4, 22 + 40 * (22 + 48 + 4) + 4)
    pixels = np.asarray(sheet)[LINE:-GAP].reshape(40, 22 + 48 + 4, -1)
    assert (pixels[:, LINE:-GAP].std(axis=(1, 2)) > 5).all()
    assert (pixels[:, :LINE].min(axis=(1, 2)) < 100).all()  # the names
