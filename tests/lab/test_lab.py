"""The lab's hosts: reached as an operator reaches them, deployed to, rebooted, removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kis_gateway_deploy.paths import ROOT
from lab.lab import LabHost, ask_simulator
from tests.lab.conftest import HOSTS, OwnLab
from tests.tools import BIN, command, docker, wait_for


def token(lab: OwnLab, host: LabHost) -> str:
    """A hash of the token file; the gateway answers only while it is there."""
    outcome = lab.ssh(host, "sudo", "sha256sum", "/docker_data/kis_tokens/kis_token.json")
    assert outcome.status == 0, outcome.output
    return outcome.output


def is_ready(lab: OwnLab, host: LabHost) -> bool:
    return lab.ssh(host, "curl", "-sf", "http://127.0.0.1:8080/ready").status == 0


def issuances(lab: OwnLab, host: LabHost) -> tuple[int, int]:
    """Granted and refused requests for a token so far."""
    app_key = json.loads(Path(host.secrets_file).read_text())["kis-r-app-key"]
    counters = ask_simulator(lab.lab, "GET", "counters")["real"][app_key]
    return counters["issuances"], counters["rejections"]


def container_ids(lab: OwnLab) -> dict[str, str]:
    label = f"label={lab.lab.label}"
    lines = docker("ps", "--all", "--no-trunc", "--filter", label, "--format", "{{.Names}} {{.ID}}")
    return dict(line.split() for line in lines.splitlines())


def test_without_a_lab_the_inventory_says_what_to_do(tmp_path: Path) -> None:
    result = command(
        BIN / "pyinfra", "-y", "inventory/lab.py", "deploy/up.py",
        cwd=ROOT, env=os.environ | {"KIS_LAB_DIR": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 1
    assert "Run: make lab" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_hosts_answer_over_ssh_with_their_own_names_and_keys(lab: OwnLab) -> None:
    hosts = lab.lab.hosts()
    assert [host.name for host in hosts] == [f"lab-{n}" for n in range(1, HOSTS + 1)]
    for host in hosts:
        assert lab.ssh(host, "hostname; whoami; sudo id -u").output.split() == [
            host.name, "ops", "0",
        ]  # fmt: skip
    keys = [line.split()[2] for line in lab.lab.known_hosts.read_text().splitlines()]
    assert len(set(keys)) == len(hosts)


def test_a_host_key_that_is_not_pinned_is_refused(lab: OwnLab) -> None:
    outcome = lab.run(
        "ssh", "-F", lab.lab.ssh_config, "-o", "UserKnownHostsFile=/dev/null", "lab-1", "true"
    )
    assert outcome.status == 255
    assert "Host key verification failed" in outcome.output


def test_ssh_is_open_only_to_this_machine(lab: OwnLab) -> None:
    for name in container_ids(lab):
        template = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}} {{end}}{{end}}"
        assert set(docker("inspect", "--format", template, name).split()) <= {"127.0.0.1"}


def test_each_host_has_its_own_engine(lab: OwnLab) -> None:
    answers = {
        lab.ssh(host, "sudo docker info --format '{{.Driver}} {{.ID}}'").output
        for host in lab.lab.hosts()
    }
    assert {answer.split()[0] for answer in answers} == {"overlay2"}
    assert len(answers) == HOSTS


def test_up_deploys_to_all_hosts_and_a_second_up_changes_nothing(deployed: OwnLab) -> None:
    for host in deployed.lab.hosts():
        assert is_ready(deployed, host)
        assert issuances(deployed, host) == (1, 0)
    outcome = deployed.pyinfra("deploy/up.py")
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0


@pytest.mark.parametrize("way", ["systemctl reboot", "loss of power"])
def test_gateway_and_token_are_back_after_a_reboot(deployed: OwnLab, way: str) -> None:
    host = deployed.lab.hosts()[0]
    container = deployed.lab.container(host.name)
    before, started = token(deployed, host), boot(container)
    match way:
        case "systemctl reboot":
            deployed.ssh(host, "sudo", "systemctl", "reboot")  # this breaks the connection
        case "loss of power":
            docker("kill", container)
            docker("start", container)
    wait_for(lambda: boot(container) != started, "the host boots again", 60)
    wait_for(lambda: is_ready(deployed, host), "the gateway is ready again", 60)
    assert token(deployed, host) == before
    assert issuances(deployed, host) == (1, 0)


def boot(container: str) -> str:
    return docker("inspect", "--format", "{{.State.StartedAt}}", container)


def test_the_next_up_repairs_an_up_that_was_killed(deployed: OwnLab) -> None:
    before = container_ids(deployed)
    killed = subprocess.Popen(
        [sys.executable, "-m", "lab.lab", "up", "--hosts", str(HOSTS + 1)],
        cwd=ROOT, env=deployed.environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    another = deployed.lab.container(f"lab-{HOSTS + 1}")
    wait_for(lambda: another in container_ids(deployed), "one more host is being made", 60)
    killed.kill()
    killed.wait()
    assert "Run: make lab" in deployed.pyinfra("deploy/up.py").output

    outcome = deployed("up", "--hosts", str(HOSTS))
    assert outcome.status == 0, outcome.output
    assert container_ids(deployed) == before  # intact containers were kept
    assert deployed.pyinfra("deploy/up.py").changes() == 0


def test_down_leaves_no_trace_and_does_not_touch_other_labs(
    lab: OwnLab, new_lab: Callable[..., OwnLab]
) -> None:
    before = container_ids(lab)
    other = new_lab("--hosts", "1", "--bare")
    assert other.ssh(other.lab.hosts()[0], "command -v docker").status == 1
    kinds = {"ps": ["ps", "--all"], "network": ["network", "ls"], "volume": ["volume", "ls"]}
    assert all(other.lab.name in docker(*listing) for listing in kinds.values())

    outcome = other("down", "--keep-images")
    assert outcome.status == 0, outcome.output
    assert [k for k, listing in kinds.items() if other.lab.name in docker(*listing)] == []
    assert not other.lab.directory.exists()
    assert container_ids(lab) == before
