"""The verify suite can fail: it fails on deployments that lack what it checks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.engine.conftest import SIMULATOR, Deployment
from tests.tools import free_port

VOLUME = re.compile(
    r"      - type: bind\n        source: {{ token_dir.*?create_host_path: false\n", re.DOTALL
)


def without_the_volume(template: str) -> str:
    return VOLUME.sub("", template, count=1)


def with_the_variable_misspelt(template: str) -> str:
    start = "in token_variables.items() %}\n      {{ "
    return template.replace(f"{start}name", f"{start}('MIS' ~ name)")


def failed_tests(output: str) -> set[str]:
    return set(re.findall(r"^FAILED \S+::(\w+)", output, re.MULTILINE))


def test_verify_passes_on_a_sound_deployment(
    new_deployment: Callable[..., Deployment],
) -> None:
    deployment = new_deployment("sound")
    assert deployment.up().status == 0
    outcome = deployment.verify()
    assert outcome.status == 0, outcome.output
    safe = deployment.verify("-m", "not restarts")
    assert safe.status == 0
    assert "4 deselected" in safe.output


def test_verify_passes_on_a_gateway_in_the_hosts_network_that_listens_on_loopback(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment(
        "loopback",
        **stubborn_settings,
        gateway_network_mode="host",
        gateway_open_to_network=True,
        gateway_port=None,
        gateway_container_port=free_port(),
        gateway_cached_token_log=None,
    )
    deployment.data["gateway_environment"] = {"KIS_BASE_URL": SIMULATOR, "HABIT": "private"}
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    verified = deployment.verify()
    assert verified.status == 0, verified.output
    elsewhere = deployment.verify("-k", "the_port_is_open", gateway_container_port=free_port())
    assert elsewhere.status == 1, elsewhere.output


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (without_the_volume, "test_the_token_directory_of_the_host_is_mounted"),
        (with_the_variable_misspelt, "test_the_variable_points_into_the_mounted_directory"),
    ],
)
def test_verify_fails_if_the_token_cannot_persist(
    new_deployment: Callable[..., Deployment],
    stubborn_settings: dict[str, Any],
    tmp_path: Path,
    spoil: Callable[[str], str],
    expected: str,
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in (
        "deploy",
        "kis_gateway_deploy",
        "templates",
        "tests",
        "services",
        "pyproject.toml",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    template = (ROOT / "docker-compose.yml.j2").read_text()
    spoilt = spoil(template)
    assert spoilt != template
    (checkout / "docker-compose.yml.j2").write_text(spoilt)

    deployment = new_deployment(
        f"spoilt-{spoil.__name__.replace('_', '-')}",
        **stubborn_settings,
        # The gate would refuse this gateway, which has no token file; here it does not check.
        gateway_token_at_start=False,
        gateway_read_only=False,
    )
    deployment.checkout = checkout
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    outcome = deployment.verify("-m", "not restarts")
    assert outcome.status == 1
    assert failed_tests(outcome.output) >= {expected, "test_the_token_file_is_there_and_valid"}
    outcome = deployment.verify("-k", "outlives and recreation")
    assert failed_tests(outcome.output) == {"test_the_token_outlives"}, outcome.output


def test_verify_says_what_is_wrong_with_an_inventory(tmp_path: Path) -> None:
    from tests.tools import VERIFY, command

    def verify(inventory: Path) -> str:
        result = command(*VERIFY, "--inventory", inventory, cwd=ROOT)
        assert result.returncode == 4  # pytest's usage error: no test ran
        assert "Traceback" not in result.stderr
        return result.stderr

    empty = tmp_path / "empty.py"
    empty.write_text("hosts = []\n")
    assert "has no hosts" in verify(empty)
    assert "there is no inventory" in verify(tmp_path / "missing.py")
    silent = tmp_path / "silent.py"
    data = {
        "ssh_hostname": "127.0.0.1",
        "ssh_port": 1,
        "gateway_image": "kis",
        "gateway_secrets_file": str(
            ROOT / "services/kis-simulator/kis_simulator/demo_credentials.json"
        ),
        "gateway_app_key_field": "kis-r-app-key",
    }
    silent.write_text(f"hosts = [('silent-host', {data!r})]\n")
    message = verify(silent)
    assert "silent-host" in message
    assert "Unable to connect to port 1" in message
    silent.write_text(f"print('loading')\nhosts = [('silent-host', {data!r})]\n")
    assert "Unable to connect to port 1" in verify(silent)
    key = str(tmp_path / "no-key")
    silent.write_text(f"hosts = [('silent-host', {data | {'ssh_key': key}!r})]\n")
    assert f"  silent-host: No such private key file: {key}" in verify(silent).splitlines()
