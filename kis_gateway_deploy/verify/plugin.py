"""pytest's options for the verification, and one run of each test for each host.

`make verify` loads it in a clone; where the package is installed, pytest finds it by itself.
"""

from __future__ import annotations

import pytest

from kis_gateway_deploy.verify.gateway import Gateway
from kis_gateway_deploy.verify.inventory import InventoryError, InventoryHost, load_inventory

_hosts = pytest.StashKey[list[InventoryHost]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kis-gateway-deploy")
    group.addoption("--inventory", help="the pyinfra inventory whose hosts are verified")
    group.addoption("--limit", default="", help="names of its hosts, with commas; empty: all")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "restarts: restarts, kills or re-creates the gateway")
    inventory = config.getoption("--inventory")
    if not inventory:
        return
    try:
        config.stash[_hosts] = load_inventory(inventory, config.getoption("--limit"))
    except InventoryError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "gateway" in metafunc.fixturenames and metafunc.module.__name__.startswith(__package__):
        if _hosts not in metafunc.config.stash:
            raise pytest.UsageError("name the hosts to verify: --inventory inventory/local.py")
        hosts = metafunc.config.stash[_hosts]
        metafunc.parametrize(
            "gateway", hosts, ids=[each.name for each in hosts], indirect=True, scope="session"
        )


@pytest.fixture(scope="session")
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """The gateway of one host of the inventory, as it really runs there."""
    return Gateway(request.param)
