"""The reason for this project: the token outlives the container, whatever happens to that."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from deploy.gateway.release import ROOT
from tests.verify.gateway import Gateway


def test_the_token_file_is_there_and_valid(gateway: Gateway) -> None:
    script = (ROOT / "templates/token.sh").read_text("utf-8")
    result = gateway.host.run(
        "sh -c %s sh %s", f'{script}\ntoken_expiry <"$1"', gateway.settings.token_path
    )
    assert result.rc == 0, f"there is no token in {gateway.settings.token_path}"
    assert int(result.stdout) > float(gateway.now()), "the token in the file has expired"


def docker_restart(gateway: Gateway) -> None:
    gateway.run("docker", "restart", gateway.container)


def docker_kill(gateway: Gateway) -> None:
    # The engine takes a kill by hand for a stop by hand and restarts nothing.
    container = gateway.container
    gateway.run("docker", "kill", container)
    gateway.run("docker", "start", container)


def recreation(gateway: Gateway) -> None:
    gateway.compose("up", "--detach", "--force-recreate")


def down_and_up(gateway: Gateway) -> None:
    gateway.compose("down")
    gateway.compose("up", "--detach")


@pytest.mark.restarts
@pytest.mark.parametrize("event", [docker_restart, docker_kill, recreation, down_and_up])
def test_the_token_outlives(gateway: Gateway, event: Callable[[Gateway], None]) -> None:
    token, issuances, began = gateway.token_fingerprint(), gateway.issuances(), gateway.now()
    event(gateway)
    gateway.wait_until_healthy()
    if gateway.settings.token_at_start:
        wait_for_log(gateway, gateway.settings.cached_token_log, since=began)
    assert gateway.token_fingerprint() == token, "the token file has another content"
    assert gateway.issuances() == issuances, "a token was issued that was not needed"


def wait_for_log(gateway: Gateway, pattern: str, since: str) -> None:
    deadline = time.monotonic() + 10
    while pattern not in gateway.logs(since):
        assert time.monotonic() < deadline, (
            f"the gateway did not log {pattern!r} (gateway_cached_token_log): "
            "it does not say that it used the token it had"
        )
        time.sleep(0.2)
