"""Hosts whose operator's user has a login shell other than sh, or one that prints text."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet, changed

# The script that root runs on each host to change the shell of the operator's user.
SHELLS = {
    "lab-1": "apt-get install -qqy fish >/dev/null && chsh -s /usr/bin/fish ops",
    "lab-2": "apt-get install -qqy tcsh >/dev/null && chsh -s /usr/bin/tcsh ops",
    "lab-3": "(echo 'echo Welcome!; printf no-line-break'; cat ~ops/.bashrc) >/tmp/rc && "
    "cp /tmp/rc ~ops/.bashrc",
}


@pytest.fixture(scope="module")
def fleet(new_lab: Callable[..., OwnLab], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    lab = new_lab("--hosts", str(len(SHELLS)))
    fleet = Fleet(lab.lab, tmp_path_factory.mktemp("fleet"))
    for host, script in SHELLS.items():
        fleet.in_container(host, "sh", "-c", f"apt-get update -qq && {script}")
    return fleet


def test_every_login_shell_is_read_and_deployed_to(fleet: Fleet) -> None:
    outcome = fleet.up(rollout_batches=["100%"])
    assert outcome.status == 0, outcome.output
    again = fleet.up(rollout_batches=["100%"])
    assert (again.status, again.changes()) == (0, 0), again.output
    status = fleet.run("deploy/status.py", "--data", "json=1")
    hosts = json.loads(status.output.partition("\n}")[0] + "\n}")["hosts"]
    assert [host["state"] for host in hosts] == ["read"] * len(SHELLS)


def test_every_login_shell_keeps_the_backslashes_of_a_token(fleet: Fleet) -> None:
    """`json.dump` writes Korean with backslashes; fish changes backslashes in quotes."""
    path = "/docker_data/kis_tokens/kis_token.json"
    for host in SHELLS:
        script = f'sed -i \'s/{{/{{"note": "\\\\\\\\ud1a0\\\\\\\\ud070", /\' {path}; cat {path}'
        fleet.in_container(host, "sh", "-c", script)
    outcome = fleet.up(rollout_batches=["100%"], **changed())
    assert outcome.status == 0, outcome.output
    assert "damaged" not in outcome.output
    assert fleet.issuances() == dict.fromkeys(fleet.names, 1)


def test_the_journal_of_a_host_gets_only_short_lines(fleet: Fleet) -> None:
    """sudo logs each command, which is the same for every request and every script."""
    script = "journalctl --sync; journalctl -o cat SYSLOG_IDENTIFIER=sudo | wc -c"

    def written() -> int:
        return int(fleet.in_container("lab-3", "sh", "-c", script))

    before = written()
    assert fleet.up(rollout_batches=["100%"]).status == 0
    assert fleet.up(rollout_batches=["100%"]).changes() == 0
    no_op = written()
    assert fleet.up(rollout_batches=["100%"], **changed()).status == 0
    print(f"a no-op and what came before it: {no_op - before} bytes, a change: {written() - no_op}")
    assert written() - no_op < 3000
