"""Every fault of the table, on hosts under traffic: `make faults`. See docs/faults.md.

FAULTS_SEED decides the random moments, FAULTS_COUNT is their number. With FAULTS_WRITE=1 the run
writes its table to docs/faults.md. `make test-lab` runs a few of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.bench import SEED, Bench, Client, Fault
from tests.lab.conftest import OwnLab
from tests.lab.faults import ONE_OF_TEN, TABLE
from tests.lab.fleet import Fleet, changed


def new_fleet(new_lab: Callable[..., OwnLab], hosts: int, directory: Path) -> Fleet:
    """Hosts whose gateways are open to the network of the lab, for the clients."""
    fleet = Fleet(new_lab("--hosts", str(hosts)).lab, directory)
    fleet.settings |= {"gateway_bind_address": "0.0.0.0", "gateway_open_to_network": True}  # noqa: S104
    outcome = fleet.up(**changed())
    assert outcome.status == 0, outcome.output
    return fleet


@contextmanager
def under_traffic(fleet: Fleet, broken: dict[str, Any]) -> Iterator[Bench]:
    began = time.monotonic()
    outcome = fleet.up()
    assert outcome.status == 0, outcome.output
    bench = Bench(fleet, broken, time.monotonic() - began)
    bench.clients = {name: Client(partial(fleet.address, name)) for name in fleet.names}
    yield bench
    for client in bench.clients.values():
        client.end()


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return new_fleet(new_lab, 4, tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def bench(fleet: Fleet, broken: dict[str, Any]) -> Iterator[Bench]:
    with under_traffic(fleet, broken) as bench:
        yield bench


@pytest.fixture(scope="module")
def bench_of_ten(
    new_lab: Callable[..., OwnLab],
    broken: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    fleet = new_fleet(new_lab, 10, tmp_path_factory.mktemp("ten"))
    with under_traffic(fleet, broken) as bench:
        yield bench


def survives(bench: Bench, fault: Fault, record_property: Callable[[str, object], None]) -> None:
    row = bench.survives(fault)
    record_property("fault", asdict(row))
    assert not row.problem, f"seed {SEED}: {row.problem}"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=f"{fault.group}: {fault.name}",
            marks=[] if fault.is_short else pytest.mark.faults,
        )
        for fault in TABLE
    ],
)
def test_a_fault_is_survived(
    bench: Bench, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    survives(bench, fault, record_property)


@pytest.mark.faults
def test_one_host_of_ten_is_down(
    bench_of_ten: Bench, record_property: Callable[[str, object], None]
) -> None:
    survives(bench_of_ten, ONE_OF_TEN, record_property)
