"""Manifests of nonsense: read, or refused in one line."""

from __future__ import annotations

import contextlib

from distill.data.sources import open_source
from distill.errors import UserError

ROWS = "path,label,split\na/0.jpg,a,train\na/1.jpg,a,val\nb/0.jpg,b,train\nb/1.jpg,b;a,test\n"


def test_mutated_manifests_are_sources_or_errors(write_images, tmp_path, hostile):
    folder = write_images(tmp_path, [f"{label}/{i}.jpg" for label in "ab" for i in range(2)])
    file = folder / "manifest.csv"
    for rng in hostile.tries(150):
        file.write_bytes(hostile.mutated(ROWS.encode(), rng))
        for task in ("single", "multi"):
            with contextlib.suppress(UserError):
                source = open_source(str(file), task)
                assert all(name.isprintable() for name in source.classes)
