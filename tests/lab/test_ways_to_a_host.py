"""`verify` connects to a host in every way that `up` supports, from a clone and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet
from tests.tools import VERIFY, Outcome, command

SUDO_PASSWORD = "correct-horse"
SAFE = ("-m", "not restarts")
FOREIGN = """\
from pyinfra.operations import server
from kis_gateway_deploy import up

server.shell(name="Before", commands=["touch /tmp/before"])
up()
server.shell(name="After", commands=["test -e /tmp/before && touch /tmp/after"])
"""


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(new_lab("--hosts", "2").lab, tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with only the package, installed from its wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    bin_ = directory / "environment" / "bin"
    for step in (
        (sys.executable, "-m", "venv", bin_.parent),
        (bin_ / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ROOT),
    ):
        made = command(*step)
        assert made.returncode == 0, made.stderr
    [file] = directory.glob("*.whl")
    made = command(bin_ / "pip", "install", "--quiet", f"{file}[verify]")
    assert made.returncode == 0, made.stderr
    return bin_


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """The socket of an ssh-agent with eight keys that no host accepts."""
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as process:
        try:
            for number in range(8):
                key = tmp_path / f"key-{number}"
                command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
                added = command("ssh-add", key, env=os.environ | {"SSH_AUTH_SOCK": str(socket)})
                assert added.returncode == 0, added.stderr
            yield str(socket)
        finally:
            process.terminate()


def assert_deploys_and_verifies(fleet: Fleet, data: dict[str, dict[str, Any]], *flags: str) -> None:
    inventory = fleet.inventory_of(data)
    outcome = fleet.run_on(inventory, "deploy/up.py")
    assert outcome.status == 0, outcome.output
    verified = command(*VERIFY, "--inventory", inventory, *flags, cwd=ROOT)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    outcome = fleet.run_on(inventory, "deploy/drift.py")
    assert outcome.status == 0, outcome.output  # verify leaves no drift


def test_a_jump_host_that_only_the_ssh_config_names(fleet: Fleet, tmp_path: Path) -> None:
    jump, inner = fleet.lab.hosts()
    address = fleet.address(inner.name)
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host *\n  User ops\n  IdentityFile {fleet.lab.key}\n"
        f"  UserKnownHostsFile {tmp_path / 'known_hosts'}\n  StrictHostKeyChecking accept-new\n"
        f"Host jump\n  HostName 127.0.0.1\n  Port {jump.ssh_port}\n"
        f"Host inner\n  HostName {address}\n  ProxyJump jump\n"
    )
    data = {
        "ssh_config_file": str(config),
        "ssh_hostname": "inner",
        "ssh_port": None,
        "ssh_known_hosts_file": str(tmp_path / "known_hosts"),
        "ssh_strict_host_key_checking": "accept-new",
    }
    assert_deploys_and_verifies(fleet, {inner.name: data})


@pytest.mark.nightly
def test_an_agent_with_more_keys_than_max_auth_tries(
    fleet: Fleet, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    assert_deploys_and_verifies(fleet, {"lab-1": {}}, *SAFE)


def test_a_shell_that_prints_at_its_start(fleet: Fleet) -> None:
    talk = "(echo 'echo Welcome!; printf no-line-break'; cat ~ops/.bashrc) >/tmp/rc"
    fleet.in_container("lab-1", "sh", "-c", f"{talk} && cp /tmp/rc ~ops/.bashrc")
    assert_deploys_and_verifies(fleet, {"lab-1": {}}, *SAFE)


@pytest.mark.nightly
def test_directories_that_are_links(fleet: Fleet) -> None:
    """An administrator moved the directories to a bigger disk."""
    assert fleet.run_with({"lab-2": {}}, "deploy/down.py").status == 0
    for directory in ("/opt", "/docker_data"):
        script = f"mv {directory} /srv{directory} && ln -s /srv{directory} {directory}"
        fleet.in_container("lab-2", "sh", "-c", script)
    assert_deploys_and_verifies(fleet, {"lab-2": {}})


def run_by_wheel(wheel: Path, directory: Path, *words: str | Path) -> Outcome:
    result = command(wheel / words[0], *words[1:], cwd=directory)
    return Outcome(result.returncode, result.stdout + result.stderr)


def test_the_wheel_deploys_and_verifies_from_another_directory(
    fleet: Fleet, wheel: Path, tmp_path: Path
) -> None:
    inventory = fleet.inventory_of({"lab-2": {"gateway_labels": {"made-by": "wheel"}}})
    for verb in ("up", "plan", "drift"):
        module = f"kis_gateway_deploy.{verb}"
        outcome = run_by_wheel(wheel, tmp_path, "pyinfra", "-y", inventory, module)
        assert outcome.status == 0, outcome.output
    verify = ("pytest", "--pyargs", "kis_gateway_deploy.verify", "--inventory", inventory)
    outcome = run_by_wheel(wheel, tmp_path, *verify)
    assert outcome.status == 0, outcome.output
    assert fleet.run_on(inventory, "deploy/drift.py").status == 0  # a clone makes the same release


def test_up_is_a_step_of_a_foreign_deploy_with_hosts_that_take_no_part(
    fleet: Fleet, wheel: Path, tmp_path: Path
) -> None:
    inventory = fleet.inventory_of(
        {"lab-2": {"gateway_labels": {"made-by": "step"}}}, bare=["lab-1"]
    )
    (tmp_path / "site.py").write_text(FOREIGN)
    outcome = run_by_wheel(wheel, tmp_path, "pyinfra", "-y", inventory, "site.py")
    assert outcome.status == 0, outcome.output
    for host in ("lab-1", "lab-2"):
        fleet.on(host, "test -e /tmp/after")
    assert "[lab-1] switch:" not in outcome.output
    assert "[lab-2] switch:" in outcome.output


@pytest.mark.nightly
def test_sudo_that_requires_a_password(fleet: Fleet) -> None:
    # Not on lab-1: pyinfra's askpass needs a shell that prints nothing.
    script = f"echo 'ops:{SUDO_PASSWORD}' | chpasswd; sed -i s/NOPASSWD:// /etc/sudoers.d/*"
    fleet.in_container("lab-2", "sh", "-c", script)
    assert fleet.run_with({"lab-2": {}}, "deploy/plan.py").status == 1
    assert_deploys_and_verifies(fleet, {"lab-2": {"_sudo_password": SUDO_PASSWORD}})
