"""An image from a registry with a password: pinned by the current digest of its tag."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kis_gateway_deploy.release import built_image
from tests.engine.conftest import REFERENCE_GATEWAY, Deployment
from tests.engine.registry import PASSWORD, Registry, login
from tests.tools import BIN, Outcome, command


def variant(label: str) -> str:
    """The id of a new variant of the reference gateway's image, which has no name."""
    reference = built_image("kis-gateway", REFERENCE_GATEWAY).reference
    dockerfile = f"FROM {reference}\nLABEL variant={label}\n"
    result = command("docker", "build", "--quiet", "-", input=dockerfile)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def deployed(
    new_deployment: Callable[..., Deployment], registry: Registry
) -> Iterator[tuple[Deployment, Outcome, str]]:
    """A gateway from the registry, the outcome of its deploy, and the pushed digest."""
    first = variant("first")
    digest = registry.push(first, "1.4")
    command("docker", "image", "rm", "--force", first)  # so that it is pulled
    deployment = new_deployment(
        "pulled",
        gateway_image=f"{registry.address}/kis:1.4",
        gateway_image_source="registry",
        gateway_build_context=None,
        gateway_registry_auth_file=registry.auth_file,
    )
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    yield deployment, outcome, digest
    deployment.compose("down")


def drift(deployment: Deployment) -> Outcome:
    inventory = deployment.inventory()
    result = command(BIN / "pyinfra", "-y", inventory, "deploy/drift.py", cwd=deployment.checkout)
    return Outcome(result.returncode, result.stdout + result.stderr)


def test_the_running_image_is_pinned(deployed: tuple[Deployment, Outcome, str]) -> None:
    deployment, _, digest = deployed
    wanted = f"{deployment.data['gateway_image']}@{digest}"
    assert deployment.inspect("{{.Config.Image}}") == wanted
    compose_file = (deployment.app_dir / "current" / "docker-compose.yml").read_text()
    assert f'image: "{wanted}"' in compose_file


def test_the_login_is_neither_printed_nor_left_on_disk(
    deployed: tuple[Deployment, Outcome, str],
) -> None:
    deployment, outcome, _ = deployed
    for secret in (PASSWORD, login(PASSWORD)):
        assert secret not in outcome.output
        assert secret not in deployment.up("-vvv").output
    left = list(Path("/tmp").glob("tmp.*/config.json"))  # noqa: S108 - where mktemp makes its own
    assert not [path for path in left if login(PASSWORD) in path.read_text()]


def test_a_second_up_changes_nothing(deployed: tuple[Deployment, Outcome, str]) -> None:
    outcome = deployed[0].up()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0


def test_a_registry_that_is_silent_changes_nothing(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    deployment, _, digest = deployed
    before = deployment.host_state()
    registry.stop()
    try:
        outcome = deployment.up()
        drifted = drift(deployment)
        unknown = deployment.up(gateway_image=f"{registry.address}/kis:1.5")
        given = deployment.up(gateway_image=f"{registry.address}/kis:1.4@{digest}")
    finally:
        registry.start()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0
    assert f"the registry {registry.address} did not answer" in outcome.output
    assert f"{digest} runs here and is kept" in outcome.output
    assert drifted.status == 0, drifted.output
    unknown.assert_refused(f"{registry.address} did not answer", "with its digest")
    assert given.status == 0, given.output
    assert given.changes() == 0
    assert "did not answer" not in given.output
    assert deployment.host_state() == before


def test_a_login_that_is_wrong_is_refused_before_anything_is_touched(
    deployed: tuple[Deployment, Outcome, str], registry: Registry, tmp_path: Path
) -> None:
    deployment, _, _ = deployed
    before = deployment.host_state()
    wrong = login("another password")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.address: {"auth": wrong}}}))
    outcome = deployment.up("-vvv", gateway_registry_auth_file=path)
    outcome.assert_refused(f"{registry.address} refused: 401", "docker login")
    for secret in ("another password", wrong):
        assert secret not in outcome.output
    assert deployment.host_state() == before


def test_a_missing_tag_is_refused(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    deployment, _, _ = deployed
    before = deployment.host_state()
    outcome = deployment.up(gateway_image=f"{registry.address}/kis:nowhere")
    outcome.assert_refused(f"{registry.address} refused: 404")
    assert deployment.host_state() == before


@pytest.mark.parametrize("logged_in", [True, False])
def test_without_the_setting_docker_login_is_used(
    deployed: tuple[Deployment, Outcome, str], registry: Registry, tmp_path: Path, logged_in: bool
) -> None:
    directory = registry.directory if logged_in else tmp_path
    outcome = deployed[0].up(
        prefix=("env", f"DOCKER_CONFIG={directory}"), gateway_registry_auth_file=None
    )
    if logged_in:
        assert outcome.status == 0, outcome.output
        assert outcome.changes() == 0
    else:
        outcome.assert_refused(f"{registry.address} refused: 401")


def test_a_tag_that_moved_is_a_change(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    """The tag now names an index: the digest of the index is pinned, not that of a platform."""
    deployment, _, _ = deployed
    newer = variant("second")
    inner = registry.push(newer, "inner")
    command("docker", "image", "rm", "--force", newer)  # so that it is pulled
    registry.push_index(inner, "1.4")
    before = deployment.host_state()
    drift(deployment).assert_refused("drift: drifted on 1 of 1 hosts", "is not on the host")
    assert deployment.host_state() == before
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert deployment.inspect("{{.Image}}") == newer
    pinned = deployment.inspect("{{.Config.Image}}").partition("@")[2]
    index = json.loads(registry.ask("GET", f"kis/manifests/{pinned}"))
    assert index["manifests"][0]["digest"] == inner
    assert deployment.up().changes() == 0
