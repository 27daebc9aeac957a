"""Two processes under torchrun give the weights that one process gives."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = """
    import sys
    from pathlib import Path
    import torch
    from distill.teaching import cache as teacher_cache
    from distill.config import (
        DataConfig, ModelConfig, RunConfig, StrategyConfig, TrainConfig, ViewsConfig,
    )
    from distill.data.prepare import prepare_data
    from distill.models import build_classifier
    from distill.progress import Progress
    from distill.training.fit import fit
    from distill.training.job import Job

    folder, batch_size, cached = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "cached"
    torch.set_num_threads(1)
    teacher_cache.SHARD_ROWS = 20  # several shards of a view, so that both ranks compute some
    views, quiet = ViewsConfig(), Progress(quiet=True)
    data = prepare_data("demo:90", DataConfig(size=32), views, 0, folder.parent / "cache", 1, quiet)
    model = ModelConfig(name="baseline_cnn", options={"width": [8, 8], "dropout": 0.0})
    train = TrainConfig(epochs=2, batch_size=batch_size, lr=1e-2, optimizer="sgd")
    config = RunConfig(
        name="tiny", model=model, train=train, strategy=StrategyConfig(name="messy_collaboration")
    )
    torch.manual_seed(0)
    student = build_classifier(model, data.classes, data.spec)
    teacher = build_classifier(model, data.classes, data.spec)
    cache = folder.with_name(folder.name + "-cache") if cached else None
    job = Job(config, data, views, 0, folder, [teacher], cache=cache)
    fit(student, job, torch.device("cpu"), quiet)
"""


def run_processes(script: Path, folder: Path, processes: int, batch_size: int, source: str) -> None:
    """Trains with a global batch of `processes * batch_size`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), script, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), str(batch_size), source],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("source", ["live", "cached"])
def test_two_processes_train_what_one_does(tmp_path, source):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    run_processes(script, tmp_path / "one", 1, 16, source)
    run_processes(script, tmp_path / "two", 2, 8, source)
    one = load_file(tmp_path / "one" / "best.safetensors")
    two = load_file(tmp_path / "two" / "best.safetensors")
    assert all(one[name].allclose(two[name], atol=1e-5) for name in one)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    assert [len(log.splitlines()) for log in logs] == [2, 2]
