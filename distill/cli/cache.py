"""`distill cache`: teacher logits, computed once, read by every student."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill.cli.options import (
    DataOpt,
    ExperimentArg,
    JsonOpt,
    Overrides,
    RecipeArg,
    examples,
    takes,
)
from distill.environment import is_main_process
from distill.errors import UserError, printable
from distill.mirror import address_of, publish
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings
from distill.storage import is_address
from distill.teaching.claims import LEASE_S

if TYPE_CHECKING:
    from distill.pipeline.experiment import Experiment

cache_app = typer.Typer(
    help="Teacher logits, computed once and read by every student.",
    epilog=examples("cache build mine.toml --data photos/ --out runs/mine", "cache info runs/mine"),
    no_args_is_help=True,
)


@cache_app.command(
    "build",
    epilog=examples(
        "cache build mine.toml --data photos/ --out runs/mine",
        "cache build mine.toml --data photos/ --out runs/mine --claim",
    ),
)
@takes("out", "device", "seed", "workers", "smoke", "unlabelled", "as_json")
def build_command(
    recipe: RecipeArg,
    data: DataOpt,
    settings: Settings,
    overrides: Overrides = None,
    part: Annotated[
        str, typer.Option("--part", help="Such as 2/4: the second of four parts of the work.")
    ] = "1/1",
    claim: Annotated[
        bool, typer.Option("--claim", help="Share the work with all who do the same, as they come.")
    ] = False,
    lease_s: Annotated[
        float,
        typer.Option("--lease-s", min=1, help="After which a silent worker's shard is another's."),
    ] = LEASE_S,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher", help="local, slurm, kubernetes, ray, skypilot: --workers of them."
        ),
    ] = None,
    launcher_option: Annotated[
        list[str] | None,
        typer.Option("--launcher-option", metavar="KEY=VALUE", help="Such as gpus=1; repeat."),
    ] = None,
) -> None:
    """Compute the logits that the students of a recipe will read; the teachers must be trained.

    distill student does the same by itself. Parts may run side by side on a shared folder, be
    killed and be repeated; with --claim so may any number of workers, that come and go.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= parts:
        raise UserError(f"got {part!r}", "--part", "write NUMBER/PARTS such as 1/4")
    from distill.pipeline.cache import build_experiment, list_caches

    experiment = opening.open_experiment(recipe, overrides, data, settings)
    if launcher:
        if claim or parts > 1:
            raise UserError("a launcher's workers share the work", "--launcher", "leave out --part")
        asked = (recipe, overrides, data)
        launch(experiment, launcher, launcher_option or [], asked, settings, lease_s)
    else:
        build_experiment(experiment, number - 1, parts, lease_s if claim else None)
    if is_main_process():
        stages.emit({"caches": list_caches(experiment.out)}, settings.as_json)


def launch(
    experiment: Experiment,
    name: str,
    options: list[str],
    asked: tuple[str, list[str] | None, str],
    settings: Settings,
    lease_s: float,
) -> None:
    """Has the workers of a launcher do what is missing; the experiment is described first."""
    from distill.launchers import Work, absolute, make_launcher
    from distill.pipeline.train import begin
    from distill.teaching.cache_check import check_version

    chosen = make_launcher(name, options)
    overrides = asked[1]
    recipe, data, unlabelled = map(absolute, (asked[0], asked[2], settings.unlabelled or ""))
    out = address_of(experiment.out)
    arguments = ["cache", "build", recipe, *(overrides or []), "--data", data]
    arguments += ["--out", out, "--device", settings.device, "--claim"]
    arguments += ["--lease-s", f"{lease_s:g}"]
    arguments += ["--seed", str(settings.seed)] if settings.seed is not None else []
    arguments += ["--unlabelled", unlabelled] if unlabelled else []
    arguments += ["--smoke"] if settings.smoke else []
    there = replace(settings, out=experiment.out.resolve(), unlabelled=unlabelled or None)
    opened = partial(opening.open_experiment, recipe, overrides, data, there)
    name_of_out = out.rstrip("/").rpartition("/")[2]
    word = re.sub(r"[^a-z0-9]+", "-", name_of_out.lower())[:40].strip("-") or "run"
    work = Work(
        arguments=tuple(arguments),
        workers=settings.workers,
        folder=(Path("runs") / word if is_address(out) else experiment.out.resolve()) / "launch",
        name=f"distill-{word}",
        say=experiment.progress.say,
        open=opened,
    )
    chosen.check(work)
    check_version(experiment.out / "cache")
    _ = experiment.data
    begin(experiment)
    publish(experiment.out)
    chosen.launch(work)


@cache_app.command(
    "plan",
    epilog=examples(
        "cache plan mine.toml --data photos/ --out runs/mine",
        "cache plan mine.toml --data photos/ --price-per-hour 2.5",
    ),
)
@takes("out", "device", "seed", "workers", "smoke", "unlabelled", "as_json")
def plan_command(
    recipe: RecipeArg,
    data: DataOpt,
    settings: Settings,
    overrides: Overrides = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Of a machine like this one.")
    ] = None,
) -> None:
    """Say what computing the logits will take: shards, bytes, hours here, price per million.

    The teachers must be trained; each is asked about a few images.
    """
    from distill.pipeline.cache import plan_experiment

    experiment = opening.open_experiment(recipe, overrides, data, settings)
    rows = plan_experiment(experiment, price_per_hour)
    for row in rows:
        line = f"{row['teacher']}: {row['images']:,} images in {row['views']} views, "
        line += f"{row['missing_shards']:,} of {row['shards']:,} shards to do, "
        line += f"{row['size_bytes'] / 1e6:,.1f} MB, {row['hours_left']:,.2f} hours here "
        line += f"({row['hours_per_million']:,.2f} per million answers)"
        if price_per_hour is not None:
            line += f", {row['price_left']:,.2f} ({row['price_per_million']:,.2f} per million)"
        print(printable(line))
    stages.emit({"caches": rows}, settings.as_json)


@cache_app.command(
    "verify", epilog=examples("cache verify runs/mine", "cache verify runs/mine --samples 512")
)
@takes("device", "workers", "data", "trust", "as_json")
def verify_command(
    experiment: ExperimentArg,
    settings: Settings,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images per view.")] = 64,
) -> None:
    """Recompute a random sample of every view and compare it with what is stored."""
    from distill.pipeline.cache import verify_experiment

    opened = opening.reopen_experiment(experiment, overrides, settings)
    rows = verify_experiment(opened, samples)
    for row in rows:
        line = f"{row['folder']}: {row['teacher']}, {row['samples']:,} logits of {row['views']} "
        line += f"views agree, largest relative difference {row['max_difference']:.1e}"
        print(printable(line))
    stages.emit({"caches": rows}, settings.as_json)


@cache_app.command("info", epilog=examples("cache info runs/mine", "cache info runs/mine --json"))
def info_command(experiment: ExperimentArg, as_json: JsonOpt = False) -> None:
    """List the caches of an experiment directory."""
    from distill.pipeline.cache import list_caches

    if not experiment.is_dir():
        raise UserError("no such directory", str(experiment), "name the --out of a run")
    rows = list_caches(experiment)
    for row in rows:
        line = f"{row['folder']}: {row['teacher']}, {row['images']:,} images, {row['views']} views "
        print(printable(f"{line}in {row['shards']} shards, {row['size_bytes'] / 1e6:,.1f} MB"))
    if not rows:
        print(f"no teacher caches in {experiment}")
    stages.emit({"caches": rows}, as_json)
