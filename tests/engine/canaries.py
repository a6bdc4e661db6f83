"""Secrets with recognisable values, and a search for them while commands run."""

from __future__ import annotations

import base64
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

FILE_LIMIT = 16 << 20
LOOK_SECONDS = 0.003
NAMESPACE = Path("/proc/self/ns/pid")
TMP = Path("/tmp")  # noqa: S108 - what others can read there is looked for


def forms(secret: str) -> set[bytes]:
    """The secret as it is, and as a part of longer text in base64."""
    raw = secret.encode()
    found = {raw}
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        found.add(base64.b64encode(b"x" * before + raw)[skipped:-4])
    return found


class Canaries:
    """The secrets by their names."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.forms = {name: forms(value) for name, value in secrets.items()}

    def add_token(self, token: str) -> None:
        """A token; of a JWT, the parts that only this one has."""
        for part in token.split(".")[1:] or [token]:
            # A new mapping: a watcher may be reading the old one.
            self.forms = self.forms | {f"token …{part[-6:]}": {part.encode()}}

    def names_in(self, content: str | bytes) -> list[str]:
        """The names of the secrets that the content holds."""
        searched = content.encode() if isinstance(content, str) else content
        return [name for name, all_ in self.forms.items() if any(each in searched for each in all_)]


class Watcher(threading.Thread):
    """Looks all the time at every process of this machine, and at what other users can read.

    `roots`: directories that are looked through as if their parents were open to everyone; with
    them, all that is new in /tmp. Processes of containers are left out.
    """

    def __init__(self, canaries: Canaries, roots: Sequence[Path]) -> None:
        super().__init__(daemon=True)
        self.canaries, self.roots = canaries, roots
        self.seen: set[str] = set()
        self.looks = 0
        self._old = {each for each in TMP.iterdir() if each.is_dir()}
        self._known: set[tuple[int, int, int, int]] = set()
        self._done = threading.Event()
        self._namespace = NAMESPACE.readlink()

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            self._look_at_processes()
            if self.looks % 5 == 0:
                self._look_at_files()
            self.looks += 1

    def _look_at_processes(self) -> None:
        for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - it is faster
            for what in ("cmdline", "environ"):
                with suppress(OSError):  # the process has ended
                    with open(f"/proc/{process}/{what}", "rb", 0) as file:  # noqa: PTH123 - as above
                        content = file.read()
                    names = self.canaries.names_in(content)
                    if names and Path(f"/proc/{process}/ns/pid").readlink() == self._namespace:
                        self.seen.add(f"{names} in {what} of {content[:60]!r}")

    def _look_at_files(self) -> None:
        new = [each for each in TMP.iterdir() if each not in self._old]
        for root in (*self.roots, *new):
            for path, status in _readable(root):
                known = (status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size)
                if known not in self._known:
                    with suppress(OSError), path.open("rb") as file:
                        self._known.add(known)
                        if names := self.canaries.names_in(file.read(FILE_LIMIT)):
                            self.seen.add(f"{names} in {path}")


def _readable(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files at and below a path that any user can read."""
    with suppress(OSError):  # it is gone
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
            yield path, status
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IXOTH:
            for each in path.iterdir():
                yield from _readable(each)
