"""Licences: what is stated beside data and of weights, and the model card that tells it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from distill.config import ModelConfig, RunConfig, StrategyConfig
from distill.data.sources import license_of
from distill.data.sources._license import license_of_text
from distill.export.licences import Material, hub_license, licences
from distill.files import read_json, write_json
from distill.models.origin import origin_of
from distill.pipeline.export import export_student, identity_of, open_record
from distill.pipeline.materials import materials
from distill.pipeline.report import report_experiment, score_experiment

LITE = ModelConfig(name="lite", pretrained=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MIT License\n\nCopyright (c) 2020 Somebody", "mit"),
        ("  Apache License\n        Version 2.0, January 2004", "apache-2.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International", "cc-by-nc-sa-4.0"),
        ("Creative Commons Attribution 4.0 International Public License", "cc-by-4.0"),
        ("These pictures are CC BY-SA 3.0.", "cc-by-sa-3.0"),
        ("Attribution-NoDerivatives 4.0 International", "cc-by-nd-4.0"),
        ("CC0 1.0 Universal", "cc0-1.0"),
        ("SPDX-License-Identifier: ODbL-1.0", "ODbL-1.0"),
        ("All rights reserved.", ""),
    ],
)
def test_a_licence_is_known_by_its_title(text, name):
    assert license_of_text(text) == name


def test_a_card_comes_before_a_licence_file(tmp_path):
    assert license_of(str(tmp_path)) == ""
    (tmp_path / "LICENSE.txt").write_text("Ask us.")
    assert license_of(str(tmp_path)) == "see LICENSE.txt"
    (tmp_path / "licence.md").write_text("MIT License")
    (tmp_path / "LICENSE.txt").unlink()
    assert license_of(str(tmp_path)) == "mit"
    for head, stated in (
        ("# Faces", "mit"),  # no metadata
        ("---\nlicense: [\n---", "mit"),  # no YAML
        ("---\nlicense: cc-by-4.0\n---\n# Faces", "cc-by-4.0"),
        ("---\nlicense:\n- odbl\n- mit\n---", "odbl, mit"),
        ("---\nlicense: other\nlicense_name: house-rules\n---", "house-rules"),
    ):
        (tmp_path / "README.md").write_text(head)
        assert license_of(str(tmp_path)) == stated
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert license_of(str(tmp_path / "labels.csv")) == "house-rules"


def test_built_in_and_published_data():
    assert license_of("demo:90") == "apache-2.0"
    assert license_of("torchvision:FashionMNIST@somewhere") == "mit"
    assert license_of("torchvision:CIFAR10") == ""


def test_weights_have_the_licence_that_their_library_states():
    origin = origin_of(LITE)
    assert origin.license == "apache-2.0"
    assert origin.repository == "timm/tf_efficientnet_lite0.in1k"
    named = origin_of(ModelConfig(name="timm/convnextv2_nano.fcmae", pretrained=True))
    assert named.license == "cc-by-nc-4.0"
    assert "ImageNet" in origin_of(ModelConfig(name="compact", pretrained=True)).license
    assert origin_of(ModelConfig(name="squeeze", pretrained=True)).license == ""
    assert origin_of(ModelConfig(name="lite")) is None


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("", {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("CC-BY-NC-SA-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("House Rules", {"license": "other", "license_name": "House Rules"}),
    ],
)
def test_the_hub_has_names_of_its_own(name, head):
    assert hub_license(name) == head


def test_a_model_is_made_of_what_its_teachers_were_made_of(make_experiment, tmp_path):
    """A chain: the student goes on from one that a pretrained teacher taught."""
    experiment = make_experiment(tmp_path, "single")
    taught = StrategyConfig(name="vanilla")
    teacher = RunConfig(name="t", model=ModelConfig(name="squeeze", pretrained=True))
    other = RunConfig(name="other", model=ModelConfig(name="compact", pretrained="own.safetensors"))
    first = RunConfig(name="first", model=LITE, strategy=taught, teachers=("t",))
    second = RunConfig(name="second", model=LITE, start="first")
    update = {"teachers": (teacher,), "students": (other, first, second)}
    update["export"] = experiment.recipe.export.model_copy(update={"data_license": "cc0-1.0"})
    recipe = experiment.recipe.model_copy(update=update)
    experiment = replace(experiment, recipe=recipe, unlabelled="demo:90")
    images, more, lite, squeeze = materials(experiment, "second")
    assert (images.name, images.license) == ("made up", "cc0-1.0")
    assert (more.name, more.license) == ("demo:90", "apache-2.0")
    assert (lite.what, lite.is_base) == ("weights that first started from", True)
    assert lite.license == "apache-2.0"
    assert (squeeze.what, squeeze.is_base) == ("weights that t started from", False)
    (_, _, own) = materials(experiment, "other")
    assert (own.name, own.license, own.is_base) == ("own.safetensors", "", True)


@pytest.fixture(scope="module", params=["single", "multi"])
def reported(request, make_experiment, tmp_path_factory):
    """An experiment on data of the Hub, with a student that has published weights."""
    made_of = (
        Material("images", "hf:owner/name", "cc-by-4.0", "owner/name"),
        Material("weights that student started from", "lite", "apache-2.0", "timm/lite", True),
        Material("weights that teacher started from", "a | b"),
    )
    out = tmp_path_factory.mktemp(request.param) / "mine"
    experiment = make_experiment(out, request.param, license="MIT")
    export_student(experiment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.pipeline.report.materials", lambda *_: made_of)
        report_experiment(experiment, score_experiment(experiment))
    return experiment


def test_the_card_has_the_figures_of_the_results(reported):
    """As the Hub's own library reads it: what it evaluates, and every cell of the table."""
    card = ModelCard.load(reported.out / "README.md")
    results = read_json(reported.out / "results.json")
    rows = {row["name"]: row["test"] for row in results["rows"] if "test" in row}
    shipped = rows[results["verdict"]["shipped"]]
    ours = {"accuracy": "top1", "mean_average_precision": "map", "f1": "macro_f1"}
    found = {one.metric_type: one for one in card.data.eval_results}
    assert set(found) == {metric for metric, key in ours.items() if key in shipped}
    for metric, one in found.items():
        assert one.metric_value == pytest.approx(shipped[ours[metric]] / 100, abs=1e-12)
        assert (one.dataset_type, one.dataset_split) == ("owner/name", "test")
    lines = card.text.splitlines()
    heads = next(line for line in lines if line.startswith("| score |"))
    names = [cell.strip() for cell in heads.strip("|").split("|")][1:]
    count = 0
    for line in lines:
        key, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if key in shipped or key.startswith("recall of "):
            for name, cell in zip(names, cells, strict=True):
                scores = rows[name]
                own = scores.get(
                    key, scores["per_class_recall"].get(key.removeprefix("recall of "))
                )
                assert math.isclose(float(cell), own, rel_tol=1e-3)
                count += 1
    assert count >= 20


def test_the_card_is_in_the_hub_s_format(reported):
    data = ModelCard.load(reported.out / "README.md").data
    assert data.license == "mit"
    assert data.datasets == ["owner/name"]
    assert data.base_model == ["timm/lite"]
    assert (data.library_name, data.pipeline_tag) == ("onnx", "image-classification")


def test_the_card_tells_all_licences(reported):
    text = (reported.out / "README.md").read_text("utf-8")
    rows = text.split("## Licences")[1].splitlines()
    assert "| images | owner/name | cc-by-4.0 |" in rows
    assert "| weights that teacher started from | a \\| b | not stated |" in rows
    assert "| this model | | MIT |" in rows
    silent = "\n".join(licences("", [Material("images", "photos")]))
    assert "| images | photos | not stated (`export.data_license`) |" in silent
    assert "| this model | | not stated (`export.license`) |" in silent


def test_files_of_before_stay_until_a_licence_is_named(make_experiment, tmp_path):
    """Their `export.json` does not know the option."""
    experiment = make_experiment(tmp_path / "mine", "single")
    export_student(experiment)
    place = experiment.out / "export" / "export.json"
    record = read_json(place)
    del record["identity"]["options"]["data_license"]
    write_json(place, record)
    scaling = record["identity"]["options"]["temperature_scaling"]
    assert open_record(place.parent, identity_of(experiment, "student", scaling))["targets"]
    named = experiment.recipe.export.model_copy(update={"data_license": "mit"})
    recipe = experiment.recipe.model_copy(update={"export": named})
    other = identity_of(replace(experiment, recipe=recipe), "student", scaling)
    assert open_record(place.parent, other)["targets"] == {}
