"""The licence that lies beside data: in the card of a data set, or in a file of its own."""

from __future__ import annotations

import re
from pathlib import Path

CARDS = ("README.md", "readme.md", "dataset_card.md")
FILES = ("LICENSE", "LICENCE", "COPYING")  # with any ending, in any case
HEAD = 2000  # characters of a licence's text that say which one it is
TITLES = {  # by the Hub's names, which are SPDX's in small letters
    r"\bMIT License": "mit",
    r"Apache License\W+Version 2\.0": "apache-2.0",
    r"BSD 2-Clause": "bsd-2-clause",
    r"BSD 3-Clause": "bsd-3-clause",
    r"CC0 1\.0 Universal": "cc0-1.0",
    r"Open Data Commons Open Database License|\bODbL\b": "odbl",
    r"Open Data Commons Attribution License": "odc-by",
}
CREATIVE = re.compile(
    r"(?:CC[ -]BY|Attribution)(?P<nc>-NC|-?NonCommercial)?"
    r"(?P<more>-SA|-?ShareAlike|-ND|-?NoDerivat\w+)?[ -](?P<version>\d\.\d)",
    re.IGNORECASE,
)


def license_beside(location: Path) -> str:
    """What a folder's card, or else its licence file, states; empty where neither does.

    A licence that is not known by its title is `see` and the file's name.

    Args:
        location: The folder, or a file in it.
    """
    folder = location if location.is_dir() else location.parent
    if not location.exists():
        return ""
    for name in CARDS:
        if (folder / name).is_file() and (stated := license_of_card(folder / name)):
            return stated
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if file.stem.upper() in FILES:
            return license_of_text(_start(file)) or f"see {file.name}"
    return ""


def license_of_card(file: Path) -> str:
    """What the metadata at the head of a card on the Hub states; empty where they do not."""
    if not _start(file).startswith("---"):
        return ""
    try:
        from huggingface_hub.repocard import metadata_load

        metadata = metadata_load(file) or {}
    except Exception:  # not installed, or bad YAML: a parser has errors of its own
        return ""
    stated = metadata.get("license") or ""
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    if stated == "other":
        stated = metadata.get("license_name") or metadata.get("license_link") or stated
    return str(stated).strip()


def license_of_text(text: str) -> str:
    """Which licence a text is, by its title; empty where it is none that is known."""
    if marked := re.search(r"SPDX-License-Identifier:\s*(\S+)", text):
        return marked[1]
    for title, name in TITLES.items():
        if re.search(title, text, re.IGNORECASE):
            return name
    if found := CREATIVE.search(text):
        parts = ["cc-by", "-nc" if found["nc"] else ""]
        more = (found["more"] or "").strip("-").lower()
        parts.append(f"-{'sa' if more.startswith('s') else 'nd'}" if more else "")
        return f"{''.join(parts)}-{found['version']}"
    return ""


def _start(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(HEAD)
