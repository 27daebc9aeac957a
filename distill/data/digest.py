"""What data is named by: hashes that do not depend on where it lies or how it is split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from distill.data.sources import Label


def data_sha256(rows: Iterable[tuple[str, Label, str]]) -> str:
    """Hash of (name, label, SHA-256 of the content) of all images, whatever splits and sizes."""
    digest = hashlib.sha256(b"[")
    for position, row in enumerate(sorted(rows)):
        digest.update(f"{', ' if position else ''}{json.dumps(row)}".encode())
    digest.update(b"]")
    return digest.hexdigest()
