"""Which shapes of the compact student there are to choose from, and which of them are promising."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from distill.config import Options, Positive, Recipe

Row = dict[str, Any]


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
        options: As `students/compact.py` declares them.
    """

    name: str
    size: int
    options: dict[str, Any]


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
        name = f"{size}px-s{stem}-w{width}-d{depths}-k{kernels}"
        yield Candidate(name, size, {**base, **shape})


def image_sizes(recipe: Recipe) -> tuple[int, ...]:
    """Sizes to try: those of `search.sizes`, or the recipe's and three quarters of it."""
    size = recipe.data.size
    return recipe.search.sizes or (size, max(16, size * 3 // 4 // 8 * 8))


def judge(rows: Sequence[Row], limits: Limits, most: int) -> list[Row]:
    """Gives every row its `outcome`, and returns those worth training, the largest first.

    Of those within the limits, a row is `dominated` if another one is no slower, no larger and
    computes at least as much. Of the rest, those that compute most are promising: what a network
    computes in its time is the best guess at what it can learn, as long as nobody trained it.

    Args:
        rows: With `macs`, `latency_ms` and `size_bytes`.
        most: How many are promising at most.
    """
    within = []
    for row in rows:
        row["outcome"] = _exceeded(row, limits)
        if row["outcome"] is None:
            within.append(row)
    front = [row for row in within if not any(_dominates(other, row) for other in within)]
    front.sort(key=lambda row: (-row["macs"], row["latency_ms"]))
    promising = front[:most]
    for row in within:
        if row not in front:
            row["outcome"] = "dominated"
        else:
            row["outcome"] = "promising" if row in promising else "not promising"
    return promising


def _exceeded(row: Row, limits: Limits) -> str | None:
    """Which limit a row exceeds; None for none."""
    if limits.max_size_bytes is not None and row["size_bytes"] > limits.max_size_bytes:
        return "too large"
    if limits.max_latency_ms is not None and row["latency_ms"] > limits.max_latency_ms:
        return "too slow"
    return None


def _dominates(one: Row, other: Row) -> bool:
    costs = [(one[key], other[key]) for key in ("latency_ms", "size_bytes")]
    costs.append((-one["macs"], -other["macs"]))
    return all(a <= b for a, b in costs) and any(a < b for a, b in costs)
