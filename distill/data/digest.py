"""What data is named by: hashes that do not depend on where it lies or how it is split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from distill.data.sources import Label


def image_sha256(raw: bytes | Image.Image) -> str:
    """Hash of an image's file content, or of its pixels where there is no file."""
    return hashlib.sha256(raw if isinstance(raw, bytes) else raw.tobytes()).hexdigest()


def data_sha256(rows: Iterable[tuple[str, Label, str]]) -> str:
    """Hash of (name, label, SHA-256 of the content) of all images, whatever splits and sizes."""
    digest = hashlib.sha256(b"[")
    for position, row in enumerate(sorted(rows)):
        digest.update(f"{', ' if position else ''}{json.dumps(row)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def splits_sha256(members: Mapping[str, Sequence[str]]) -> str:
    """Hash of which split holds which images, by name, whatever their order."""
    listed = {split: sorted(names) for split, names in members.items()}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
