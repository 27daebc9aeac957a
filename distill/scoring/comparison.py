"""Whether one variant is better than another: a difference, its interval, and a word.

Both are run with the same seeds and tested on the same images. What lies between them is random
twice: other seeds train other weights, other test images are other questions (Bouthillier et al.,
2021, arXiv:2103.03098). The interval is of both: a bootstrap draws pairs of seeds and groups of
images (copies are one question, not several), and what it draws is widened to what two-way
analysis of variance says of so few seeds, of which a bootstrap makes too little (LOG).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distill.errors import UserError
from distill.files import JsonModel

Floats = NDArray[np.float64]
Word = Literal["helps", "hurts", "no effect", "inconclusive"]

MARGIN = 0.5  # points that make no difference
TAIL = 0.025  # on each side of an interval, and of each of the two tests of "no effect"
POWER = 0.8  # with which what is said to be needed decides
DRAWS = 10_000
DIGITS = 9  # of points and shares that are told apart: sums of thirds have no more
CHUNK = 2**22  # weights of images that are drawn at a time
STEPS = (1.0, 1.7, 3.0, 5.0, 8.0)  # in which numbers of images are told: they are guessed from few
MOST_DISCORDANT = 50.0  # percent that is reckoned with
MOST_IMAGES, MOST_SEEDS = 10_000_000, 100  # beyond which nobody goes


class Verdict(JsonModel):
    """What `results.json` says of a question.

    Attributes:
        question: What was asked, such as `student over student-alone`.
        unit: What points are of: `images` that are answered right or, where labels are many, mean
            average precision, `map`.
        word: `helps` where the interval lies above 0 and p is below 0.05, `hurts` where below 0,
            `no effect` where it lies within the margin, else `inconclusive`.
        interval_points: 95 % confidence.
        needs: Test `images`, or pairs of `seeds`, that would decide; absent where they cannot.
        discordant_percent: Answers of which one is right and the other wrong; absent, as
            `mcnemar_p`, where labels are many.
        mcnemar_p: Exact McNemar's test of each pair of runs, over images alone.
        better_share: Pairs of runs in which the first is right more often; ties are halves.
        p: Two-sided, of the difference; `p_holm` where several were asked at once (Holm, 1979).
    """

    question: str
    unit: Literal["images", "map"] = "images"
    word: Word
    difference_points: float
    interval_points: tuple[float, float]
    seeds: int
    test_images: int
    groups: int
    margin_points: float
    needs: dict[str, int] | None = None
    discordant_percent: float | None = None
    mcnemar_p: tuple[float, ...] | None = None
    better_share: float
    p: float
    p_holm: float | None = None


class Spread(NamedTuple):
    """Mean squares of a difference by seed and group: between seeds, between groups, the rest."""

    of_seeds: float
    of_groups: float
    rest: float
    seeds: int
    groups: int
    images: int

    @property
    def total(self) -> float:
        """What the mean varies by; the components may add up to less than one of them by chance."""
        return max(self.of_seeds + self.of_groups - self.rest, self.of_seeds, self.of_groups)

    def variance(self, part: float) -> float:
        """Of the difference, in squared points, of a part of `total`."""
        return max(0.0, part) * self.groups / self.seeds * (100.0 / self.images) ** 2

    @property
    def error(self) -> float:
        """Standard error of the difference, in points."""
        return math.sqrt(self.variance(self.total))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error (Satterthwaite, 1946)."""
        if self.seeds == 1:
            return self.groups - 1.0
        seeds, groups = self.seeds - 1, self.groups - 1
        parts = self.of_seeds**2 / seeds + self.of_groups**2 / groups
        return max(self.total**2 / (parts + self.rest**2 / (seeds * groups)), float(seeds))


@dataclass(frozen=True)
class Difference:
    """What lies between two variants.

    Attributes:
        first, second: Whether each run is right on each image, `(seeds, images)`, bool, or the
            part of each image in a score that is their mean, float; rows of one seed belong
            together.
        groups: The group of each image, `(images,)`, two of them at least.
    """

    first: NDArray[Any]
    second: NDArray[Any]
    groups: NDArray[Any]

    @cached_property
    def points(self) -> float:
        """The mean over seeds and images, in points."""
        return round(100.0 * float(self.first.mean() - self.second.mean()), DIGITS)

    @cached_property
    def sums(self) -> tuple[Floats, Floats]:
        """Differences of each seed summed in each group, `(seeds, groups)`, and groups' sizes."""
        _, place = np.unique(self.groups, return_inverse=True)
        sizes = np.bincount(place).astype(np.float64)
        steps = self.first.astype(np.float64) - self.second.astype(np.float64)
        return np.stack([np.bincount(place, row, len(sizes)) for row in steps]), sizes

    @cached_property
    def spread(self) -> Spread:
        """Where it varies."""
        sums, sizes = self.sums
        seeds, groups = sums.shape
        left = sums - self.points / 100.0 * sizes
        by_seed, by_group = left.mean(axis=1, keepdims=True), left.mean(axis=0)
        # One image more that only one is right on: of no differences, none is known for sure.
        of_groups = (seeds * float((by_group**2).sum()) + 1.0) / (groups - 1)
        if seeds == 1:
            return Spread(0.0, of_groups, 0.0, 1, groups, len(self.groups))
        of_seeds = groups * float((by_seed**2).sum()) / (seeds - 1)
        rest = float(((left - by_seed - by_group) ** 2).sum()) / ((seeds - 1) * (groups - 1))
        return Spread(of_seeds, of_groups, rest, seeds, groups, len(self.groups))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Where it is, in points, with 95 % confidence."""
        half = self.spread.error * float(stats.t.ppf(1.0 - TAIL, self.spread.freedom))
        draws = self._draws()
        deviation = float(draws.std())
        ends = np.array([-half, half])
        if deviation > 1e-12:
            widening = half / (float(stats.norm.ppf(1.0 - TAIL)) * deviation)
            ends = np.quantile(draws - draws.mean(), (TAIL, 1.0 - TAIL)) * widening
        low, high = np.clip(self.points + ends, -100.0, 100.0).tolist()
        return low, high

    def _draws(self) -> Floats:
        """The difference of samples of as many seeds and groups, drawn with replacement."""
        sums, sizes = self.sums
        seeds, groups = sums.shape
        rng, found = np.random.default_rng(0), list[Floats]()
        for count in _chunks(DRAWS, max(1, CHUNK // groups)):
            chosen = rng.integers(0, groups, (count, groups))
            offset = chosen + groups * np.arange(count)[:, None]
            weights = np.bincount(offset.ravel(), minlength=count * groups).reshape(count, groups)
            shares = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), count) / seeds
            found.append(100.0 * (weights @ sums.T * shares).sum(axis=1) / (weights @ sizes))
        return np.concatenate(found)

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        return 2.0 * float(stats.t.sf(abs(self.points) / self.spread.error, self.spread.freedom))

    @property
    def mcnemar(self) -> tuple[float, ...] | None:
        """Exact McNemar's test of each pair; None of parts of a score."""
        if self.first.dtype != np.bool_:
            return None
        won, lost = (self.first & ~self.second).sum(axis=1), (self.second & ~self.first).sum(axis=1)
        pairs = zip(won.tolist(), lost.tolist(), strict=True)
        return tuple(float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0 for a, b in pairs)

    @property
    def discordant(self) -> float | None:
        """Answers that differ in being right, in percent; None of parts of a score."""
        if self.first.dtype != np.bool_:
            return None
        return 100.0 * float((self.first != self.second).mean())

    @property
    def better(self) -> float:
        """Share of the pairs of runs that the first wins."""
        gap = np.round(self.first.mean(axis=1) - self.second.mean(axis=1), DIGITS)
        return float(((gap > 0) + 0.5 * (gap == 0)).mean())

    def needs(self, margin: float, tail: float = TAIL) -> dict[str, int]:
        """Test images, and pairs of seeds, that would decide if the difference stayed what it is.

        It is told from 0, or from the margin, whichever is farther away. More of them than there
        are, that is.

        Args:
            tail: On each side, of a difference from 0.
        """
        spread, gain, power = self.spread, abs(self.points), POWER
        if margin - gain > gain:  # from the margin, and from the other one too
            gain, tail, power = margin - gain, TAIL, (1.0 + POWER) / 2
        quantiles = float(stats.norm.ppf(1.0 - tail) + stats.norm.ppf(power))
        bearable = (gain / quantiles) ** 2
        of_seeds = spread.variance(spread.of_seeds - spread.rest)
        of_images = spread.variance(spread.of_groups)
        of_groups = spread.variance(spread.of_groups - spread.rest)
        found: dict[str, int | None] = {}
        if of_seeds < bearable:
            share = of_images / 100.0 * spread.images + gain**2 / 100.0
            left = quantiles * math.sqrt(bearable - of_seeds)
            if share > MOST_DISCORDANT:  # copies; the same as a smaller gain
                share, left = MOST_DISCORDANT, left * math.sqrt(MOST_DISCORDANT / share)
            more = (share, min(left, share), tail, power, spread.images)
            found["images"] = images_needed(*more)
        if spread.seeds > 1 and of_groups < bearable:
            deviation = math.sqrt(spread.seeds * spread.variance(spread.of_seeds))
            left = quantiles * math.sqrt(bearable - of_groups)
            found["seeds"] = seeds_needed(deviation, left, tail, power, spread.seeds)
        return {name: count for name, count in found.items() if count is not None}


def check_groups(groups: NDArray[Any], split: str) -> None:
    """Raises `UserError` where the images of a split are one group: a single question."""
    if len(set(groups.tolist())) < 2:
        what = f"all images of {split} are one group, so that nothing can be compared on them"
        raise UserError(what, f"split {split}", "give it images of several (data.split, groups)")


def judge(
    questions: Sequence[tuple[str, Difference]], margin: float = MARGIN
) -> tuple[Verdict, ...]:
    """Verdicts on questions that are asked at once: the more there are, the more one asks of each.

    Args:
        questions: What is asked, and what was found.
        margin: Points that make no difference.
    """
    values = [difference.p for _, difference in questions]
    return tuple(
        _verdict(question, difference, margin, p if len(questions) > 1 else None, factor)
        for (question, difference), p, factor in zip(
            questions, holm(values), holm_factors(values), strict=True
        )
    )


def _verdict(
    question: str, of: Difference, margin: float, p_holm: float | None, factor: int
) -> Verdict:
    (low, high), word = of.interval, "inconclusive"
    if (low > 0.0 or high < 0.0) and (of.p if p_holm is None else p_holm) < 2.0 * TAIL:
        word = "helps" if low > 0.0 else "hurts"
    elif -margin < low and high < margin:
        word = "no effect"
    return Verdict.model_validate(
        {
            "question": question,
            "unit": "images" if of.first.dtype == np.bool_ else "map",
            "word": word,
            "difference_points": of.points,
            "interval_points": of.interval,
            "seeds": len(of.first),
            "test_images": len(of.groups),
            "groups": of.spread.groups,
            "margin_points": margin,
            "needs": of.needs(margin, TAIL / factor) if word == "inconclusive" else None,
            "discordant_percent": of.discordant,
            "mcnemar_p": of.mcnemar,
            "better_share": of.better,
            "p": of.p,
            "p_holm": p_holm,
        }
    )


def holm_factors(values: Sequence[float]) -> list[int]:
    """What each of several p values is multiplied by: as many as are not below it."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    return [len(values) - order.index(index) for index in range(len(values))]


def holm(values: Sequence[float]) -> list[float]:
    """p values of tests made at once, adjusted step by step (Holm, 1979)."""
    factors, adjusted, highest = holm_factors(values), [1.0] * len(values), 0.0
    for index in sorted(range(len(values)), key=lambda index: -factors[index]):
        highest = max(highest, min(1.0, factors[index] * values[index]))
        adjusted[index] = highest
    return adjusted


def images_needed(
    discordant: float, gain: float, tail: float = TAIL, power: float = POWER, known: int = 0
) -> int | None:
    """Test images from which on exact McNemar's test finds a gain in four of five cases.

    Args:
        discordant: Answers that differ in being right, in percent.
        gain: The true difference, in points, of either sign.
        tail: Of the test, on each side.
        power: Another share of cases.
        known: Images that there are, which did not do.

    Returns:
        In `STEPS` of each power of ten; None where nobody has so many.
    """
    for magnitude in range(1, int(math.log10(MOST_IMAGES))):
        for step in STEPS:
            count: int = round(step * 10**magnitude)
            if count > known and mcnemar_power(count, discordant, gain, tail) >= power:
                return count
    return None


def mcnemar_power(images: int, discordant: float, gain: float, tail: float = TAIL) -> float:
    """Probability that exact McNemar's test finds a gain; arguments as of `images_needed`."""
    share, won = discordant / 100.0, (1.0 + min(1.0, gain / discordant)) / 2
    counts = np.arange(*(int(stats.binom.ppf(q, images, share)) for q in (1e-6, 1 - 1e-6)))
    losses = stats.binom.ppf(tail, counts, 0.5)  # the fewest that could be chance, or one more
    losses -= stats.binom.cdf(losses, counts, 0.5) > tail
    found = stats.binom.cdf(losses, counts, won) + stats.binom.sf(counts - losses - 1, counts, won)
    return float((stats.binom.pmf(counts, images, share) * found * (losses >= 0)).sum())


def seeds_needed(
    deviation: float, gain: float, tail: float = TAIL, power: float = POWER, known: int = 1
) -> int | None:
    """Pairs of seeds from which on a paired t-test finds a gain in four of five cases.

    Args:
        deviation: Standard deviation of the pairs' differences, in points.
        tail, power, known: As of `images_needed`.
    """
    for count in range(known + 1, MOST_SEEDS + 1):
        free, shift = count - 1, gain / max(deviation, 1e-9) * math.sqrt(count)
        bound = stats.t.ppf(1.0 - tail, free)
        if shift > 2 * bound or stats.nct.sf(bound, free, shift) >= power:
            return count
    return None


def _chunks(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)
