"""`distill check`: what is in a data source, what is wrong with it, and which splits it gets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import ModelConfig, Recipe
from distill.data.audit.findings import audit
from distill.data.audit.listing import Listing, list_data
from distill.data.audit.shift import Features
from distill.data.audit.splits import repair_splits
from distill.data.prepare import decode_listing, input_spec
from distill.data.sources import Item, Source, open_source
from distill.data.sources._manifest import FILE, write_manifest
from distill.data.views.parameters import check_views
from distill.data.workspace import Workspace
from distill.errors import UserError, printable
from distill.files import atomic, differing_keys, read_json, write_json
from distill.pipeline.embedding import embedder
from distill.pipeline.stages import check_out
from distill.progress import Progress
from distill.report.data_page import write_page
from distill.report.table import data_table, finding_lines, show

PICTURE = "views.png"


@dataclass(frozen=True)
class CheckOptions:
    """What a check is to do beside looking.

    Attributes:
        out: Where the findings go; None only prints them.
        repair: Give each group that straddles splits to one of them.
        backbone: Network whose features images are compared by, too.
        weights: A file with its weights; None for the library's own.
        label_errors: Folds of teachers that doubt the labels; 0 for none.
        show: Draw training views.
    """

    out: Path | None = None
    device: str = "auto"
    workers: int = 1
    repair: bool = False
    backbone: str | None = None
    weights: Path | None = None
    label_errors: int = 0
    show: bool = False
    overwrite: bool = False


def check_data(
    location: str, recipe: Recipe, options: CheckOptions, progress: Progress
) -> dict[str, Any]:
    """Looks at a data source, prints what was found, and writes it down.

    Returns:
        The content of `data.json`.

    Raises:
        UserError: The source cannot be used, or a file is in the way; nothing is written then.
    """
    picture = (options.out or Path()) / PICTURE
    if options.show and picture.exists() and not options.overwrite:
        raise UserError("the picture exists", str(picture), "remove it or add --overwrite")
    source = open_source(location, recipe.data.task)
    check_place(source, options)
    check_views(recipe.views, source.classes, recipe.data.task)
    if options.label_errors:
        check_doubters(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.out / "cache" if options.out else Path(scratch)
        work = Workspace(cache, options.workers, progress)
        listing = list_data(
            source,
            recipe.data,
            recipe.seed,
            work,
            features=backbone_features(options, progress),
            always=True,
            embed=embedder(options.device, options.workers, progress),
        )
        if options.repair:
            listing = repaired(listing, progress)
        if options.label_errors:
            listing = doubted(location, listing, recipe, options, progress)
        record = listing.describe(input_spec(recipe.data))
        show_listing(listing)
        if options.out:
            write_down(listing, record, options.out, options.overwrite)
        elif listing.findings:
            print("to see every file of these, with pictures: add --out DIR")
        if options.show:
            draw_views(listing, recipe, options, work)
            print(picture)
    return record


def check_place(source: Source, options: CheckOptions) -> None:
    """Checks that what is asked for can be written.

    Raises:
        UserError: A repaired manifest of images that are no files, or results among the images or
            where an experiment has its own.
    """
    if source.root is None and options.repair:
        what = "these images are no files of their own, so no manifest can list them"
        raise UserError(what, "--repair", "train with data.split=grouped instead")
    if source.root and options.out and options.out.resolve().is_relative_to(source.root.resolve()):
        raise UserError("lies among the images", str(options.out), "choose an --out beside them")
    if options.out and (options.out / "recipe.toml").exists():
        raise UserError("an experiment is there", str(options.out), "choose another --out")
    if options.out:
        check_out(options.out)


def check_doubters(recipe: Recipe) -> None:
    """Asks for the weights of the teacher that is to doubt labels, before images are looked at."""
    from distill.models.origin import can_load
    from distill.pipeline.plan import of_run

    for teacher in recipe.teachers[:1]:
        if problem := can_load(teacher.model):
            raise of_run(problem, recipe.key(teacher))


def backbone_features(options: CheckOptions, progress: Progress) -> Features | None:
    """The function that looks at images through `options.backbone`."""
    if options.backbone is None:
        return None
    from distill.device import resolve_device
    from distill.models.features import build_backbone, pooled_features

    pretrained = True if options.weights is None else str(options.weights)
    model = build_backbone(ModelConfig(name=options.backbone, pretrained=pretrained))
    device = resolve_device(options.device)

    def features(source: Source, items: Sequence[Item]) -> NDArray[np.float32]:
        with progress.task(f"features by {options.backbone}", len(items), "images") as task:
            return pooled_features(model, source, items, device, options.workers, task.advance)

    return features


def repaired(listing: Listing, progress: Progress) -> Listing:
    """The listing with every group in one of the splits that it was in."""
    splits = repair_splits(listing.items, listing.splits, listing.groups)
    moved = sum(one != other for one, other in zip(splits, listing.splits, strict=True))
    progress.say(f"repair: {moved:,} of {len(splits):,} images change their split")
    assert listing.prints is not None
    findings = audit(listing.source, listing.items, splits, listing.prints, listing.copies)
    return replace(listing, splits=tuple(splits), findings=findings)


def doubted(
    location: str, listing: Listing, recipe: Recipe, options: CheckOptions, progress: Progress
) -> Listing:
    """The listing with findings of labels that are probably wrong."""
    from distill.device import resolve_device
    from distill.pipeline.experiment import Experiment
    from distill.pipeline.label_errors import find_label_errors

    assert options.out is not None
    experiment = Experiment(
        recipe,
        location,
        options.out,
        resolve_device(options.device),
        workers=options.workers,
        progress=progress,
    )
    experiment.__dict__["listing"] = listing
    errors = find_label_errors(experiment, options.label_errors)
    return replace(listing, findings=(*listing.findings, *errors))


def show_listing(listing: Listing) -> None:
    """Counts, findings and what to do about them, on stdout."""
    show(data_table(listing))
    for line in finding_lines(listing.findings, most=3):
        print(printable(line))
    for line in listing.advice():
        print(printable(line))


def write_down(listing: Listing, record: dict[str, Any], out: Path, overwrite: bool) -> None:
    """The page, `data.json` and, where images are files, the manifest; says where the page is.

    Raises:
        UserError: What is there is of other data or splits, and `overwrite` is off: all of it
            stays.
    """
    place, fresh, described = out / FILE, out / f"new-{FILE}", out / "data.json"
    if described.exists() and not overwrite:
        odd = differing_keys(read_json(described), record)
        if odd not in ([], ["findings"]):
            what = f"another check is there, of other {odd[0]}"
            raise UserError(what, str(described), "choose another --out or add --overwrite")
    if listing.source.root is not None:
        write_manifest(fresh, listing.rows(), listing.source.root)
        if place.exists() and not overwrite and place.read_bytes() != fresh.read_bytes():
            fresh.unlink()
            raise UserError("another manifest is there", str(place), "remove it or add --overwrite")
        fresh.replace(place)
    write_json(described, record)
    write_page(out / "data.html", listing)
    print(out / "data.html")


def draw_views(listing: Listing, recipe: Recipe, options: CheckOptions, work: Workspace) -> None:
    """The training views as a picture, beside the other findings or in the current folder."""
    from distill.report.contact_sheet import contact_sheet

    data = decode_listing(listing, recipe.data, recipe.views, work)
    with atomic((options.out or Path()) / PICTURE) as temporary:
        contact_sheet(data, recipe.views, recipe.seed).save(temporary, format="PNG")
