"""Random numbers as a pure function of (seed, stream, sample, step): no state, no order.

Whatever is drawn for an image is the same on every rank, after a resume, in whatever order and
batch the image comes, and in the process that fills a cache of teacher logits. The generator is
SplitMix64 used as a counter-based hash (Steele et al., 2014, doi:10.1145/2660193.2660195).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection in which every input bit moves every output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """Random numbers of a batch, one row per sample.

    Attributes:
        seed: Seed of the experiment.
        ids: Sample indices in their split, `(batch,)`.
        step: Whatever makes this draw differ from another of the same sample: the view number for
            views, the epoch for a strategy's noise. One for all samples, or one each `(batch,)`.
    """

    seed: int
    ids: Ints
    step: int | Ints

    def uniform(self, stream: str, count: int) -> Floats:
        """Uniform on [0, 1), `(batch, count)`; streams of other names are independent."""
        with np.errstate(over="ignore"):
            seeded = np.uint64(self.seed) * _GAMMA + np.uint64(zlib.crc32(stream.encode()))
            step = np.asarray(self.step).astype(np.uint64)
            key = _mix(_mix(np.atleast_1d(seeded)) + step * _GAMMA)
            rows = _mix(key + self.ids.astype(np.uint64) * _GAMMA)
            cells = rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
            return (_mix(cells) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, stream: str, count: int) -> Floats:
        """Standard normal, `(batch, count)`, by the Box-Muller transform."""
        u = self.uniform(stream, 2 * count)
        radius = np.sqrt(-2.0 * np.log1p(-u[:, :count]))
        result: Floats = radius * np.cos(2.0 * np.pi * u[:, count:])
        return result


def permutation(seed: int, stream: str, step: int, count: int) -> Ints:
    """A shuffle of `range(count)`, a pure function of its arguments."""
    keys = Draws(seed, np.arange(count, dtype=np.int64), step).uniform(stream, 1)[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int64)
