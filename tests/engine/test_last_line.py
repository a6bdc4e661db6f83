"""Exit status and last line of every verb in every situation: what a script goes by."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.engine.conftest import Deployment
from tests.tools import BIN, command

VERBS = ["up", "plan", "drift", "status", "restart", "rollback", "down", "history", "logs", "renew"]

CHANGED: dict[str, Any] = {"gateway_labels": {"changed": "yes"}}
SILENT_REGISTRY: dict[str, Any] = {
    "gateway_image_source": "registry",
    "gateway_build_context": None,
    "gateway_image": "127.0.0.1:1/kis:1",
}
WRONG: dict[str, Any] = {"gateway_port": "eighty"}
# It answers another path, so that it never passes its gate.
FAILING: dict[str, Any] = {"gateway_health_path": "/nowhere", "rollout_healthy_deadline": 5}
UNREACHABLE = "unreachable"

# By situation: the exit status and the word of each verb, in the order of VERBS.
MATRIX: dict[str, tuple[dict[str, Any], str]] = {
    "as desired": (
        {},
        "0 up to date,0 up to date,0 up to date,0 read,0 changes,1 blocked,-,0 read,0 read",
    ),
    "changes pending": (CHANGED, "-,0 changes,1 drifted,0 read,0 changes,1 blocked,-,0 read"),
    "blocked": (
        SILENT_REGISTRY,
        "1 blocked,1 blocked,1 blocked,0 read,0 changes,1 blocked,-,0 read",
    ),
    "a wrong setting": (WRONG, ",".join(["1 blocked"] * len(VERBS))),
    "a host is unreachable": ({UNREACHABLE: True}, ",".join(["1 failed"] * len(VERBS))),
    "a release that fails": (FAILING, "1 failed"),
    "down": ({}, "-,-,-,-,-,-,0 changes,0 read,1 failed"),
}
CASES = [
    pytest.param(VERBS[number], changes, expected, id=f"{VERBS[number]}, {situation}")
    for situation, (changes, row) in MATRIX.items()
    for number, expected in enumerate(row.split(","))
    if expected != "-"
]


@pytest.fixture(scope="module")
def deployed(new_deployment: Callable[..., Deployment]) -> Deployment:
    deployment = new_deployment("lines")
    assert (first := deployment.up()).status == 0, first.output
    return deployment


@pytest.mark.parametrize(("verb", "changes", "expected"), CASES)
def test_the_exit_status_and_the_last_line_say_the_same(
    deployed: Deployment, verb: str, changes: dict[str, Any], expected: str
) -> None:
    inventory = deployed.inventory(**{k: v for k, v in changes.items() if k != UNREACHABLE})
    if UNREACHABLE in changes:
        data = deployed.data | {"gateway_project": "other", "gateway_app_dir": "/nowhere/app"}
        data |= {"gateway_token_dir": "/nowhere/tokens", "gateway_port": 1}
        data |= {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_user": "nobody"}
        text = inventory.read_text().rstrip().removesuffix("]")
        inventory.write_text(f"{text}, ('nobody', {data!r})]\n")
    result = command(BIN / "pyinfra", "-y", inventory, f"deploy/{verb}.py", cwd=ROOT)
    last = result.stdout.splitlines()[-1]
    status, _, word = expected.partition(" ")
    assert (result.returncode, last.split(" on ")[0]) == (int(status), f"{verb}: {word}"), (
        result.stdout + result.stderr
    )
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("content", [None, "hosts = []\n", "hosts = ['@local']\n"])
def test_an_inventory_without_a_host_of_ours_fails(
    verb: str, content: str | None, tmp_path: Path
) -> None:
    inventory = tmp_path / "inventory.py"
    if content is not None:
        inventory.write_text(content)
    result = command(BIN / "python", "-m", "deploy", verb, inventory, cwd=ROOT)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == f"{verb}: failed on 0 of 0 hosts"
    assert "no host was touched: " in result.stderr


def test_json_on_standard_output_has_no_last_line(deployed: Deployment) -> None:
    flags = ("-y", "--data", "json=1")
    inventory = deployed.inventory()
    result = command(BIN / "pyinfra", *flags, inventory, "deploy/status.py", cwd=ROOT)
    assert [host["host"] for host in json.loads(result.stdout)["hosts"]] == ["@local"]
    assert "status: read on 1 of 1 hosts" in result.stderr


@pytest.mark.parametrize(
    ("verb", "status", "last"),
    [
        ("up", 0, "up: not executed"),
        ("drift", 1, "drift: blocked on 1 of 1 hosts (@local)"),
        ("plan", 1, "plan: blocked on 1 of 1 hosts (@local)"),
    ],
)
def test_a_dry_run_does_not_look_like_a_success(
    deployed: Deployment, verb: str, status: int, last: str
) -> None:
    inventory = deployed.inventory(**CHANGED)
    result = command(BIN / "pyinfra", "--dry", inventory, f"deploy/{verb}.py", cwd=ROOT)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (status, last)


def test_a_deploy_ends_with_the_hosts_and_a_failure_with_the_next_command(
    deployed: Deployment,
) -> None:
    assert deployed.up().status == 0
    before, hours = (deployed.app_dir / "current").readlink().name, deployed.hours_valid()
    changed = deployed.up(**CHANGED)
    assert changed.status == 0, changed.output
    after = (deployed.app_dir / "current").readlink().name
    lines = [line.strip() for line in changed.output.splitlines()]
    ids = f"({before[:4]} → {after[:4]})"
    [row] = [line for line in lines if line.startswith("@local ") and ids in line]
    found = re.search(r"  switched  gate \d+\.\d s  issued 0  token valid (\d+) h$", row)
    assert found, row
    assert int(found[1]) in {hours, deployed.hours_valid()}
    [done] = [line for line in lines if line.startswith("Deployed 1 host in ")]
    assert done.endswith(" s. To go back: make rollback " + f"INVENTORY={deployed.inventory()}")

    # The restore has the same deadline.
    failed = deployed.up(**FAILING | {"rollout_healthy_deadline": 15})
    assert failed.status == 1, failed.output
    lines = [line.strip() for line in failed.output.splitlines()]
    causes = [line for line in lines if line.startswith("@local failed (restored): ")]
    assert causes, failed.output
    [cause] = causes
    assert f"not healthy within 15 s: GET {deployed.url}/nowhere: HTTP 404" in cause
    follows = lines[lines.index(cause) :]
    [runs] = [line for line in follows if line.endswith("serves on @local.")]
    assert f"({after[:4]})" in runs
    [again] = [line for line in follows if line.startswith("Next: ")]
    assert again.startswith("Next: correct the cause, then make deploy ")
    assert "Deployed" not in failed.output


@pytest.mark.parametrize(("colour", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_heeded_in_a_terminal(
    deployed: Deployment, colour: dict[str, str], is_coloured: bool
) -> None:
    arguments = [str(each) for each in (BIN / "python", "-m", "deploy", "plan")]
    words = shlex.join([*arguments, str(deployed.inventory(**CHANGED))])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **colour}
    result = command("script", "-qec", words, "/dev/null", cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout
    assert ("\x1b[1m" in result.stdout) == is_coloured
    assert ("\x1b[0m" in result.stdout) == is_coloured


def test_two_verbs_in_one_run_are_refused(deployed: Deployment, tmp_path: Path) -> None:
    (tmp_path / "site.py").write_text(
        "from kis_gateway_deploy import restart, up\nup()\nrestart()\n"
    )
    result = command(BIN / "pyinfra", "-y", deployed.inventory(), tmp_path / "site.py", cwd=ROOT)
    assert result.returncode == 1
    assert "up() and then restart() in one run" in result.stderr
    assert result.stdout.splitlines()[-1] == "restart: blocked on 1 of 1 hosts (@local)"
