"""Faults at random moments. No make target runs them: pytest -m simulation tests/lab."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest

from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed
from tests.tools import wait_for

ALL = ["lab-1", "lab-2", "lab-3", "lab-4"]
INTERRUPTIONS = 30
CONCURRENT_ROLLOUTS = 10


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(new_lab("--hosts", "4").lab, tmp_path_factory.mktemp("fleet"))


def assert_settles(fleet: Fleet, what: str) -> None:
    wait_for(lambda: fleet.switching() == [], f"{what}: no switch is under way any more", 90)
    wait_for(lambda: fleet.serving() == ALL, f"{what}: every host serves, by itself", 60)


def assert_tokens_are_kept(fleet: Fleet) -> None:
    assert fleet.issuances() == dict.fromkeys(ALL, 1)
    assert fleet.rejections() == dict.fromkeys(ALL, 0)


@pytest.mark.simulation
def test_controllers_are_interrupted_at_random_moments(fleet: Fleet) -> None:
    began = time.monotonic()
    assert fleet.up().status == 0
    longest = time.monotonic() - began
    chance = random.Random(14)  # noqa: S311 - the same moments in each run
    for number in range(INTERRUPTIONS):
        moment = chance.uniform(0.3, longest)
        which = chance.choice([SIGKILL, SIGINT, SIGTERM, SIGHUP])
        process = fleet.start_up(**changed())
        time.sleep(moment)  # the test is about this moment
        was_running = process.poll() is None
        process.send_signal(which)
        output, _ = process.communicate()
        what = f"{number}: {which.name} after {moment:.2f} s"
        if was_running:
            assert process.returncode != 0, f"{what}: {output}"
        assert "Traceback" not in output, f"{what}: {output}"
        assert_settles(fleet, what)
        outcome = fleet.up()
        assert outcome.status == 0, f"{what}: {outcome.output}"
        assert len(set(fleet.compose_hashes().values())) == 1
    assert_tokens_are_kept(fleet)


@pytest.mark.simulation
@pytest.mark.parametrize("are_equal", [True, False], ids=["equal releases", "different releases"])
def test_two_concurrent_rollouts_have_one_winner_on_each_host(
    fleet: Fleet, are_equal: bool
) -> None:
    assert fleet.up().status == 0
    chance = random.Random(15)  # noqa: S311 - the same moments in each run
    for number in range(CONCURRENT_ROLLOUTS):
        one = changed()
        delay = chance.uniform(0, 4)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(fleet.up_concurrently, **one)
            time.sleep(delay)  # the test is about this moment
            second = pool.submit(fleet.up_concurrently, **(one if are_equal else changed()))
            outcomes = [first.result(), second.result()]
        what = f"{number}, {delay:.2f} s apart"
        words = "\n".join(outcome.output for outcome in outcomes)
        assert "Traceback" not in words, f"{what}: {words}"
        assert_settles(fleet, what)
        for outcome in outcomes:
            if outcome.status:
                assert "under way here" in outcome.output or "changed since" in outcome.output, what
        assert fleet.up().status == 0
        assert len(set(fleet.compose_hashes().values())) == 1
    assert_tokens_are_kept(fleet)


# Before anything is sent, while the release is sent, in a switch, and before a batch.
UNREACHABLE_AT = [
    "Check every host",
    "Put the release on the host",
    "[lab-2] switch:",
    "batch 2 of",
]


@pytest.mark.simulation
@pytest.mark.parametrize("moment", UNREACHABLE_AT)
def test_a_host_that_becomes_unreachable_ends_the_run_and_is_named(
    fleet: Fleet, moment: str
) -> None:
    began = time.monotonic()
    with fleet.silence_later("lab-2") as silence:
        outcome = fleet.interrupt(moment, silence)
    assert outcome.status == 1, outcome.output
    assert "[lab-2]" in outcome.output.partition(moment)[2]
    assert time.monotonic() - began < 120
    assert_settles(fleet, moment)
    assert fleet.up().status == 0
    assert_tokens_are_kept(fleet)
