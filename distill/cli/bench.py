"""`distill bench`: how fast models answer, and how fast students are trained."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from distill.cli.options import WORKERS, DeviceOpt, JsonOpt, WorkersOpt, examples, takes
from distill.config import BenchConfig
from distill.errors import UserError, install_command
from distill.pipeline import stages
from distill.pipeline.opening import Settings
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.benchmarks.speed_records import SpeedReport

MOST_PICTURES = 64  # that are read to time with


def readable_pictures(folder: Path) -> list[bytes]:
    """The first pictures of a folder that can be decoded, as their files hold them."""
    from distill.data.decode import UnreadableImageError, read_file, read_image
    from distill.runtime.predict import find_images

    pictures: list[bytes] = []
    for path in find_images([folder], Progress().say):
        with contextlib.suppress(UnreadableImageError):
            content = read_file(path)
            read_image(content)
            pictures.append(content)
        if len(pictures) == MOST_PICTURES:
            break
    return pictures


class BenchGroup(TyperGroup):
    """Commands of which `inference` is meant where none is named, as in `distill bench MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the name in that was left out."""
        named = args and args[0] in {*self.commands, "--help"}
        return super().parse_args(ctx, args if named else ["inference", *args])


bench_app = typer.Typer(
    cls=BenchGroup,
    help="Speed. `distill bench MODEL...` times models, as `distill bench inference` does; "
    "`distill bench training` times training. `distill bench inference --help` has the options.",
    epilog=examples("bench student.int8.onnx other.onnx", "bench training photos/ --epochs 30"),
)


@bench_app.command(
    "inference",
    epilog=examples(
        "bench student.int8.onnx other.onnx runs/mine/teachers/resnet50",
        "bench student.int8.onnx bench.engines=all --out speed.json",
    ),
)
@takes("trust", "as_json")
def bench_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [bench.KEY=VALUE]...",
            help="ONNX files and run directories; options as `distill options bench` has them.",
        ),
    ],
    settings: Settings,
    data: Annotated[
        Path | None, typer.Option("--data", help="Pictures for the clock that includes decoding.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu or cuda; auto is bench.device.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.json; plots go beside it.")
    ] = None,
) -> None:
    """Time models side by side: latency percentiles and images per second."""
    from distill.benchmarks.speed import bench_speed
    from distill.benchmarks.subjects import open_models

    if out and out.suffix != ".json":
        raise UserError(f"got {str(out)!r}", "--out", "give a name that ends in .json")
    config = bench_options(models, device)
    paths = [Path(model) for model in models if not is_option(model)]
    if not paths:
        raise UserError("nothing to time", "distill bench", "name ONNX files or run directories")
    progress, pictures = Progress(), readable_pictures(data) if data else []
    report = bench_speed(open_models(paths, settings.trust), config, progress, pictures)
    show_results(report)
    if out:
        write_results(report, out, progress)
    stages.emit(report.to_json(), settings.as_json)


def is_option(argument: str) -> bool:
    """Whether an argument is `bench.KEY=VALUE`, and no file."""
    return argument.startswith("bench.") and "=" in argument and not Path(argument).exists()


def bench_options(arguments: list[str], device: str) -> BenchConfig:
    """The options of a recipe's `[bench]`, with those that were given.

    Args:
        device: Of `--device`; `auto` leaves it to `bench.device`.
    """
    from distill.recipe import recipe_of

    overrides = [argument for argument in arguments if is_option(argument)]
    if device != "auto":
        overrides.append(f"bench.device={device}")
    return recipe_of(overrides).bench


def show_results(report: SpeedReport) -> None:
    """Prints the conditions, the tables, and what not to trust in them."""
    from distill.benchmarks.speed_report import heading, limit_lines, tables, warning_lines
    from distill.report.table import show

    print(heading(report))
    for table in tables(report):
        show(table)
    for line in (*limit_lines(report), *warning_lines(report)):
        print(line)


def write_results(report: SpeedReport, file: Path, progress: Progress) -> None:
    """Writes the JSON and, where matplotlib is installed, the plots beside it."""
    from distill.benchmarks.speed_plots import draw_all
    from distill.benchmarks.speed_report import heading
    from distill.files import write_json

    write_json(file, report.to_json())
    try:
        for plot in draw_all(report.rows, heading(report), file.with_suffix("")):
            progress.say(f"bench: {plot}")
    except ModuleNotFoundError as error:
        progress.say(f"bench: no plots, they need {error.name}: {install_command('report')}")


def student_model(name: str) -> dict[str, Any]:
    """The `student` of the benchmark's settings: a model's name, or the first one of a recipe."""
    if not name.endswith(".toml"):
        return {"name": name}
    from distill.recipe import load_recipe

    students = load_recipe(name).students
    if not students:
        raise UserError("the recipe has no students", name, "name one of students/*.toml")
    return students[0].model.model_dump()


@bench_app.command(
    "training",
    epilog=examples(
        "bench training demo:740 --images 512 --epochs 30",
        "bench training photos/ --teacher runs/mine/teachers/resnet50",
    ),
)
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
    report = bench_training(config, chosen, workers, out, Progress())
    show(render(report, title(config, report["images"]["train"])))
    for line in ratio_lines(report):
        print(line)
    stages.emit(report, as_json)
