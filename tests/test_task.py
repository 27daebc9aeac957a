"""Which score chooses, and what a run with several labels per image cannot have."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from distill.config import CacheConfig, ModelConfig, RunConfig, StrategyConfig, TrainConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models import Contract
from distill.scoring.tasks import task_of
from distill.training.run_directory import FinishedRun
from distill.training.selection import (
    check_classes,
    check_task,
    chosen_score,
    validation_row,
    worth,
)

SINGLE = {"top1": 90.0, "macro_f1": 80.0, "macro_recall": 70.0, "worst_recall": 60.0, "nll": 0.5}
MULTI = {"map": 90.0, "macro_f1": 80.0, "micro_f1": 70.0, "exact_match": 60.0, "nll": 0.5}
TASKS = [("single", SINGLE), ("multi", MULTI)]


def config(strategy: str = "vanilla", **options) -> RunConfig:
    parts = {"model": ModelConfig(name="compact"), "strategy": StrategyConfig(name=strategy)}
    return RunConfig(name="tiny", **parts, **options)


@pytest.mark.parametrize(("task", "scores"), TASKS)
def test_a_row_has_every_score_of_its_task(task, scores) -> None:
    row = validation_row({**scores, "ece": 3.0, "per_class_recall": {}}, task)
    expected = {f"val/{name}": value for name, value in scores.items() if name != "nll"}
    assert row == {**expected, "val/loss": 0.5}


@pytest.mark.parametrize(("task", "scores"), TASKS)
def test_every_score_can_choose(task, scores) -> None:
    row = validation_row(scores, task)
    for name in task_of(task).scores:
        assert chosen_score(name, task) == name
        assert worth(row, name, task)[0] == scores[name]
    assert worth(row, "auto", task) == (90.0, -0.5)
    assert worth(row, "loss", task)[0] == -0.5  # higher is better


@pytest.mark.parametrize(
    ("task", "select"), [("single", "map"), ("single", "micro_f1"), ("multi", "top1")]
)
def test_the_other_tasks_score_is_refused(task, select) -> None:
    with pytest.raises(UserError, match=f"has no {select}") as caught:
        check_task(config(train=TrainConfig(select=select)), task)
    assert caught.value.where == "tiny.train.select"


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        (config("logit_standardisation"), "tiny.strategy.name"),
        (config(cache=CacheConfig(top_k=2)), "cache.top_k"),
    ],
)
def test_what_is_for_one_label_per_image_is_refused(changed, where) -> None:
    check_task(changed, "single")
    with pytest.raises(UserError) as caught:
        check_task(changed, "multi")
    assert caught.value.where == where


def test_a_strategy_that_compares_all_logits_refuses_a_cache_of_some() -> None:
    """Standardised, the few that were kept and an even rest were other logits altogether."""
    few = CacheConfig(top_k=2)
    with pytest.raises(UserError, match="all logits") as caught:
        check_task(config("logit_standardisation", cache=few), "single")
    assert caught.value.where == "tiny.cache.top_k"
    check_task(config("logit_standardisation"), "single")
    check_task(config("logit_standardisation", cache=CacheConfig(top_k=2, use=False)), "single")
    check_task(config("vanilla", cache=few), "single")


@pytest.mark.parametrize(
    ("changed", "count", "where"),
    [
        (config("logit_standardisation"), 2, "student.strategy.name"),
        (config(cache=CacheConfig(top_k=3)), 3, "student.cache.top_k"),
    ],
)
def test_too_few_classes_are_refused(changed, count, where) -> None:
    """They were told of when the student began, and its teachers had been trained."""
    check_classes(changed, count + 1, "student")
    with pytest.raises(UserError, match=f"{count} classes") as caught:
        check_classes(changed, count, "student")
    assert caught.value.where == where


@pytest.mark.parametrize("select", ["auto", *task_of("single").scores, "loss"])
def test_a_runs_main_score_is_that_of_the_kept_epoch(select, tmp_path: Path) -> None:
    """Every score prefers an epoch of its own; `best` of equals is the first."""
    names = ["top1", "macro_f1", "macro_recall", "worst_recall", "loss"]
    rows = []
    for epoch, name in enumerate(names):
        row = {f"val/{other}": 10.0 for other in names} | {"epoch": epoch, "val/top1": 20.0 + epoch}
        row[f"val/{name}"] = 1.0 if name == "loss" else 99.0
        rows.append(row)
    rows.append({"epoch": 5, "train/loss": 1.0})  # was not validated
    rows.append({**rows[names.index("loss" if select == "loss" else "macro_f1")], "val/top1": 3.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text(json.dumps({"run": {"train": {"select": select}}}))
    contract = Contract(input_spec=InputSpec(height=8, width=8), input_size=8, names=("a", "b"))
    (tmp_path / "contract.json").write_text(contract.model_dump_json())
    kept = names.index("top1" if select == "auto" else select)
    assert FinishedRun(tmp_path, {}).best_score == (99.0 if kept == 0 else 20.0 + kept)


def test_divergence_is_that_of_kullback_and_leibler():
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(4), (2, 50))
    task = task_of("single")
    expected = np.mean([entropy(a, b) for a, b in zip(one, other, strict=True)])
    assert task.divergence(one, other) == pytest.approx(expected)
    assert task.divergence(one, one) == 0.0
    certain = np.eye(4)[:2]
    assert np.isfinite(task.divergence(one[:2], certain))
    flat, multi = rng.random((50, 3)), task_of("multi")
    assert multi.divergence(flat, flat) == 0.0
    both = [
        [entropy([p, 1 - p], [q, 1 - q]) for p, q in zip(a, b, strict=True)]
        for a, b in zip(flat, flat[::-1], strict=True)
    ]
    assert multi.divergence(flat, flat[::-1]) == pytest.approx(np.sum(both, axis=1).mean())
