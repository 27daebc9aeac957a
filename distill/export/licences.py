"""Licences in a model card: of the model, and of what others made that it was made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

IMAGES = "images"
# The Hub's names of licences; what has another one is `other` there, with its name beside it.
HUB = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|openrail|unknown|other"
    r"|bsd-[23]-clause|(agpl|gpl|lgpl)-[23]\.[01]|mpl-2\.0|epl-2\.0|eupl-1\.[12]"
    r"|cc0-1\.0|cc-by-[234]\.[05]|cc-by-(sa-[34]|nc-[234]|nd-4|nc-nd-[34]|nc-sa-[234])\.0"
    r"|cdla-(sharing-1|permissive-[12])\.0|odbl|odc-by|pddl"
)
TERMS = """\
As those who published them state it; whether the model may be used as it is to be used, they say,
not this card.
"""


class Material(NamedTuple):
    """Something of others that a model was made from.

    Attributes:
        what: What it is to the model, `images` or the weights of a run.
        license: As whoever published it states it; empty where that is nowhere.
        repository: Its name on the Hub, as data set or as model; empty where it is not there.
        is_base: Whether the model is these weights, trained on.
    """

    what: str
    name: str
    license: str = ""
    repository: str = ""
    is_base: bool = False


def plain(text: str) -> str:
    """A text of somebody else's as Markdown shows it: no link, tag or cell of a table."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)


def hub_license(license: str) -> dict[str, str]:
    """The Hub's metadata for a licence, an SPDX identifier or any other name; empty is unknown."""
    name = license.lower().removesuffix("-only").removesuffix("-or-later")
    name = {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl"}.get(name, name)
    if not name or HUB.fullmatch(name):
        return {"license": name or "unknown"}
    return {"license": "other", "license_name": license}


def licences(own: str, materials: Sequence[Material]) -> list[str]:
    """A model card's part on who made what the model was made from, and what they ask for.

    Args:
        own: Licence of the model itself; empty where its maker has not said.
    """
    if not materials:
        return []
    unstated = {IMAGES: "not stated (`export.data_license`)"}
    rows = [
        f"| {plain(m.what)} | {plain(m.repository or m.name)} | "
        f"{plain(m.license) or unstated.get(m.what, 'not stated')} |"
        for m in materials
    ]
    return [
        "",
        "## Licences",
        "",
        TERMS,
        "| what | of | licence |",
        "| --- | --- | --- |",
        *rows,
        f"| this model | | {plain(own) or 'not stated (`export.license`)'} |",
    ]
