"""Copies of images: what is found, what is not, and how groups are made of pairs."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from distill.data.audit import duplicates, forest
from distill.data.audit.duplicates import (
    components,
    copy_groups,
    exact_pairs,
    join_groups,
    near_pairs,
)
from distill.data.audit.fingerprints import Fingerprints, take_fingerprints
from distill.data.decode import read_image
from distill.data.demo import paint
from distill.data.sources import Item, Source, open_source

STRANGERS = 80  # enough for the rules of large sets


@cache
def face(number: int) -> Image.Image:
    return Image.fromarray(paint(number)[0])


def look(images: Sequence[Image.Image | bytes], names: Sequence[str] = ()) -> Fingerprints:
    items = [
        Item(name, i) for i, name in enumerate(names or [f"{i:04d}" for i in range(len(images))])
    ]
    source = Source("memory", ("a",), (), lambda item: images[item.label], "x")
    return take_fingerprints(source, items, None, 1, lambda count: None)


def joined(*parts: Fingerprints) -> Fingerprints:
    """The images of all parts, one after another."""

    def column(name: str) -> object:
        first, *others = (getattr(part, name) for part in parts)
        if isinstance(first, np.ndarray):
            return np.concatenate([first, *others])
        for other in others:
            first = first + other if isinstance(first, tuple) else first | other
        return first

    return Fingerprints(**{field.name: column(field.name) for field in fields(Fingerprints)})


def rows_of(prints: Fingerprints, order: np.ndarray) -> Fingerprints:
    """The same images in another order."""

    def column(name: str) -> object:
        values = getattr(prints, name)
        if isinstance(values, np.ndarray):
            return values[order]
        return tuple(values[i] for i in order) if isinstance(values, tuple) else values

    return Fingerprints(**{field.name: column(field.name) for field in fields(Fingerprints)})


@cache
def strangers() -> Fingerprints:
    pictures = [face(1000 + i) for i in range(STRANGERS)]
    return look(pictures, [f"stranger {i:02}" for i in range(STRANGERS)])


def among_strangers(*images: Image.Image | bytes) -> Fingerprints:
    """Fingerprints of the images, followed by other ones."""
    return joined(look(images), strangers())


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def pairs_of(prints: Fingerprints, features: np.ndarray | None = None) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in near_pairs(prints, features)}


def grouping(names: Sequence[str]) -> set[frozenset[int]]:
    """The groups as sets of indices."""
    return {frozenset(i for i, n in enumerate(names) if n == name) for name in set(names)}


def written_on(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((5, 110), "copyright", fill="white")
    return image


CHANGES: dict[str, Callable[[Image.Image], Image.Image | bytes]] = {
    "re-encoded": lambda image: jpeg(image, 40),
    "halved": lambda image: image.resize((64, 64)),
    "doubled": lambda image: image.resize((256, 256), Image.Resampling.BICUBIC),
    "squashed": lambda image: image.resize((128, 100)),
    "mirrored": ImageOps.mirror,
    "mirrored, small and re-encoded": lambda image: jpeg(
        ImageOps.mirror(image).resize((64, 64)), 60
    ),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "written on": written_on,
    "cut": lambda image: image.crop((2, 2, 126, 126)),
}


def test_a_changed_copy_is_found() -> None:
    originals = [face(number) for number in (3, 14, 15)]
    for name, change in CHANGES.items():
        prints = among_strangers(*originals, *(change(image) for image in originals))
        assert pairs_of(prints) == {(0, 3), (1, 4), (2, 5)}, name
    # In small sets too.
    assert pairs_of(look([face(1), face(2), jpeg(face(1), 50)])) == {(0, 2)}


def test_different_pictures_are_not_copies() -> None:
    assert pairs_of(among_strangers(*(face(number) for number in range(120)))) == set()


def test_a_turned_file_is_a_copy() -> None:
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    face(4).rotate(-90).save(content, "PNG", exif=exif.tobytes())
    assert pairs_of(among_strangers(face(4), content.getvalue())) == {(0, 1)}


def test_equal_files_are_exact_pairs_and_not_near_ones() -> None:
    one, other = jpeg(face(1)), jpeg(face(2))
    prints = look([one, other, one, one, b"x", b"x"])
    assert exact_pairs(prints).tolist() == [[0, 2], [0, 3]]  # unreadable ones are nobody's copies
    assert pairs_of(prints) == set()


def test_where_all_images_look_alike_more_is_asked_of_a_copy() -> None:
    """Parts before one camera: 100 photographs that differ in a scratch are not one group."""
    rng, base = np.random.default_rng(0), face(8)
    parts = []
    for _ in range(100):
        part = base.copy()
        ends = rng.integers(10, 118, 4).tolist()
        ImageDraw.Draw(part).line(ends, fill=(250, 250, 250), width=3)
        parts.append(part)
    # Any two of them are within what suffices for a copy among photographs.
    assert len(pairs_of(look(parts[:5]))) == 10
    sizes = Counter(Counter(copy_groups(look(parts))).values())
    assert sizes[1] >= 90
    assert max(sizes) <= 4
    assert (0, 100) in pairs_of(look([*parts, jpeg(parts[0], 85)]))


def test_copies_are_found_where_most_images_are_copies() -> None:
    """Two scenes, 40 frames each: that frames of a scene are alike must not hide it."""
    frames = [jpeg(face(number), quality) for number in (5, 6) for quality in range(40, 80)]
    assert Counter(Counter(copy_groups(look(frames))).values()) == {40: 2}


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (level, level, level))


def test_black_images_are_copies_but_do_not_chain_to_white() -> None:
    black = [grey(0), jpeg(grey(1)), Image.new("RGB", (32, 20), "black")]
    steps = [grey(level) for level in range(2, 255)]
    names = copy_groups(look([*black, *steps]))
    assert names[0] == names[1] == names[2]
    assert max(Counter(names).values()) <= 6


def test_flat_textures_are_no_copies() -> None:
    """Tiny, they are the same grey, though they look different."""
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 2, (128, 128)) * 20 + 100 for _ in range(3)]
    pictures = [*noise, *(np.indices((128, 128)) % 2 * 120)]
    prints = look([Image.fromarray(p.astype(np.uint8)).convert("RGB") for p in pictures])
    assert pairs_of(prints) == set()


def made_up(count: int, seed: int = 0) -> Fingerprints:
    """Random prints with planted copies, mirrored ones and pairs at the border of being one."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (count, 2), dtype=np.uint64)
    thumbs = rng.integers(40, 200, (count, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    for i in range(0, count - 1, 4):
        mirrored = bool(rng.integers(2))
        flips = rng.choice(64, int(rng.integers(0, 16)), replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
        hashes[i + 1] = hashes[i][::-1] if mirrored else hashes[i]
        hashes[i + 1] ^= mask
        noise = rng.normal(0, rng.uniform(0, 25), (16, 16, 3))
        copied = thumbs[i][:, ::-1] if mirrored else thumbs[i]
        thumbs[i + 1] = np.clip(copied + noise, 0, 255).astype(np.uint8)
    ones = np.ones(count, np.float32)
    return Fingerprints(
        names=tuple(f"{i:04d}" for i in range(count)),
        sha256=tuple(f"{rng.integers(2**62):064x}" for _ in range(count)),
        hashes=hashes,
        thumbs=thumbs,
        width=np.full(count, 128, np.int32),
        height=np.full(count, 128, np.int32),
        brightness=100 * ones,
        sharpness=ones,
        readable=np.ones(count, np.bool_),
        unreadable={},
    )


def slow_pairs(prints: Fingerprints) -> set[tuple[int, int]]:
    """The rule, pair by pair in float64."""
    count = len(prints.names)

    def unit(thumb: np.ndarray) -> np.ndarray:
        values = thumb.reshape(-1, 3).astype(np.float64)
        values = (values - values.mean(axis=0)).ravel()
        return values / np.linalg.norm(values)

    own = [unit(thumb) for thumb in prints.thumbs]
    mirrored = [unit(thumb[:, ::-1]) for thumb in prints.thumbs]
    sample = sorted(range(count), key=lambda i: prints.sha256[i])[: duplicates.SAMPLE]
    similar = []
    for i in range(count):
        others = sorted(own[i] @ own[k] for k in sample)
        strangers = [cosine for cosine in others if cosine < 0.9]
        counted = strangers if len(strangers) >= len(others) / 4 else others
        similar.append(min(1, max(0.2, counted[int(0.75 * (len(counted) - 1))])))
    found = set()
    for i in range(count):
        for j in range(i + 1, count):
            (a, am), (b, bm) = prints.hashes[i].tolist(), prints.hashes[j].tolist()
            bits = min((a ^ b).bit_count(), (a ^ bm).bit_count(), (am ^ b).bit_count())
            distance = 1 - max(own[i] @ own[j], own[i] @ mirrored[j])
            if bits <= 10 and distance <= 0.1 * (1 - max(similar[i], similar[j])):
                found.add((i, j))
    return found


def test_pairs_are_those_of_brute_force() -> None:
    prints = made_up(200)
    expected = slow_pairs(prints)
    assert 10 < len(expected) < 45  # of 50 planted ones
    assert pairs_of(prints) == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prints, features = made_up(200), np.eye(200, 300, dtype=np.float32)
    features[7] = features[120]
    whole = near_pairs(prints, features).tolist()
    assert [7, 120] in whole
    monkeypatch.setattr(duplicates, "TILE", 7)
    assert near_pairs(prints, features).tolist() == whole


def test_a_forest_finds_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, mirrored ones too, and what features alone see, in leaves of a 50th of the images."""
    prints, features = made_up(1000), np.eye(1000, 1300, dtype=np.float32)
    features[7] = features[120]
    alone, with_features = pairs_of(prints), near_pairs(prints, features).tolist()
    monkeypatch.setattr(duplicates, "ALL_PAIRS", 100)
    sizes = []

    def small(points: duplicates.Points) -> Iterator[np.ndarray]:
        for leaf in forest.leaves(points, leaf=20):
            sizes.append(len(leaf))
            yield leaf

    monkeypatch.setattr(duplicates, "leaves", small)
    assert pairs_of(prints) == alone
    assert near_pairs(prints, features).tolist() == with_features
    assert max(sizes) <= 20


def test_leaves_hold_every_vector_once_per_tree() -> None:
    rng = np.random.default_rng(0)
    even, odd = (rng.standard_normal((n, d), np.float32) for n, d in ((777, 5), (777, 3)))
    found = list(forest.leaves(forest.Points(even, odd), trees=3, leaf=50))
    together = np.concatenate(found)
    assert np.bincount(together).tolist() == [3] * 777
    assert all((np.diff(leaf) > 0).all() for leaf in found)
    same = forest.Points(np.ones((300, 5), np.float32), np.zeros((300, 0), np.float32))
    assert sum(map(len, forest.leaves(same, trees=1, leaf=50))) == 300  # it ends


def test_more_pairs_than_can_be_held_link_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [jpeg(face(1), quality) for quality in range(40, 90)]
    prints = among_strangers(*copies)
    whole = near_pairs(prints)
    assert len(whole) == 50 * 49 // 2
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 60)
    monkeypatch.setattr(duplicates, "TILE", 10)
    few = near_pairs(prints)
    assert len(few) < 200
    count = len(prints.names)
    assert np.array_equal(components(count, few), components(count, whole))


def test_the_order_of_images_changes_no_group() -> None:
    images = [image for i in range(6) for image in (face(i), jpeg(ImageOps.mirror(face(i)), 70))]
    images += [jpeg(face(0)), jpeg(face(0)), grey(0), grey(1), b"x"]
    prints = among_strangers(*images)
    expected = dict(zip(prints.names, copy_groups(prints), strict=True))
    assert Counter(expected.values())["0000"] == 4
    order = np.random.default_rng(0).permutation(len(prints.names))
    shuffled = rows_of(prints, order)
    assert dict(zip(shuffled.names, copy_groups(shuffled), strict=True)) == expected


def slow_components(count: int, pairs: np.ndarray) -> list[int]:
    labels = list(range(count))
    for _ in range(count):
        for i, j in pairs.tolist():
            labels[i] = labels[j] = min(labels[i], labels[j])
    return labels


def test_components_are_those_of_brute_force() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pairs = rng.integers(0, 40, (rng.integers(0, 50), 2))
        assert components(40, pairs).tolist() == slow_components(40, pairs)
    order = np.random.default_rng(0).permutation(5000)
    chain = np.stack([order[:-1], order[1:]], axis=1)
    assert not components(5000, chain).any()


def test_groups_join_over_several_reasons() -> None:
    names = ["e", "d", "c", "b", "a", "f"]
    copies = ["x", "x", "y", "z", "z", "f"]
    given = [None, "p1", "p1", None, None, None]
    # e-d are copies, d-c are given: one group, named after c; b-a are copies.
    assert join_groups(names, copies, given) == ["c", "c", "c", "a", "a", "f"]
    # Equal names of different reasons mean nothing.
    assert join_groups(["a", "b"], ["x", "y"], ["y", "z"]) == ["a", "b"]


def test_joined_groups_hold_every_grouping() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        names = [f"{i:02d}" for i in rng.permutation(30)]
        groupings = [[str(k) for k in rng.integers(0, 20, 30)] for _ in range(2)]
        joint = join_groups(names, *groupings)
        for grouping_ in groupings:
            for i in range(30):
                for j in range(30):
                    assert grouping_[i] != grouping_[j] or joint[i] == joint[j]
        for name in joint:
            assert name == min(n for n, g in zip(names, joint, strict=True) if g == name)
        assert join_groups(names, joint, *groupings) == joint


def test_unreadable_images_are_copies_of_nothing() -> None:
    prints = look([face(0), jpeg(face(0)), face(1), face(2), b"x", b"x"])
    assert copy_groups(prints) == ["0000", "0000", "0002", "0003", "0004", "0005"]


def test_features_find_what_pixels_miss_and_take_nothing_away() -> None:
    turned = face(9).rotate(15, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    prints = among_strangers(face(9), turned, face(10), jpeg(face(10)))
    features = np.eye(len(prints.names), dtype=np.float32)  # nothing is like anything
    assert pairs_of(prints) == pairs_of(prints, features) == {(2, 3)}
    features[1] = features[0]
    assert pairs_of(prints, features) == {(0, 1), (2, 3)}


def test_features_that_tell_nothing_apart_find_nothing() -> None:
    """As those of a network that knows two classes: all images of a class are one to it."""
    prints = strangers()
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.01, (STRANGERS, 32)) + np.repeat(np.eye(2, 32), STRANGERS // 2, 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    assert pairs_of(prints, features.astype(np.float32)) == set()


def test_hardly_any_images() -> None:
    for count in (0, 1, 2):
        prints = look([face(i) for i in range(count)])
        assert near_pairs(prints).shape == exact_pairs(prints).shape == (0, 2)
        assert copy_groups(prints) == list(prints.names)


def test_photographs_that_are_split_by_groups_hardly_leak(real_data: Path) -> None:
    """Of the 1,198 photographs of val and test, 6 of test are mirror images of 6 of val.

    Altered copies of others are found among them.
    """
    masks = open_source(str(real_data / "masks"))
    items = [item for item in masks.items if item.split != "train"]
    prints = take_fingerprints(masks, items, None, 2, lambda count: None)
    names = copy_groups(prints)
    splits: dict[str, set[str | None]] = {}
    for item, name in zip(items, names, strict=True):
        splits.setdefault(name, set()).add(item.split)
    assert sum(len(both) > 1 for both in splits.values()) <= 0.01 * len(items)
    assert max(Counter(names).values()) <= 6

    some = [i for i, item in enumerate(items) if item.split == "test"][:200:2]
    images = [read_image(masks.read(items[i])) for i in some]
    copies = [jpeg(ImageOps.mirror(image).resize((96, 96)), 70) for image in images]
    names = copy_groups(joined(prints, look(copies)))
    assert sum(names[i] == names[len(items) + copy] for copy, i in enumerate(some)) >= 97
