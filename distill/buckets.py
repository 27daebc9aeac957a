"""Objects that come into being whole, and if asked only where there was none: in a folder of this
machine, or behind an address, where nothing can be renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import downloads, write_bytes
from distill.storage import Stamp, is_of_bucket, reached, stamp_of, unknown_protocol


@dataclass(frozen=True)
class Folder:
    """The files of a folder of this machine, or of a shared disk, as those of a `Bucket`.

    Attributes:
        path: Made where it is missing; a folder that vanishes later is not made anew.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self, begin: str = "") -> list[str]:
        """All files whose names begin so, sorted."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(f.name for f in self.path.iterdir() if f.name.startswith(begin))
        return []

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Makes a file, whatever was there."""
        write_bytes(self.path / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Makes a file unless there is one; whether it did."""
        with contextlib.suppress(FileExistsError), (self.path / name).open("xb") as file:
            file.write(content)
            return True
        return False

    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Bucket:
    """The objects below an address, by their names relative to it; all methods raise as `reached`.

    Attributes:
        address: Such as `s3://bucket/folder`.
    """

    address: str

    def below(self, folder: str) -> Bucket:
        """The objects of a folder."""
        return Bucket(f"{self.address.rstrip('/')}/{folder}")

    def names(self, begin: str = "") -> dict[str, Stamp]:
        """Stamps of all objects whose names begin so, in the order of their names."""
        system, root = self._system
        with self._reached(begin):
            folder, _, prefix = f"{root}/{begin}".rpartition("/")
            try:  # file systems that know no prefix list all of the folder
                found = system.find(folder, detail=True, prefix=prefix)
            except FileNotFoundError as error:
                if is_of_bucket(error):
                    raise
                found = {}
            start = len(root) + 1
            entries = ((path.lstrip("/")[start:], info) for path, info in sorted(found.items()))
            return {name: stamp_of(info) for name, info in entries if name.startswith(begin)}

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        system, root = self._system
        with self._reached(name):
            try:
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError as error:
                if is_of_bucket(error):
                    raise
                return None

    def write(self, name: str, content: bytes) -> None:
        """Makes an object, whatever was there."""
        system, root = self._system
        with self._reached(name):
            system.pipe_file(f"{root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object unless there is one, in one request; whether it has this content now.

        That it is ours says its content: where an answer is lost, the request is repeated, and the
        second one finds what the first has made.
        """
        system, root = self._system
        with self._reached(name):
            try:
                system.pipe_file(f"{root}/{name}", content, mode="create")
            except FileExistsError:
                return self.read(name) == content
            except NotImplementedError:
                what = "cannot make objects only where there are none, which shared work rests on"
                raise UserError(
                    what, self.address, "use s3:// or gs://, or a shared disk"
                ) from None
        return True

    def remove(self, name: str) -> None:
        """Removes an object, if there is one."""
        system, root = self._system
        with self._reached(name), contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{root}/{name}")

    def upload(self, file: Path, name: str) -> None:
        """Makes an object of a file, whatever was there."""
        system, root = self._system
        with self._reached(name):
            system.put_file(str(file), f"{root}/{name}")

    def fetch(self, name: str, file: Path) -> bool:
        """Writes an object to a file, whole or not at all; whether there is one."""
        content = self.read(name)
        if content is None:
            return False
        write_bytes(file, content)
        return True

    def _reached(self, name: str) -> contextlib.AbstractContextManager[None]:
        return reached(f"{self.address.rstrip('/')}/{name}")

    @cached_property
    def _system(self) -> tuple[Any, str]:
        """The file system, which remembers no listing, and what its names begin with."""
        with reached(self.address):
            import fsspec

            protocol = self.address.partition("://")[0]
            try:
                system = fsspec.filesystem(protocol, use_listings_cache=False)
            except ValueError as error:
                raise unknown_protocol(error, self.address) from None
            root = system._strip_protocol(self.address).strip("/")
            return system, root


def fetch_file(address: str) -> Path:
    """The file behind an address, as it is there now, in a folder below `$DISTILLATE_HOME`.

    Raises:
        UserError: There is none, or as `storage.reached`.
    """
    place, _, name = address.rpartition("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    file = downloads() / "files" / digest / name
    if not Bucket(place).fetch(name, file):
        raise UserError("nothing there", address, "correct its name")
    return file
