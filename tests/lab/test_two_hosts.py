"""An operator's first week on two hosts, in minutes: part of `make test`."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed
from tests.tools import BIN, command, docker, wait_for

BOTH = ["lab-1", "lab-2"]


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Two hosts with the reference gateway deployed."""
    lab = new_lab("--hosts", "2")
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("fleet"))
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    return fleet


@pytest.fixture(autouse=True)
def both_serve_afterwards(fleet: Fleet) -> Iterator[None]:
    """Each test leaves both hosts serving; no second token is requested."""
    tokens = fleet.tokens()
    yield
    assert fleet.serving() == BOTH
    assert fleet.tokens() == tokens
    assert fleet.issuances() == dict.fromkeys(BOTH, 1)
    assert fleet.rejections() == dict.fromkeys(BOTH, 0)


def test_a_second_up_changes_nothing(fleet: Fleet) -> None:
    wait_for(lambda: set(fleet.health().values()) == {"healthy"}, "Docker reports healthy", 60)
    before, since = fleet.containers(), fleet.engine_times()
    outcome = fleet.up()
    until = fleet.engine_times()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0
    assert fleet.containers() == before
    assert fleet.engine_events(since, until) == {name: [] for name in BOTH}


def test_a_changed_setting_is_rolled_out_and_rolled_back(fleet: Fleet) -> None:
    releases, containers = fleet.releases(), fleet.containers()
    outcome = fleet.up(**changed())
    assert outcome.status == 0, outcome.output
    assert not set(fleet.containers().values()) & set(containers.values())
    assert not set(fleet.releases().values()) & set(releases.values())
    outcome = fleet.run("deploy/rollback.py")
    assert outcome.status == 0, outcome.output
    assert fleet.releases() == releases
    assert fleet.up().changes() == 0


def test_a_broken_release_stops_at_the_canary(fleet: Fleet, broken: dict[str, Any]) -> None:
    before, releases = fleet.containers(), fleet.releases()
    outcome = fleet.up(
        **broken,
        gateway_environment={"STATUS": "500"},
        gateway_token_at_start=False,
        gateway_health_path="/nowhere",  # what serves on lab-2 is not asked there
        rollout_healthy_deadline=10,
    )
    assert outcome.status == 1
    assert "Traceback" not in outcome.output
    assert "not healthy within 10 s" in outcome.output
    assert "serves on lab-1; " in outcome.output
    assert "serves on lab-2." in outcome.output
    assert "the broken gateway speaks" in outcome.output  # its last log lines
    assert fleet.releases() == releases
    assert fleet.containers()["lab-2"] == before["lab-2"]
    assert fleet.history("lab-1")[-1]["outcome"] == "restored"


def test_the_logs_of_both_hosts_are_followed_until_ctrl_c(fleet: Fleet) -> None:
    with subprocess.Popen(
        [BIN / "pyinfra", "-y", "--data", "follow=1", "--data", 'since="1h"',
         fleet.directory / "inventory.py", "deploy/logs.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=fleet._environment,
    ) as controller:  # fmt: skip
        assert controller.stdout is not None
        waited_for = set(BOTH)
        while waited_for and (line := controller.stdout.readline()):
            waited_for.discard(line.partition(" | ")[0])
        assert not waited_for
        controller.send_signal(signal.SIGINT)
        rest, errors = controller.communicate(timeout=30)
    assert controller.returncode == 128 + signal.SIGINT, errors
    assert "Traceback" not in errors + rest
    assert rest.splitlines()[-1] == "logs: read on 2 of 2 hosts"
    for name in BOTH:
        search = ["docker", "exec", fleet.lab.container(name), "pgrep", "-f", "sys,zlib;f=sys"]
        wait_for(partial(_finds_nothing, search), "the host's part ends", 20)


def _finds_nothing(search: list[str]) -> bool:
    return not command(*search).stdout


def test_a_killed_controller_leaves_both_hosts_serving(fleet: Fleet) -> None:
    outcome = fleet.interrupt("[lab-1] switch:", lambda process: process.kill())
    assert outcome.status == -signal.SIGKILL
    wait_for(lambda: fleet.switching() == [], "no switch is under way any more", 60)
    wait_for(lambda: fleet.serving() == BOTH, "both hosts serve, by themselves", 60)
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    assert fleet.up().changes() == 0


def test_a_switch_whose_processes_are_all_killed_is_ended_by_the_controller(fleet: Fleet) -> None:
    releases, tokens = fleet.releases(), fleet.tokens()
    program = "[s]ys,zlib;f=sys"  # not this pkill's own command line
    outcome = fleet.interrupt(
        "the switch process died",
        lambda _: fleet.in_container("lab-1", "pkill", "-KILL", "-f", program),
        die_at="ready",
    )
    assert outcome.status == 1, outcome.output
    assert "no answer to 'switch': the host is asked how it ended" in outcome.output, outcome.output
    assert "Restored: release" in outcome.output
    assert fleet.serving() == BOTH
    assert (fleet.releases(), fleet.tokens()) == (releases, tokens)
    assert [each["outcome"] for each in fleet.history("lab-1")][-1] == "restored"


def test_a_rebooted_host_serves_again_by_itself(fleet: Fleet) -> None:
    docker("restart", fleet.lab.container("lab-1"))
    wait_for(lambda: fleet.serving() == BOTH, "the gateway is back", 90)
