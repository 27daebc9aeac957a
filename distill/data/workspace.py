"""What work on images needs beside them: where to keep results, how many threads, whom to tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.progress import Progress


@dataclass(frozen=True)
class Workspace:
    """Passed on as one to whatever reads images.

    Attributes:
        cache: Folder where decoded images and fingerprints are kept; they depend on the images
            only, so experiments may share it.
        workers: Decoding threads.
    """

    cache: Path
    workers: int
    progress: Progress
