"""Places behind addresses such as `s3://bucket/folder`, by fsspec, and what is read there.

`locate` gives something to list and open like a path, local or not. Credentials and endpoints are
fsspec's own matter (`AWS_*`, `FSSPEC_*`); so are retries. What is written is up to `buckets`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from distill.errors import (
    DistillError,
    RunStopped,
    UserError,
    first_line,
    install_command,
    printable,
)
from distill.files import atomic, downloads
from distill.lock import lock

KEPT_GB = 20.0  # of copies of remote files, unless DISTILLATE_KEPT_GB says otherwise
TRIES = 3  # of a copy whose connection is cut, beside those of the file system itself
FEW = 8  # parts of a file after which all of it is fetched
FRESH_S = 30.0  # in which a copy that was used is not marked as used again
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(location: str) -> bool:
    """Whether a location is an address rather than a path."""
    return ADDRESS.match(location) is not None


def locate(location: str) -> Path:
    """A path; of an address something that is listed and opened like one (`upath.UPath`).

    What an address lists is remembered for as long as the process lives.

    Raises:
        UserError: Nothing here reads such addresses.
    """
    if not is_address(location):
        return Path(location)
    if location.lower().startswith("file://"):
        return Path(location[len("file://") :])
    with reached(location):
        import upath

        try:
            return cast(Path, upath.UPath(location))
        except ValueError as error:
            raise unknown_protocol(error, location) from None


def unknown_protocol(error: Exception, address: str) -> UserError:
    """What an address of a protocol is that fsspec does not know."""
    return UserError(first_line(error), printable(address), "write it as s3://bucket/folder")


def is_remote(path: Path) -> bool:
    """Whether a place is behind an address."""
    return not isinstance(path, Path)


@contextlib.contextmanager
def reached(where: object) -> Iterator[None]:
    """Turns what a file system behind an address says into one line.

    Raises:
        UserError: Nothing there, no right to it, no credentials, or nobody who knows the address.
        RunStopped: Whatever else, as it may pass.
    """
    shown = printable(where)
    try:
        yield
    except (DistillError, MemoryError):
        raise
    except ImportError as error:
        what = f"nothing here reads such addresses ({first_line(error)})"
        is_ours = shown.startswith("s3") or "upath" in str(error) or "fsspec" in str(error)
        hint = install_command("scale") if is_ours else "pip install what it names"
        raise UserError(what, shown, hint) from None
    except FileNotFoundError as error:
        reason = first_line(error) if is_of_bucket(error) else "nothing there"
        raise UserError(reason, shown, "correct its name, or make it") from None
    except PermissionError as error:
        what = f"not allowed: {first_line(error)}"
        hint = "have its owner grant reading and writing, or name other credentials"
        raise UserError(what, shown, hint) from None
    except Exception as error:  # each file system has errors of its own
        if "credentials" in type(error).__name__.lower():
            hint = "set them as its own tools want them, such as AWS_ACCESS_KEY_ID"
            raise UserError(first_line(error), shown, hint) from None
        hint = "repeat the command, which goes on where it was"
        raise RunStopped(f"not reached: {first_line(error)}", shown, hint) from None


def is_of_bucket(error: FileNotFoundError) -> bool:
    """Whether the bucket is missing, rather than an object in it."""
    return "bucket does not exist" in str(error)


@dataclass(frozen=True)
class Stamp:
    """What tells that a file was changed.

    Attributes:
        size: In bytes.
        version: Time of the last change in nanoseconds; of a file behind an address, what is called
            a version there.
    """

    size: int
    version: int | str


def stamp(path: Path) -> Stamp:
    """The stamp of a file, local or not."""
    if not is_remote(path):
        status = path.stat() if path.exists() else path.lstat()
        return Stamp(status.st_size, status.st_mtime_ns)
    with reached(path):
        remote = cast(Any, path)
        return stamp_of(remote.fs.info(remote.path))


def stamp_of(info: dict[str, Any]) -> Stamp:
    """The stamp of what a file system behind an address tells of a file."""
    keys = ("ETag", "etag", "blob_id", "generation", "md5Hash", "LastModified", "mtime", "created")
    version = next((info[key] for key in keys if info.get(key)), "")
    return Stamp(int(info.get("size") or 0), str(version))


def read_place(path: Path) -> bytes:
    """The content of a file, local or not."""
    if not is_remote(path):
        return path.read_bytes()
    with reached(path):
        remote = cast(Any, path)
        return bytes(remote.fs.cat_file(remote.path))


def open_place(path: Path, expected: Stamp | None = None) -> BinaryIO:
    """Opens a file for reading at any place in it: a local copy where it is behind an address.

    Copies are kept in `$DISTILLATE_HOME`, at most `$DISTILLATE_KEPT_GB` of them (20), the last used
    ones. Processes and threads that want the same file fetch it once.

    Args:
        expected: Of an earlier look at it; None for what there is now.

    Raises:
        UserError: As `reached`, or it has changed since.
        RunStopped: As `reached`, or the connection was cut again and again.
    """
    if not is_remote(path):
        opened = cast(BinaryIO, path.open("rb", buffering=0))
        now = os.fstat(opened.fileno())
        if expected not in (None, Stamp(now.st_size, now.st_mtime_ns)):
            opened.close()
            raise _changed(path)
        return opened
    wanted = expected or stamp(path)
    copy = _copy_of(path, wanted)
    while True:
        if (kept := _kept(copy)) is not None:  # it may be removed at any time, to make room
            return kept
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _fetching, lock(copy.with_suffix(".lock")):
            if not copy.exists():
                _make_room(copy.parent, wanted.size)
                _fetch(path, copy, wanted)


def read_part(path: Path, expected: Stamp, offset: int, size: int) -> bytes:
    """Some bytes of a file, local or not; raises as `open_place`.

    Of a file behind an address that is not here, few parts are asked for one by one, and it is
    fetched when there are many.
    """
    if is_remote(path):
        copy = _copy_of(path, expected)
        asked = _asked[str(copy)] = _asked.get(str(copy), 0) + 1
        if asked <= FEW and not copy.exists():
            with reached(path):
                remote = cast(Any, path)
                return bytes(remote.fs.cat_file(remote.path, start=offset, end=offset + size))
    with open_place(path, expected) as file:
        file.seek(offset)
        return file.read(size) or b""


def _copy_of(path: Path, known: Stamp) -> Path:
    """Where the copy of a file is, if there is one."""
    key = hashlib.sha256(f"{path}\0{known.size}\0{known.version}".encode()).hexdigest()[:32]
    return downloads() / "copies" / key


def _kept(copy: Path) -> BinaryIO | None:
    """A copy that is here, marked as used now: of all, the longest unused is removed first."""
    with contextlib.suppress(FileNotFoundError):
        opened = copy.open("rb", buffering=0)
        if time.time() - os.fstat(opened.fileno()).st_mtime > FRESH_S:
            os.utime(copy)
        return cast(BinaryIO, opened)
    return None


_fetching = threading.Lock()
_asked: dict[str, int] = {}  # parts of files that are not here


def _make_room(folder: Path, size: int) -> None:
    """Removes the copies that were used longest ago until there is room for one more."""
    most = float(os.environ.get("DISTILLATE_KEPT_GB") or KEPT_GB) * 1e9
    known = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if not file.suffix:
                status = file.stat()
                known.append((status.st_mtime, status.st_size, file))
    total = sum(entry[1] for entry in known)
    for _, of, file in sorted(known):
        if total + size <= most:
            return
        file.unlink(missing_ok=True)
        total -= of


def _fetch(path: Path, copy: Path, wanted: Stamp) -> None:
    remote = cast(Any, path)
    with reached(path), atomic(copy) as temporary:
        if stamp_of(remote.fs.info(remote.path, refresh=True)) != wanted:
            raise _changed(path)
        for left in reversed(range(TRIES)):
            try:
                remote.fs.get_file(remote.path, str(temporary))
                came = temporary.stat().st_size
                if came == wanted.size:
                    return
                raise ConnectionError(f"cut off at {came:,} of {wanted.size:,} bytes")
            except (ConnectionError, TimeoutError):
                if not left:
                    raise


def _changed(path: Path) -> UserError:
    return UserError("changed while it was read", str(path), "repeat the command")


def forget(location: str) -> None:
    """Has the next look at an address be a new one."""
    if is_address(location) and is_remote(found := locate(location)):
        with reached(location):
            cast(Any, found).fs.invalidate_cache()
