"""The README's commands, in its order, on a deployment of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from inventory.local import local
from kis_gateway_deploy.paths import ROOT
from tests.engine.conftest import Deployment
from tests.tools import Outcome, command


def test_the_two_commands_of_the_readme_do_what_it_says(
    new_deployment: Callable[..., Deployment],
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(
        "^make (.+)$", "\n".join(re.findall("^```console\n(.*?)^```$", readme, re.M | re.S)), re.M
    )
    assert commands == ["deploy", "verify"]
    deployment = new_deployment("readme", gateway_probe=local[0][1]["gateway_probe"])

    def make(verb: str) -> Outcome:
        # `--old-file`: the environment that runs this test is not made again.
        result = command(
            "make", "--old-file", ".venv/ready", verb, f"INVENTORY={deployment.inventory()}",
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return Outcome(result.returncode, result.stdout + result.stderr)

    first, verified, second = (make(verb) for verb in [*commands, commands[0]])
    assert first.status == 0, first.output
    assert verified.status == 0, verified.output
    assert "up: up to date on 1 of 1 hosts" in second.output.splitlines(), second.output
    shown = re.findall("^    (.*)$", readme[: readme.index("## Your own gateway")], re.M)
    of_this_run = r"\d+(\.\d+)? [sh]\b|\b[0-9a-f]{4,12}\b|:\d{4,5}|\[ *\d+%\]|  +"

    def plain(line: str) -> str:
        return re.sub(of_this_run, " ", line).strip()

    printed = {plain(line) for line in (first.output + verified.output).splitlines()}
    assert [line for line in shown if line != "…" and plain(line) not in printed] == []
    assert deployment.account.count("issuances") == 1
