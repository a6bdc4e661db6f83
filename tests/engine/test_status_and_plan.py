"""`status`, `plan` and `drift`: their output is right and has no secret; they change nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.engine.conftest import Deployment
from tests.tools import BIN, command, wait_for

Damage = Callable[[Deployment, Path], object]


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("status")
    deployment.data["gateway_environment"] |= {"SOME_API_KEY": "the-value-before"}
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    wait_for(  # a deploy asks the gateway itself; the engine's first health check may come later
        lambda: deployment.inspect("{{.State.Health.Status}}") == "healthy",
        "the engine reports healthy",
    )
    return deployment


def run(deployment: Deployment, verb: str, *flags: str, **changes: Any) -> CompletedProcess[str]:
    """`pyinfra -y INVENTORY deploy/VERB.py`, stdout and stderr apart; neither has a secret."""
    inventory = deployment.inventory(**changes)
    result = command(
        BIN / "pyinfra", "-y", *flags, inventory, f"deploy/{verb}.py", cwd=deployment.checkout
    )
    for secret in (deployment.token(), deployment.account.app_secret, "the-value-"):
        assert secret not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def with_a_silent_host(deployment: Deployment) -> Path:
    """An inventory of the deployment's host and of a host that refuses the connection."""
    silent = deployment.data | {"ssh_hostname": "127.0.0.1", "ssh_port": 1}
    path = deployment.directory / "two.py"
    path.write_text(
        "from pathlib import PosixPath\n"
        f"two = [('silent', {silent!r}), ('@local', {deployment.data!r})]\n"
    )
    return path


def test_the_status_of_a_running_deployment(deployed: Deployment) -> None:
    before, hours = deployed.host_state(), deployed.hours_valid()
    result = run(deployed, "status", "-vv")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(">>> ") == 1  # one command: the reading
    header, row, _ = result.stdout.splitlines()
    release = (deployed.app_dir / "current").readlink().name
    tag = deployed.inspect("{{.Config.Image}}").rpartition(":")[2]
    address = deployed.url.removeprefix("http://")
    assert header.split()[0] == "HOST"
    shown = re.split(" {2,}", row)
    # The account is not known: it is the simulator's.
    assert shown[:5] == ["@local", f"{tag[:7]} ({release[:7]})", "-", address, "0"]
    assert shown[5] in {f"{hours} h", f"{deployed.hours_valid()} h"}
    assert shown[6] == "up to date"
    assert max(len(header), len(row)) <= 80
    assert deployed.host_state() == before


def test_the_status_as_json(deployed: Deployment) -> None:
    result = run(deployed, "status", "--data", "json=1")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["version"] == 1
    [host] = document["hosts"]
    assert (host["deployment"], host["address"]) == (
        "up to date",
        deployed.url.removeprefix("http://"),
    )
    assert (host["host"], host["state"], host["health"]) == ("@local", "read", "healthy")
    assert host["token_expires"] == json.loads(deployed.token_file.read_text())["expires_at"]
    assert host["token_written"] == int(deployed.token_file.stat().st_mtime)
    event = host["history"][-1]
    assert (event["action"], event["to"]) == ("up", host["release"])


def test_an_unreachable_host_is_shown_and_fails_the_run(deployed: Deployment) -> None:
    inventory = with_a_silent_host(deployed)
    for verb, line in [
        ("status", "silent  unreachable"),
        ("plan", "silent: unreachable, so nothing is known of it"),
    ]:
        result = command(
            BIN / "pyinfra", "-y", inventory, f"deploy/{verb}.py", cwd=deployed.checkout
        )
        assert result.returncode == 1
        assert line in result.stdout.splitlines()
        assert "\n@local" in result.stdout
        assert "Traceback" not in result.stderr


def test_the_plan_of_an_unchanged_deployment(deployed: Deployment) -> None:
    result = run(deployed, "plan")
    assert result.returncode == 0, result.stderr
    path = deployed.token_file
    lines = [re.sub(r"for \d.*", "for …", line) for line in result.stdout.splitlines()]
    assert lines == [
        "@local: up to date",
        f"  {path}: the token is valid for …",
        "Plan: 0 to re-create, 0 to install, 1 up to date; issuances: 0",
        "plan: up to date on 1 of 1 hosts",
    ]


def test_the_plan_of_a_changed_setting(deployed: Deployment) -> None:
    before = deployed.host_state()
    environment = deployed.data["gateway_environment"] | {"SOME_API_KEY": "the-value-after"}
    result = run(
        deployed, "plan", gateway_environment=environment, gateway_labels={"greeting": "hello"}
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "@local: 2 changes"
    assert [line for line in lines if line.startswith("    ")] == [
        "    ~ environment.SOME_API_KEY: (changed)",
        "    + labels.greeting: (hidden)",
    ]
    assert "-> the container is re-created" in result.stdout
    assert lines[-2:] == [
        "Plan: 1 to re-create, 0 to install, 0 up to date; issuances: 0",
        "plan: changes on 1 of 1 hosts (@local)",
    ]
    assert deployed.host_state() == before


def remove_the_container(deployment: Deployment, _: Path) -> None:
    deployment.compose("down")


def edit_a_file(deployment: Deployment, _: Path) -> None:
    with (deployment.app_dir / "current" / "docker-compose.yml").open("a") as file:
        file.write("# by hand\n")


def open_the_token_directory(deployment: Deployment, _: Path) -> None:
    deployment.token_file.parent.chmod(0o755)


def point_current_elsewhere(deployment: Deployment, _: Path) -> None:
    current = deployment.app_dir / "current"
    shutil.copytree(current, deployment.app_dir / "releases" / "0123456789ab")
    current.unlink()
    current.symlink_to("releases/0123456789ab")


def replace_the_container(deployment: Deployment, _: Path) -> None:
    edited = deployment.app_dir / "edited"
    shutil.copytree(deployment.app_dir / "current", edited)
    shutil.chown(edited / "secrets.json", 10001, 10001)
    compose_file = edited / "docker-compose.yml"
    compose_file.write_text(compose_file.read_text().replace('"512m"', '"256m"'))
    deployment.compose("--file", str(compose_file), "up", "--detach", "--force-recreate")


@pytest.mark.parametrize(
    "damages",
    [
        [
            (open_the_token_directory, "its owner or mode is not right"),
            (edit_a_file, "docker-compose.yml was changed on the host"),
            (replace_the_container, "edited/docker-compose.yml, not "),
        ],
        [
            (point_current_elsewhere, "release 0123456789ab runs"),
            (remove_the_container, "no gateway container is there"),
        ],
    ],
)
def test_drift_is_detected_and_up_repairs_it(
    deployed: Deployment, tmp_path: Path, damages: list[tuple[Damage, str]]
) -> None:
    token = deployed.token()
    assert run(deployed, "drift").returncode == 0
    for damage, reason in damages:
        damage(deployed, tmp_path)
        drifted = run(deployed, "drift")
        assert drifted.returncode == 1
        assert reason in drifted.stdout
        assert "drift: drifted on 1 of 1 hosts (@local)" in drifted.stdout
    outcome = deployed.up()
    assert outcome.status == 0, outcome.output
    repaired = run(deployed, "drift")
    assert repaired.returncode == 0, repaired.stdout
    assert repaired.stdout.endswith("drift: up to date on 1 of 1 hosts\n")
    assert deployed.token() == token


def test_the_history_names_the_release_to_go_back_to(deployed: Deployment) -> None:
    first = (deployed.app_dir / "current").readlink().name
    table = run(deployed, "history").stdout
    *_, row = [line for line in table.splitlines() if f"  {first}  " in line]
    tag = deployed.inspect("{{.Config.Image}}").rpartition(":")[2]
    assert "  up " in row
    assert f"  {first}  {tag[:7]}  " in row
    assert max(map(len, table.splitlines())) <= 100
    document = json.loads(run(deployed, "history", "--data", "json=1").stdout)
    assert document["hosts"] == [{"host": "@local", "state": "read"}]
    *_, event = document["switches"]
    assert (event["host"], event["to"], event["outcome"]) == ("@local", first, "switched")
    assert event["image"] == deployed.inspect("{{.Config.Image}}")


WITHOUT_ROOT: dict[str, Any] = {"_su_user": "nobody", "_su_shell": "sh"}
"""As if `_sudo` was forgotten."""


@pytest.mark.parametrize(
    "verb",
    ["status", "history", "logs", "plan", "drift", "up", "restart", "renew", "rollback", "down"],
)
def test_without_root_a_host_counts_as_not_read(deployed: Deployment, verb: str) -> None:
    before = deployed.host_state()
    result = run(deployed, verb, **WITHOUT_ROOT)
    assert result.returncode == 1, result.stdout
    assert "needs root: set `_sudo` to True" in result.stderr
    assert result.stdout.splitlines()[-1] == f"{verb}: failed on 1 of 1 hosts (@local)"
    assert "no switch yet" not in result.stdout
    assert deployed.host_state() == before


@pytest.mark.parametrize("verb", ["status", "history"])
def test_without_root_the_json_says_unreadable(deployed: Deployment, verb: str) -> None:
    result = run(deployed, verb, "--data", "json=1", **WITHOUT_ROOT)
    assert result.returncode == 1
    assert json.loads(result.stdout)["hosts"] == [{"host": "@local", "state": "unreadable"}]
    assert "needs root: set `_sudo` to True" in result.stderr


def test_without_root_nothing_is_adopted(deployed: Deployment) -> None:
    result = run(deployed, "adopt", "--data", f"container={deployed.container()}", **WITHOUT_ROOT)
    assert result.returncode == 1
    assert "only root may look into a container: set `_sudo` to True" in result.stderr
