"""Which shapes of the compact student there are to choose from, and which of them are promising."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distill.config import Options, Positive, Recipe
from distill.files import JsonModel

Outcome = Literal["winner", "promising", "not promising", "dominated", "too slow", "too large"]
COSTS = ("name", "kind", "params", "macs", "size_bytes", "latency_ms", "images_per_s")


class Limits(Options):
    """What the shipped file may cost at most; None is no limit.

    Attributes:
        max_latency_ms: Of one image from pixels to probabilities.
        max_size_bytes: Of the file.
    """

    max_latency_ms: Positive | None = None
    max_size_bytes: Positive | None = None


@dataclass(frozen=True)
class Candidate:
    """A shape of the compact student at a size of images.

    Attributes:
        kind: What it shares with those that differ in width only.
        options: As `students/compact.py` declares them.
    """

    name: str
    kind: str
    size: int
    options: dict[str, Any]


class ShapeRow(JsonModel):
    """What a shape costs, and what came of it; None is for what was not measured.

    Attributes:
        kind: As the candidate's.
        params, macs: Parameters and multiplications of the deployed network.
        size_bytes, latency_ms, images_per_s: Of its file, of one image after the other.
        outcome: None before it is judged.
        brief_val, val: Best main score on validation in percent, after the short training and
            after the whole; JSON says of what score, such as `val_top1`.
        main_score: As the task names it.
    """

    name: str
    kind: str
    params: int
    macs: int
    size_bytes: int
    latency_ms: float
    images_per_s: float
    outcome: Outcome | None = None
    brief_val: float | None = None
    val: float | None = None
    main_score: str = Field(exclude=True)

    @model_serializer(mode="wrap")
    def _named_scores(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields, with the name of the score in the keys of the scores."""
        scores = {name: f"{name}_{self.main_score}" for name in ("brief_val", "val")}
        return {scores.get(key, key): value for key, value in fields(self).items()}

    @classmethod
    def costs(cls, row: dict[str, Any], main_score: str) -> ShapeRow:
        """What an earlier row of `search.json` says of costs, and nothing of what came of it."""
        return cls(**{key: row[key] for key in COSTS}, main_score=main_score)


def candidates(recipe: Recipe) -> Iterator[Candidate]:
    """All shapes of `recipe.search`, from narrow to wide within each kind.

    What it does not say, such as `branches`, is as in the recipe's student.
    """
    space, base = recipe.search, recipe.students[0].model.options
    kinds = product(image_sizes(recipe), space.stems, space.depths, space.kernels)
    for (size, stem, depth, kernel), width in product(kinds, sorted(space.widths)):
        shape = {
            "width": [width, 2 * width, 4 * width, 8 * width],
            "depth": list(depth),
            "stride": [stem, 2, 2, 2],
            "kernel": list(kernel),
            "head_width": 0,
        }
        depths, kernels = ("".join(map(str, values)) for values in (depth, kernel))
        kind = f"{size}px-s{stem}-d{depths}-k{kernels}"
        yield Candidate(f"{kind}-w{width}", kind, size, {**base, **shape})


def image_sizes(recipe: Recipe) -> tuple[int, ...]:
    """Sizes to try: those of `search.sizes`, or the recipe's and three quarters of it."""
    size = recipe.data.size
    return recipe.search.sizes or (size, max(16, size * 3 // 4 // 8 * 8))


def judge(rows: Sequence[ShapeRow], limits: Limits, most: int) -> list[ShapeRow]:
    """The rows in their order, each with its `outcome`.

    Of those within the limits, a row is `dominated` if another one is no slower and has at least as
    many multiplications and parameters. Of the rest, those with the largest product of the two are
    promising, the widest of each kind: it is the best guess at what a network can learn, as long as
    nobody trained it, and kinds differ in what they make of it.

    Args:
        most: How many are promising at most.
    """
    within = [row for row in rows if exceeded(row.size_bytes, row.latency_ms, limits) is None]
    front = [
        row
        for row in sorted(within, key=_largest_first)
        if not any(_dominates(other, row) for other in within)
    ]
    widest = {row.kind: row for row in reversed(front)}
    chosen = [row for row in front if widest[row.kind] is row][:most]

    def outcome(row: ShapeRow) -> Outcome:
        if reason := exceeded(row.size_bytes, row.latency_ms, limits):
            return reason
        if row in chosen:
            return "promising"
        return "not promising" if row in front else "dominated"

    return [row.model_copy(update={"outcome": outcome(row)}) for row in rows]


def exceeded(
    size_bytes: int, latency_ms: float, limits: Limits
) -> Literal["too large", "too slow"] | None:
    """Which limit a file exceeds; None for none."""
    if limits.max_size_bytes is not None and size_bytes > limits.max_size_bytes:
        return "too large"
    if limits.max_latency_ms is not None and latency_ms > limits.max_latency_ms:
        return "too slow"
    return None


def promising_of(rows: Sequence[ShapeRow]) -> list[ShapeRow]:
    """Those of judged rows that are worth training, the largest first."""
    return sorted((row for row in rows if row.outcome == "promising"), key=_largest_first)


def _largest_first(row: ShapeRow) -> tuple[int, float]:
    return -row.macs * row.params, row.latency_ms


def _dominates(one: ShapeRow, other: ShapeRow) -> bool:
    pairs = (
        (one.latency_ms, other.latency_ms),
        (-one.macs, -other.macs),
        (-one.params, -other.params),
    )
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
