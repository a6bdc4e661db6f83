from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.gateway.saved_image import PIECE, SavedImage, cut, find_image, pack

HEX = "0123456789abcdef" * 4
ID = f"sha256:{HEX}"


def tar(manifest: object, **others: bytes) -> bytes:
    """An archive with this manifest.json; without one where it is None."""
    content = json.dumps(manifest).encode() if not isinstance(manifest, bytes) else manifest
    files = others | ({} if manifest is None else {"manifest.json": content})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            written.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(config: str) -> dict[str, object]:
    return {"Config": config, "RepoTags": ["kis:1.4"], "Layers": []}


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd"], input=content, capture_output=True, check=True).stdout


GOOD = tar([entry(f"{HEX}.json")], layer=b"x" * 70000)


@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("config", [f"{HEX}.json", f"blobs/sha256/{HEX}", HEX])
def test_the_id_is_in_the_manifest(
    tmp_path: Path, packed: Callable[[bytes], bytes], config: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(packed(tar([entry(config)], layer=b"x" * 70000)))
    assert find_image("kis:1.4", path) == SavedImage(ID, path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither a tar nor one packed with gzip or zstd"),
        (b"{}" * 500, "neither a tar nor one packed with gzip or zstd"),
        (gzip.compress(b"{}" * 500), "is damaged: "),
        (gzip.compress(GOOD)[:200], "is damaged: "),
        (gzip.compress(GOOD)[:50] + b"x" * 500, "is damaged: "),
        (GOOD[:60000], "is damaged: "),
        (zstd(GOOD)[:100], "is damaged: "),
        (zstd(GOOD)[:-20] + b"x" * 20, "is damaged: |stdin|checksum"),
        (tar(None, layer=b"x"), "has no manifest.json"),
        (tar(b"{"), "is not that of `docker save`"),
        (tar({}), "holds 0 images"),
        (tar({"schemaVersion": 2}), "is not that of `docker save`"),
        (tar([{"config": HEX}]), "is not that of `docker save`"),
        (tar([entry("config.json")]), "no configuration by its digest"),
        (tar([{"Config": None}]), "no configuration by its digest"),
        (tar([]), "holds 0 images: save the one that is wanted alone"),
        (tar([entry(HEX), entry(HEX)]), "holds 2 images: save the one that is wanted alone"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why) as caught:
        find_image("kis", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("kis", "kis:0123456789ab"),
        ("kis:1.4", "kis:0123456789ab"),
        ("registry.example:5000/team/kis", "registry.example:5000/team/kis:0123456789ab"),
        ("registry.example:5000/team/kis:1.4", "registry.example:5000/team/kis:0123456789ab"),
        (f"registry.example:5000/kis:1.4@{ID}", "registry.example:5000/kis:0123456789ab"),
    ],
)
def test_the_beginning_of_the_id_takes_the_place_of_the_tag(image: str, reference: str) -> None:
    assert SavedImage(ID, None).reference(image) == reference


@pytest.mark.parametrize("packed", [bytes, zstd], ids=["plain", "zstd"])
def test_a_tar_is_sent_in_gzip(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "image"
    path.write_bytes(packed(GOOD))
    said: list[str] = []
    file = pack(find_image("kis", path), said.append)
    file.seek(0)
    assert gzip.decompress(file.read()) == GOOD
    assert said == ["packing it, once for all hosts"]


def test_what_is_in_gzip_already_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(GOOD))
    said: list[str] = []
    assert pack(find_image("kis", path), said.append).read() == path.read_bytes()
    assert said == []


def test_nobody_else_can_read_what_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(GOOD)
    at = Path(f"/proc/self/fd/{pack(find_image('kis', path), print).fileno()}")
    assert at.stat().st_mode & 0o077 == 0
    assert at.readlink().name.endswith("(deleted)")


def test_all_hosts_are_sent_one_file(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(GOOD)
    said: list[str] = []
    first = pack(find_image("kis", path), said.append)
    assert pack(find_image("paper", path), said.append) is first
    assert len(said) == 1


class Clock:
    """Each look at it comes `step` seconds after the one before."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def sent(size: int, seconds_a_piece: float, tmp_path: Path) -> tuple[bytes, list[str]]:
    """What pyinfra writes of a file of this size, and what is said meanwhile."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (size // 256))
    said: list[str] = []
    with path.open("rb") as file:
        pieces = cut(file, said.append, Clock(seconds_a_piece))
        assert all(piece.endswith("\n") for piece in pieces)
        return b"".join(piece.encode() for piece in pieces), said


@pytest.mark.parametrize("size", [256, PIECE, PIECE + 256, 3 * PIECE])
def test_the_pieces_are_the_file(tmp_path: Path, size: int) -> None:
    content, said = sent(size, 1, tmp_path)
    assert content == bytes(range(256)) * (size // 256)
    assert said[0] == f"sending {size / 1e6:.1f} MB"
    assert said[-1].startswith(f"sent {size / 1e6:.1f} MB in ")


def test_a_quick_host_says_every_tenth(tmp_path: Path) -> None:
    size = 40 * PIECE
    _, said = sent(size, 0.1, tmp_path)
    assert said == [
        "sending 10.5 MB",
        *(f"{tenth * 10} % of 10.5 MB sent" for tenth in range(1, 10)),
        "sent 10.5 MB in 4.0 s (2.6 MB/s); it is being loaded",
    ]


def test_a_slow_host_says_something_every_five_seconds(tmp_path: Path) -> None:
    _, said = sent(20 * PIECE, 3, tmp_path)
    assert [what.split()[0] for what in said[1:-1]] == [str(n) for n in range(10, 100, 10)]
    _, said = sent(20 * PIECE, 6, tmp_path)
    assert [what.split()[0] for what in said[1:-1]] == [str(n) for n in range(5, 100, 5)]
