"""`pytest tests/verify --inventory INVENTORY`: every test runs once for each host of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.verify.gateway import Gateway
from tests.verify.inventory import InventoryError, InventoryHost, load_inventory

_hosts = pytest.StashKey[list[InventoryHost]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inventory", help="the pyinfra inventory whose hosts are verified")
    parser.addoption("--limit", default="", help="names of its hosts, with commas; empty: all")


def pytest_configure(config: pytest.Config) -> None:
    inventory = config.getoption("--inventory")
    if not inventory:
        raise pytest.UsageError("name the hosts to verify: --inventory inventory/local.py")
    work_dir = tempfile.TemporaryDirectory(prefix="verify-")
    config.add_cleanup(work_dir.cleanup)
    try:
        config.stash[_hosts] = load_inventory(
            inventory, config.getoption("--limit"), Path(work_dir.name)
        )
    except InventoryError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "gateway" in metafunc.fixturenames:
        hosts = metafunc.config.stash[_hosts]
        metafunc.parametrize(
            "gateway", hosts, ids=[each.name for each in hosts], indirect=True, scope="session"
        )


@pytest.fixture(scope="session")
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """The gateway of one host of the inventory, as it really runs there."""
    return Gateway(request.param)
