"""`distill bench`: how fast models answer, and how fast students are trained."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from distill.cli.options import WORKERS, DeviceOpt, JsonOpt, WorkersOpt
from distill.config import BenchConfig, Scenario
from distill.errors import UserError
from distill.pipeline import stages
from distill.progress import Progress


def readable_pictures(folder: Path, most: int = 64) -> list[bytes]:
    """The first pictures of a folder that can be decoded, as their files hold them."""
    from distill.data.decode import UnreadableImageError, read_image
    from distill.runtime.predict import find_images

    found: list[bytes] = []
    for path in find_images([folder]):
        with contextlib.suppress(UnreadableImageError):
            read_image(path)
            found.append(path.read_bytes())
        if len(found) == most:
            break
    return found


class BenchGroup(TyperGroup):
    """Commands of which `inference` is meant where none is named, as in `distill bench MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the name in that was left out."""
        named = args and args[0] in {*self.commands, "--help"}
        return super().parse_args(ctx, args if named else ["inference", *args])


bench_app = typer.Typer(
    cls=BenchGroup,
    help="Speed. `distill bench MODEL...` times models, as `distill bench inference` does; "
    "`distill bench training` times training.",
)


@bench_app.command("inference")
def bench_command(
    models: Annotated[list[Path], typer.Argument(help="ONNX files and run directories.")],
    scenario: Annotated[
        str, typer.Option("--scenario", help="Of single_stream,multi_stream,server,offline.")
    ] = ",".join(get_args(Scenario)),
    engine: Annotated[
        str, typer.Option("--engine", help="Files in benchmarks/engines/, or all.")
    ] = "onnxruntime,torch",
    data: Annotated[
        Path | None, typer.Option("--data", help="Pictures for the clock that includes decoding.")
    ] = None,
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="Of offline.")] = "1,8,64",
    seconds: Annotated[float, typer.Option("--seconds", help="Per row, over all rounds.")] = 1.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: physical cores.")] = 0,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Of multi_stream.")] = 4,
    latency_bound_ms: Annotated[
        float, typer.Option("--latency-bound-ms", help="Of server, on the 99th percentile.")
    ] = 15.0,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.json; plots go beside it.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Time models side by side: latency percentiles and images per second."""
    from distill.benchmarks.engines import engine_names
    from distill.benchmarks.speed import bench_speed
    from distill.benchmarks.subjects import open_models
    from distill.recipe import check_table

    if out and out.suffix != ".json":
        raise UserError(f"got {str(out)!r}", "--out", "a name that ends in .json")
    try:
        sizes = [int(size) for size in batch_sizes.split(",")]
    except ValueError:
        raise UserError(f"got {batch_sizes!r}", "--batch-sizes", "numbers such as 1,8,64") from None
    table: dict[str, Any] = {"batch_sizes": sizes, "seconds": seconds, "rounds": rounds}
    table |= {"threads": threads, "streams": streams, "latency_bound_ms": latency_bound_ms}
    table |= {"scenarios": scenario.split(","), "device": device}
    table["engines"] = engine_names() if engine == "all" else engine.split(",")
    config = check_table(BenchConfig, table, "distill bench")
    progress, pictures = Progress(), readable_pictures(data) if data else []
    found = bench_speed(open_models(models), config, progress, pictures)
    show_results(found)
    if out:
        write_results(found, out, progress)
    stages.emit(found, as_json)


def show_results(found: dict[str, Any]) -> None:
    """Prints the conditions, the tables, and what not to trust in them."""
    from distill.benchmarks.speed_report import heading, limit_lines, tables, warning_lines
    from distill.report.table import show

    print(heading(found))
    for table in tables(found):
        show(table)
    for line in (*limit_lines(found), *warning_lines(found)):
        print(line)


def write_results(found: dict[str, Any], file: Path, progress: Progress) -> None:
    """Writes the JSON and, where matplotlib is installed, the plots beside it."""
    from distill.benchmarks.speed_plots import draw_all
    from distill.benchmarks.speed_report import heading
    from distill.files import write_json

    write_json(file, found)
    try:
        for plot in draw_all(found["rows"], heading(found), file.with_suffix("")):
            progress.say(f"bench: {plot}")
    except ModuleNotFoundError as error:
        progress.say(f"bench: no plots, they need {error.name}: pip install 'distillate[report]'")


def student_model(name: str) -> dict[str, Any]:
    """The `student` of the benchmark's settings: a model's name, or the first one of a recipe."""
    if not name.endswith(".toml"):
        return {"name": name}
    from distill.recipe import load_recipe

    students = load_recipe(name).students
    if not students:
        raise UserError("the recipe has no students", name, "name one of students/*.toml")
    return students[0].model.model_dump()


@bench_app.command("training")
def bench_training_command(
    data: Annotated[str, typer.Argument(help="Folder of class folders, or demo.")] = "demo:732",
    teacher: Annotated[
        str, typer.Option("--teacher", help="Run directory, or a model such as timm/resnet50.")
    ] = "timm/resnet50",
    student: Annotated[
        str, typer.Option("--student", help="A file in students/, or a recipe whose first it is.")
    ] = "compact",
    size: Annotated[int, typer.Option("--size", help="Height and width, pixels.")] = 128,
    images: Annotated[int, typer.Option("--images", min=0, help="To train on; 0: all.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 64,
    epochs: Annotated[int, typer.Option("--epochs")] = 30,
    timed_epochs: Annotated[
        int, typer.Option("--timed-epochs", min=0, help="Of engines that ask a teacher; 0: all.")
    ] = 0,
    lr: Annotated[float, typer.Option("--lr")] = 1e-3,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")] = "auto",
    cache_views: Annotated[
        int | None, typer.Option("--cache-views", min=1, help="Views per image.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Interleaved rounds.")] = 3,
    engines: Annotated[str, typer.Option("--engines", help="Such as timm,cached.")] = "",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: DeviceOpt = "auto",
    workers: WorkersOpt = WORKERS,
    out: Annotated[Path | None, typer.Option("--out", help="For training.json and .png.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Train side by side: KD_Lib, timm, by the book, ours live and cached, the student alone."""
    from distill.benchmarks.training import bench_training, choose_engines
    from distill.benchmarks.training_report import ratio_lines, render, title
    from distill.benchmarks.training_run import TrainingBench
    from distill.device import resolve_device
    from distill.recipe import check_table
    from distill.report.table import show

    table: dict[str, Any] = {"location": data, "data": {"size": size}, "num_images": images}
    table |= {"teacher": teacher, "student": student_model(student), "rounds": rounds}
    train = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
    table |= {"train": train, "timed_epochs": timed_epochs, "seed": seed}
    table |= {"cache": {"views": cache_views}} if cache_views else {}
    table["device"] = str(resolve_device(device))
    config = check_table(TrainingBench, table, "distill bench training")
    chosen = choose_engines(engines, table["device"], Progress())
    found = bench_training(config, chosen, workers, out, Progress())
    show(render(found, title(config, found["images"]["train"])))
    for line in ratio_lines(found):
        print(line)
    stages.emit(found, as_json)
