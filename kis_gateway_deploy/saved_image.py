"""Finds an image on the controller, packs it, and cuts it into pieces to send to hosts.

Touches no host. Each image is examined once for all hosts.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from functools import cache
from itertools import takewhile
from operator import eq
from pathlib import Path
from threading import Lock
from typing import IO, Any, BinaryIO, cast

from kis_gateway_deploy.registry import ImageReference

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878
TAR_MAGIC = b"ustar"  # POSIX.1, at TAR_MAGIC_AT
TAR_MAGIC_AT = 257
PIECE = 256 * 1024  # bytes
SECONDS_OF_SILENCE = 5

# Hosts are deployed to in parallel: the first one does the work for all.
_one_at_a_time = Lock()
_packed: dict[tuple[SavedImage, str, frozenset[str]], BinaryIO] = {}


@dataclass(frozen=True)
class SavedImage:
    """An image by its id (`sha256:…`), in a `docker save` tar or in the controller's own engine.

    `tar` is None if it is in the engine. `architectures`: those that it is for, as Docker names
    them; empty if unknown.
    """

    id: str
    tar: Path | None
    architectures: tuple[str, ...] = ()

    def reference(self, image: str) -> str:
        """The image's name with the beginning of the id as its tag: this pins the content.

        A host that has this reference has the image. The id itself cannot be used: Docker's classic
        and containerd image stores give one image two different ids.
        """
        return f"{ImageReference.parse(image).name}:{self.id.removeprefix('sha256:')[:12]}"


def find_image(image: str, tar: Path | None) -> SavedImage:
    """The image in the tar, or else the one that the controller's own engine has by this name.

    Raises:
        ValueError: there is none. The text follows the setting's name.
    """
    with _one_at_a_time:
        if tar:
            content = _content_in_tar(tar)[0]
            return SavedImage(content.id, tar, content.architectures)
        return SavedImage(*_in_engine(image))


@cache
def _in_engine(image: str) -> tuple[str, None, tuple[str, ...]]:
    """The fields of a `SavedImage`."""
    form = "{{.Id}} {{.Architecture}}"
    try:
        with _output_of("docker", "image", "inspect", "--format", form, image) as output:
            found, *architecture = output.read().decode().strip().split(" ", 1)
            return found, None, tuple(architecture)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot be read from this machine's engine: {error}; build or pull it here, or set "
            "gateway_image_archive"
        ) from None


@dataclass(frozen=True)
class _Variant:
    """An image for one platform: the file of its configuration, and the digest and file of each
    layer, lowest first.
    """

    configuration: str = ""
    layers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    architecture: str = ""


@dataclass(frozen=True)
class _Content:
    """The content of a `docker save` tar: the image's id and its variants, at least one."""

    id: str
    variants: tuple[_Variant, ...] = (_Variant(),)

    @property
    def architectures(self) -> tuple[str, ...]:
        return tuple(each.architecture for each in self.variants if each.architecture)

    def best_for(self, runs: Iterable[str]) -> _Variant:
        """The variant for a host that runs these architectures, best first."""
        found = (each for name in runs for each in self.variants if each.architecture == name)
        return next(found, self.variants[0])


# The name of the image's configuration, whose digest is the image's id (Docker Image Specification
# 1.2): `<hex>.json`; since engine 25 and from containerd's image store `blobs/sha256/<hex>`.
_BY_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")
_MOST_OF_A_CONFIGURATION = 2**20  # bytes
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError)
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_INDEXES = ("manifest.json", "index.json")


@cache
def _content_in_tar(path: Path) -> tuple[_Content, os.stat_result]:
    try:
        with _unpacked(path) as tar:
            at = path.stat()
            return _content(tar), at
    except _DAMAGE as error:
        raise ValueError(f"is damaged: {error}") from None


@cache
def _content_in_engine(image_id: str) -> _Content:
    """Without layers if the engine's tar is not understood: a host may still be able to load it."""
    try:
        with _output_of("docker", "save", image_id) as tar:
            return _content(tar)
    except (*_DAMAGE, ValueError):
        return _Content(image_id)


def _content(stream: BinaryIO) -> _Content:
    found: dict[str, bytes] = {}
    names: set[str] = set()
    with _members(stream) as tar:
        for member in tar:
            names.add(member.name)
            is_wanted = member.name in _INDEXES or _BY_DIGEST.fullmatch(member.name)
            if is_wanted and member.isfile() and member.size <= _MOST_OF_A_CONFIGURATION:
                found[member.name] = cast(IO[bytes], tar.extractfile(member)).read()
    if "manifest.json" not in found:
        raise ValueError("is no image: it has no manifest.json; write it with `docker save`")
    try:
        entries = [
            (str(entry["Config"]), list(entry["Layers"] or []))
            for entry in json.loads(found["manifest.json"])
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("is no image: its manifest.json is not that of `docker save`") from None
    if len(entries) != 1:
        raise ValueError(f"holds {len(entries)} images: save only the one that you need")
    configuration, files = entries[0]
    digest = _BY_DIGEST.fullmatch(configuration)
    if not digest:
        raise ValueError("is no image: its manifest.json names no configuration by its digest")
    with suppress(*_NOT_UNDERSTOOD):
        if content := _content_of_index(found, names):
            return content
    return _Content(f"sha256:{digest[1]}", (_variant(configuration, files, found),))


def _variant(configuration: str, names: Iterable[object], found: Mapping[str, bytes]) -> _Variant:
    """Without layers if they are unknown: an engine may still be able to load the image."""
    layers: tuple[str, ...] = ()
    files = tuple(map(str, names))
    architecture = ""
    with suppress(*_NOT_UNDERSTOOD):
        config = json.loads(found[configuration])
        architecture = str(config.get("architecture", ""))
        layers = tuple(map(str, config["rootfs"]["diff_ids"]))
    if len(layers) != len(files):
        layers = files = ()
    return _Variant(configuration, layers, files, architecture)


def _content_of_index(found: Mapping[str, bytes], names: set[str]) -> _Content | None:
    """The variants of an image for several platforms (OCI Image Specification, "Image Index").

    manifest.json names only the one of the engine that saved the image. None if there are not
    several whose files are all in the tar.
    """
    if "index.json" not in found:
        return None
    # An image with several names is listed once for each.
    [image] = {_blob(each) for each in json.loads(found["index.json"])["manifests"]}
    variants = []
    for platform in json.loads(found[image]).get("manifests", []):
        if _blob(platform) not in found:  # the engine had other platforms only
            continue
        manifest = json.loads(found[_blob(platform)])
        files = [_blob(layer) for layer in manifest["layers"]]
        variant = _variant(_blob(manifest["config"]), files, found)
        # Provenance and other attestations have no layers that their configuration names.
        if variant.layers and variant.architecture and set(files) <= names:
            variants.append(variant)
    if len(variants) < 2:
        return None
    return _Content(f"sha256:{image.removeprefix('blobs/sha256/')}", tuple(variants))


def _blob(descriptor: Mapping[str, Any]) -> str:
    """The file of what a descriptor names (OCI Image Specification, "Image Layout")."""
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _members(stream: BinaryIO) -> tarfile.TarFile:
    # A pipe cannot seek; of a file, only the needed parts are read.
    return tarfile.open(fileobj=stream, mode="r:" if stream.seekable() else "r|")


def pack(
    image: SavedImage,
    runs: Iterable[str],
    on_host: Collection[Sequence[str]],
    say: Callable[[str], None],
) -> BinaryIO:
    """The image's tar in gzip, for the host's platform only, without the layers that it has.

    Hosts that need the same share the open file: read it with `pread` only. `runs`: the
    architectures that the host runs, best first, as Docker names them. `on_host`: the layer digests
    of each image on the host, lowest first. `say` is called with progress messages.

    Raises:
        ValueError: the tar or the engine's image was removed or changed, or the temporary directory
            is full.
    """
    with _one_at_a_time:
        content = _Content(image.id)
        if image.tar:
            content, before = _content_in_tar(image.tar)
        elif on_host:
            say("reading its layers")
            content = _content_in_engine(image.id)
        variant = content.best_for(runs)
        left_out = _left_out(variant, on_host)
        if left_out:
            count = sum(file in left_out for file in variant.files)
            say(f"{count} of its {len(variant.layers)} layers are on the host and are not sent")
        key = (image, variant.configuration, left_out)
        if key not in _packed:
            only = variant if len(content.variants) > 1 else None
            is_complete = not left_out and not only
            if image.tar and is_complete and _magic(image.tar).startswith(GZIP_MAGIC):
                packed: BinaryIO = image.tar.open("rb")
            else:
                what = f"its variant for {variant.architecture}" if only else "it"
                say(f"packing {what}, once for all hosts that need the same")
                packed = _pack(image, only, left_out)
            # The loaded image is tagged with the id that was found before, without a new check.
            if image.tar and _has_changed(image.tar, before):
                raise ValueError("the archive has changed since this run began")
            _packed[key] = packed
        return _packed[key]


def _has_changed(path: Path, before: os.stat_result) -> bool:
    now = path.stat()
    return (now.st_ino, now.st_mtime_ns) != (before.st_ino, before.st_mtime_ns)


def _left_out(content: _Variant, on_host: Iterable[Sequence[str]]) -> frozenset[str]:
    """The files of the layers that need not be sent: the lowest ones that an image there shares.

    The engine identifies a layer by its own digest and all digests below it (OCI Image
    Specification, "Layer ChainID"); `docker load` reads a layer's file only if it is missing.
    """

    def in_common(other: Sequence[str]) -> int:
        return sum(1 for _ in takewhile(bool, map(eq, content.layers, other)))

    count = max(map(in_common, on_host), default=0)
    there = zip(content.layers[:count], content.files, strict=False)
    # If a layer occurs again further up, that file may be a link to the first.
    return frozenset(file for layer, file in there if layer not in content.layers[count:])


def _pack(image: SavedImage, only: _Variant | None, left_out: frozenset[str]) -> BinaryIO:
    """`only`: the variant that is packed, with a manifest.json of its own; None: everything."""
    # By its id: its name may refer to another image by now.
    source = _unpacked(image.tar) if image.tar else _output_of("docker", "save", image.id)
    try:
        # A file of mode 0600 without a name, which disappears when this process ends.
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        # Not zstd: older engines, Debian 12's among them, cannot load it.
        with (
            source as stream,
            _members(stream) as tar,
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed,
            tarfile.open(fileobj=packed, mode="w|", bufsize=PIECE) as rest,
        ):
            wanted = {only.configuration, *only.files} if only else None
            for member in tar:
                is_wanted = wanted is None or member.name in wanted
                if is_wanted and member.name not in left_out:
                    rest.addfile(member, tar.extractfile(member) if member.isreg() else None)
            if only:
                entry = {"Config": only.configuration, "RepoTags": None, "Layers": only.files}
                manifest = json.dumps([entry]).encode()
                info = tarfile.TarInfo("manifest.json")
                info.size = len(manifest)
                rest.addfile(info, io.BytesIO(manifest))
        file.flush()
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in {ENOSPC, EDQUOT}:
            where = f"in {tempfile.gettempdir()} of this machine; TMPDIR can name another directory"
            raise ValueError(f"{error.strerror} {where}") from None
        raise ValueError(str(error)) from None
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
            while file.read(PIECE):
                pass  # the checksum is at the end
    elif magic[TAR_MAGIC_AT:] == TAR_MAGIC:
        with path.open("rb") as tar:
            yield tar
    else:
        raise ValueError("is no image: neither a tar nor one packed with gzip or zstd")


@contextmanager
def _output_of(*command: str) -> Iterator[BinaryIO]:
    """What a program prints.

    Raises:
        ValueError: it failed; with the last line of its standard error.
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
                pass  # otherwise the program would fail by SIGPIPE
        if program.returncode:
            words.seek(0)
            last = words.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ValueError(*last or [f"{command[0]} failed"])


class Progress:
    """Reports the progress of sending `size` bytes."""

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
            self.say(f"sent {megabytes} in {seconds:.1f} s ({rate:.1f} MB/s); loading it")
        elif tenths > self.tenths or now - self.said >= SECONDS_OF_SILENCE:
            self.say(f"{sent * 100 // self.size} % of {megabytes} sent")
        else:
            return
        self.said, self.tenths = now, tenths


@dataclass(frozen=True)
class Piece:
    """A piece of a file in place of a line of text in pyinfra's standard input.

    pyinfra adds a line break unless `endswith` finds one, and writes what `encode` returns. So
    binary data pass through every connector, and are read only when they are written.
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
    """The file in pieces; the last one is empty and is read when all others have been written.

    `say` is called with the progress, at every 10 % and after 5 s; `clock` is in seconds.
    """
    size = os.fstat(file.fileno()).st_size
    progress = Progress(size, say, clock)
    return [Piece(file, offset, progress) for offset in range(0, size + PIECE, PIECE)]
