"""Each mistake gives one clear message and does not affect the running gateway."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.engine.conftest import Deployment
from tests.tools import command, get, machine_lock


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("bad-input")
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment


@pytest.fixture
def untouched(deployed: Deployment) -> Iterator[Deployment]:
    """The deployment; after the test it must be unchanged and must serve."""
    before = deployed.host_state()
    yield deployed
    assert deployed.host_state() == before
    assert get(f"{deployed.url}/ready")[0] == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gateway_secrets_file": "/nowhere.json"}, ["gateway_secrets_file", "No such file"]),
        ({"gateway_app_key_field": "kis-x"}, ["gateway_app_key_field", "names no field of"]),
        ({"gateway_app_key_field": None}, ["gateway_app_key_field", "is missing"]),
        ({"gateway_prot": 8080}, ["gateway_prot", "did you mean gateway_port?"]),
        ({"gateway_user": "kis"}, ["gateway_user", "`uid:gid` in numbers"]),
        ({"gateway_port": 0}, ["gateway_port"]),
        (
            {"gateway_user": "kis", "gateway_prot": 1, "gateway_secrets_file": None},
            ["3 settings", "gateway_user", "gateway_prot", "gateway_secrets_file"],
        ),
    ],
)
def test_wrong_settings(untouched: Deployment, changes: dict[str, Any], words: list[str]) -> None:
    untouched.up(**changes).assert_refused("@local", "no host was touched", *words)


@pytest.mark.parametrize(
    ("content", "words"), [("not json", "is not JSON"), ("[]", "must hold a JSON object")]
)
def test_an_invalid_secrets_file(
    untouched: Deployment, tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    untouched.up(gateway_secrets_file=str(file)).assert_refused(str(file), words)


def test_an_unreadable_secrets_file(untouched: Deployment, tmp_path: Path) -> None:
    untouched.up(gateway_secrets_file=str(tmp_path)).assert_refused("Is a directory")


def test_a_port_that_something_else_holds(untouched: Deployment) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        untouched.up(gateway_port=port).assert_refused(f"port {port} is held by something else")


def test_an_image_that_cannot_be_pulled(untouched: Deployment) -> None:
    outcome = untouched.up(
        gateway_image=f"localhost:1/kis-nowhere:1@sha256:{'0' * 64}",
        gateway_image_source="registry",
        gateway_build_context=None,
    )
    outcome.assert_refused("localhost:1/kis-nowhere:1@", "could not be pulled", "gateway_image")


def test_an_env_file_that_compose_would_change(untouched: Deployment, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    env_file.write_text("A=1\nPASSWORD=pa$word\n")
    outcome = untouched.up(gateway_env_file=str(env_file))
    outcome.assert_refused("gateway_env_file", f"{env_file}, line 2: has a `$`")
    assert "pa$" not in outcome.output


def test_a_compose_error(untouched: Deployment) -> None:
    outcome = untouched.up(gateway_healthcheck={"test": ["CMD", "true"], "intervall": "2s"})
    outcome.assert_refused("intervall", "docker compose rejects the compose file")


def test_a_host_without_sudo(untouched: Deployment, tmp_path: Path) -> None:
    for program in ("sh", "env"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    outcome = untouched.up(_sudo=True, prefix=("env", f"PATH={tmp_path}"))
    outcome.assert_refused("sudo: not found", "[@local] the host could not be read as root")


def test_too_little_disk(untouched: Deployment) -> None:
    # A mount namespace for this run, in which Docker's data directory is on a small, full disk.
    small = 'mount -t tmpfs -o size=1m tmpfs /var/lib/docker && exec "$@"'
    outcome = untouched.up(
        gateway_labels={"a": "change"}, prefix=("unshare", "--mount", "sh", "-c", small, "sh")
    )
    outcome.assert_refused("MiB of disk are free", "64 are needed")


def test_no_network_for_packages(tmp_path: Path) -> None:
    """The real script, in a namespace without a network; no machine has `hello` installed."""
    script = ROOT / "templates/bootstrap.sh"
    once = {"APT_CONFIG": str(tmp_path / "apt.conf")}
    Path(once["APT_CONFIG"]).write_text('Acquire::Retries "0";\n')
    with machine_lock():
        result = command("unshare", "--net", "sh", script, "engine", "hello", env=os.environ | once)
    assert result.returncode == 1
    assert "The packages could not be installed: hello" in result.stderr
    assert "cannot reach a package mirror" in result.stderr


def test_no_message_shows_secrets_of_other_services(untouched: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"other-service": "s3cr3t-of-another"}))
    outcome = untouched.up(gateway_secrets_file=str(file))
    outcome.assert_refused("names no field of")
    assert "s3cr3t-of-another" not in outcome.output
