"""The inventory has changed and was not deployed, or a rollback went back: what runs decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.conftest import Deployment
from tests.tools import docker


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("changed")
    assert (outcome := deployment.up()).status == 0, outcome.output
    return deployment


@pytest.fixture
def next_release(deployed: Deployment) -> Iterator[dict[str, Any]]:
    """Settings with another token directory; they were deployed, and rolled back."""
    changes: dict[str, Any] = {"gateway_token_dir": str(deployed.directory / "other-tokens")}
    assert (outcome := deployed.up(**changes)).status == 0, outcome.output
    assert "issuances: 0 (budget 0)" in outcome.output
    back = deployed.run("rollback", **changes)
    assert back.status == 0, back.output
    assert "issuances: 0 (budget 0)" in back.output
    yield changes
    assert (outcome := deployed.up()).status == 0, outcome.output


def test_after_a_rollback_to_another_token_directory_the_gateway_is_restarted_and_renewed(
    deployed: Deployment, next_release: dict[str, Any]
) -> None:
    token = deployed.token()
    restarted = deployed.run("restart", **next_release)
    assert restarted.status == 0, restarted.output
    assert deployed.token() == token
    deployed.end_token()  # else KIS gives the same one within six hours
    renewed = deployed.run("renew", **next_release)
    assert renewed.status == 0, renewed.output
    assert deployed.token() != token
    assert deployed.account.count("issuances") == 2


def test_a_rollback_replaces_no_container_of_the_inventory(deployed: Deployment) -> None:
    changes: dict[str, Any] = {"gateway_labels": {"changed": "yes"}}
    assert (outcome := deployed.up(**changes)).status == 0, outcome.output
    image, name = deployed.inspect("{{.Config.Image}}"), f"{deployed.project}-theirs"
    docker("run", "--detach", "--name", name, "--entrypoint", "sleep", image, "600")
    try:
        outcome = deployed.run("rollback", **changes, gateway_adopt_container=name)
        assert outcome.status == 0, outcome.output
        assert docker("inspect", "--format", "{{.State.Status}}", name) == "running"
    finally:
        docker("rm", "--force", name)


def test_down_does_not_overlook_a_gateway_of_another_app_directory(deployed: Deployment) -> None:
    outcome = deployed.run("down", gateway_app_dir=str(deployed.directory / "other-app"))
    outcome.assert_refused("not of this deployment", "down: blocked on 1 of 1 hosts")
    assert deployed.inspect("{{.State.Status}}") == "running"


def test_down_does_not_overlook_a_gateway_of_another_project(deployed: Deployment) -> None:
    for verb in ("down", "up"):
        outcome = deployed.run(verb, gateway_project=f"{deployed.project}-new")
        outcome.assert_refused(f"set gateway_project to '{deployed.project}' again")
    assert deployed.inspect("{{.State.Status}}") == "running"
