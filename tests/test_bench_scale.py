"""Costs of large data, and of many workers: what the measurements themselves have to hold."""

import json

import pytest

from distill.benchmarks import shards
from distill.benchmarks.cluster import Cluster, simulate
from distill.benchmarks.scale import STAGES, made_up


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_tells_time_and_memory(stage):
    row: dict[str, float] = {}
    STAGES[stage](400, row)
    assert row["seconds"] >= 0
    assert row["peak_mb"] >= row["start_mb"] > 0
    if stage == "comparing":
        assert (row["found"], row["others"]) == (1.0, 0)


def test_planted_copies_are_one_in_twenty():
    prints, planted = made_up(400)
    assert len(planted) == 19
    assert len({second for _, second in planted}) == 19
    assert len(set(prints.sha256)) == 400


def test_workers_that_never_fail_share_evenly():
    """A worker does 600 shards of a second in 600 s, four in 150 s."""
    even = {"shards": 600, "seconds": 1.0, "spread": 0.0, "mtbf_s": 0.0, "seed": 1}
    one = simulate(Cluster(1, **even))
    assert (one.hours, one.efficiency, one.wasted) == (round(600 / 3600, 3), 100.0, 0.0)
    four = simulate(Cluster(4, **even))
    assert four.failures == 0
    assert four.efficiency > 99.0


def test_whoever_is_taken_away_is_made_up_for():
    """Every shard is done in the end, a lease later, and what was lost is told."""
    cluster = Cluster(8, shards=2000, seconds=4.0, mtbf_s=300.0, restart_s=30.0, lease_s=60.0)
    found = simulate(cluster)
    assert found.failures > 5
    assert 0.0 < found.wasted < 5.0
    assert 60.0 < found.tail_s < 600.0
    assert found == simulate(cluster)
    assert simulate(Cluster(8, 2000, 4.0, mtbf_s=0.0)).wasted == 0.0


def test_ways_to_answer_agree_and_are_timed(image_folder, capsys):
    """Answers of the plain loop and of shards of each size are compared to the last bit."""
    options = {"data": image_folder, "teacher": "baseline_cnn", "images": 70, "per-tar": 40}
    options |= {"size": 32, "rounds": 1}
    shards.main([f"--{key}={value}" for key, value in options.items()])
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == ["plain loop", "decode", "answer", "shards of 64"]
    assert all(row["images_per_s"] > 0 for row in rows.values())
