"""Files that are written whole or not at all: JSON, records, manifests, which are written last."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from distill.errors import NoSpace, UserError, first_line, is_short_of_memory

MANIFEST = "manifest.json"


class JsonModel(BaseModel):
    """Something that is written as JSON: immutable; what is None is absent there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(mode="json", exclude_none=True)


NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


ABANDONED_S = 1.0  # since a temporary file was last written to, before it counts as left behind
LEAST_SPACE = 2**20  # bytes below which a disk counts as full


def no_space(path: object) -> NoSpace:
    """What a full disk means; None for a path that is not known."""
    where = None if path is None else str(path)
    return NoSpace("no space left", where, "make room and repeat the command")


def blame_system(error: Exception) -> None:
    """Raises what says nothing about the thing that was tried: no disk, no room, no memory.

    Libraries in C++ tell of a full disk by errors of their own; so the disk of temporary files is
    asked.
    """
    if isinstance(error, OSError | NoSpace) or is_short_of_memory(error):
        raise error
    place = tempfile.gettempdir()
    if shutil.disk_usage(place).free < LEAST_SPACE:
        raise no_space(place) from error


@contextlib.contextmanager
def atomic(path: Path, keep: bool = False) -> Iterator[Path]:
    """Gives a temporary path to write to, and moves it to `path` if nothing was raised.

    The content is on the disk before the name is, so that a power cut leaves either file whole.
    What a process of this machine that was killed left beside the path is removed.

    Args:
        keep: What others put there meanwhile stays, and what was written is thrown away.

    Raises:
        RunStopped: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    here = platform.node()
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.{glob.escape(here)}.tmp"):
        _remove_abandoned(left, left.name.removeprefix(f"{path.name}.").partition(".")[0])
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{here}.tmp")
    try:
        yield temporary
        sync(temporary)
        if not (keep and _is_linked(temporary, path)):
            temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise no_space(path) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_linked(temporary: Path, path: Path) -> bool:
    """Whether `path` is there: as a link to the temporary file, or as what was there before.

    False on file systems without links.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        return False
    return True


def _remove_abandoned(temporary: Path, pid: str) -> None:
    """Removes a temporary file whose process is gone, unless it may be of a namesake elsewhere."""
    import psutil

    with contextlib.suppress(FileNotFoundError):
        is_old = time.time() - temporary.stat().st_mtime > ABANDONED_S
        if pid.isdecimal() and is_old and not psutil.pid_exists(int(pid)):
            temporary.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    if path.is_dir() and os.name == "nt":  # which has no such thing for folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # of folders, not every file system can
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file atomically, see `atomic`."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 atomically, see `atomic`."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; NaN and infinity are refused, as no JSON reader takes them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, shape: Any = Any) -> Any:
    """Reads JSON.

    Args:
        shape: The type that it has to be of, such as a `TypedDict`; keys that it does not name
            stay.

    Raises:
        UserError: The file is missing, damaged, or of another shape.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError("a folder, a pipe or a device", str(path), "name a file")
        value = json.loads(path.read_text("utf-8"))
        if shape is not Any:
            TypeAdapter(shape).validate_python(value, strict=True)
    except OSError as error:
        hint = "name one that is there and that you may read"
        raise UserError(f"cannot read: {error.strerror}", str(path), hint) from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        what = f"not what is written here: {place}: {problem['msg']}"
        raise UserError(what, str(path), "remove its folder, then repeat") from None
    except (ValueError, RecursionError):
        raise UserError("damaged JSON", str(path), "remove its folder, then repeat") from None
    return value


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its name.

    Raises:
        UserError: It is missing or damaged, or lists nothing, which no folder's does.
    """
    listed: dict[str, str] = read_json(folder / MANIFEST, dict[str, str])
    if not listed:
        hint = "remove its folder, then repeat"
        raise UserError("lists no file", str(folder / MANIFEST), hint)
    return listed


def downloads() -> Path:
    """Where what is downloaded is kept: `$DISTILLATE_HOME` or `~/.cache/distillate`.

    Raises:
        UserError: There is no home folder, or none that can be written to.
    """
    place = os.environ.get("DISTILLATE_HOME") or "~/.cache/distillate"
    try:
        found = Path(place).expanduser()
        found.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        hint = "set DISTILLATE_HOME to a folder that can be written to"
        raise UserError(f"nothing can be kept here: {reason}", place, hint) from None
    return found


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Adds an object to a `.jsonl` file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(array: NDArray[Any], before: int = 0) -> int:
    """CRC-32 of an array's bytes, behind those of another's: tells what a disk got wrong."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, before)


def files_below(folder: Path) -> list[str]:
    """Relative paths of all files of a folder, but for the manifest and temporary ones."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".tmp")
    return sorted(p for p in (f.relative_to(folder).as_posix() for f in files) if p != MANIFEST)


def lasting_files(folder: Path) -> list[str]:
    """`files_below`, but for caches and learning-rate tests, which may be made again any time, and
    what trackers keep, which others write to."""
    names = (name for name in files_below(folder) if not name.startswith(("cache/", "track/")))
    return [name for name in names if PurePosixPath(name).stem != "lr_find"]


def write_manifest(folder: Path, names: list[str]) -> None:
    """Writes the hashes of these files; from now on the folder counts as complete."""
    write_json(folder / MANIFEST, {name: sha256_of(folder / name) for name in sorted(names)})


def seal(folder: Path) -> None:
    """Writes the manifest of a folder of folders, whose own manifests speak for what is in them."""
    write_json(folder / MANIFEST, _hashes_below(folder))


def amend_manifest(folder: Path, *changed: Path) -> None:
    """Takes files and sub-folders as they are now into the manifest of `seal`, if there is one.

    All else keeps the hash that it was written with, so that damage still shows; a manifest that
    is damaged itself stays so.
    """
    try:
        known = read_manifest(folder)
    except UserError:
        return
    parts = [path.relative_to(folder).as_posix() for path in changed]

    def is_changed(name: str) -> bool:
        return any(name == part or name.startswith(f"{part}/") for part in parts)

    kept = {name: digest for name, digest in known.items() if not is_changed(name)}
    now = {name: digest for name, digest in _hashes_below(folder).items() if is_changed(name)}
    write_json(folder / MANIFEST, dict(sorted({**kept, **now}.items())))


def _hashes_below(folder: Path) -> dict[str, str]:
    """Hashes of `lasting_files`; in a sub-folder with a manifest, the ones that it has."""
    names, written = lasting_files(folder), dict[str, str]()
    for place in (PurePosixPath(name) for name in names):
        if place.name == MANIFEST and str(place) not in written:
            listed = read_manifest((folder / place).parent)
            written |= {f"{place.parent}/{name}": digest for name, digest in listed.items()}
    return {
        name: written.get(name) or sha256_of(folder / name) for name in sorted({*names, *written})
    }


def is_complete(folder: Path) -> bool:
    """Whether a stage finished here."""
    return (folder / MANIFEST).is_file()


def verify_manifest(folder: Path) -> dict[str, str]:
    """What `read_manifest` gives; raises `UserError` for a file that is missing or differs."""
    listed = read_manifest(folder)
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != digest:
            hint = f"remove {folder} and repeat the command that made it"
            raise UserError("missing or changed since it was written", str(file), hint)
    return listed


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys in which two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            dotted
            for key in keys
            for dotted in differing_keys(old.get(key), new.get(key), f"{prefix}.{key}".strip("."))
        ]
    return [] if old == new else [prefix]


def remove_folder(folder: Path) -> None:
    """Deletes a stage's folder, its manifest first, so that half of it never counts."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
