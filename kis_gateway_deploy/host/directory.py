"""A directory that others may write to: its entries are data, and its links are not followed.

The container's user may put anything into the token directory. Therefore it is opened once, and
names are looked up relative to its descriptor. A name may be in a subdirectory: `real/token.json`.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager

from .tokens import DAMAGED, FILE_LIMIT, UNKNOWN, examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .tokens import Evidence

ENTRIES_LIMIT = 1000
"""Maximum number of entries of a directory that are read; of more, the newest."""

READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _chown(descriptor: int, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:  # only root may; tests also run as other users
        os.fchown(descriptor, *owner)


class Directory:
    """Raises OSError if it is missing, not a directory, or a link."""

    def __init__(self, path: str, beneath: int | None = None) -> None:
        """`beneath`: the descriptor of the directory to which `path` is relative."""
        self.descriptor = os.open(path, DIRECTORY, dir_fd=beneath)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the directory that has an entry, and the entry's name."""
        directory, _, name = path.rpartition("/")
        if "/" in directory or directory in (".", "..") or name in ("", ".", ".."):
            raise ValueError(f"{path!r} is not the name of an entry")
        if not directory:
            yield self.descriptor, name
            return
        descriptor = os.open(directory, DIRECTORY, dir_fd=self.descriptor)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """The status of the entry itself, not of a link's target; None if there is none."""
        try:
            with self._at(name) as (at, entry):
                return os.stat(entry, dir_fd=at, follow_symlinks=False)
        except (OSError, ValueError):
            return None

    def read(self, name: str, limit: int = FILE_LIMIT) -> bytes | None:
        """The content of a regular file with one link and at most `limit` bytes, else None."""
        try:
            with self._at(name) as (at, entry):
                descriptor = os.open(entry, READ_ONLY, dir_fd=at)
        except (OSError, ValueError):
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(descriptor)
            return None
        with open(descriptor, "rb") as file:
            content = file.read(limit + 1)
            return content if len(content) <= limit else None

    def write(self, name: str, content: bytes, owner: tuple[int, int], mode: int = 0o600) -> None:
        """Replaces the entry of this name atomically by a new file.

        The new file is created under a random name with O_EXCL: it cannot be an existing file. A
        missing subdirectory is created.
        """
        directory = name.rpartition("/")[0]
        if directory and self.stat(directory) is None:
            os.mkdir(directory, 0o700, dir_fd=self.descriptor)
            with Directory(directory, self.descriptor) as made:
                _chown(made.descriptor, owner)
        with self._at(name) as (at, entry):
            new = f".{entry}.{os.urandom(8).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(new, flags, 0o600, dir_fd=at)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                    _chown(descriptor, owner)
                    os.fchmod(descriptor, mode)
                    file.flush()
                    os.fsync(descriptor)
                os.rename(new, entry, src_dir_fd=at, dst_dir_fd=at)
            except OSError:
                os.unlink(new, dir_fd=at)
                raise
            os.fsync(at)

    def rename(self, old: str, new: str) -> None:
        """Renames an entry within its directory."""
        with self._at(old) as (at, entry), self._at(new) as (_, other):
            os.rename(entry, other, src_dir_fd=at, dst_dir_fd=at)

    def remove(self, name: str) -> None:
        """Removes a file."""
        with self._at(name) as (at, entry):
            os.unlink(entry, dir_fd=at)

    def set_aside(self, name: str, why: str) -> str:
        """Renames an entry instead of deleting it; returns the new name."""
        new = f"{name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}"
        while self.stat(new) is not None:
            new += "x"
        self.rename(name, new)
        return new

    def own(
        self, owner: tuple[int, int], is_token: Callable[[str], bool], deep: bool = False
    ) -> None:
        """Gives the directory and its regular files to the container's user.

        Links and pipes in it are left alone; so are directories, unless `deep`. Token files become
        readable and writable for their owner.
        """
        _chown(self.descriptor, owner)
        os.fchmod(self.descriptor, 0o700)
        for name in os.listdir(self.descriptor):
            try:
                descriptor = os.open(name, READ_ONLY, dir_fd=self.descriptor)
            except OSError:  # a link, or it was removed
                continue
            try:
                at = os.fstat(descriptor)
                if stat.S_ISDIR(at.st_mode) and deep:
                    with Directory(".", descriptor) as inner:
                        inner.own(owner, is_token)
                if not stat.S_ISREG(at.st_mode) or at.st_nlink != 1:
                    continue
                if (at.st_uid, at.st_gid) != owner:
                    _chown(descriptor, owner)
                if is_token(name) and at.st_mode & 0o600 != 0o600:
                    os.fchmod(descriptor, stat.S_IMODE(at.st_mode) | 0o600)
            finally:
                os.close(descriptor)

    def names(self, deep: bool = False) -> list[str]:
        """The names of its entries; of more than `ENTRIES_LIMIT`, the newest.

        `deep`: with the entries of its subdirectories in place of these.
        """
        found = os.listdir(self.descriptor)
        if deep:
            for name in list(found)[:ENTRIES_LIMIT]:
                try:
                    with Directory(name, self.descriptor) as inner:
                        found.remove(name)
                        found += [f"{name}/{each}" for each in inner.names()]
                except OSError:  # not a directory
                    continue
        if len(found) > ENTRIES_LIMIT:
            times = {name: at.st_mtime for name in found if (at := self.stat(name))}
            found = sorted(times, key=lambda name: -times[name])[:ENTRIES_LIMIT]
        return found

    def examine(self, name: str) -> Evidence | None:
        """What a token file in the directory shows; None if there is no entry of this name."""
        at = self.stat(name)
        if at is None:
            return None
        if not stat.S_ISREG(at.st_mode):
            return DAMAGED  # Docker creates a directory if a mounted file is missing
        content = self.read(name)
        return UNKNOWN if content is None else examine(content)


def make_token_dir(path: str) -> None:
    """Makes the token directory if it is missing, for root only."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    if not os.path.lexists(path):
        os.mkdir(path, 0o700)
