"""Who may be close to whom among many vectors, without looking at all pairs.

Trees of random halvings (as of Dasgupta and Freund, 2008, doi:10.1145/1374376.1374452): vectors
that are close to each other end in the same leaf of a tree unless a cut ran between them, and
cuts of other trees run elsewhere. Of n vectors a tree costs n log n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

TREES = 12
LEAF = 256  # vectors of a leaf, at most
SYMMETRIC, ODD = 20, 12  # principal directions that are kept of each kind


class Points(NamedTuple):
    """Vectors in few dimensions, with what they are in a mirror.

    Attributes:
        even: What mirroring leaves as it is, `(n, a)`.
        odd: What it turns round, `(n, b)`; b may be 0.
    """

    even: Floats
    odd: Floats


def directions(sample: Floats, count: int) -> Floats:
    """Principal directions of a sample's rows, `(d, count)`, or as many as there are."""
    _, _, found = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)
    return np.ascontiguousarray(found[:count].T, np.float32)


def leaves(points: Points, trees: int = TREES, leaf: int = LEAF) -> Iterator[Ids]:
    """Groups of indices, each ascending, within which all close pairs are to be looked for.

    In each tree every vector is in one group, turned as its place along a random odd direction
    says, so that an image and its mirror image fall together.
    """
    for tree in range(trees):
        rng = np.random.default_rng([0, tree])
        whole = points.even
        if points.odd.shape[1]:
            turn = np.sign(points.odd @ rng.standard_normal(points.odd.shape[1], np.float32))
            whole = np.concatenate([points.even, points.odd * turn[:, None]], axis=1)
        waiting = [np.arange(len(whole))]
        while waiting:
            ids = waiting.pop()
            if len(ids) <= leaf:
                yield np.sort(ids)
                continue
            one, other = whole[rng.choice(ids, 2, replace=False)]
            # Ties, as of copies, are cut anywhere.
            order = np.argpartition(whole[ids] @ (one - other), len(ids) // 2)
            waiting += [ids[order[: len(ids) // 2]], ids[order[len(ids) // 2 :]]]
