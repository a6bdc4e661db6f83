"""The inventories that come with the package are valid."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kis_gateway_deploy.fleet import validate_fleet
from kis_gateway_deploy.paths import ROOT
from tests.tools import BIN, command


def test_the_example_fleet_is_valid_if_its_secrets_exist(tmp_path: Path) -> None:
    (tmp_path / "kis").mkdir()
    secrets = {"kis-r-app-key": "real", "kis-v-app-key": "paper"}
    (tmp_path / "kis/secrets.json").write_text(json.dumps(secrets))
    result = command(
        BIN / "pyinfra", "--json", "inventory/example_fleet.py", "debug-inventory",
        cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    hosts = {host["name"]: host["data"] for host in json.loads(result.stdout)}
    fleet = validate_fleet(hosts)
    assert list(fleet) == ["10.20.0.11", "10.20.0.12", "paper-on-11"]
    assert {s.environment["KIS_ENVIRONMENT"] for s in fleet.values()} == {"real", "paper"}
