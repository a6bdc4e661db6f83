"""pytest's options for the verification; runs each test once for each host.

If the package is installed, pytest finds this module by its entry point.
"""

from __future__ import annotations

from datetime import datetime

import pytest

from kis_gateway_deploy.display import closed_window
from kis_gateway_deploy.verify.gateway import Gateway
from kis_gateway_deploy.verify.inventory import InventoryError, InventoryHost, load_inventory
from kis_gateway_deploy.windows import KOREA

_hosts = pytest.StashKey[list[InventoryHost]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kis-gateway-deploy")
    group.addoption("--inventory", help="the pyinfra inventory whose hosts are verified")
    group.addoption("--limit", default="", help="names of hosts, separated by commas; empty: all")
    group.addoption("--force", action="store_true", help="restarts outside of rollout_window, too")


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


@pytest.hookimpl(trylast=True)  # after `-m` has left out tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raises UsageError if a test would restart a gateway outside of the rollout window."""
    hosts = config.stash.get(_hosts, [])
    restarts = any(item.get_closest_marker("restarts") for item in items)
    if not hosts or not restarts or config.getoption("--force"):
        return
    if closed := closed_window(hosts[0].settings.window, datetime.now(KOREA)):
        raise pytest.UsageError(
            f"nothing was restarted: {closed} (rollout_window): try again then, restart nothing "
            'with SAFE=1 (pytest: -m "not restarts"), or go on now with FORCE=1 (pytest: --force)'
        )


@pytest.fixture(scope="session")
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """The gateway that runs on one host of the inventory."""
    return Gateway(request.param)
