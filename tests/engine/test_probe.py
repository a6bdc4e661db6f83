"""A token that KIS has ended: it is noticed, named, and renewed with one issuance."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.conftest import Deployment, ask_simulator
from tests.tools import get

NewDeployment = Callable[..., Deployment]
PROBE = {"path": "/price", "expect": {"rt_cd": "0"}}


@pytest.fixture
def deployed(new_deployment: NewDeployment, stubborn_settings: dict[str, Any]) -> Deployment:
    name = f"probed-{secrets.token_hex(3)}"
    deployment = new_deployment(name, **stubborn_settings, gateway_probe=PROBE)
    assert deployment.up().status == 0
    return deployment


def test_a_token_that_kis_has_ended_is_named_and_renewed(deployed: Deployment) -> None:
    assert deployed.run("drift").status == 0
    deployed.end_token()
    refused = "KIS does not accept this token any more (EGW00121): run `make renew`"
    drift = deployed.run("drift")
    assert drift.status == 1
    assert refused in drift.output
    verified = deployed.verify("-m", "not restarts")
    assert verified.status == 1
    assert refused in verified.output

    changed = deployed.up(gateway_labels={"changed": "yes"})
    assert changed.status == 1
    assert "KIS does not accept its token (EGW00121)" in changed.output
    assert "runs again and is healthy" in changed.output

    old = deployed.token_file.read_bytes()
    ask_simulator("PUT", "clock", {"advance": 61})
    renewed = deployed.run("renew")
    assert renewed.status == 0, renewed.output
    assert "issuances: 1 (budget 1)" in renewed.output
    [aside] = deployed.token_file.parent.glob("kis_token.json.old-*")
    assert aside.read_bytes() == old
    assert get(f"{deployed.url}/price")[0] == 200
    assert deployed.run("drift").status == 0
    assert (deployed.account.count("issuances"), deployed.account.count("rejections")) == (2, 0)


def test_a_gateway_that_renews_a_refused_token_by_itself_passes(
    new_deployment: NewDeployment,
) -> None:
    price = "/uapi/domestic-stock/v1/quotations/inquire-price?FID_INPUT_ISCD=005930"
    probe = {"path": price, "headers": {"tr_id": "FHKST01010100"}, "expect": {"rt_cd": "0"}}
    deployment = new_deployment("by-itself", gateway_probe=probe)
    assert deployment.up().status == 0
    deployment.end_token()
    ask_simulator("PUT", "clock", {"advance": 61})
    deployment.token_file.with_name("kis_token.json.attempt").unlink()  # by the gateway's own clock
    deployment.data["gateway_labels"] = {"changed": "yes"}
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert "issuances: 1 (budget 0)" in outcome.output, outcome.output
    assert deployment.run("drift").status == 0


def test_a_token_file_that_is_written_after_the_probes_answer_is_counted(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("late", **stubborn_settings, gateway_probe=PROBE)
    deployment.data["gateway_environment"] |= {"HABIT": "late"}
    assert deployment.up().status == 0
    deployment.end_token()
    ask_simulator("PUT", "clock", {"advance": 61})
    outcome = deployment.up(gateway_labels={"changed": "yes"})
    assert outcome.status == 0, outcome.output
    assert "issuances: 1 (budget 0)" in outcome.output, outcome.output
    assert deployment.token_file.exists()


def test_an_answer_that_does_not_tell_fails_nothing(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any]
) -> None:
    elsewhere = {"path": "/price", "expect": {"rt_cd": "7"}}
    deployment = new_deployment("unsure", **stubborn_settings, gateway_probe=elsewhere)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert "the probe /price: HTTP 200 MCA00000" in outcome.output
    plan = deployment.run("plan")
    assert "the probe /price was answered: HTTP 200 MCA00000" in plan.output
    assert deployment.run("drift").status == 0


def test_a_renewal_that_kis_refuses_puts_the_old_token_back(deployed: Deployment) -> None:
    before = deployed.token()
    refusal = {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00105", "status": 403}
    key = {"app_key": deployed.account.app_key, "count": 9}
    ask_simulator("POST", "faults", refusal | key)
    outcome = deployed.run("renew")
    assert outcome.status == 1, outcome.output
    assert "KIS refuses the app key or its secret (EGW00105)" in outcome.output
    assert "the token file was put back" in outcome.output
    assert deployed.token() == before
    assert get(f"{deployed.url}/health")[0] == 200


def test_a_probe_is_refused_before_anything_is_touched(deployed: Deployment) -> None:
    wrong_ones: list[Any] = [{"path": "price"}, {"path": "/x", "method": "PUT"}, {}, "s3cret"]
    for wrong in wrong_ones:
        outcome = deployed.up(gateway_probe=wrong)
        outcome.assert_refused("gateway_probe")
        assert "s3cret" not in outcome.output
