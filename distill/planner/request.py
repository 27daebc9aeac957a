"""What somebody asks a plan for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import __version__
from distill.data.sources import Source

DEFAULT = "balanced"


PATTERN = {*"{}*?["}  # of shards


@dataclass(frozen=True)
class Request:
    """Data, and what is to become of them.

    Attributes:
        preset: Name of a file in `students/presets/`.
        overrides: `dotted.key=value`; what they set, the plan leaves alone.
        teachers: Names of models instead of the preset's.
        minutes: Time for all of it; None for the preset's.
        workers: Decoding threads.
        unlabelled: Images for the teachers' term alone.
        stages: That are to run in this time; none for all.
    """

    location: str
    preset: str = DEFAULT
    overrides: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    minutes: float | None = None
    smoke: bool = False
    workers: int = 1
    unlabelled: str | None = None
    stages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its folder below `runs/` is called: as the data, or as the folder of many shards."""
        place = Path(self.location).resolve()
        return (place.parent if PATTERN & {*place.name} else place).stem or "run"

    @property
    def track(self) -> list[str]:
        """Those of the overrides that say who is told of the runs, which changes no plan."""
        return [override for override in self.overrides if override.startswith("track=")]

    def describe(self, source: Source) -> dict[str, Any]:
        """What a kept plan has to have been made for."""
        return {
            "data": source.fingerprint,
            "preset": self.preset,
            "minutes": self.minutes,
            "overrides": [o for o in self.overrides if o not in self.track],
            "teachers": list(self.teachers),
            "smoke": self.smoke,
            "version": __version__,
            **({"unlabelled": self.unlabelled} if self.unlabelled else {}),
        }
