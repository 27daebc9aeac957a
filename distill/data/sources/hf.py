"""Data sets of the Hugging Face Hub: `hf:OWNER/NAME`, `hf:OWNER/NAME/FOLDER`, `...@REVISION`.

Their Parquet files are taken from the local cache of `huggingface_hub` if they are there, fetched
into it otherwise, and read as `sources/parquet.py` reads any Parquet files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from distill.data.sources import SPLIT_NAMES, Source, parquet
from distill.data.sources._license import license_of_card
from distill.errors import UserError, first_line, install_command

NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(/(?P<folder>[^@]+))?(@(?P<revision>.+))?")


def open_source(rest: str) -> Source:
    """Lists the rows of a data set's Parquet files.

    What the cache has is used without asking the Hub, so a branch may have moved on since: name a
    revision to be sure of one.

    Args:
        rest: `OWNER/NAME`, then `/FOLDER` where a repository has Parquet files in several, then
            `@` and a branch, tag or commit, `main` if there is none.

    Raises:
        UserError: No such data set, no network and not in the cache, no Parquet files, or several
            folders of them.
    """
    where = f"hf:{rest}"
    named = NAME.fullmatch(rest)
    if named is None:
        hint = "write hf:OWNER/NAME, as in hf:uoft-cs/cifar10"
        raise UserError("not the name of a data set on the Hub", where, hint)
    folder = named["folder"].strip("/") if named["folder"] else None
    place = _cached(named["repository"], named["revision"], folder, where)
    notes: tuple[str, ...] = ()
    if place is None:
        place = _fetched(named["repository"], named["revision"], folder, where)
    elif _splits(_below(place)) == {"train"}:
        call = f"hf download {named['repository']} --repo-type dataset"
        notes = (f"the local cache has its train split alone; if there are others: {call}",)
    source = parquet.open_source(str(place))
    return replace(source, location=where, notes=(*source.notes, *notes))


def license_of(rest: str) -> str:
    """What the data set's card states, as far as it is in the local cache."""
    named = NAME.fullmatch(rest)
    if named is None:
        return ""
    card = _hub(f"hf:{rest}").try_to_load_from_cache(
        named["repository"], "README.md", repo_type="dataset", revision=named["revision"]
    )
    return license_of_card(Path(card)) if isinstance(card, str) else ""


def repository_of(location: str) -> str:
    """The name on the Hub of data from there; empty of others."""
    named = NAME.fullmatch(location.removeprefix("hf:"))
    return named["repository"] if named and location.startswith("hf:") else ""


def _cached(repository: str, revision: str | None, folder: str | None, where: str) -> Path | None:
    """Folder of the Parquet files in the local cache; None where some are not there, as it seems.

    Files of one split may be all that somebody fetched.
    """
    hub = _hub(where)
    try:
        snapshot = Path(_snapshot(hub, repository, revision, folder, local_files_only=True))
    except hub.utils.LocalEntryNotFoundError:
        return None
    except ValueError as error:
        raise UserError(first_line(error), where, "write hf:OWNER/NAME") from None
    files = _below(snapshot)
    chosen = _folder(files, folder, where)
    files = [file for file in files if _parent(file) == chosen]
    splits = _splits(files)
    if chosen is None or not _whole(files) or (splits and "train" not in splits):
        return None
    return _place(snapshot, chosen)


def _fetched(repository: str, revision: str | None, folder: str | None, where: str) -> Path:
    """Folder of the Parquet files, fetched from the Hub."""
    hub = _hub(where)
    try:
        files = hub.HfApi().list_repo_files(repository, revision=revision, repo_type="dataset")
        chosen = _folder(files, folder, where)
        if chosen is None:
            hint = "fetch it, write its pictures to class folders, and name that folder"
            raise UserError("no Parquet files in it", where, hint)
        return _place(Path(_snapshot(hub, repository, revision, folder)), chosen)
    except UserError:
        raise
    except (hub.utils.RepositoryNotFoundError, hub.utils.RevisionNotFoundError) as error:
        hint = "check name and revision; if it is private or gated, log in: hf auth login"
        raise UserError(first_line(error), where, hint) from error
    except Exception as error:  # the network's own errors are another library's in each version
        call = f"hf download {repository} --repo-type dataset --local-dir FOLDER"
        hint = f"without a network, fetch it elsewhere ({call}) and name the folder copied here"
        what = f"not in the local cache, and not to be fetched: {first_line(error)}"
        raise UserError(what, where, hint) from error


def _hub(where: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError:
        hint = install_command("train")
        raise UserError("huggingface_hub is not installed", where, hint) from None
    return huggingface_hub


def _snapshot(
    hub: Any, repository: str, revision: str | None, folder: str | None, **options: Any
) -> str:
    """The same patterns are asked of the cache and of the Hub, or the cache seems incomplete."""
    inside = f"{folder}/" if folder else ""
    path: str = hub.snapshot_download(
        repository,
        repo_type="dataset",
        revision=revision,
        allow_patterns=[f"{inside}*.parquet", f"{inside}*classes.txt", "README.md"],
        **options,
    )
    return path


def _folder(files: Iterable[str], requested: str | None, where: str) -> str | None:
    """The folder that the Parquet files are in, empty for the top; None without such files."""
    folders = sorted({_parent(file) for file in files if file.endswith(".parquet")})
    if requested is not None:
        folders = [folder for folder in folders if folder == requested] or folders
    if len(folders) > 1 or (folders and requested not in (None, folders[0])):
        what = f"Parquet files in {', '.join(folder or 'the top folder' for folder in folders[:8])}"
        raise UserError(what, where, "name one of these folders: hf:OWNER/NAME/FOLDER")
    return folders[0] if folders else None


def _parent(file: str) -> str:
    """The folder of a data set that a file is in, be it in that of a split there."""
    parent = PurePosixPath(file).parent
    if parent.name.lower() in SPLIT_NAMES:
        parent = parent.parent
    return "" if parent.as_posix() == "." else parent.as_posix()


def _whole(files: Iterable[str]) -> bool:
    """Whether no shard is missing of those that say how many they are."""
    shards: dict[tuple[str, int], int] = {}
    for file in files:
        numbered = re.fullmatch(r"(.*)-\d+-of-(\d+)\.parquet", file)
        if numbered:
            key = (numbered[1], int(numbered[2]))
            shards[key] = shards.get(key, 0) + 1
    return all(count == total for (_, total), count in shards.items())


def _below(folder: Path) -> list[str]:
    """The Parquet files below a folder, by their paths there; links that lead nowhere are none."""
    paths = (file for file in folder.rglob("*.parquet") if file.is_file())
    return [file.relative_to(folder).as_posix() for file in paths]


def _splits(files: Iterable[str]) -> set[str]:
    """The splits that files are of, as far as their names or their folders' say."""
    paths = [PurePosixPath(file) for file in files]
    words = {path.parent.name for path in paths} | {re.split(r"[-_.]", p.name)[0] for p in paths}
    return {SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES}


def _place(snapshot: Path, folder: str) -> Path:
    """What the Parquet source opens: it looks into `data` itself, and for `classes.txt` above."""
    return snapshot if folder in ("", "data") else snapshot / folder
