"""Which images a model has seen: its experiment keeps their splits by the SHA-256 of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.data.sources import SPLITS
from distill.data.sources._manifest import FILE
from distill.data.sources._tables import read_table
from distill.report.results import Caution

FLATTERS = {
    "train": ("trained_on", "trained on: this score flatters"),
    "val": (
        "chosen_on",
        "chosen on, such as its epoch and thresholds: this score flatters a little",
    ),
}


@dataclass(frozen=True)
class KeptSplits:
    """The splits of an experiment.

    Attributes:
        manifest: The file that they are kept in.
        by_image: Split by name of the images of each SHA-256: copies may be in several.
    """

    manifest: Path
    by_image: dict[str, dict[str, str]]

    def split_of(self, name: str, digest: str) -> str | None:
        """The split that an image was in; None for one that was not there."""
        return self.by_image.get(digest, {}).get(name) or self.seen_in(digest)

    def seen_in(self, digest: str) -> str | None:
        """Of the splits that an image was in, copies of it too, the one that taught the most."""
        splits = self.by_image.get(digest, {}).values()
        return min(splits, key=SPLITS.index, default=None)

    def cautions(self, digests: Collection[str], fix: str) -> Iterator[Caution]:
        """What to say of a score on these images, if the model was trained or chosen on any."""
        seen = Counter(self.seen_in(digest) for digest in digests)
        for split, (kind, words) in FLATTERS.items():
            if seen[split]:
                what = f"{seen[split]:,} of the {len(digests):,} images scored were {words}"
                yield Caution(kind=kind, what=what, fix=fix)


def kept_splits(model: Path) -> KeptSplits | None:
    """The splits of the experiment that a file or run directory lies in, if they are kept there.

    Raises:
        ModuleNotFoundError: They are, and pyarrow is not installed to read them.
        UserError: The manifest is damaged.
    """
    for folder in model.resolve().parents:
        place = folder / FILE
        if place.is_file() and (folder / "recipe.toml").is_file():
            table = read_table(place, labelled=False)
            by_image: dict[str, dict[str, str]] = {}
            columns = (table.cells(column) for column in ("path", "split", "sha256"))
            for name, split, digest in zip(*columns, strict=True):
                by_image.setdefault(digest, {})[name] = split
            return KeptSplits(place, by_image)
    return None
