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
        kind: What it shares with those that differ in width only.
        options: As `students/compact.py` declares them.
    """

    name: str
    kind: str
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
        kind = f"{size}px-s{stem}-d{depths}-k{kernels}"
        yield Candidate(f"{kind}-w{width}", kind, size, {**base, **shape})


def image_sizes(recipe: Recipe) -> tuple[int, ...]:
    """Sizes to try: those of `search.sizes`, or the recipe's and three quarters of it."""
    size = recipe.data.size
    return recipe.search.sizes or (size, max(16, size * 3 // 4 // 8 * 8))


def judge(rows: Sequence[Row], limits: Limits, most: int) -> list[Row]:
    """Gives every row its `outcome`, and returns those worth training, the largest first.

    Of those within the limits, a row is `dominated` if another one is no slower and has at least as
    many multiplications and parameters. Of the rest, those with the largest product of the two are
    promising, the widest of each kind: it is the best guess at what a network can learn, as long as
    nobody trained it, and kinds differ in what they make of it.

    Args:
        rows: With `kind`, `params`, `macs`, `latency_ms` and `size_bytes`.
        most: How many are promising at most.
    """
    within = []
    for row in rows:
        row["outcome"] = _exceeded(row, limits)
        if row["outcome"] is None:
            row["outcome"] = "not promising"
            within.append(row)
    front = []
    for row in sorted(within, key=lambda row: (-row["macs"] * row["params"], row["latency_ms"])):
        if any(_dominates(other, row) for other in within):
            row["outcome"] = "dominated"
        else:
            front.append(row)
    widest = {row["kind"]: row for row in reversed(front)}
    promising = [row for row in front if widest[row["kind"]] is row][:most]
    for row in promising:
        row["outcome"] = "promising"
    return promising


def _exceeded(row: Row, limits: Limits) -> str | None:
    """Which limit a row exceeds; None for none."""
    if limits.max_size_bytes is not None and row["size_bytes"] > limits.max_size_bytes:
        return "too large"
    if limits.max_latency_ms is not None and row["latency_ms"] > limits.max_latency_ms:
        return "too slow"
    return None


def _dominates(one: Row, other: Row) -> bool:
    pairs = [(one["latency_ms"], other["latency_ms"])]
    pairs += [(-one[key], -other[key]) for key in ("macs", "params")]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
