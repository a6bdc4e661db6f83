"""The purpose of this project: the token survives whatever happens to the container."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from kis_gateway_deploy.verify.gateway import Gateway


def test_the_token_file_is_there_and_valid(gateway: Gateway) -> None:
    gateway.expect_token_file()
    found = gateway.token_files()
    expected = gateway.settings.tokens_expected
    assert found.state in {"token", "unknown"}, f"{gateway.settings.token_path} is {found.state}"
    if found.state == "token":  # only the gateway knows the expiry of other forms
        valid = sum(end > float(gateway.now()) for end in found.expiries)
        assert valid >= expected, f"{valid} of {expected} tokens are valid"


def test_kis_accepts_the_token(gateway: Gateway) -> None:
    if gateway.settings.probe is None:
        pytest.skip("gateway_probe is not set: whether KIS accepts the token is unknown")
    found = gateway.probe()
    assert found is not None, "the gateway does not run"
    assert not found.refusal, found.refusal
    assert found.is_accepted, f"the probe was answered: {found.said}"


def docker_restart(gateway: Gateway) -> None:
    gateway.run("docker", "restart", gateway.container)


def docker_kill(gateway: Gateway) -> None:
    # `docker kill` counts as a manual stop: the engine does not restart the container.
    container = gateway.container
    gateway.run("docker", "kill", container)
    gateway.run("docker", "start", container)


def recreation(gateway: Gateway) -> None:
    gateway.recreate()


def down_and_up(gateway: Gateway) -> None:
    gateway.remove_and_create()


@pytest.mark.restarts
@pytest.mark.parametrize("event", [docker_restart, docker_kill, recreation, down_and_up])
def test_the_token_outlives(gateway: Gateway, event: Callable[[Gateway], None]) -> None:
    gateway.expect_token_file()
    before, issuances, began = gateway.token_files(), gateway.issuances(), gateway.now()
    event(gateway)
    gateway.wait_until_healthy()
    text = gateway.settings.cached_token_log
    if gateway.settings.token_at_start and text:
        wait_for_log(gateway, text, since=began)
    assert gateway.token_files() == before, "the content of the token files has changed"
    assert gateway.issuances() == issuances, "a token was issued that was not needed"


def wait_for_log(gateway: Gateway, pattern: str, since: str) -> None:
    deadline = time.monotonic() + 10
    while pattern not in gateway.logs(since):
        assert time.monotonic() < deadline, (
            f"the gateway did not log {pattern!r} (gateway_cached_token_log): "
            "it may not have used its stored token"
        )
        time.sleep(0.2)
