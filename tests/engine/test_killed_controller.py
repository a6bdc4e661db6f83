"""A controller that is killed at each of its steps leaves the gateway serving."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.engine.conftest import Deployment
from tests.tools import BIN, get, wait_for

MOMENTS = [
    "Check every host",
    "Put the release on the host",
    "Roll out",
    "batch 1 of 1",
    "switch:",
    "Report",
]


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("killed")
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_controller_leaves_the_gateway_serving(deployed: Deployment, moment: str) -> None:
    token = deployed.token()
    inventory = deployed.inventory(gateway_labels={"changed": secrets.token_hex(4)})
    with subprocess.Popen(
        [BIN / "pyinfra", "-y", inventory, "deploy/up.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=deployed.checkout,
    ) as controller:
        assert controller.stdout is not None
        assert any(moment in line for line in controller.stdout), f"it never came: {moment}"
        controller.kill()
    assert controller.returncode == -signal.SIGKILL, "it ended before it was killed"
    free = ["flock", "--nonblock", str(deployed.app_dir / ".switch.lock"), "true"]
    wait_for(lambda: subprocess.run(free).returncode == 0, "no switch is under way", 60)
    wait_for(lambda: get(f"{deployed.url}/ready")[0] == 200, "it serves, by itself", 60)
    outcome = deployed.up()
    assert outcome.status == 0, outcome.output
    assert deployed.up().changes() == 0
    assert deployed.token() == token
    assert (deployed.account.count("issuances"), deployed.account.count("rejections")) == (1, 0)
