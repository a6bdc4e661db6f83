"""Rollouts over four hosts: in order, one batch at a time, and reverted if a host fails."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.windows import KOREA
from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed
from tests.tools import wait_for

ALL = ["lab-1", "lab-2", "lab-3", "lab-4"]


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Four hosts with the reference gateway deployed."""
    lab = new_lab("--hosts", "4")
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("fleet"))
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    return fleet


@pytest.fixture(autouse=True)
def all_serve_afterwards(fleet: Fleet) -> Any:
    """Each test leaves the fleet serving; no second token is requested."""
    yield
    assert fleet.serving() == ALL
    assert fleet.issuances() == dict.fromkeys(ALL, 1)
    assert fleet.rejections() == dict.fromkeys(ALL, 0)


def test_the_canary_is_switched_alone_and_the_rest_in_batches(fleet: Fleet) -> None:
    before, tokens = fleet.containers(), fleet.tokens()
    outcome = fleet.up(**changed())
    assert outcome.status == 0, outcome.output
    spans = {name: fleet.history(name)[-1] for name in ALL}
    assert {event["outcome"] for event in spans.values()} == {"switched"}
    began = {name: event["began"] for name, event in spans.items()}
    ended = {name: event["began"] + 1000 * event["seconds"] for name, event in spans.items()}
    assert ended["lab-1"] <= began["lab-2"]
    assert ended["lab-2"] <= min(began["lab-3"], began["lab-4"])
    assert max(began["lab-3"], began["lab-4"]) < min(ended["lab-3"], ended["lab-4"])
    assert not set(before.values()) & set(fleet.containers().values())
    assert fleet.tokens() == tokens


def test_a_broken_release_stops_at_the_canary(fleet: Fleet, broken: dict[str, Any]) -> None:
    """The release is healthy for a while; tests on the local engine cover other faults."""
    before, releases = fleet.containers(), fleet.releases()
    outcome = fleet.up(
        **broken,
        gateway_environment={"STATUS": "200", "DIES_AFTER": "4"},
        gateway_token_at_start=False,
        rollout_min_healthy_time=4,
        rollout_healthy_deadline=15,
    )
    assert outcome.status == 1
    assert "Traceback" not in outcome.output
    assert "exited with status 7 after it had answered" in outcome.output
    assert "the broken gateway speaks" in outcome.output  # its last log lines
    assert fleet.releases() == releases
    after = fleet.containers()
    assert after.pop("lab-1") != before.pop("lab-1")
    assert after == before
    assert fleet.history("lab-1")[-1]["outcome"] == "restored"


def test_a_gateway_that_is_healthy_without_a_token_does_not_pass(fleet: Fleet) -> None:
    releases = fleet.releases()
    outcome = fleet.up(
        gateway_token_file="another.json",
        gateway_environment={"KIS_BASE_URL": "http://127.0.0.1:9"},
        rollout_healthy_deadline=10,
    )
    assert outcome.status == 1
    assert "HTTP 200, but there is no token file" in outcome.output
    assert fleet.releases() == releases


@pytest.mark.parametrize("revert", ["fleet", "host"])
def test_hosts_switched_before_a_failure_are_reverted_or_kept(
    fleet: Fleet, broken: dict[str, Any], revert: str
) -> None:
    releases, previous = fleet.releases(), fleet.previous()
    outcome = fleet.up(
        **changed(),
        rollout_revert=revert,
        rollout_healthy_deadline=15,
        per_host={
            "lab-2": broken
            | {"gateway_environment": {"STATUS": "500"}, "gateway_token_at_start": False}
        },
    )
    assert outcome.status == 1
    after = fleet.releases()
    assert [after[name] for name in ALL[1:]] == [releases[name] for name in ALL[1:]]
    assert (after["lab-1"] == releases["lab-1"]) == (revert == "fleet")
    if revert == "fleet":
        assert fleet.previous() == previous  # a rollback must not restore the bad release
    last = fleet.history("lab-1")[-1]["action"]
    assert last == ("revert" if revert == "fleet" else "up")


def test_no_batch_begins_after_the_window_has_closed(fleet: Fleet) -> None:
    """It closes while the canary has to stay healthy."""
    releases, containers = fleet.releases(), fleet.containers()
    wait_for(lambda: 35 < time.time() % 60 < 50, "the window closes in 10 to 25 s", 60)
    now = datetime.now(KOREA)
    opened, closes = now - timedelta(hours=1), now + timedelta(minutes=1)
    outcome = fleet.up(
        **changed(),
        rollout_min_healthy_time=30,
        rollout_window=[f"{opened:%a %H:%M}-{closes:%H:%M}"],
    )
    assert outcome.status == 1
    why = f"the window closed at {closes:%a %Y-%m-%d %H:%M} Korean time"
    assert f"no further batch begins: {why}" in outcome.output
    for name in ALL[1:]:
        assert f"[{name}] was not switched: {why}" in outcome.output
    assert fleet.releases() == releases
    after = fleet.containers()
    assert after.pop("lab-1") != containers.pop("lab-1")
    assert after == containers
    events = fleet.history("lab-1")[-2:]
    assert [(event["action"], event["forced"]) for event in events] == [
        ("up", False),
        ("revert", False),
    ]
    assert fleet.up().status == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "gateway_image": f"localhost:1/nowhere:1@sha256:{'0' * 64}",
                "gateway_image_source": "registry",
                "gateway_image_archive": None,
            },
            "could not be pulled",
        ),
        ({"gateway_healthcheck": {"test": ["CMD", "true"], "intervall": "2s"}}, "intervall"),
    ],
    ids=["image that does not exist", "compose file that is invalid"],
)
def test_a_failure_before_the_first_switch_touches_no_container(
    fleet: Fleet, changes: dict[str, Any], words: str
) -> None:
    before = fleet.containers(), fleet.releases()
    # Only on the last host: the release is staged on the others, and no host is switched.
    outcome = fleet.up(**changed(), per_host={"lab-4": changes})
    assert outcome.status == 1
    assert words in outcome.output
    assert (fleet.containers(), fleet.releases()) == before


def test_a_port_that_is_taken_on_one_host_leaves_all_hosts_untouched(fleet: Fleet) -> None:
    before = fleet.containers(), fleet.releases()
    tunnel = [
        "ssh",
        "-F",
        str(fleet.lab.ssh_config),
        "-N",
        "-R",
        "127.0.0.1:8099:127.0.0.1:1",
        "lab-3",
    ]
    with subprocess.Popen(tunnel) as holder:
        wait_for(lambda: ":8099" in fleet.on("lab-3", "ss -ltn"), "the port is taken")
        outcome = fleet.up(gateway_port=8099)
        holder.terminate()
    assert outcome.status == 1
    assert "[lab-3] port 8099 is held by something else" in outcome.output
    assert "[lab-1] not touched, because of lab-3" in outcome.output
    assert (fleet.containers(), fleet.releases()) == before


def test_a_host_that_does_not_answer_stops_the_rollout_before_any_switch(fleet: Fleet) -> None:
    before = fleet.containers()
    outcome = fleet.up(**changed(), per_host={"lab-4": {"ssh_port": 1}})
    assert outcome.status == 1
    assert "not touched, because of lab-4" in outcome.output
    assert fleet.containers() == before


# The tests on the local engine have more moments.
MOMENTS = ["Put the release on the host", "[lab-2] switch:"]


def assert_settles_and_next_up_finishes(fleet: Fleet) -> None:
    wait_for(lambda: fleet.switching() == [], "no switch is under way any more", 60)
    wait_for(lambda: fleet.serving() == ALL, "every host serves, by itself", 60)
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    assert len(set(fleet.compose_hashes().values())) == 1
    assert fleet.up().changes() == 0


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_controller_leaves_every_host_serving(fleet: Fleet, moment: str) -> None:
    assert fleet.interrupt(moment, lambda process: process.kill()).status == -signal.SIGKILL
    assert_settles_and_next_up_finishes(fleet)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cut_connection_leaves_the_host_serving(fleet: Fleet, moment: str) -> None:
    host = "lab-2" if "lab-2" in moment else "lab-1"
    outcome = fleet.interrupt(
        moment, lambda _: fleet.in_container(host, "pkill", "-KILL", "-u", "ops", "sshd")
    )
    if "switch" in moment:  # the host is asked over a new connection how its switch ended
        assert "no answer to 'switch': the host is asked how it ended" in outcome.output, (
            outcome.output
        )
        assert outcome.status == 0, outcome.output
    else:
        assert outcome.status == 1
    assert_settles_and_next_up_finishes(fleet)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_no_batch_begins_and_switched_hosts_are_reverted(
    fleet: Fleet, which: signal.Signals
) -> None:
    releases = fleet.releases()
    outcome = fleet.interrupt("[lab-2] switch:", lambda process: process.send_signal(which))
    assert outcome.status == 1
    assert fleet.switching() == []
    assert fleet.releases() == releases


def test_a_host_that_becomes_unreachable_in_its_switch_ends_the_run(fleet: Fleet) -> None:
    """The switch ends on the host without the controller."""
    began = time.monotonic()
    with fleet.silence_later("lab-2") as silence:
        assert fleet.interrupt("[lab-2] switch:", silence).status == 1
    assert time.monotonic() - began < 120
    assert_settles_and_next_up_finishes(fleet)


def test_an_engine_that_restarts_during_a_switch(fleet: Fleet) -> None:
    fleet.interrupt(
        "[lab-1] switch:",
        lambda _: fleet.in_container("lab-1", "systemctl", "restart", "docker"),
    )
    assert_settles_and_next_up_finishes(fleet)


def test_the_second_of_two_concurrent_rollouts_is_refused_and_names_the_first(fleet: Fleet) -> None:
    second: list[Any] = []

    def up_again(_: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        second.append(fleet.up(**changed()))
        second.append(time.monotonic() - began)

    assert fleet.interrupt("[lab-1] switch:", up_again).status == 0
    outcome, seconds = second
    assert outcome.status == 1
    assert "a switch is under way here (up by " in outcome.output
    assert seconds < 15  # refused at once, not after the end of the first
    assert fleet.up().status == 0


def test_a_host_that_has_changed_since_it_was_read_is_not_switched(fleet: Fleet) -> None:
    """Compare and swap: another deploy comes between the reading and the switch of a host."""

    def another(_: subprocess.Popen[str]) -> None:
        assert fleet.up("--limit", "lab-4", **changed()).status == 0

    releases = fleet.releases()
    assert fleet.interrupt("[lab-1] switch:", another).status == 1
    after = fleet.releases()
    assert {name: after[name] for name in ALL[:3]} == {name: releases[name] for name in ALL[:3]}
    assert after["lab-4"] != releases["lab-4"]
    assert fleet.up().status == 0


def test_rollback_restart_down_and_up_keep_the_token(fleet: Fleet) -> None:
    tokens, old = fleet.tokens(), fleet.releases()
    assert fleet.up(**changed()).status == 0
    new = fleet.releases()
    assert not set(new.values()) & set(old.values())

    assert fleet.run("deploy/rollback.py").status == 0
    assert fleet.releases() == old
    before = fleet.containers()
    outcome = fleet.run("deploy/restart.py")
    assert outcome.status == 0, outcome.output
    assert fleet.containers() == before
    assert fleet.history("lab-1")[-1]["outcome"] == "restarted"
    outcome = fleet.run("deploy/rollback.py", "--data", f'release="{"0" * 12}"')
    assert outcome.status == 1
    assert "is not on this host" in outcome.output

    assert fleet.run("deploy/down.py").status == 0
    assert fleet.serving() == []
    assert fleet.tokens() == tokens
    assert fleet.up().status == 0
    assert fleet.tokens() == tokens


def test_a_rotated_secret_recreates_each_container_once(fleet: Fleet, tmp_path: Path) -> None:
    before = fleet.containers()
    account = json.loads(Path(fleet.lab.hosts()[0].secrets_file).read_text()) | {"added": "later"}
    rotated = tmp_path / "keys.json"
    rotated.write_text(json.dumps(account))
    change = {"lab-1": {"gateway_secrets_file": str(rotated)}}
    assert fleet.up(per_host=change).status == 0
    after = fleet.containers()
    assert after.pop("lab-1") != before.pop("lab-1")
    assert after == before
    read = fleet.on("lab-1", "sudo docker exec kis-kis-gateway-1 cat /app/config/secrets.json")
    assert json.loads(read) == account
    assert fleet.up(per_host=change).changes() == 0
    assert fleet.up().status == 0


def test_old_releases_are_pruned_to_the_last_five(fleet: Fleet) -> None:
    for _ in range(6):
        assert fleet.up("--limit", "lab-1", **changed()).status == 0
    staged = fleet.on("lab-1", "sudo ls /opt/kis-gateway/releases").split()
    assert 5 <= len(staged) <= 6
    assert fleet.releases()["lab-1"] in staged
    assert fleet.up().status == 0
