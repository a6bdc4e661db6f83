"""`rollout_after` is told how each run ended, and fails none."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.conftest import Deployment
from tests.tools import BIN, command, wait_for

FAILING: dict[str, Any] = {"gateway_health_path": "/nowhere", "rollout_healthy_deadline": 5}


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("hook")
    deployment.data["rollout_after"] = ["sh", "-c", f"cat >> {deployment.directory}/told"]
    assert (first := deployment.up()).status == 0, first.output
    [document] = told(deployment)
    [host] = document["hosts"]
    assert (document["verb"], document["outcome"], document["status"]) == ("up", "changes", 0)
    assert (host["before"], host["after"], host["outcome"]) == (
        None,
        current(deployment),
        "switched",
    )
    assert (host["issuances"], document["issuances"]) == (1, 1)
    return deployment


def told(deployment: Deployment) -> list[dict[str, Any]]:
    """The documents that the command got since this was asked last; they have no secret."""
    path = deployment.directory / "told"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    assert deployment.account.app_key not in text
    assert deployment.account.app_secret not in text
    assert deployment.token() not in text
    return [json.loads(line) for line in text.replace("}{", "}\n{").splitlines()]


def current(deployment: Deployment) -> str:
    return (deployment.app_dir / "current").readlink().name


def change() -> dict[str, Any]:
    return {"gateway_labels": {"changed": secrets.token_hex(4)}}


def test_a_run_that_changes_nothing_tells_so(deployed: Deployment) -> None:
    assert (outcome := deployed.up()).status == 0, outcome.output
    [document] = told(deployed)
    [host] = document["hosts"]
    assert (document["outcome"], document["status"]) == ("up to date", 0)
    assert (host["before"], host["after"], host["outcome"]) == (current(deployed),) * 2 + (None,)


def test_a_failed_release_is_told_with_its_cause(deployed: Deployment) -> None:
    before = current(deployed)
    assert deployed.up(**FAILING).status == 1
    [document] = told(deployed)
    [host] = document["hosts"]
    assert (document["outcome"], document["status"]) == ("failed", 1)
    assert (host["word"], host["outcome"]) == ("failed", "restored")
    assert (host["before"], host["after"]) == (before, before)
    assert "not healthy within 5 s" in host["why"]


def test_a_refused_run_is_told(deployed: Deployment) -> None:
    assert deployed.run("rollback", "--data", 'release="0123456789ab"').status == 1
    [document] = told(deployed)
    assert (document["verb"], document["outcome"], document["status"]) == ("rollback", "blocked", 1)
    assert "release 0123456789ab is not on this host" in document["hosts"][0]["why"]


def test_restart_and_down_are_told(deployed: Deployment) -> None:
    release = current(deployed)
    assert (outcome := deployed.run("restart")).status == 0, outcome.output
    assert (outcome := deployed.run("down")).status == 0, outcome.output
    [restart, down] = [document["hosts"][0] for document in told(deployed)]
    assert (restart["before"], restart["after"], restart["outcome"]) == (
        release,
        release,
        "restarted",
    )
    assert (down["before"], down["after"], down["outcome"]) == (release, None, "down")
    assert deployed.up().status == 0


def test_what_only_reads_and_what_does_not_run_tells_nothing(deployed: Deployment) -> None:
    told(deployed)
    for verb in ("plan", "drift", "status"):
        assert deployed.run(verb).status == 0
    inventory = deployed.inventory(**change())
    assert command(BIN / "pyinfra", "--dry", inventory, "deploy/up.py").returncode == 0
    assert told(deployed) == []


@pytest.mark.parametrize("moment", ["Check every host", "batch 1 of 1"])
def test_an_interrupted_run_is_told_once(deployed: Deployment, moment: str) -> None:
    told(deployed)
    with subprocess.Popen(
        [BIN / "pyinfra", "-y", deployed.inventory(**change()), "deploy/up.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=deployed.checkout,
    ) as controller:
        assert controller.stdout is not None
        assert any(moment in line for line in controller.stdout), f"it never came: {moment}"
        controller.send_signal(signal.SIGINT)
        rest = controller.stdout.read()
    assert "Traceback" not in rest
    [document] = told(deployed)
    assert document["status"] == controller.returncode != 0, rest
    assert document["outcome"] == "failed"
    free = ["flock", "--nonblock", str(deployed.app_dir / ".switch.lock"), "true"]
    wait_for(lambda: subprocess.run(free).returncode == 0, "no switch is under way", 60)


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        (["/nowhere/tell"], "rollout_after: `tell` cannot be started: No such file or directory"),
        (["sh", "-c", "echo no route >&2; exit 6"],
         "rollout_after: `sh` failed (exit status 6): no route"),
        (["sleep", "600"], "rollout_after: `sleep` did not end within 30 s"),
    ],
)  # fmt: skip
def test_a_command_that_fails_fails_no_deploy(
    deployed: Deployment, hook: list[str], line: str
) -> None:
    inventory = deployed.inventory(rollout_after=hook)
    result = command(BIN / "pyinfra", "-y", inventory, "deploy/up.py", cwd=deployed.checkout)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == line
    assert result.stdout.splitlines()[-1].startswith("up: ")


def test_a_run_that_reaches_no_host_is_told(deployed: Deployment) -> None:
    told(deployed)
    inventory = deployed.inventory()
    text = inventory.read_text().replace("'@local', {", "'web-1', {'ssh_port': 1, ")
    inventory.write_text(text.replace("'ssh_port'", "'ssh_hostname': '127.0.0.1', 'ssh_port'"))
    result = command(BIN / "python", "-m", "deploy", "up", inventory, cwd=deployed.checkout)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "up: failed on 1 of 1 hosts (web-1)"
    [document] = told(deployed)
    [host] = document["hosts"]
    assert (document["status"], host["word"], host["why"]) == (1, "failed", "unreachable")
