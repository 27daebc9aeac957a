"""Averages of weights: with those that full training began from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.config import ModelConfig, RunConfig, TrainConfig, TransferConfig, ViewsConfig
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.training.averaging import Anchor
from distill.training.fit import fit
from distill.training.job import Job

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
TINY = ModelConfig(name="compact", options={"width": [8, 8], "depth": [1, 1], "dropout": 0.0})


def tiny(data, seed=0):
    torch.manual_seed(seed)
    return build_classifier(TINY, data.classes, data.spec)


def make_job(data, folder: Path, share: float, epochs=2, ema=0.0) -> Job:
    config = RunConfig(
        name="tiny",
        model=TINY,
        transfer=TransferConfig(freeze_epochs=1, start_share=share),
        train=TrainConfig(
            epochs=epochs, batch_size=16, lr=5e-3, validate_every=epochs, ema_decay=ema
        ),
    )
    return Job(config, data, ViewsConfig(), 0, folder)


def kept(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.folder / "best.safetensors")


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_is_kept_lies_between_start_and_end(data, tmp_path, ema):
    runs = {}
    for share in (0.0, 0.25, 1.0):
        job = make_job(data, tmp_path / str(share), share, ema=ema)
        fit(tiny(data), job, CPU, QUIET)
        runs[share] = kept(job)
    start = tiny(data).network.state_dict()
    head = "classifier.weight"
    for name, tensor in runs[0.25].items():
        if not tensor.is_floating_point():
            continue
        if not name.startswith("classifier"):  # frozen in the first epoch
            torch.testing.assert_close(runs[1.0][name], start[name])
        expected = 0.75 * runs[0.0][name] + 0.25 * runs[1.0][name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(runs[1.0][head], start[head])  # the head learned alone before
    assert not torch.equal(runs[0.0][head], runs[1.0][head])


def test_a_stopped_run_remembers_its_start(data, tmp_path, fit_until):
    whole, job = (make_job(data, tmp_path / name, 0.5, epochs=3) for name in ("whole", "stopped"))
    fit(tiny(data), whole, CPU, QUIET)

    fit_until(tiny(data), job, 2)
    fit(tiny(data, seed=7), job, CPU, QUIET)
    expected, found = kept(whole), kept(job)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other = make_job(data, tmp_path / "none", 0.0, epochs=3)
    fit(tiny(data), other, CPU, QUIET)
    assert not all(torch.equal(expected[name], kept(other)[name]) for name in expected)


def test_what_was_remembered_is_where_the_network_is():
    """Read back it lay in the host's memory, and the next validation of a GPU failed."""
    anchor = Anchor(0.5)
    anchor.load_state({"weight": torch.ones(2)}, torch.device("meta"))
    assert anchor.start["weight"].is_meta
    anchor.load_state(None, CPU)
    assert anchor.start is None


def test_a_start_without_a_head_is_refused():
    with pytest.raises(ValueError, match="start_share: wants freeze_epochs"):
        TransferConfig(start_share=0.5)
