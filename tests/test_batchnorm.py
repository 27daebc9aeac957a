"""BatchNorm over several processes: what is exchanged for the time of training, and put back."""

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from distill.config import ModelConfig, RunConfig, TrainConfig, ViewsConfig
from distill.errors import UserError
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.training.batchnorm import check_sync_batchnorm, synchronised
from distill.training.fit import fit
from distill.training.job import Job

CPU = torch.device("cpu")
SMALL = ModelConfig(name="compact", options={"width": [8], "depth": [1], "head_width": 0})


def network() -> nn.Module:
    """With a layer of timm's, which has an activation of its own."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 4, 3), BatchNormAct2d(4, act_layer=nn.ReLU))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), inner)


def norms(model: nn.Module) -> list[type]:
    return [type(model.get_submodule(name)) for name in ("1", "2.1")]


def test_layers_are_synchronised_within_and_plain_with_what_they_learned_afterwards():
    model, images = network(), torch.rand(8, 3, 16, 16)
    model(images)  # statistics of its own
    keys, before = list(model.state_dict()), model.eval()(images)
    with synchronised(model, on=True):
        assert norms(model) == [nn.SyncBatchNorm, SyncBatchNormAct]
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(model(images), before)  # evaluated as with plain layers
        model.double()  # replaces buffers, as moving to a GPU does
        model.train()
        model(images.double())  # one process synchronises with nobody
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
        model.eval()
        learned = {name: value.clone() for name, value in model.state_dict().items()}
        answers = model(images.double())
    assert norms(model) == [nn.BatchNorm2d, BatchNormAct2d]
    assert not any(part.training for part in model.modules())
    assert model.state_dict().keys() == learned.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, learned[name]), name
    torch.testing.assert_close(model(images.double()), answers)


def test_layers_come_back_when_training_fails():
    model = network()
    with pytest.raises(KeyboardInterrupt), synchronised(model, on=True):
        raise KeyboardInterrupt
    assert norms(model) == [nn.BatchNorm2d, BatchNormAct2d]


def test_nothing_is_exchanged_where_there_is_nothing_to_share():
    model = network()
    parts = list(model.modules())
    with synchronised(model, on=False):
        assert list(model.modules()) == parts


def test_processes_without_gpus_are_told_before_any_work(tmp_path, distill, monkeypatch):
    train = TrainConfig(sync_batchnorm=True)
    check_sync_batchnorm(train, CPU, 1)
    check_sync_batchnorm(train, torch.device("cuda", 1), 2)
    check_sync_batchnorm(TrainConfig(), CPU, 2)
    with pytest.raises(UserError, match="on GPUs only"):
        check_sync_batchnorm(train, CPU, 2)
    (tmp_path / "r.toml").write_text(
        '[[teachers]]\nname = "t"\nmodel.name = "baseline_cnn"\ntrain.sync_batchnorm = true\n'
        '[student]\nmodel.name = "baseline_cnn"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = distill(
        "run", "r.toml", "--data", "demo:90", "--out", "out", "--device", "cpu"
    )
    assert status == 2
    assert "teacher.train.sync_batchnorm" in err
    assert not (tmp_path / "out").exists()


def test_one_process_trains_as_without(data, tmp_path):
    for on in (False, True):
        config = RunConfig(name="tiny", model=SMALL, train=TrainConfig(epochs=1, sync_batchnorm=on))
        torch.manual_seed(0)
        classifier = build_classifier(SMALL, data.classes, data.spec)
        job = Job(config, data, ViewsConfig(), 0, tmp_path / str(on))
        fit(classifier, job, CPU, Progress(quiet=True))
    plain, shared = (load_file(tmp_path / str(on) / "best.safetensors") for on in (False, True))
    assert all(torch.equal(plain[name], shared[name]) for name in plain | shared)
