"""Names of nonsense: pictures have them like others, classes show them or are refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

PARTS = (
    *("a", "IMG 7 (copy)", "-x", "--json", "#", "%41", "é", "e\u0301", "中", "🙂", "'", '"', "\\"),
    *(
        "\x1b[2J",
        "\n",
        "\t",
        "\u202e",
        "\u200b",
        "*",
        "?",
        "[a]",
        "{b}",
        "$HOME",
        "`id`",
        "..",
        "con",
    ),
)


def name_of(rng: random.Random) -> str:
    name = "".join(rng.choice(PARTS) for _ in range(rng.randint(1, 4))).strip(".")
    return name or "x"


def test_pictures_of_any_name_are_labelled(write_images, tmp_path, distill, tiny_onnx, hostile):
    for number, rng in enumerate(hostile.tries(15)):
        folder = tmp_path / str(number)
        names = sorted({f"{name_of(rng)}{index}.jpg" for index in range(4)})
        write_images(folder, names)
        status, out, err = distill("predict", tiny_onnx, folder)
        assert status == 0, err
        assert len(out.splitlines()) == len(names)
        assert "\x1b" not in out + err
        status, out, err = distill("predict", tiny_onnx, folder, "--json")
        found = [json.loads(line)["path"] for line in out.splitlines()]
        assert sorted(Path(path).name for path in found) == names


def test_classes_of_any_name_show_or_are_refused(write_images, tmp_path, distill, hostile):
    refused = 0
    for number, rng in enumerate(hostile.tries(10)):
        folder, classes = tmp_path / str(number), {f"{name_of(rng)}{index}" for index in range(2)}
        write_images(folder, [f"{name}/{index}.jpg" for name in classes for index in range(8)])
        status, out, err = distill("check", folder, "--out", tmp_path / f"out {number}")
        hostile.assert_one_line(status, err)
        assert "\x1b" not in out + err
        refused += status == 2
        if status == 0:
            page = (tmp_path / f"out {number}" / "data.html").read_text("utf-8")
            assert "\x1b" not in page
    assert refused >= 1
