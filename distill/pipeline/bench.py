"""What was exported is timed, beside the networks it came from; the times join the results."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.benchmarks.speed import bench_speed
from distill.benchmarks.subjects import Model, onnx_model, run_model
from distill.config import ModelConfig
from distill.export.onnx_fp32 import export_onnx
from distill.files import read_json, sha256_of, write_json
from distill.models.classifier import Classifier, build_classifier
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs, best_run, chosen_student
from distill.pipeline.stored import BENCH, BenchFile
from distill.pipeline.verdicts import build_verdict
from distill.report.results import Caution, ResultRow, Results

Speed = dict[str, Any]  # figures of one image after the other, as `ResultRow` names them
BUSY = 50.0  # percent of the cores, before anything is timed, above which speeds may be off
LATENCY = ("latency_p50_ms", "latency_p99_ms", "images_per_s", "batch_size")
TIMED_IMAGES = 64  # encoded pictures that the decoding clock runs over


def bench_experiment(experiment: Experiment) -> None:
    """Times the exported files, the best teacher and the opponents side by side."""
    config, out = experiment.recipe.bench, experiment.out
    place, exported = out / BENCH, exported_files(out)
    identity = {
        "options": config.model_dump(mode="json"),
        "files": {file.name: sha256_of(file) for file in exported},
    }
    if place.is_file() and read_json(place, dict[str, Any]).get("identity") == identity:
        experiment.progress.say("bench: done before, kept")
        return
    student = chosen_student(experiment)
    models = [onnx_model(file, file.name) for file in exported]
    names = [teacher.name for teacher in experiment.recipe.teachers]
    if names:
        models.append(_teacher_onnx(experiment, best_run(experiment, names)))
    for name in dict.fromkeys(config.opponents):
        models.append(_opponent(experiment, name, [model.name for model in models]))
    models += [run_model(experiment.folder(name), name) for name in (student, *names)]
    limit_s = config.max_share * training_s(experiment)
    pictures = encoded_images(experiment)
    report = bench_speed(models, config, experiment.progress, pictures, limit_s)
    write_json(place, {"identity": identity, **report.to_json()})


def exported_files(out: Path) -> list[Path]:
    """The ONNX files of an experiment."""
    return sorted((out / "export").glob("*.onnx"))


def times_of(out: Path) -> dict[str, Any] | None:
    """`bench.json` of an experiment, if it is of the files that are exported now."""
    if not (out / BENCH).is_file():
        return None
    times = read_json(out / BENCH, BenchFile)
    known = times.get("identity", {}).get("files")
    now = {file.name: sha256_of(file) for file in exported_files(out)}
    return times if known in (None, now) else None


def with_speeds(results: Results, out: Path, main: str) -> Results:
    """The results with the figures of `bench.json`, and rows for what was timed alone.

    Args:
        out: The experiment's folder.
        main: The score that the verdict compares by.
    """
    times, rows = times_of(out), list[ResultRow]()
    speeds = _speeds(times)
    for row in results.rows:
        engine = "onnxruntime" if row.kind == "onnx" else "torch"
        rows.append(row.model_copy(update=speeds.pop((row.name, engine), {})))
    rows += [
        ResultRow(name=name, kind="onnx", **speed)
        for (name, engine), speed in speeds.items()
        if engine == "onnxruntime"
    ]
    update = {
        "rows": tuple(rows),
        "verdict": build_verdict(
            rows, results.verdict.get("teacher"), main, results.verdict.get("questions", [])
        ),
        "warnings": (*results.warnings, *_doubts(out, times)),
    }
    return results.model_copy(update=update)


def _doubts(out: Path, times: Mapping[str, Any] | None) -> Iterator[Caution]:
    """What to say of timings of other files, or on a machine that had other work."""
    if times is None and (out / BENCH).is_file():
        yield Caution(
            kind="stale_times",
            what=f"{BENCH} has times of files that were exported before: they are left out",
            fix="time these: repeat `distill run` without --no-bench",
        )
    if times is not None and (percent := times["env"]["cpu_busy_percent"]) > BUSY:
        yield Caution(
            kind="busy_machine",
            what=f"{percent:.0f} % of the cores were at work before the timings: speeds may be off",
            fix="let the machine rest, then time anew: distill bench FILE.onnx",
        )


def _speeds(times: Mapping[str, Any] | None) -> dict[tuple[str, str], Speed]:
    """Figures of one image after the other by (name, engine), and the file size if it was timed."""
    if times is None:
        return {}
    keys, alone = (*LATENCY, "size_bytes", "params"), "single_stream"
    return {
        (row["name"], row["engine"]): {key: row[key] for key in keys if key in row}
        for row in times["rows"]
        if row["batch_size"] == 1
        and row["clock"] == "model"
        and row.get("scenario", alone) == alone
    }


def training_s(experiment: Experiment) -> float:
    """Seconds that the epochs of all runs took, whenever that was."""
    runs = all_runs(experiment.recipe)
    return float(sum(row["seconds"] for run in runs for row in experiment.finished(run.name).rows))


def _teacher_onnx(experiment: Experiment, name: str) -> Model:
    """The teacher as a file like the student's, in the cache: it is timed, not shipped."""
    classifier = experiment.finished(name).load()
    return _timed_file(experiment, classifier, f"{name}.onnx")


def _opponent(experiment: Experiment, name: str, taken: Collection[str]) -> Model:
    """A network of that name with random weights: speed does not depend on them.

    Args:
        taken: Names of the files before it.
    """
    data = experiment.data
    model = ModelConfig(name=name)
    classifier = build_classifier(model, data.classes, data.spec, task=data.task).eval()
    return _timed_file(experiment, classifier, opponent_file(name, taken))


def opponent_file(name: str, taken: Collection[str]) -> str:
    """Name of an opponent's file: of the network alone or, where that is taken, of its library."""
    short = f"{name.rpartition('/')[2]}.onnx"
    return f"{name.replace('/', '-')}.onnx" if short in taken else short


def _timed_file(experiment: Experiment, classifier: Classifier, name: str) -> Model:
    contract = classifier.contract
    metadata = {
        "names": list(contract.names),
        "task": contract.task,
        "input_spec": contract.input_spec.model_dump(),
        "thresholds": {},
    }
    file = experiment.out / "cache" / "bench" / name
    export_onnx(classifier, file, metadata, experiment.data.val.pixels[:64])
    return onnx_model(file, name)


def encoded_images(experiment: Experiment) -> list[bytes]:
    """Some test pictures as the files hold them, for the clock that includes decoding."""
    from distill.data.sources import open_source

    source = open_source(experiment.location, experiment.recipe.data.task)
    names = set(experiment.data.test.names[:TIMED_IMAGES])
    raw = [source.read(item) for item in source.items if item.name in names]
    return [content for content in raw if isinstance(content, bytes)]
