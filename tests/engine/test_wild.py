"""Gateways with one habit each, as found in the wild, through the deploys of a week."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Deployment, ask_simulator
from tests.tools import get

NewDeployment = Callable[..., Deployment]

HABITS = {
    "a date without a zone": {"TOKEN_FORM": "naive"},
    "token and expires_at": {"TOKEN_FORM": "bare"},
    "a form that only the gateway can read": {"TOKEN_FORM": "sealed"},
    "rewrites its file at each start": {"HABIT": "rewrites"},
}


def live_a_week(deployment: Deployment, say: str = "") -> None:
    """Deploys, changes, restarts, rolls back and deploys again, with the first token."""
    change = {"gateway_labels": {"changed": "yes"}}
    week: list[tuple[str, dict[str, Any]]] = [
        *(("up", {}), ("up", change), ("restart", {}), ("rollback", {}), ("up", {})),
    ]
    for verb, changes in week:
        outcome = deployment.run(verb, **changes)
        assert outcome.status == 0, f"{verb}: {outcome.output}"
        assert get(f"{deployment.url}/health")[0] == 200
        assert (deployment.account.count("issuances"), deployment.account.count("rejections")) == (
            1,
            0,
        )
        if verb == "restart" and say:
            assert say in outcome.output


@pytest.mark.parametrize("habit", HABITS)
def test_a_gateway_with_a_habit_lives_a_week(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any], habit: str
) -> None:
    deployment = new_deployment(f"wild-{secrets.token_hex(3)}", **stubborn_settings)
    deployment.data["gateway_environment"] |= HABITS[habit]
    rewritten = "The token file was rewritten with the same token; KIS may have been asked."
    live_a_week(deployment, rewritten if "rewrites" in habit else "")


def test_a_gateway_with_a_fixed_path_and_keys_in_the_environment_lives_a_week(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any], tmp_path: Path
) -> None:
    deployment = new_deployment("at-home", **stubborn_settings)
    account = deployment.account
    env_file = tmp_path / "kis.env"
    env_file.write_text(f"KIS_APP_KEY={account.app_key}\nKIS_APP_SECRET='{account.app_secret}'\n")
    deployment.data["gateway_environment"] |= {"HABIT": "at_home"}
    deployment.data |= {
        "gateway_secrets_file": None,
        "gateway_env_file": str(env_file),
        "gateway_app_key_field": "KIS_APP_KEY",
        "gateway_token_mount": "/srv/kis",
        "gateway_token_file": ".kis_token_cache.json",
        "gateway_token_env": [],
    }
    live_a_week(deployment)
    verified = deployment.verify()
    assert verified.status == 0, verified.output
    assert (account.count("issuances"), account.count("rejections")) == (1, 0)
    assert account.app_secret not in verified.output


def test_a_gateway_without_a_token_file_is_deployed_by_what_a_client_sees(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any]
) -> None:
    """Its token is in the container, so that each creation costs one; nobody can count that."""
    external = {"gateway_token_store": "external", "gateway_token_env": []}
    deployment = new_deployment("external", **stubborn_settings, **external)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert "so its issuances are not counted" in outcome.output
    assert (again := deployment.up()).changes() == 0, again.output
    assert deployment.run("drift").status == 0
    verified = deployment.verify("-m", "not restarts")
    assert verified.status == 0, verified.output
    assert "3 skipped" in verified.output
    assert deployment.account.count("issuances") == 1


# A gateway in perl, which every Debian image has; shells and python3 are removed.
BARE = """\
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}
COPY gateway.pl /gateway.pl
RUN rm -f /bin/sh /bin/bash /bin/dash /usr/bin/python3
CMD ["perl", "/gateway.pl"]
"""
PERL = r"""
use strict; use warnings; use IO::Socket::INET;
my $file = $ENV{KIS_TOKEN_FILE_PATH}; $| = 1; $SIG{TERM} = sub { exit 0 };
unless (-e $file) {
  open my $s, '<', $ENV{SECRETS_FILE} or die; my $text = join '', <$s>;
  my ($key) = $text =~ /"kis-r-app-key": "([^"]+)"/;
  my ($secret) = $text =~ /"kis-r-app-secret": "([^"]+)"/;
  my $body = qq({"grant_type":"client_credentials","appkey":"$key","appsecret":"$secret"});
  my $c = IO::Socket::INET->new('host.docker.internal:9443') or die "KIS: $!";
  print $c "POST /oauth2/tokenP HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: "
    . length($body) . "\r\n\r\n$body";
  my $answer = join '', <$c>; $answer =~ / 200 / or die $answer;
  $answer =~ s/.*?\r\n\r\n//s;
  open my $t, '>', $file or die "$file: $!"; print $t $answer; close $t;
}
my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
  while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
  print $client "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"; close $client;
}
"""


def test_an_image_with_neither_python_nor_a_shell_lives_a_week(
    new_deployment: NewDeployment, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(BARE)
    (tmp_path / "gateway.pl").write_text(PERL)
    deployment = new_deployment(
        "bare", gateway_image="kis-test-bare", gateway_build_context=tmp_path
    )
    live_a_week(deployment)


# Files that the gateway itself cannot read: it exits, and the file is set aside.
UNREADABLE = {
    "null": '{"access_token": null}',
    "an array": '["x"]',
    "another form": '{"token": "x", "expires_at": 1}',
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_a_file_that_a_gateway_exits_on_is_set_aside_and_costs_one_issuance(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any], form: str
) -> None:
    deployment = new_deployment(f"exits-{secrets.token_hex(3)}", **stubborn_settings)
    assert deployment.up().status == 0
    ask_simulator("PUT", "clock", {"advance": 61})
    deployment.token_file.write_text(UNREADABLE[form])
    outcome = deployment.up(gateway_labels={"changed": "yes"})
    assert outcome.status == 0, outcome.output
    assert "has an unknown form: setting the file aside" in outcome.output
    assert "issuances: 1 (budget" in outcome.output
    [aside] = deployment.token_file.parent.glob("kis_token.json.aside-*")
    assert aside.read_text() == UNREADABLE[form]
    assert (deployment.account.count("issuances"), deployment.account.count("rejections")) == (2, 0)


def test_the_file_is_put_back_if_the_release_also_fails_without_it(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any]
) -> None:
    """The new release cannot read what the old one wrote, and does not reach KIS either."""
    deployment = new_deployment("put-back", **stubborn_settings)
    deployment.data["gateway_environment"] |= {"TOKEN_FORM": "sealed"}
    assert deployment.up().status == 0
    written = deployment.token_file.read_text()
    broken = {"TOKEN_FORM": "json", "KIS_BASE_URL": "http://127.0.0.1:9"}
    outcome = deployment.up(gateway_environment=deployment.data["gateway_environment"] | broken)
    assert outcome.status == 1, outcome.output
    assert "the token file was put back" in outcome.output
    assert "runs again and is healthy" in outcome.output
    assert deployment.token_file.read_text() == written
    assert get(f"{deployment.url}/health")[0] == 200
    assert (deployment.account.count("issuances"), deployment.account.count("rejections")) == (1, 0)


def test_the_gate_waits_for_a_patient_gateway(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any]
) -> None:
    """KIS has just issued a token: it refuses the gateway, which asks again after 65 s."""
    deployment = new_deployment("patient", **stubborn_settings)
    deployment.data["gateway_environment"] |= {"HABIT": "patient"}
    account = json.loads(deployment.account.secrets_file.read_text())
    issue(account)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert (deployment.account.count("issuances"), deployment.account.count("rejections")) == (2, 1)
    assert deployment.inspect("{{.RestartCount}}") == "0"
    live_on(deployment)


def issue(account: dict[str, str]) -> None:
    """Asks KIS for a token without the gateway."""
    body = {
        "grant_type": "client_credentials",
        "appkey": account["kis-r-app-key"],
        "appsecret": account["kis-r-app-secret"],
    }
    request = urllib.request.Request(
        "http://127.0.0.1:9443/oauth2/tokenP",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=5).close()


def live_on(deployment: Deployment) -> None:
    more: list[tuple[str, dict[str, Any]]] = [
        ("up", {"gateway_labels": {"b": "c"}}),
        ("restart", {}),
    ]
    for verb, changes in more:
        outcome = deployment.run(verb, **changes)
        assert outcome.status == 0, outcome.output
        assert deployment.account.count("issuances") == 2


@pytest.mark.parametrize("code", ["EGW00103", "EGW00105"])
def test_wrong_credentials_fail_at_once_and_are_named(
    new_deployment: NewDeployment, stubborn_settings: dict[str, Any], code: str, tmp_path: Path
) -> None:
    deployment = new_deployment(f"wrong-{code[-1]}", **stubborn_settings)
    account = json.loads(deployment.account.secrets_file.read_text())
    field = "kis-r-app-key" if code == "EGW00103" else "kis-r-app-secret"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(account | {field: "PSwrong".ljust(len(account[field]), "0")}))
    outcome = deployment.up(gateway_secrets_file=wrong, rollout_healthy_deadline=60)
    assert outcome.status == 1
    assert f"KIS refuses the app key or its secret ({code})" in outcome.output
    assert "No release ran before" in outcome.output
    assert "starting the gateway again" not in outcome.output
    assert account["kis-r-app-secret"] not in outcome.output
