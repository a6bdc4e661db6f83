"""An image without a registry: it is sent once to a host that lacks it, and pinned by its id."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.release import Image
from kis_gateway_deploy.remote import answer, question
from kis_gateway_deploy.remote import command as host_command
from kis_gateway_deploy.requests import fetch_request
from kis_gateway_deploy.saved_image import SavedImage
from tests.engine.conftest import STUBBORN_GATEWAY, Deployment
from tests.tools import Outcome, command, docker, get
from tests.unit.builders import saved_tar

NAME = f"kis-test-sent-{secrets.token_hex(4)}"  # no host has it yet
FILLER = 40 * 10**6  # bytes: more than a hundred pieces, so that each percent shows
ARCHIVE = {
    "gateway_image": f"{NAME}:1.4",
    "gateway_image_source": "archive",
    "gateway_build_context": None,
}


@pytest.fixture(scope="module")
def saved(
    new_deployment: Callable[..., Deployment],
    stubborn_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path]]:
    """Id and tar of a gateway image; the host has all its layers except the last."""
    deployment = new_deployment("built", **stubborn_settings)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    path = tmp_path_factory.mktemp("saved")
    (path / "filler").write_bytes(os.urandom(FILLER))
    base = deployment.inspect("{{.Config.Image}}")
    (path / "Dockerfile").write_text(f"FROM {base}\nCOPY filler /filler\n")
    docker("build", "--quiet", "--tag", f"{NAME}:saved", str(path))
    image = docker("image", "inspect", "--format", "{{.Id}}", f"{NAME}:saved")
    docker("save", "--output", str(path / "image.tar"), image)
    docker("image", "rm", f"{NAME}:saved")
    yield image, path / "image.tar"
    deployment.compose("down")
    left = docker("images", "--filter", f"reference={NAME}", "--format", "{{.Repository}}:{{.Tag}}")
    command("docker", "image", "rm", "--force", *left.splitlines())


@pytest.fixture(scope="module")
def image(saved: tuple[str, Path]) -> str:
    return saved[0]


@pytest.fixture(scope="module")
def tar(saved: tuple[str, Path]) -> Path:
    return saved[1]


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment], tar: Path) -> tuple[Deployment, Outcome]:
    """A gateway deployed from the tar, and the outcome of its deploy."""
    deployment = new_deployment("sent", **ARCHIVE, gateway_image_archive=tar)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment, outcome


def has_classic_store() -> bool:
    """Whether an image can be sent to this engine without the layers that the engine has."""
    return "io.containerd.snapshotter" not in docker("info", "--format", "{{.DriverStatus}}")


def reference(image: str) -> str:
    return f"{NAME}:{image.removeprefix('sha256:')[:12]}"


def test_the_image_of_the_tar_runs(deployed: tuple[Deployment, Outcome], image: str) -> None:
    deployment, _ = deployed
    assert deployment.inspect("{{.Image}}") == image
    assert deployment.inspect("{{.Config.Image}}") == reference(image)


def test_the_operator_sees_the_progress(deployed: tuple[Deployment, Outcome], image: str) -> None:
    lines = [line for line in deployed[1].output.splitlines() if reference(image) in line]
    messages = [line.partition(f"[@local] {reference(image)}: ")[2] for line in lines]
    progress = [what for what in messages if what]
    if has_classic_store():
        what = r"(\d+) of its (\d+) layers are on the host and are not sent"
        there = re.fullmatch(what, progress.pop(0))
        assert there and int(there[1]) == int(there[2]) - 1
        assert re.fullmatch(rf"sending {FILLER / 1e6:.0f}\.\d MB", progress[1])
    packing, sending, *percent, _ = progress
    assert packing.startswith("packing ")
    assert sending.startswith("sending ")
    assert [what.split(" % ")[0] for what in percent] == [str(p) for p in range(10, 100, 10)]
    assert progress[-1].startswith("sent ")
    assert "MB/s" in progress[-1]


def test_a_second_up_sends_nothing(deployed: tuple[Deployment, Outcome]) -> None:
    outcome = deployed[0].up()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0
    assert "sending" not in outcome.output


def test_the_same_image_without_a_tar_is_no_change(
    deployed: tuple[Deployment, Outcome], image: str
) -> None:
    """Without a tar, the image is that of the controller's engine, here also the host's."""
    deployment, _ = deployed
    docker("tag", image, f"{NAME}:1.4")
    assert deployment.up(gateway_image_archive=None).changes() == 0


def test_a_tag_that_was_moved_is_a_change(
    deployed: tuple[Deployment, Outcome], image: str, tmp_path: Path
) -> None:
    deployment, _ = deployed
    (tmp_path / "Dockerfile").write_text(f"FROM {reference(image)}\nLABEL newer=yes\n")
    docker("build", "--quiet", "--tag", f"{NAME}:1.4", str(tmp_path))
    outcome = deployment.up(gateway_image_archive=None)
    assert outcome.status == 0, outcome.output
    assert "sending 0.0 MB" in outcome.output or not has_classic_store()  # a label adds no layer
    newer = docker("image", "inspect", "--format", "{{.Id}}", f"{NAME}:1.4")
    assert newer != image
    assert deployment.inspect("{{.Image}}") == newer
    assert deployment.up().status == 0  # back to the tar, as the other tests expect
    assert deployment.inspect("{{.Image}}") == image


def test_a_tar_that_is_no_image_is_refused_before_anything_is_touched(
    deployed: tuple[Deployment, Outcome], tmp_path: Path
) -> None:
    deployment, _ = deployed
    before = deployment.host_state()
    path = tmp_path / "sources.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(STUBBORN_GATEWAY, "sources")
    outcome = deployment.up(gateway_image_archive=path)
    outcome.assert_refused("no host was touched", "gateway_image_archive", "has no manifest.json")
    assert deployment.host_state() == before


def test_an_image_that_this_machine_lacks_is_refused_before_anything_is_touched(
    deployed: tuple[Deployment, Outcome],
) -> None:
    deployment, _ = deployed
    before = deployment.host_state()
    outcome = deployment.up(gateway_image=f"{NAME}:nowhere", gateway_image_archive=None)
    outcome.assert_refused("no host was touched", "No such image", "build or pull it here")
    assert deployment.host_state() == before


def test_an_image_that_cannot_be_loaded_leaves_the_gateway_running(
    deployed: tuple[Deployment, Outcome], tmp_path: Path
) -> None:
    deployment, _ = deployed
    container = deployment.container()
    config = f"{secrets.token_hex(32)}.json"  # a file that the archive lacks
    path = saved_tar(tmp_path / "damaged.tar", config)
    outcome = deployment.up(gateway_image_archive=path)
    outcome.assert_refused(config, "could not be loaded", "archive is damaged")
    assert deployment.container() == container
    assert get(f"{deployment.url}/health")[0] == 200


def test_a_missing_engine_is_reported_though_the_image_is_not_read() -> None:
    """The real program: a broken pipe would hide its message from a sender that still writes."""
    image = Image(
        reference("sha256:0123456789abcdef"), saved=SavedImage("sha256:0123456789ab", None)
    )
    frame, stdin = question("fetch", fetch_request(image))
    program = subprocess.Popen(
        ["sh", "-c", host_command()],
        env=os.environ | {"DOCKER_HOST": "unix:///nowhere.sock"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with program:
        assert program.stdin and program.stdout
        program.stdin.write(stdin.encode() + b"x" * 2**22)  # fails if the pipe breaks
        program.stdin.close()
        result = json.loads(answer(frame, program.stdout.read().decode().splitlines()))["result"]
    assert (program.returncode, result["outcome"]) == (1, "failed")
    assert "nowhere.sock" in result["why"]
    assert "could not be loaded" in result["why"]


def for_platforms(saved: Path, path: Path, *architectures: str) -> Path:
    """Writes the tar of an image for several platforms, as containerd's store saves one.

    Each variant has the layers of the image in `saved`. manifest.json names the first.
    """
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, str]:
        digest = sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}"}

    def file(descriptor: dict[str, str]) -> str:
        return "blobs/" + descriptor["digest"].replace(":", "/")

    with tarfile.open(saved) as tar:

        def content(name: str) -> bytes:
            found = tar.extractfile(name)
            assert found
            return found.read()

        [entry] = json.loads(content("manifest.json"))
        original = json.loads(content(entry["Config"]))
        layers = [put(content(name)) for name in entry["Layers"]]
    configs = [
        put(json.dumps(original | {"architecture": each}).encode()) for each in architectures
    ]
    manifests = [put(json.dumps({"config": c, "layers": layers}).encode()) for c in configs]
    index = put(json.dumps({"manifests": manifests}).encode())
    named = {"Config": file(configs[0]), "RepoTags": None, "Layers": list(map(file, layers))}
    blobs["index.json"] = json.dumps({"manifests": [index]}).encode()
    blobs["manifest.json"] = json.dumps([named]).encode()
    with tarfile.open(path, "w") as written:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            written.addfile(info, io.BytesIO(data))
    return path


def test_of_an_image_for_several_platforms_the_hosts_own_runs(
    deployed: tuple[Deployment, Outcome], image: str, tar: Path, tmp_path: Path
) -> None:
    deployment, _ = deployed
    own = docker("image", "inspect", "--format", "{{.Architecture}}", image)
    path = for_platforms(tar, tmp_path / "image.tar", "s390x", own)
    outcome = deployment.up(gateway_image_archive=path)
    assert outcome.status == 0, outcome.output
    assert f"packing its variant for {own}" in outcome.output
    runs = deployment.inspect("{{.Image}}")
    assert docker("image", "inspect", "--format", "{{.Architecture}}", runs) == own
    again = deployment.up(gateway_image_archive=path)
    assert (again.status, again.changes()) == (0, 0), again.output
    foreign = for_platforms(tar, tmp_path / "foreign.tar", "s390x", "riscv64")
    before = deployment.host_state()
    refused = deployment.up(gateway_image_archive=foreign)
    refused.assert_refused("is for s390x and riscv64, and this host runs")
    assert deployment.host_state() == before
