"""From hosts without Docker to a verified gateway on each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet
from tests.tools import VERIFY


def test_bare_hosts_get_docker_and_a_gateway_that_verifies(
    new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lab = new_lab("--hosts", "4", "--bare")
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("bare"))
    assert "docker" not in fleet.on("lab-1", "ls /usr/bin")
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    assert fleet.serving() == fleet.names
    assert fleet.issuances() == dict.fromkeys(fleet.names, 1)

    again = fleet.up()
    assert again.status == 0, again.output
    assert again.changes() == 0

    verify = lab.run(*VERIFY, "--inventory", "inventory/lab.py")
    assert verify.status == 0, verify.output
    assert fleet.issuances() == dict.fromkeys(fleet.names, 1)
