"""An image that the controller has and hosts are sent: found, packed and cut into pieces here.

Touches no host. What is asked about one image is asked once for all hosts.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878
TAR_MAGIC = b"ustar"  # POSIX.1, at TAR_MAGIC_AT
TAR_MAGIC_AT = 257
PIECE = 256 * 1024  # bytes
SECONDS_OF_SILENCE = 5

# Hosts are deployed to side by side; the first one that asks does the work for all.
_one_at_a_time = Lock()
_packed: dict[SavedImage, BinaryIO] = {}


@dataclass(frozen=True)
class SavedImage:
    """An image by its id (`sha256:…`), in a `docker save` tar or in the controller's own engine.

    `tar` is None where the engine has it.
    """

    id: str
    tar: Path | None

    def reference(self, image: str) -> str:
        """The image's name with the beginning of the id as its tag: this pins the content.

        A host that has this reference has the image. The id itself would not do: the engines'
        classic and containerd image stores give one image two different ids.
        """
        repository = re.sub(r":[^/:]*$", "", image.partition("@")[0])
        return f"{repository}:{self.id.removeprefix('sha256:')[:12]}"


def find_image(image: str, tar: Path | None) -> SavedImage:
    """The image in the tar, or else the one that the controller's own engine has by this name.

    Raises:
        ValueError: there is none, in words that follow the setting's name.
    """
    with _one_at_a_time:
        return SavedImage(_id_in_tar(tar) if tar else _id_in_engine(image), tar)


@cache
def _id_in_engine(image: str) -> str:
    try:
        with _output_of("docker", "image", "inspect", "--format", "{{.Id}}", image) as output:
            return output.read().decode().strip()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot be had from this machine's engine: {error}; build or pull it here, or set "
            "gateway_image_archive"
        ) from None


@cache
def _id_in_tar(path: Path) -> str:
    """The image's id, which is the digest of its configuration (Docker Image Specification 1.2)."""
    try:
        with _unpacked(path) as tar:
            manifest = _manifest(tar)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"is damaged: {error}") from None
    if manifest is None:
        raise ValueError("is no image: it has no manifest.json; write it with `docker save`")
    try:
        configurations = [entry["Config"] for entry in json.loads(manifest)]
    except (ValueError, TypeError, KeyError):
        raise ValueError("is no image: its manifest.json is not that of `docker save`") from None
    if len(configurations) != 1:
        raise ValueError(f"holds {len(configurations)} images: save the one that is wanted alone")
    # `<hex>.json`; since engine 25 and from containerd's image store `blobs/sha256/<hex>`.
    found = re.fullmatch(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?", str(configurations[0]))
    if not found:
        raise ValueError("is no image: its manifest.json names no configuration by its digest")
    return f"sha256:{found[1]}"


def _manifest(stream: BinaryIO) -> bytes | None:
    """Reads to the end, though it may have been found before: else no damage would be seen."""
    content = None
    # A pipe cannot go back, and a file need not be read through.
    with tarfile.open(fileobj=stream, mode="r:" if stream.seekable() else "r|") as tar:
        for member in tar:
            if member.name == "manifest.json" and (file := tar.extractfile(member)):
                content = file.read()
    return content


def pack(image: SavedImage, say: Callable[[str], None]) -> BinaryIO:
    """The image's tar in gzip, as an open file that all hosts share: read it with `pread` only.

    `say` is told where that takes time.

    Raises:
        ValueError: the tar or the engine's image has gone, or the temporary directory has no room.
    """
    with _one_at_a_time:
        if image not in _packed:
            if image.tar and _magic(image.tar).startswith(GZIP_MAGIC):
                _packed[image] = image.tar.open("rb")
            else:
                say("packing it, once for all hosts")
                _packed[image] = _pack(image)
        return _packed[image]


def _pack(image: SavedImage) -> BinaryIO:
    # By its id, so that it is that very image even if its name has moved on meanwhile.
    source = _unpacked(image.tar) if image.tar else _output_of("docker", "save", image.id)
    try:
        # It has no name and mode 0600, and is gone with this process, however that ends.
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        # Not zstd: older engines, Debian 12's among them, cannot load it.
        with source as tar, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
            shutil.copyfileobj(tar, packed, PIECE)
        file.flush()
    except OSError as error:
        where = f"in {tempfile.gettempdir()} of this machine; TMPDIR can name another directory"
        raise ValueError(f"{error.strerror} {where}") from None
    return file


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(TAR_MAGIC_AT + len(TAR_MAGIC))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    magic = _magic(path)
    if magic.startswith(ZSTD_MAGIC):
        with _output_of("zstd", "--decompress", "--stdout", str(path)) as stream:
            yield stream
    elif magic.startswith(GZIP_MAGIC):
        with gzip.open(path) as file:
            yield cast(BinaryIO, file)
    elif magic[TAR_MAGIC_AT:] == TAR_MAGIC:
        with path.open("rb") as tar:
            yield tar
    else:
        raise ValueError("is no image: neither a tar nor one packed with gzip or zstd")


@contextmanager
def _output_of(*command: str) -> Iterator[BinaryIO]:
    """What a program prints.

    Raises:
        ValueError: it failed; with its last words.
    """
    with tempfile.TemporaryFile() as words:
        try:
            program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words)
        except OSError as error:
            raise ValueError(f"{command[0]} is needed on this machine: {error.strerror}") from None
        with program:
            output = cast(BinaryIO, program.stdout)
            yield output
            while output.read(PIECE):
                pass  # who is not heard out would fail for that
        if program.returncode:
            words.seek(0)
            last = words.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ValueError(*last or [f"{command[0]} failed"])


class Progress:
    """Says how far the sending of `size` bytes is."""

    def __init__(self, size: int, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.size, self.say, self.clock = size, say, clock
        self.began = self.said = self.tenths = 0.0

    def at(self, sent: int) -> None:
        now, megabytes = self.clock(), f"{self.size / 1e6:.1f} MB"
        tenths = sent * 10 // self.size
        if sent == 0:
            self.began = now
            self.say(f"sending {megabytes}")
        elif sent >= self.size:
            seconds = max(now - self.began, 0.001)
            rate = self.size / 1e6 / seconds
            self.say(f"sent {megabytes} in {seconds:.1f} s ({rate:.1f} MB/s); it is being loaded")
        elif tenths > self.tenths or now - self.said >= SECONDS_OF_SILENCE:
            self.say(f"{sent * 100 // self.size} % of {megabytes} sent")
        else:
            return
        self.said, self.tenths = now, tenths


@dataclass(frozen=True)
class Piece:
    """A piece of a file that takes the place of a line of text in pyinfra's standard input.

    pyinfra writes what `encode` returns, after a line break where there is none yet; so binary
    data pass through every connector, read when they are due.
    """

    file: BinaryIO
    offset: int
    progress: Progress

    def endswith(self, _: str) -> bool:
        return True

    def encode(self) -> bytes:
        self.progress.at(self.offset)
        return os.pread(self.file.fileno(), PIECE, self.offset)


def cut(
    file: BinaryIO, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> list[Piece]:
    """The file in pieces; the last is empty and comes when all others have been written.

    `say` is told how far the writing is, at every 10 % and after 5 s; `clock` is in seconds.
    """
    size = os.fstat(file.fileno()).st_size
    progress = Progress(size, say, clock)
    return [Piece(file, offset, progress) for offset in range(0, size + PIECE, PIECE)]
