"""A gateway that is published on IPv6."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.conftest import Deployment
from tests.tools import get


def missing_ipv6() -> str:
    """Why this machine has no `::1`; empty if it has it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"the kernel has no IPv6 loopback: {error.strerror}"
    return ""


pytestmark = pytest.mark.skipif(bool(missing_ipv6()), reason=missing_ipv6())


@pytest.fixture(scope="module")
def deployment(new_deployment: Callable[..., Deployment]) -> Deployment:
    made = new_deployment("ipv6", gateway_bind_address="::1")
    outcome = made.up()
    assert outcome.status == 0, outcome.output
    assert f"The gateway listens on http://[::1]:{made.data['gateway_port']}," in outcome.output
    assert f"http://[::1]:{made.data['gateway_port']}/health must answer well for" in outcome.output
    return made


def status(deployment: Deployment, address: str) -> int:
    return get(f"http://{address}:{deployment.data['gateway_port']}/health")[0]


def test_it_answers_on_ipv6_only(deployment: Deployment) -> None:
    assert status(deployment, "[::1]") == 200
    assert status(deployment, "127.0.0.1") == 0


def test_it_is_up_to_date_and_its_token_outlives_a_restart(deployment: Deployment) -> None:
    container, token = deployment.container(), deployment.token()
    again = deployment.up()
    assert (again.status, again.changes()) == (0, 0), again.output
    restarted = deployment.run("restart")
    assert restarted.status == 0, restarted.output
    assert (deployment.container(), deployment.token()) == (container, token)
    assert status(deployment, "[::1]") == 200
    assert deployment.account.count("issuances") == 1


def test_verify_passes(deployment: Deployment) -> None:
    verified = deployment.verify()
    assert verified.status == 0, verified.output
    assert deployment.account.count("issuances") == 1


def test_every_ipv6_address_is_open_and_no_ipv4_address(deployment: Deployment) -> None:
    everywhere: dict[str, Any] = {"gateway_bind_address": "::", "gateway_open_to_network": True}
    outcome = deployment.up(**everywhere)
    assert outcome.status == 0, outcome.output
    assert "on every IPv6 address of this host, without authentication" in outcome.output
    assert status(deployment, "[::1]") == 200
    assert status(deployment, "127.0.0.1") == 0
    verified = deployment.verify(**everywhere)
    assert verified.status == 0, verified.output
    back = deployment.up()
    assert back.status == 0, back.output


def test_an_address_that_the_host_lacks_is_named_and_the_old_release_restored(
    deployment: Deployment,
) -> None:
    absent: dict[str, Any] = {
        "gateway_bind_address": "2001:db8::1",
        "gateway_open_to_network": True,
    }
    outcome = deployment.up(**absent)
    assert outcome.status == 1, outcome.output
    assert "Traceback" not in outcome.output
    assert "[2001:db8::1]" in outcome.output
    assert "cannot assign requested address" in outcome.output
    assert status(deployment, "[::1]") == 200


def test_a_port_that_another_program_holds_on_ipv6_is_refused(deployment: Deployment) -> None:
    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        before = deployment.host_state()
        outcome = deployment.up(gateway_port=port)
        outcome.assert_refused(f"port {port} is held by something else")
        assert deployment.host_state() == before
