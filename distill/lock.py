"""A lock between processes that dies with its holder: two of them do not do the same work twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: work may be done twice there, never wrongly
    fcntl: Any = None  # type: ignore[no-redef]


@contextmanager
def lock(
    file: Path, wait: bool = True, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Holds a lock file against other processes and threads, and removes it afterwards.

    Args:
        on_wait: Called if another holds it and is waited for.

    Yields:
        Whether it is held: not on systems or disks without `flock`, and without `wait` not while
        another holds it.
    """
    descriptor = _acquire(file, wait, on_wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            file.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(file: Path, wait: bool, on_wait: Callable[[], None]) -> int | None:
    while fcntl is not None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(file, descriptor):
                return descriptor
        except OSError:
            os.close(descriptor)
            return None
        except BaseException:  # Ctrl-C while waiting
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _is_at(file: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name: the holder before us removed it at its end."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
