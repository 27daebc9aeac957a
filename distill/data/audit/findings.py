"""What is wrong with a data set, from what one look at its images has shown, and what to do.

Nothing is read here.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config import TaskName
from distill.data.audit.duplicates import join_groups
from distill.data.audit.fingerprints import Fingerprints
from distill.data.decode import HEIF_EXTENSIONS, heif_left_out
from distill.data.sources import SPLITS, Item, Label, Source
from distill.files import JsonModel

Ids = list[int]

KINDS = (
    *(
        "listing",
        "unreadable",
        "ignored",
        "leak",
        "label_conflict",
        "label_error",
        "exact_duplicate",
    ),
    *("near_duplicate", "imbalance", "tiny", "huge", "dark", "blank", "blurred", "odd_shape"),
)
IMBALANCE = 3  # times as many images in the largest class as in the smallest
MOST_COUNTS = 12  # classes whose counts are spelled out
FEWEST_PIXELS = 16  # on the shorter side: no network here works on less
TINY_SHARE = 0.25  # of the median shorter side: enlarged fourfold, nothing but blur is left
MOST_PIXELS = 50_000_000  # 150 MB when decoded, a second each time
HUGE_TIMES = 8  # the median shorter side: beside the others, a scan or a mistake
DARK_LEVEL = 50  # of 255: nineteen twentieths of the image are darker than a fifth of white
BLURRED_SHARE = 0.2  # of the median sharpness; what is sharp enough depends on the subject
MOSTLY = 0.5  # share of blank images from which on a folder is none of photographs
ODD_RATIO = 3.0  # of the sides: a square cut from the middle has a third of the image


Severity = Literal["error", "warning", "info"]


class Finding(JsonModel):
    """Something odd about some images, or about all of them.

    Attributes:
        kind: One of `KINDS`.
        severity: An `error` spoils scores or training, a `warning` may, `info` is worth knowing.
        paths: Names of items, sorted.
        detail: What is to be said of them.
    """

    kind: str
    severity: Severity
    paths: tuple[str, ...]
    detail: str


class _Facts(NamedTuple):
    """What an audit looks at, image by image in the same order; unreadable ones are left out."""

    source: Source
    labels: list[Label]
    names: list[str]
    splits: list[str]
    sha256: list[str]
    copies: list[str]
    groups: list[str]


def audit(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    prints: Fingerprints,
    copies: Sequence[str],
) -> tuple[Finding, ...]:
    """Everything odd about a data set, by kind in the order of `KINDS`.

    Groups that the source gives take part in leaks, but are not taken for copies.

    Args:
        splits: The split of each item.
        copies: Name of each item's group of copies, as of `copy_groups`.
    """
    kept = np.flatnonzero(prints.readable).tolist()
    groups = join_groups(prints.names, copies, [item.group for item in items])
    labels = [items[i].label for i in kept]
    columns = (prints.names, splits, prints.sha256, copies, groups)
    facts = _Facts(source, labels, *([column[i] for i in kept] for column in columns))
    findings = [
        *_unusable(source, prints),
        *_unseen(facts),
        *_copies(facts),
        *_leaks(facts),
        *_imbalance(facts),
        *_oddities(prints, kept),
    ]
    return tuple(sorted(findings, key=lambda finding: KINDS.index(finding.kind)))


def advice(
    findings: Sequence[Finding], location: str, files: bool = True, task: TaskName = "single"
) -> list[str]:
    """What to do about findings, one line each: which files, which command.

    Args:
        files: Whether the images are files, which a manifest can list.
        task: What the commands have to say of the labels, too, where it is `multi`.
    """
    if any(f.kind == "blank" and f.severity == "error" for f in findings):
        return ["these are hardly the pictures that you mean: look at them before anything else"]
    lines = []
    kinds = {finding.kind for finding in findings}
    conflicts = (finding.paths for finding in findings if finding.kind == "label_conflict")
    disputed = {path for paths in conflicts for path in paths}
    for kind in KINDS:
        if kind in kinds and kind in _ADVICE:
            paths = [finding.paths for finding in findings if finding.kind == kind]
            if kind == "exact_duplicate":  # of those of several labels, which one is to be decided
                paths = [same[1:] for same in paths if disputed.isdisjoint(same)]
            named = list(dict.fromkeys(path for group in paths for path in group))
            if not named:
                continue
            lines.append(f"{_ADVICE[kind]} ({len(named):,}): {_some(named)}")
    several = "" if task == "single" else f" data.task={task}"
    data = shlex.quote(location) + several
    if "leak" in kinds and files:
        lines.append(f"to keep the splits but for copies: distill check {data} --repair --out DIR")
        lines.append(f"to make new ones: distill check {data} --split grouped --out DIR")
        lines.append(f"then: distill run DIR/manifest.parquet{several}")
    elif "leak" in kinds:
        lines.append(f"to make new splits: distill run {data} data.split=grouped")
    if any(f.kind == "imbalance" and f.severity == "error" for f in findings):
        lines.append("add images of the classes that have none in train, or remove the classes")
    elif "imbalance" in kinds:
        option = "student.train.class_weights=balanced"
        lines.append(f"to give rare classes more weight: distill run {data} {option}")
    return lines


_ADVICE = {
    "unreadable": "replace or delete what cannot be read and is left out",
    "leak": "do not trust scores on copies of images of another split",
    "label_conflict": "decide on one label for pictures that have several",
    "label_error": "look at labels that a teacher doubts",
    "exact_duplicate": "delete copies of other files",
    "tiny": "replace or delete images too small to show much",
    "huge": "shrink images far larger than is of use",
    "dark": "look at images too dark to see much",
    "blank": "look at images that show one colour only",
    "blurred": "look at images that are blurred",
    "odd_shape": "cut long images to what matters",
}


def _finding(kind: str, severity: Severity, paths: Iterable[str], detail: str) -> Finding:
    return Finding(kind=kind, severity=severity, paths=tuple(sorted(paths)), detail=detail)


def _unusable(source: Source, prints: Fingerprints) -> Iterator[Finding]:
    for note in source.notes:
        yield _finding("listing", "warning", (), note)
    for path, reason in sorted(prints.unreadable.items()):
        yield _finding("unreadable", "warning", [path], reason)
    pictures = [name for name in source.ignored if PurePath(name).suffix.lower() in HEIF_EXTENSIONS]
    if problem := heif_left_out(pictures, source.location):
        yield _finding("ignored", "warning", pictures, str(problem))
    if others := set(source.ignored) - set(pictures):
        yield _finding("ignored", "info", others, "not an image by its ending")


def _unseen(facts: _Facts) -> Iterator[Finding]:
    """Classes that a split to measure by lacks; several labels are too many to expect all."""
    if facts.source.task == "multi":
        return
    seen = set(zip(facts.splits, facts.labels, strict=True))
    for split in (split for split in SPLITS[1:] if split in facts.splits):
        lacking = [n for i, n in enumerate(facts.source.classes) if (split, i) not in seen]
        if lacking:
            detail = f"{split} has no image of {_some(lacking)}: nothing is measured of it there"
            yield _finding("listing", "warning", (), detail)


def _copies(facts: _Facts) -> Iterator[Finding]:
    """Groups of copies, and pictures with more than one label."""
    for ids in _groups(facts.sha256):
        where = _places(facts, ids)
        detail = f"{len(ids)} equal files, {where}"
        yield _finding("exact_duplicate", "warning", (facts.names[i] for i in ids), detail)
        yield from _conflict(facts, ids, "error", "the same file")
    for ids in _groups(facts.copies):
        if len({facts.sha256[i] for i in ids}) > 1:
            detail = f"{len(ids)} images that show the same, {_places(facts, ids)}"
            yield _finding("near_duplicate", "info", (facts.names[i] for i in ids), detail)
            yield from _conflict(facts, ids, "warning", "nearly the same picture")


def _groups(keys: Sequence[str]) -> list[Ids]:
    """Indices with equal keys, where there are at least two; the most first."""
    members: dict[str, Ids] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    return sorted((ids for ids in members.values() if len(ids) > 1), key=len, reverse=True)


def _conflict(facts: _Facts, ids: Ids, severity: Severity, what: str) -> Iterator[Finding]:
    holders: dict[Label, list[str]] = defaultdict(list)
    for index in ids:
        if facts.labels[index] != -1:
            holders[facts.labels[index]].append(facts.names[index])
    if len(holders) > 1:
        labels = [
            f"{_label_name(label, facts.source.classes)} ({_some(sorted(names))})"
            for label, names in sorted(holders.items(), key=lambda pair: min(pair[1]))
        ]
        paths = (name for names in holders.values() for name in names)
        yield _finding("label_conflict", severity, paths, f"{what} as {' and '.join(labels)}")


def _label_name(label: Label, classes: Sequence[str]) -> str:
    several = label if isinstance(label, tuple) else (label,)
    return " + ".join(classes[index] for index in several) or "no label"


def _places(facts: _Facts, ids: Ids) -> str:
    counts = Counter(facts.splits[i] for i in ids)
    return ", ".join(f"{counts[split]} in {split}" for split in SPLITS if counts[split])


def _leaks(facts: _Facts) -> Iterator[Finding]:
    """One finding for each pair of splits that share a group; the later split's images suffer."""
    sizes = Counter(facts.splits)
    for other, split in combinations(SPLITS, 2):
        columns = (facts.sha256, facts.copies, facts.groups)
        shared = [_shared(keys, facts.splits, other, split) for keys in columns]
        equal, near, grouped = shared[0], shared[1] - shared[0], shared[2] - shared[1]
        if shared[2]:
            share = 100 * len(shared[2]) / sizes[split]
            kinds = ((equal, "equal"), (near, "near"), (grouped, "of a group that is given"))
            parts = ", ".join(f"{len(ids):,} {kind}" for ids, kind in kinds if ids)
            detail = (
                f"{share:.1f} % of the {split} images, {len(shared[2]):,} of {sizes[split]:,}, "
                f"have a copy in {other}: {parts}"
            )
            yield _finding("leak", "error", (facts.names[i] for i in shared[2]), detail)


def _shared(keys: Sequence[str], splits: Sequence[str], other: str, split: str) -> set[int]:
    """The images of `split` whose key is in `other`, too."""
    known = {key for key, of in zip(keys, splits, strict=True) if of == other}
    pairs = enumerate(zip(keys, splits, strict=True))
    return {index for index, (key, of) in pairs if of == split and key in known}


def _imbalance(facts: _Facts) -> Iterator[Finding]:
    counts: Counter[int] = Counter()
    for label, split in zip(facts.labels, facts.splits, strict=True):
        if split == "train":
            counts.update(label if isinstance(label, tuple) else (label,))
    ranked = [(counts[i], name) for i, name in enumerate(facts.source.classes)]
    most, fewest = max(ranked)[0], min(ranked)[0]
    if most and most >= IMBALANCE * fewest:
        spelled = [f"{name} {count:,}" for count, name in ranked]
        if len(ranked) > MOST_COUNTS:
            order = [f"{name} {count:,}" for count, name in sorted(ranked, key=lambda r: -r[0])]
            half = MOST_COUNTS // 2
            spelled = [*order[:half], f"{len(order) - 2 * half} others", *order[-half:]]
        # What nobody has seen, nobody learns.
        severity: Severity = "warning" if fewest else "error"
        yield _finding("imbalance", severity, (), f"train: {', '.join(spelled)}")


def _oddities(prints: Fingerprints, kept: Ids) -> Iterator[Finding]:
    """One finding for each way of being unlike a good photograph, or unlike the others."""
    if not kept:
        return
    width, height = prints.width[kept].astype(np.int64), prints.height[kept].astype(np.int64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    side = float(np.median(shorter))
    least, most = max(FEWEST_PIXELS, TINY_SHARE * side), HUGE_TIMES * side
    sharpness = prints.sharpness[kept]
    is_blank = sharpness == 0
    sharp = BLURRED_SHARE * float(np.median(sharpness[~is_blank])) if not is_blank.all() else 0.0
    names = [prints.names[i] for i in kept]

    def flag(
        kind: str, severity: Severity, odd: NDArray[np.bool_], detail: str
    ) -> Iterator[Finding]:
        if odd.any():
            paths = (names[i] for i in np.flatnonzero(odd).tolist())
            yield _finding(kind, severity, paths, detail)

    median = f"the median is {side:.0f}"
    detail = f"shorter side below {least:.0f} px, {median}"
    yield from flag("tiny", "warning", shorter < least, detail)
    is_huge = (shorter > most) | (width * height > MOST_PIXELS)
    bound = f"or more than {MOST_PIXELS // 10**6} megapixels"
    detail = f"shorter side above {most:.0f} px, {median}, {bound}"
    yield from flag("huge", "info", is_huge, detail)
    detail = f"95 % of the pixels below {DARK_LEVEL} of 255"
    yield from flag("dark", "warning", prints.brightness[kept] < DARK_LEVEL, detail)
    detail = f"{is_blank.sum():,} of {len(kept):,} images show one colour only"
    severity: Severity = "error" if is_blank.mean() > MOSTLY else "warning"
    yield from flag("blank", severity, is_blank, detail)
    detail = "sharpness below a fifth of the median"
    yield from flag("blurred", "info", (sharpness < sharp) & ~is_blank, detail)
    detail = f"one side more than {ODD_RATIO:.0f} times the other"
    yield from flag("odd_shape", "warning", longer > ODD_RATIO * shorter, detail)


def _some(paths: Sequence[str], most: int = 3) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
