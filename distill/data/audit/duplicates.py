"""Which images are copies of each other: exact by content, near by what they show, mirrored too.

Near-duplicates are found in two steps. Candidates are pairs whose perceptual hashes differ in few
bits. Of these, pairs are kept whose tiny pictures are much closer to each other than either is to
the rest of the data: where all images look alike, as aligned faces or X-rays do, more is asked of a
copy. Thresholds were chosen by looking at pairs of photographs (`benchmarks/LOG.md`); they rather
miss a copy than join strangers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.data.audit.fingerprints import THUMB, Fingerprints
from distill.data.audit.forest import ODD, SYMMETRIC, Points, directions, leaves

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Rows = Callable[[Ids], Floats]  # unit vectors of some images

BITS = 64
HASH_DISTANCE = 10  # bits, of which two photographs that have nothing in common differ in 32
CLOSE = 0.10  # distance of copies, as a share of an image's distance to what is similar to it
# With features, which see through turns and crops, hashes and tiny pictures may differ by more.
WIDE_HASH_DISTANCE, WIDE, FEATURES_AGREE = 12, 0.25, 0.10
FEATURES_ALONE = 0.03
SIMILAR = 0.75  # quantile of an image's cosines to others: "what is similar to it"
SAMPLE = 512  # others that it is taken over
# Others this close may be copies, of which a few scenes may have many: they do not count, unless
# so few remain that looking alike is what these images have in common.
MAYBE_COPY, REMAIN = 0.9, 0.25
LEAST_SIMILAR = 0.2  # of unrelated photographs; copies are not to differ by more in any data
FEW, SIMILAR_AMONG_FEW = 16, 0.5  # with fewer images there is no telling what is common
FLAT = 2.0  # standard deviation of a tiny picture's values below which its hash is noise
THUMB_VALUES = THUMB * THUMB * 3
ALL_PAIRS = 40_000  # images of which every pair is compared; of more a forest tells which
TILE = 1024  # images that are compared with as many others at a time
MOST_PAIRS = 1_000_000  # held at a time


class _Sight(NamedTuple):
    """One way to compare images.

    Attributes:
        reach: Distance of each image to what is similar to it, `(n,)`.
    """

    rows: Rows
    reach: Floats

    def limits(self, left: Ids, right: Ids) -> Floats:
        """What distances `(left, right)` are measured by: that of the image in denser company."""
        limits: Floats = np.minimum(self.reach[left][:, None], self.reach[right])
        return limits


def copy_groups(prints: Fingerprints, features: Floats | None = None) -> list[str]:
    """Groups of copies: exact ones, near ones, and copies of copies.

    Args:
        features: See `near_pairs`.

    Returns:
        The name of each image's group, the alphabetically first of its members. Unreadable images
        are groups of their own.
    """
    pairs = np.concatenate([exact_pairs(prints), near_pairs(prints, features)])
    return _first_names(prints.names, components(len(prints.names), pairs))


def join_groups(names: Sequence[str], *groupings: Sequence[str | None]) -> list[str]:
    """The finest groups that hold the groups of each grouping; None is no group."""
    pairs = [_star(grouping) for grouping in groupings]
    return _first_names(names, components(len(names), np.concatenate(pairs)))


def exact_pairs(prints: Fingerprints) -> Ids:
    """Each readable image that is not the first of its content, with the first, `(m, 2)`."""
    return _star([s if ok else None for s, ok in zip(prints.sha256, prints.readable, strict=True)])


def near_pairs(prints: Fingerprints, features: Floats | None = None) -> Ids:
    """Pairs of images that show the same but are not the same file, `(m, 2)`, ascending.

    Of equal files the first alone is compared. Beyond a million pairs, only as many are given as
    it takes to link the same images.

    Args:
        features: Unit vectors `(n, d)`, as of `pooled_features`. They find more (turned, cropped)
            and take nothing away: recoloured copies are further apart for a network.
    """
    _, first = np.unique(np.array(prints.sha256, "S64"), return_index=True)  # in any order of items
    ids: Ids = first[prints.readable[first]].astype(np.int64)
    flat = _contrast(prints.thumbs[ids]) < FLAT
    count, pair_lists = len(prints.names), [_blank_pairs(prints, ids[flat])]
    held = len(pair_lists[0])
    for pairs in _compare(prints, ids[~flat], features):
        pair_lists.append(pairs)
        held += len(pairs)
        if held > MOST_PAIRS:
            pair_lists = [_star(components(count, np.concatenate(pair_lists)).tolist())]
            held = len(pair_lists[0])
    pairs = np.sort(np.concatenate(pair_lists), axis=1)
    return np.unique(pairs, axis=0)


def components(count: int, pairs: Ids) -> Ids:
    """The smallest index that each of `count` nodes is linked to by pairs, `(count,)`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    smallest: Ids = first[component].astype(np.int64)
    return smallest


def _star(keys: Sequence[object]) -> Ids:
    """Pairs of the first index of each key with the others; None is no key."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key is not None]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _first_names(names: Sequence[str], labels: Ids) -> list[str]:
    first: dict[int, str] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        first[label] = min(name, first.get(label, name))
    return [first[label] for label in labels.tolist()]


def _blank_pairs(prints: Fingerprints, ids: Ids) -> Ids:
    """Links blank images of the same colour; of a fine texture, just as flat when tiny, none.

    Colours are compared in steps of three levels, which white (255) and black (0) lie within:
    unlike a distance, steps cannot chain black to white.
    """
    colours = np.rint(prints.thumbs[ids].mean(axis=(1, 2))).astype(np.int64)
    keys: list[object] = [None] * len(prints.names)
    for index, colour in zip(ids.tolist(), ((colours + 1) // 3).tolist(), strict=True):
        if prints.sharpness[index] == 0:
            keys[index] = tuple(colour)
    return _star(keys)


def _compare(prints: Fingerprints, ids: Ids, features: Floats | None) -> Iterator[Ids]:
    """Pairs among `ids`: of all where these are not too many, else of those a forest joins."""
    comparison = _Comparison(prints, ids, features)
    if len(ids) <= ALL_PAIRS:
        blocks: Iterator[tuple[Ids, Ids]] = _tiles(len(ids))
    else:
        blocks = ((leaf, leaf) for points in comparison.points() for leaf in leaves(points))
    for left, right in blocks:
        yield comparison.pairs(left, right)


class _Comparison:
    """Tells copies among some of the images.

    Args:
        ids: Those that are compared; what is told of them is by their places here.
    """

    def __init__(self, prints: Fingerprints, ids: Ids, features: Floats | None) -> None:
        self._ids, self._thumbs = ids, prints.thumbs[ids]
        self._hashes = [prints.hashes[ids, side] for side in (0, 1)]
        self._pixels = _sight(lambda index: _unit(self._thumbs[index]), len(ids), MAYBE_COPY)
        self._seen = None
        if features is not None:
            known = features[ids]
            # A network that was trained for these classes may see no more than the class: all
            # count.
            self._seen = _sight(lambda index: known[index], len(ids), 2.0)

    def pairs(self, left: Ids, right: Ids) -> Ids:
        """Pairs of copies between two lists of places, `(m, 2)`, as ids, the smaller first."""
        ahead, bits = left[:, None] < right, _bits_apart(self._hashes, left, right)
        seen = self._seen
        most = HASH_DISTANCE if seen is None else WIDE_HASH_DISTANCE
        candidates = ahead & (bits <= most)
        kept_left, kept_right = candidates.any(axis=1), candidates.any(axis=0)
        at = np.ix_(kept_left, kept_right)
        apart = _pixel_distance(self._thumbs[left[kept_left]], self._thumbs[right[kept_right]])
        limits = self._pixels.limits(left[kept_left], right[kept_right])
        near = np.zeros_like(candidates)
        near[at] = candidates[at] & (bits[at] <= HASH_DISTANCE) & (apart <= CLOSE * limits)
        if seen is not None:
            unlike = 1.0 - seen.rows(left) @ seen.rows(right).T
            share = unlike / np.maximum(seen.limits(left, right), 1e-6)
            near[at] |= candidates[at] & (share[at] <= FEATURES_AGREE) & (apart <= WIDE * limits)
            near |= ahead & (share <= FEATURES_ALONE)
        rows, columns = near.nonzero()
        return self._ids[np.stack([left[rows], right[columns]], axis=1)]

    def points(self) -> Iterator[Points]:
        """The images in few dimensions: as tiny pictures and, where there are some, as features."""
        sample = np.arange(min(SAMPLE, len(self._ids)))
        even, odd = _halves(self._thumbs[sample])
        bases = directions(even, SYMMETRIC), directions(odd, ODD)
        parts: list[list[Floats]] = [[], []]
        for start in range(0, len(self._ids), TILE):
            halves = _halves(self._thumbs[start : start + TILE])
            for part, half, basis in zip(parts, halves, bases, strict=True):
                part.append(half @ basis)
        yield Points(*(np.concatenate(part) for part in parts))
        if self._seen is not None:
            every = np.arange(len(self._ids))
            basis = directions(self._seen.rows(sample), SYMMETRIC + ODD)
            rows = [self._seen.rows(every[at : at + TILE]) @ basis for at in every[::TILE]]
            yield Points(np.concatenate(rows), np.empty((len(every), 0), np.float32))


def _halves(thumbs: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """What mirroring leaves of tiny pictures, and what it turns round; both `(n, values)`."""
    own, mirrored = _unit(thumbs), _unit(thumbs[:, :, ::-1])
    return np.float32(0.5) * (own + mirrored), np.float32(0.5) * (own - mirrored)


def _tiles(count: int) -> Iterator[tuple[Ids, Ids]]:
    """Blocks of indices that cover every pair of `count` once."""
    blocks = [np.arange(at, min(count, at + TILE)) for at in range(0, count, TILE)]
    for number, block in enumerate(blocks):
        yield from ((block, other) for other in blocks[number:])


def _sight(rows: Rows, count: int, maybe_copy: float) -> _Sight:
    """Measures what is similar to each image, over a sample that the order has no part in.

    Images are sorted by their SHA-256, so the first of them are as good as drawn at random.
    """
    if count < FEW:
        return _Sight(rows, np.full(count, 1.0 - SIMILAR_AMONG_FEW, np.float32))
    sample = rows(np.arange(min(SAMPLE, count)))
    similar = np.empty(count, np.float32)
    for start in range(0, count, TILE):
        ids = np.arange(start, min(count, start + TILE))
        cosines = np.sort(rows(ids) @ sample.T, axis=1)
        others = (cosines < maybe_copy).sum(axis=1)
        others = np.where(others < REMAIN * len(sample), len(sample), others)
        at = (SIMILAR * (others - 1)).astype(np.int64)
        similar[ids] = np.take_along_axis(cosines, at[:, None], axis=1)[:, 0]
    return _Sight(rows, 1.0 - np.clip(similar, LEAST_SIMILAR, 1.0))


def _signs(hashes: NDArray[np.uint64]) -> Floats:
    flags = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return 2.0 * flags.astype(np.float32) - 1.0


def _bits_apart(hashes: Sequence[NDArray[np.uint64]], left: Ids, right: Ids) -> Floats:
    """Bits in which hashes differ, `(left, right)`, one of a pair mirrored or not.

    A product of matrices of -1 and 1, as fast as counting bits and in any NumPy.
    """
    (own, mirrored), (others, turned) = ([_signs(h[ids]) for h in hashes] for ids in (left, right))
    equal = own @ others.T
    for one, other in ((own, turned), (mirrored, others)):
        np.maximum(equal, one @ other.T, out=equal)
    return np.float32(0.5) * (np.float32(BITS) - equal)


def _pixel_distance(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> Floats:
    """One minus the correlation of colours, `(left, right)`, mirrored or not, the closer one."""
    rows = _unit(left)
    closest: Floats = np.maximum(rows @ _unit(right).T, rows @ _unit(right[:, :, ::-1]).T)
    return 1.0 - closest


def _unit(thumbs: NDArray[np.uint8]) -> Floats:
    """Tiny pictures as unit vectors: without each channel's mean, whatever the contrast."""
    values = thumbs.astype(np.float32)
    values = (values - values.mean(axis=(1, 2), keepdims=True)).reshape(len(thumbs), THUMB_VALUES)
    unit: Floats = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return unit


def _contrast(thumbs: NDArray[np.uint8]) -> Floats:
    """Standard deviation of each tiny picture's values, each channel by itself, `(n,)`."""
    contrast = np.empty(len(thumbs), np.float32)
    for start in range(0, len(thumbs), TILE):
        values = thumbs[start : start + TILE].astype(np.float32)
        contrast[start : start + TILE] = np.sqrt(values.var(axis=(1, 2)).mean(axis=1))
    return contrast
