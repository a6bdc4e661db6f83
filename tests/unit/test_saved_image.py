from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

import pytest

from kis_gateway_deploy.saved_image import PIECE, SavedImage, cut, find_image, pack

HEX = "0123456789abcdef" * 4
ID = f"sha256:{HEX}"


def tar(manifest: object, **others: bytes | None) -> bytes:
    """An archive with this manifest.json (None: without one); others: None is a link."""
    content = json.dumps(manifest).encode() if not isinstance(manifest, bytes) else manifest
    files = others | ({} if manifest is None else {"manifest.json": content})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "../base/layer.tar"
            info.size = len(data or b"")
            written.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def entry(config: str | None, *layers: str) -> dict[str, object]:
    return {"Config": config, "RepoTags": ["kis:1.4"], "Layers": list(layers)}


def members(packed: BinaryIO) -> dict[str, bytes]:
    """The files of a tar.gz by their names."""
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as read:
        return {each.name: cast(IO[bytes], read.extractfile(each)).read() for each in read}


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
        (gzip.compress(b"{}" * 500, mtime=0), "is damaged: "),
        (gzip.compress(GOOD, mtime=0)[:200], "is damaged: "),
        (gzip.compress(GOOD, mtime=0)[:50] + b"x" * 500, "is damaged: "),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"x" * 8, "is damaged: CRC"),
        (GOOD[:60000], "is damaged: "),
        (zstd(GOOD)[:100], "is damaged: "),
        (zstd(GOOD)[:-20] + b"x" * 20, "is damaged: |stdin|checksum"),
        (tar(None, layer=b"x"), "has no manifest.json"),
        (tar(b"{"), "is not that of `docker save`"),
        (tar({}), "holds 0 images"),
        (tar({"schemaVersion": 2}), "is not that of `docker save`"),
        (tar([{"config": HEX}]), "is not that of `docker save`"),
        (tar([entry("config.json")]), "no configuration by its digest"),
        (tar([{"Config": HEX}]), "is not that of `docker save`"),
        (tar([{"Config": HEX, "Layers": 3}]), "is not that of `docker save`"),
        (tar([entry(None)]), "no configuration by its digest"),
        (tar([]), "holds 0 images: save only the one that you need"),
        (tar([entry(HEX), entry(HEX)]), "holds 2 images: save only the one that you need"),
    ],
)
def test_an_invalid_image_is_a_one_line_error(tmp_path: Path, content: bytes, why: str) -> None:
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
def test_the_beginning_of_the_id_replaces_the_tag(image: str, reference: str) -> None:
    assert SavedImage(ID, None).reference(image) == reference


@pytest.mark.parametrize("packed", [bytes, zstd], ids=["plain", "zstd"])
def test_a_tar_is_packed_with_gzip(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "image"
    path.write_bytes(packed(GOOD))
    messages: list[str] = []
    packed_again = members(pack(find_image("kis", path), (), (), messages.append))
    assert packed_again == members(io.BytesIO(gzip.compress(GOOD)))
    assert messages == ["packing it, once for all hosts that need the same"]


def test_a_gzip_file_is_sent_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(GOOD))
    messages: list[str] = []
    others = [("sha256:other",)]
    assert pack(find_image("kis", path), (), others, messages.append).read() == path.read_bytes()
    assert messages == []


LAYERS = ("sha256:base", "sha256:library", "sha256:program")
LAYERED = {"base/layer.tar": b"b" * 9000, "library/layer.tar": b"l", "program/layer.tar": b"p"}


def layered(layers: Sequence[str] = LAYERS, is_linked: bool = False) -> bytes:
    """An archive of three layers, as engines before 25 write it; the last may link to the first."""
    configuration = json.dumps({"rootfs": {"type": "layers", "diff_ids": layers}}).encode()
    files: dict[str, bytes | None] = {**LAYERED, f"{HEX}.json": configuration}
    if is_linked:
        files["program/layer.tar"] = None
    return tar([entry(f"{HEX}.json", *LAYERED)], **files)


@pytest.mark.parametrize(
    ("on_host", "sent"),
    [
        ([], 3),
        ([("sha256:base",)], 2),
        ([("sha256:base", "sha256:library", "sha256:other")], 1),
        ([("sha256:base",), ("sha256:base", "sha256:library"), ()], 1),
        ([LAYERS], 0),
        ([(*LAYERS, "sha256:more")], 0),
        ([("sha256:library", "sha256:program")], 3),  # a layer counts only with all layers below it
        ([("sha256:other", "sha256:library")], 3),
    ],
)
@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_a_layer_that_the_host_has_is_not_sent(
    tmp_path: Path, packed: Callable[[bytes], bytes], on_host: list[Sequence[str]], sent: int
) -> None:
    path = tmp_path / "image"
    path.write_bytes(packed(layered()))
    messages: list[str] = []
    content = members(pack(find_image("kis", path), (), on_host, messages.append))
    expected = dict(list(LAYERED.items())[3 - sent :])
    assert {name: data for name, data in content.items() if name in LAYERED} == expected
    assert {"manifest.json", f"{HEX}.json"} <= content.keys()
    there = [what for what in messages if "are not sent" in what]
    what = f"{3 - sent} of its 3 layers are on the host and are not sent"
    assert there == ([what] if sent < 3 else [])


def test_a_layer_that_is_repeated_above_is_sent(tmp_path: Path) -> None:
    """Engines before 25 write the repeated layer as a link to the first."""
    path = tmp_path / "image.tar"
    path.write_bytes(layered(("sha256:base", "sha256:library", "sha256:base"), is_linked=True))
    messages: list[str] = []
    packed = pack(find_image("kis", path), (), [("sha256:base", "sha256:library")], messages.append)
    content = members(packed)
    assert content.keys() & LAYERED.keys() == {"base/layer.tar", "program/layer.tar"}
    assert content["program/layer.tar"] == LAYERED["base/layer.tar"]
    assert messages[0].startswith("1 of its 3 layers")


def test_an_image_with_unknown_layers_is_sent_completely(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(layered(("sha256:base",)))
    content = members(pack(find_image("kis", path), (), [("sha256:base",)], print))
    assert content.keys() & LAYERED.keys() == LAYERED.keys()


def test_a_rewritten_archive_is_not_sent_under_the_old_id(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(GOOD)
    image = find_image("kis", path)
    path.unlink()
    path.write_bytes(layered())
    with pytest.raises(ValueError, match="has changed since this run began"):
        pack(image, (), (), print)


def test_no_other_user_can_read_the_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(GOOD)
    at = Path(f"/proc/self/fd/{pack(find_image('kis', path), (), (), print).fileno()}")
    assert at.stat().st_mode & 0o077 == 0
    assert at.readlink().name.endswith("(deleted)")


def test_hosts_with_the_same_layers_are_sent_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(layered())
    messages: list[str] = []
    first = pack(find_image("kis", path), (), (), messages.append)
    assert pack(find_image("paper", path), (), [("sha256:other",)], messages.append) is first
    assert len(messages) == 1
    rest = pack(find_image("kis", path), (), [LAYERS[:2]], messages.append)
    assert rest is not first
    assert pack(find_image("kis", path), (), [LAYERS[:2], LAYERS[:1]], messages.append) is rest


def blob(content: object) -> tuple[str, bytes]:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return hashlib.sha256(data).hexdigest(), data


def several_platforms(*platforms: str, left_out: str = "", attested: bool = True) -> bytes:
    """What an engine with containerd's store saves of an image for several platforms.

    manifest.json names the first; the layers of `left_out` are missing.
    """
    files: dict[str, bytes | None] = {}

    def put(content: object) -> dict[str, str]:
        digest, data = blob(content)
        files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}"}

    entries, manifests = [], []
    for name in platforms:
        rootfs = {"type": "layers", "diff_ids": ["sha256:base", f"sha256:{name}"]}
        config = put({"architecture": name, "os": "linux", "rootfs": rootfs})
        layers = [put(b"base"), put(f"program for {name}".encode())]
        if name == left_out:
            del files[f"blobs/sha256/{layers[1]['digest'][7:]}"]
        paths = [f"blobs/sha256/{each['digest'][7:]}" for each in (config, *layers)]
        entries.append({"Config": paths[0], "RepoTags": ["kis:1.4"], "Layers": paths[1:]})
        manifests.append(put({"config": config, "layers": layers}))
    if attested:  # as buildx adds it
        nothing = put({"architecture": "unknown", "os": "unknown", "rootfs": {"diff_ids": []}})
        manifests.append(put({"config": nothing, "layers": [put(b"{}")]}))
    manifests.append({"digest": f"sha256:{'9' * 64}"})  # a platform that the engine lacks
    named = [put({"manifests": manifests})] * 2  # by two names
    files["index.json"] = json.dumps({"manifests": named}).encode()
    files["oci-layout"] = b"{}"
    return tar(entries[:1], **files)


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        (("amd64", "386"), "amd64"),
        (("arm64", "arm"), "arm64"),
        (("arm",), "arm"),
        ((), "amd64"),  # unknown
    ],
)
def test_a_host_is_sent_the_variant_for_its_platform(
    tmp_path: Path, runs: tuple[str, ...], chosen: str
) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(several_platforms("amd64", "arm", "arm64")))
    image = find_image("kis", path)
    assert image.architectures == ("amd64", "arm", "arm64")
    messages: list[str] = []
    sent = members(pack(image, runs, (), messages.append))
    [named] = json.loads(sent.pop("manifest.json"))
    assert set(sent) == {named["Config"], *named["Layers"]}
    assert json.loads(sent[named["Config"]])["architecture"] == chosen
    contents = [sent[layer] for layer in named["Layers"]]
    assert contents == [b"base", f"program for {chosen}".encode()]
    assert messages == [
        f"packing its variant for {chosen}, once for all hosts that need the same",
    ]
    assert pack(image, runs, (), print) is pack(image, runs, (), print)


def test_a_layer_of_a_variant_that_the_host_has_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(several_platforms("amd64", "arm64"))
    sent = members(pack(find_image("kis", path), ("arm64",), [("sha256:base",)], print))
    assert b"program for arm64" in sent.values()
    assert b"base" not in sent.values()


def test_an_image_for_several_platforms_is_known_by_its_index(tmp_path: Path) -> None:
    ids = set()
    for number, platforms in enumerate((("amd64", "arm64"), ("amd64", "arm"))):
        path = tmp_path / str(number)
        path.write_bytes(several_platforms(*platforms))
        with tarfile.open(path) as read:
            index = json.load(cast(IO[bytes], read.extractfile("index.json")))
        assert find_image("kis", path).id == index["manifests"][0]["digest"]
        ids.add(find_image("kis", path).id)
    assert len(ids) == 2


@pytest.mark.parametrize(
    "content",
    [
        several_platforms("arm64"),
        several_platforms("arm64", attested=False),
        several_platforms("arm64", "amd64", left_out="amd64"),
    ],
    ids=["attested", "one platform", "one is incomplete"],
)
def test_an_index_with_one_complete_platform_is_sent_unchanged(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(content))
    image = find_image("kis", path)
    assert image.architectures == ("arm64",)
    assert pack(image, ("amd64",), (), print).read() == path.read_bytes()
    with tarfile.open(path) as read:
        [named] = json.load(cast(IO[bytes], read.extractfile("manifest.json")))
    assert image.id == "sha256:" + named["Config"].rpartition("/")[2]


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b'{"manifests": []}', b'{"manifests": [{}]}', b"[" * 10**5],
    ids=["empty", "list", "no manifests", "no image", "no digest", "deep"],
)
def test_an_index_that_is_not_understood_is_ignored(tmp_path: Path, index: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar([entry(f"{HEX}.json")], **{"index.json": index}))
    assert find_image("kis", path) == SavedImage(ID, path)


class Clock:
    """A clock that advances by `step` seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def sent(size: int, seconds_a_piece: float, tmp_path: Path) -> tuple[bytes, list[str]]:
    """What pyinfra writes for a file of this size, and the progress messages."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (size // 256))
    messages: list[str] = []
    with path.open("rb") as file:
        pieces = cut(file, messages.append, Clock(seconds_a_piece))
        assert all(piece.endswith("\n") for piece in pieces)
        return b"".join(piece.encode() for piece in pieces), messages


@pytest.mark.parametrize("size", [256, PIECE, PIECE + 256, 3 * PIECE])
def test_the_pieces_together_are_the_file(tmp_path: Path, size: int) -> None:
    content, messages = sent(size, 1, tmp_path)
    assert content == bytes(range(256)) * (size // 256)
    assert messages[0] == f"sending {size / 1e6:.1f} MB"
    assert messages[-1].startswith(f"sent {size / 1e6:.1f} MB in ")


def test_progress_to_a_fast_host_is_shown_every_ten_percent(tmp_path: Path) -> None:
    size = 40 * PIECE
    _, messages = sent(size, 0.1, tmp_path)
    assert messages == [
        "sending 10.5 MB",
        *(f"{tenth * 10} % of 10.5 MB sent" for tenth in range(1, 10)),
        "sent 10.5 MB in 4.0 s (2.6 MB/s); loading it",
    ]


def test_progress_to_a_slow_host_is_shown_every_five_seconds(tmp_path: Path) -> None:
    _, messages = sent(20 * PIECE, 3, tmp_path)
    assert [what.split()[0] for what in messages[1:-1]] == [str(n) for n in range(10, 100, 10)]
    _, messages = sent(20 * PIECE, 6, tmp_path)
    assert [what.split()[0] for what in messages[1:-1]] == [str(n) for n in range(5, 100, 5)]
