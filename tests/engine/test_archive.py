"""An image without a registry: sent to a host that lacks it, once, and pinned by its id."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
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
    """Id and tar of a gateway's image of which the host has all layers but the last."""
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
    """A gateway that came out of the tar, and how that went."""
    deployment = new_deployment("sent", **ARCHIVE, gateway_image_archive=tar)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment, outcome


def has_classic_store() -> bool:
    """Whether this engine can be sent an image without the layers that it has."""
    return "io.containerd.snapshotter" not in docker("info", "--format", "{{.DriverStatus}}")


def reference(image: str) -> str:
    return f"{NAME}:{image.removeprefix('sha256:')[:12]}"


def test_what_runs_is_what_the_tar_holds(deployed: tuple[Deployment, Outcome], image: str) -> None:
    deployment, _ = deployed
    assert deployment.inspect("{{.Image}}") == image
    assert deployment.inspect("{{.Config.Image}}") == reference(image)


def test_the_operator_sees_how_far_it_is(deployed: tuple[Deployment, Outcome], image: str) -> None:
    lines = [line for line in deployed[1].output.splitlines() if reference(image) in line]
    said = [line.partition(f"[@local] {reference(image)}: ")[2] for line in lines]
    progress = [what for what in said if what]
    if has_classic_store():
        what = r"(\d+) of its (\d+) layers are there and are not sent"
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


def test_what_this_machine_has_by_that_name_is_the_same(
    deployed: tuple[Deployment, Outcome], image: str
) -> None:
    """Without a tar, of the controller's own engine; here that is the host's, too."""
    deployment, _ = deployed
    docker("tag", image, f"{NAME}:1.4")
    assert deployment.up(gateway_image_archive=None).changes() == 0


def test_a_name_that_moved_on_is_a_change(
    deployed: tuple[Deployment, Outcome], image: str, tmp_path: Path
) -> None:
    deployment, _ = deployed
    (tmp_path / "Dockerfile").write_text(f"FROM {reference(image)}\nLABEL newer=yes\n")
    docker("build", "--quiet", "--tag", f"{NAME}:1.4", str(tmp_path))
    outcome = deployment.up(gateway_image_archive=None)
    assert outcome.status == 0, outcome.output
    assert "sending 0.0 MB" in outcome.output or not has_classic_store()  # the label is no layer
    newer = docker("image", "inspect", "--format", "{{.Id}}", f"{NAME}:1.4")
    assert newer != image
    assert deployment.inspect("{{.Image}}") == newer
    assert deployment.up().status == 0  # back to the tar, and to what the other tests expect
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


def test_an_image_that_cannot_be_loaded_leaves_the_gateway(
    deployed: tuple[Deployment, Outcome], tmp_path: Path
) -> None:
    deployment, _ = deployed
    container = deployment.container()
    config = f"{secrets.token_hex(32)}.json"  # which the archive lacks
    path = saved_tar(tmp_path / "damaged.tar", config)
    outcome = deployment.up(gateway_image_archive=path)
    outcome.assert_refused(config, "could not be loaded", "archive is damaged")
    assert deployment.container() == container
    assert get(f"{deployment.url}/health")[0] == 200


def test_an_engine_that_is_gone_is_told_though_nobody_reads_the_image() -> None:
    """The very program: a pipe that breaks would hide its words from whoever is still sending."""
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
