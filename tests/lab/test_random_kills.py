"""Controllers killed at random moments; in no make target: pytest -m simulation tests/lab."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed
from tests.tools import wait_for

ALL = ["lab-1", "lab-2", "lab-3", "lab-4"]
KILLS = 30


@pytest.mark.simulation
def test_thirty_controllers_killed_at_random_moments(
    new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lab = new_lab("--hosts", "4")
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("fleet"))
    began = time.monotonic()
    assert fleet.up().status == 0
    longest = time.monotonic() - began
    moments = random.Random(14)  # noqa: S311 - the same moments in each run
    for number in range(KILLS):
        moment = moments.uniform(0.3, longest)
        process = fleet.start_up(**changed())
        time.sleep(moment)  # the moment is what the test is about
        process.kill()
        process.wait()
        what = f"kill {number} after {moment:.2f} s"
        wait_for(lambda: fleet.switching() == [], f"{what}: no switch is under way any more", 90)
        wait_for(lambda: fleet.serving() == ALL, f"{what}: every host serves, by itself", 60)
        outcome = fleet.up()
        assert outcome.status == 0, f"{what}: {outcome.output}"
        assert len(set(fleet.compose_hashes().values())) == 1
    assert fleet.issuances() == dict.fromkeys(ALL, 1)
    assert fleet.rejections() == dict.fromkeys(ALL, 0)
