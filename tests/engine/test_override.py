"""A compose file of the operator's own beside the package's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.conftest import Deployment

ADDS = "services:\n  kis-gateway:\n    ulimits: {nofile: 9000}\n    environment: {MORE: '1'}\n"
CHANGES = "services:\n  kis-gateway:\n    user: '0:0'\n"


def test_an_override_adds_to_the_service_and_cannot_change_what_the_settings_say(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any], tmp_path: Path
) -> None:
    deployment = new_deployment("override", **stubborn_settings)
    assert (first := deployment.up()).status == 0, first.output
    override = tmp_path / "override.yml"
    override.write_text(CHANGES)
    before = deployment.container()
    outcome = deployment.up(gateway_compose_override=str(override))
    outcome.assert_refused("gateway_compose_override changes `user` of the service kis-gateway")
    assert deployment.container() == before

    override.write_text(ADDS)
    added: dict[str, Any] = {"gateway_compose_override": str(override)}
    outcome = deployment.up(**added)
    assert outcome.status == 0, outcome.output
    limits = json.loads(deployment.inspect("{{json .HostConfig.Ulimits}}"))
    assert [limit["Soft"] for limit in limits if limit["Name"] == "nofile"] == [9000]
    assert "MORE=1" in deployment.inspect("{{json .Config.Env}}")
    assert deployment.run("drift", **added).status == 0
    verified = deployment.verify("-m", "not restarts", **added)
    assert verified.status == 0, verified.output
    assert deployment.run("rollback").status == 0
    assert "MORE=1" not in deployment.inspect("{{json .Config.Env}}")
    assert deployment.account.count("issuances") == 1
