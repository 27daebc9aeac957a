"""The two ways a command fails, the exit status each has, and the one line that is said of it."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence


class DistillError(Exception):
    """A failure that is reported as one line, `WHAT: WHERE. Fix: HINT.`, without a traceback.

    Args:
        what: What is wrong, with the value got and, for options, the values allowed.
        where: Dotted key, path or argument that it was found at.
        hint: What to do next.
    """

    exit_code = 3

    def __init__(self, what: str, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        found = f"{what.rstrip(' .:')}: {where}" if where else what
        parts = [found, f"Fix: {hint}"] if hint else [found]
        super().__init__(
            " ".join(part if part[-1:] in (".", "?", "!") else f"{part}." for part in parts)
        )


class UserError(DistillError):
    """A mistake in the recipe, the data or the command line: nothing was written."""

    exit_code = 2


class RunStopped(DistillError):
    """A run that cannot finish as it is (non-finite loss, no space left) and may be resumed."""


class NoSpace(RunStopped):
    """A full disk."""


class NotFinite(RunStopped):
    """A loss that is no number any more, which the run's options bring about again."""


MOVING = ("Cc", "Cf", "Zl", "Zp")  # categories of characters that are obeyed, not shown
LONGEST = 160  # characters of somebody else's message
HARMLESS = "\u200c\u200d"  # joiners, of Indic scripts and of emoji


def printable(text: object) -> str:
    """A text for a terminal: what moves its cursor, or turns what follows round, is an escape."""
    return "".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in str(text))


def _is_plain(character: str) -> bool:
    # Letters that this Python does not know yet, and those of private use, are letters.
    return character in HARMLESS or unicodedata.category(character) not in MOVING


def unprintable(text: str) -> bool:
    """Whether a text has characters that a terminal, a table or a page would not show as they are.

    Surrogates, which stand for bytes that are no Unicode, count.
    """
    return printable(text) != text or any("\ud800" <= c <= "\udfff" for c in text)


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says first; its type where it says nothing."""
    said = (str(error).strip().splitlines() or [""])[0]
    return said[:LONGEST] if said else type(error).__name__


def is_short_of_memory(error: BaseException) -> bool:
    """Whether there was no room: Python says so, or torch and threads in words of their own."""
    words = ("out of memory", "allocate memory", "start new thread")
    said = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or any(part in said for part in words)


def install_command(extra: str) -> str:
    """The command that installs an extra from where this package came from.

    Not by its name alone, which another project has on PyPI.
    """
    from importlib import metadata  # with the next ones, 30 ms of everybody's start
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = metadata.distribution("distillate").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        origin = None
    place = urlsplit(json.loads(origin)["url"] if origin else "")
    if place.scheme != "file":
        return f"in the clone, pip install '.[{extra}]'"
    return f"pip install '{url2pathname(place.path)}[{extra}]'"


def alike(word: str, known: Iterable[str]) -> list[str]:
    """Up to four of the known names that somebody may have meant by a word.

    Dotted ones are alike as a whole or in their last part.
    """
    last = {name: name.rpartition(".")[2] for name in known}
    names = difflib.get_close_matches(word.rpartition(".")[2], last.values(), 3, 0.75)
    close = difflib.get_close_matches(word, last, 3, 0.75)
    close += [name for name, end in last.items() if end in names]
    return list(dict.fromkeys(close))[:4]


def did_you_mean(names: Sequence[str]) -> str | None:
    """The hint that names what was meant; None for no names."""
    return f"did you mean {' or '.join(names)}?" if names else None
