"""The crash loop that this project prevents, with a gateway as found in the wild."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.engine.conftest import Deployment
from tests.tools import docker, wait_for


def test_recreating_a_container_that_holds_its_token_causes_a_crash_loop(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    """The same image and the same kind of account as below, run without this package."""
    deployment = new_deployment("loop", **stubborn_settings)
    assert deployment.up().status == 0  # builds the image; the test uses another token
    image = deployment.inspect("{{.Config.Image}}")
    deployment.compose("down")
    other = new_deployment("loop-by-hand")

    def run_by_hand() -> str:
        return docker(
            "run", "--detach", "--restart", "unless-stopped",
            "--add-host", "host.docker.internal:host-gateway",
            "--env", "KIS_BASE_URL=http://host.docker.internal:9443",
            "--env", "SECRETS_FILE=/secrets.json",
            "--volume", f"{other.account.secrets_file}:/secrets.json:ro",
            image,
        )  # fmt: skip

    first = run_by_hand()
    second = ""
    try:
        wait_for(lambda: "초기화 완료" in docker("logs", first), "the first container has a token")
        assert other.account.count("issuances") == 1
        docker("rm", "--force", first)  # as every re-creation does
        second = run_by_hand()
        wait_for(
            lambda: int(docker("inspect", "--format", "{{.RestartCount}}", second)) >= 3,
            "the second container restarts again and again",
        )
        assert other.account.count("rejections") >= 3
        assert other.account.count("issuances") == 1
    finally:
        docker("rm", "--force", *filter(None, {first if not second else "", second}))


def test_the_same_gateway_deployed_by_this_package_uses_its_token_again(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("no-loop", **stubborn_settings)
    assert deployment.up().status == 0
    first = deployment.container()
    outcome = deployment.up(gateway_labels={"recreated": "within the minute"})
    assert outcome.status == 0, outcome.output
    assert deployment.container() != first
    assert "유효한 캐시 토큰 사용" in deployment.compose("logs")
    assert deployment.inspect("{{.RestartCount}}") == "0"
    assert deployment.account.count("issuances") == 1
    assert deployment.account.count("rejections") == 0
